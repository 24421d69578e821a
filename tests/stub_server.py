"""A little server with OpenAI's API, for tests of clients: it says what it is told to, and keeps what it was asked."""

import asyncio
import json
import threading
from contextlib import contextmanager


class StubServer:
    """Answers every request with `tokens`, one every `delay` seconds; tests change its attributes."""

    def __init__(self):
        self.tokens = ["Hello", ", ", "world", "!"]
        self.delay = 0.0
        self.models = [{"id": "stub", "object": "model", "max_model_len": 512}]
        self.refuse = lambda body: None  # (status, error, headers) for a body that is refused
        self.break_after = None  # tokens after which the connection ends
        self.error_after = None  # tokens after which an error event comes
        self.close_idle = False  # whether a connection is closed after each answer
        self.asked = []  # bodies, in their order
        self.headers = []  # of each request
        self.num_connections = self.num_running = self.most_running = self.num_left = 0

    async def handle(self, reader, writer):
        self.num_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self.answer(writer, method, path, headers, json.loads(body) if body else None)
                if self.close_idle:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            self.num_left += 1
        finally:
            writer.close()

    async def answer(self, writer, method, path, headers, body):
        self.headers.append(headers)
        if path == "/v1/models":
            return send_json(writer, 200, {"object": "list", "data": self.models})
        if method != "POST" or path not in ("/v1/chat/completions", "/v1/completions"):
            return send_json(writer, 404, {"error": {"message": f"no {path}", "code": "not_found"}})
        self.asked.append(body)
        if refusal := self.refuse(body):
            status, error, more = refusal
            return send_json(writer, status, {"error": error} if isinstance(error, dict) else error, more)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            await (self.stream if body.get("stream") else self.whole)(writer, path, body)
        finally:
            self.num_running -= 1

    async def whole(self, writer, path, body):
        await asyncio.sleep(self.delay)
        text = "".join(self.tokens[: body.get("max_tokens", len(self.tokens))])
        choice = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if "chat" in path else {"text": text}
        send_json(writer, 200, {"id": "answer-1", "model": body.get("model"), "choices": [choice], "usage": {}})

    async def stream(self, writer, path, body):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        send_chunk(writer, b": a comment\n\n")
        is_chat = "chat" in path
        if is_chat:
            send_event(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
        tokens = self.tokens[: body.get("max_tokens", len(self.tokens))]
        for i, token in enumerate(tokens):
            await asyncio.sleep(self.delay)
            if i == self.break_after:
                return writer.transport.abort()
            if i == self.error_after:
                send_event(writer, {"error": {"message": "the engine failed", "code": "engine_failed"}})
                return writer.write(b"0\r\n\r\n")
            new = {"delta": {"content": token}} if is_chat else {"text": token}
            send_event(writer, {"choices": [{"index": 0, "finish_reason": None, **new}]})
            await writer.drain()
        last = {"delta": {}} if is_chat else {"text": ""}
        finish = "length" if body.get("max_tokens", 1 << 30) <= len(self.tokens) else "stop"
        send_event(writer, {"choices": [{"index": 0, "finish_reason": finish, **last}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            send_event(writer, {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": len(tokens)}})
        send_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")


def send_json(writer, status, value, headers=None):
    data = json.dumps(value).encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(data)}\r\n{more}\r\n".encode() + data)


def send_event(writer, value):
    send_chunk(writer, f"data: {json.dumps(value)}\n\n".encode())


def send_chunk(writer, data):
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


@contextmanager
def running(server):
    """`server` on a port of this machine, on a thread of its own; gives its address."""
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def serve():
        listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
        address.append(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}")
        ready.set()
        server.stop = asyncio.Event()
        async with listening:
            await server.stop.wait()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(server.stop.set)
        thread.join()
        loop.close()
