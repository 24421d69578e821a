"""Commands and scripts as people copy them from guides, against a server on its usual port or another."""

import asyncio
import json
import random
import re
import shlex
import subprocess
import time

import aiohttp
import pytest
from openai import AsyncOpenAI, OpenAI

from .conftest import MODEL
from .running import Server

CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Who won the world series in 2020?"}]}


def curl(*arguments):
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


def test_curl_completes_text(server):
    body = {"model": MODEL, "prompt": "San Francisco is a", "max_tokens": 7, "temperature": 0}
    header = "Content-Type: application/json"
    answer = json.loads(curl(f"{server.url}/v1/completions", "-H", header, "-d", json.dumps(body)))
    assert answer["choices"][0]["text"]


def test_curl_chats_and_streams(server):
    arguments = (f"{server.url}/v1/chat/completions", "-H", "Content-Type: application/json", "-d")
    assert json.loads(curl(*arguments, json.dumps({**CHAT, "max_tokens": 8})))["choices"][0]["message"]["content"]
    lines = curl("-N", *arguments, json.dumps({**CHAT, "max_tokens": 8, "stream": True})).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line.startswith("data: {") for line in lines[:-2])


def test_curl_without_a_body_type_says_what_to_send(server):
    answer = json.loads(curl(f"{server.url}/v1/completions", "-d", '{"prompt": "a"}'))
    assert "Content-Type: application/json" in answer["error"]["message"]


@pytest.fixture(scope="module")
def whisper_at(whisper_model, tmp_path_factory):
    """Starts Whisper from a folder of this path, as containers have it."""
    running = []

    def start(path, *arguments, **options):
        folder = tmp_path_factory.mktemp("container")
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(whisper_model)
        server = Server(folder / "log", "--model", place, *arguments, **options)
        running.append(server)
        return server.wait()

    yield start
    for server in running:
        server.stop()


TRANSCRIBE = ("-X", "POST", "-H", "Content-Type: multipart/form-data")
HARVARD = "The stale smell of old beer lingers. It takes heat to bring out the odor."


def test_whisper_by_its_served_name_from_a_folder(whisper_at, audio_path):
    names = ("--served-model-name", "openai/whisper-tiny.en")
    server = whisper_at("models/whisper-tiny.en", *names, "--task", "transcription", "--dtype=half")
    form = ("-F", f"file=@{audio_path}", "-F", "model=openai/whisper-tiny.en")
    answer = json.loads(curl(f"{server.url}/v1/audio/transcriptions", *TRANSCRIBE, *form))
    assert answer["text"].startswith(HARVARD)
    assert answer["text"].endswith("A zestful food is the hot cross bun.")
    assert "half" in server.read_log()


def test_whisper_by_the_name_that_its_folder_has(whisper_at, audio_path):
    module = ("octavo.entrypoints.openai.api_server",)
    server = whisper_at("workspace/models/openai/whisper-tiny.en", "--dtype=half", module=module)
    form = ("-F", f"file=@{audio_path}", "-F", "model=openai/whisper-tiny.en", "-F", "language=en")
    text = curl("-X", "POST", f"{server.url}/v1/audio/transcriptions", *form, "-F", "response_format=text")
    assert text.startswith(HARVARD)
    assert text.endswith("bun.\n")


def test_the_curl_line_of_a_server_of_speech_names_a_file(whisper_at, audio_path):
    server = whisper_at("whisper-tiny.en")
    line = shlex.split(re.search(r"try it: curl (.+)", server.read_log())[1].replace("audio.wav", str(audio_path)))
    assert json.loads(curl(*line))["text"].startswith(HARVARD)


def test_a_script_that_streams(server):
    client = OpenAI(base_url=f"{server.url}/v1", api_key="not-needed")
    text = ""
    for chunk in client.chat.completions.create(**CHAT, stream=True, max_tokens=12):
        if chunk.choices[0].delta.content is not None:
            text += chunk.choices[0].delta.content
    assert text
    client.close()


def test_a_script_that_sends_a_list_of_prompts(server):
    prompts = ["Hello, my name is", "The president of the United States is", "The capital of France is"]
    with OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as client:
        answer = client.completions.create(model=MODEL, prompt=prompts, max_tokens=8, temperature=0.8, top_p=0.95)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_an_aiohttp_load_script(server):
    url = f"{server.url}/v1/chat/completions"

    async def single(session, request_id):
        begin = time.time()
        body = {"model": MODEL, "messages": [{"role": "user", "content": f"Hello {request_id}"}], "max_tokens": 10}
        async with session.post(url, json=body) as response:
            assert (await response.json())["choices"]
            return time.time() - begin

    async def main():
        async with aiohttp.ClientSession() as session:
            return await asyncio.gather(*(single(session, f"client{i}_req{j}") for i in range(10) for j in range(5)))

    assert len(asyncio.run(main())) == 50


class LoadBalancer:
    """Spreads requests over servers, on the client's side."""

    def __init__(self, endpoints):
        self.clients = [OpenAI(base_url=endpoint, api_key="dummy") for endpoint in endpoints]

    def chat(self, message):
        client = random.choice(self.clients)
        messages = [{"role": "user", "content": message}]
        answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0.7, max_tokens=4)
        return answer.choices[0].message.content


def test_a_client_side_load_balancer_over_three_servers(start, tiny_model):
    servers = [start(tiny_model, "--served-model-name", MODEL) for _ in range(3)]
    balancer = LoadBalancer([f"{server.url}/v1" for server in servers])
    for number in range(20):
        assert balancer.chat(f"Message {number}") is not None
    counts = []
    for server in servers:
        with server.client() as client:
            text = client.get("/metrics").text
        line = next(line for line in text.splitlines() if line.startswith("vllm:e2e_request_latency_seconds_count"))
        counts.append(float(line.split()[-1]))
    assert sum(counts) == 20
    for client in balancer.clients:
        client.close()


def test_an_agent_keeps_a_conversation(server):
    messages = [{"role": "system", "content": "You are a helpful assistant."}]
    with OpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as client:
        for question in ("My name is Ada.", "What is my name?"):
            messages.append({"role": "user", "content": question})
            answer = client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=20)
            messages.append(answer.choices[0].message.model_dump())
        assert answer.usage.prompt_tokens_details.cached_tokens > 0
    assert len(messages) == 5


@pytest.mark.parametrize("number", [32])
def test_many_concurrent_async_streams_all_end(server, number):
    async def one(client, index):
        stream = await client.chat.completions.create(**CHAT, stream=True, max_tokens=5 + index % 5)
        return [chunk.choices[0].finish_reason async for chunk in stream if chunk.choices]

    async def main():
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="EMPTY") as client:
            return await asyncio.gather(*(one(client, index) for index in range(number)))

    for reasons in asyncio.run(main()):
        assert [reason for reason in reasons if reason] in (["length"], ["stop"])
