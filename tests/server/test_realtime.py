"""WS /v1/realtime: OpenAI's client, a microphone page, and clients that are wrong in every way."""

import base64
import contextlib
import difflib
import json
import re
import signal

import numpy as np
import openai
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from octavo.errors import OctavoError
from octavo.server.protocol.realtime import merged, renamed
from octavo.server.realtime.audio import AudioBuffer, decode_audio
from octavo.server.realtime.conversation import MAX_ITEMS, Conversation, Item
from speech.tiny_whisper import make_tiny_whisper

from .conftest import SPEECH, TEXT
from .running import SECONDS, exchange
from .test_audio import SENTENCES
from .test_bad_input import check_shape

HEARD = "conversation.item.input_audio_transcription"
MANUAL = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
SECOND = bytes(48_000)  # of silence, at 24 kHz


@pytest.fixture
def ai(audio_server):
    with openai.OpenAI(base_url=f"{audio_server.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


def address(server, query="", path="/v1/realtime"):
    return f"ws://{server.host}:{server.port}{path}{query}"


@contextlib.contextmanager
def session(server, query="", settings=None, **options):
    """A plain WebSocket whose session has begun."""
    with connect(address(server, query), open_timeout=SECONDS, max_size=None, proxy=None, **options) as socket:
        assert receive(socket)["type"] == "session.created"
        if settings is not None:
            send(socket, "session.update", session=settings)
            updated = receive(socket)
            assert updated["type"] == "session.updated", updated
        yield socket


def send(socket, kind, **fields):
    socket.send(json.dumps({"type": kind, **fields}))


def receive(socket, kind=None):
    """The next event, or the next one of a kind."""
    while True:
        event = json.loads(socket.recv(timeout=SECONDS))
        assert re.fullmatch(r"event_\w{24}", event["event_id"])
        if kind is None or event["type"] == kind:
            return event


def say(socket, pcm, piece=4801):
    """As a page sends what its microphone hears; pieces may end in the middle of a sample."""
    for at in range(0, len(pcm), piece):
        send(socket, "input_audio_buffer.append", audio=base64.b64encode(pcm[at : at + piece]).decode())


def error(socket):
    """The next event, which must be an error of OpenAI's shape."""
    event = receive(socket)
    assert event["type"] == "error", event
    found = event["error"]
    assert set(found) == {"message", "type", "param", "code", "event_id"}
    assert len(found["message"]) <= 500
    return found


def pcm(samples, rate):
    """float32 [n] at 16 kHz as 16-bit samples of another rate."""
    count = len(samples) * rate // 16000
    values = np.interp(np.arange(count) * 16000 / rate, np.arange(len(samples)), samples)
    return (values * 32767).astype("<i2").tobytes()


def wrong_words(text, spoken):
    """The part of the words that were not written down as they were spoken."""
    found, wanted = (re.findall(r"[a-z']+", each.lower()) for each in (text, spoken))
    same = sum(
        block.size for block in difflib.SequenceMatcher(None, found, wanted, autojunk=False).get_matching_blocks()
    )
    return 1 - same / max(len(found), len(wanted))


def test_openai_s_client_hears_turns_as_they_are_spoken(ai, recording, spoken_text):
    said = pcm(recording, 24000) + SECOND
    with ai.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().session.type == "transcription"
        settings = {"type": "transcription", "audio": {"input": {"transcription": {"model": SPEECH, "language": "en"}}}}
        connection.session.update(session=settings)
        assert connection.recv().session.audio.input.transcription.model == SPEECH
        for at in range(0, len(said), 4801):
            connection.input_audio_buffer.append(audio=base64.b64encode(said[at : at + 4801]).decode())
        found = {}
        for event in connection:
            found.setdefault(event.type.rpartition(".")[2], []).append(event)
            stopped, completed = (found.get(kind, []) for kind in ("speech_stopped", "completed"))
            if len(stopped) == len(completed) and stopped and stopped[-1].audio_end_ms > 18_000:
                break
    started = found["speech_started"]
    texts = {event.item_id: event.transcript for event in completed}
    assert [event.item_id for event in started] == [event.item_id for event in stopped] == list(texts)
    assert "".join(event.delta for event in found["delta"]) == "".join(texts.values())
    borders = [
        at for first, last in zip(started, stopped, strict=True) for at in (first.audio_start_ms, last.audio_end_ms)
    ]
    assert borders == sorted(borders)
    assert {event.usage.type for event in completed} == {"duration"}
    assert wrong_words(" ".join(texts.values()), spoken_text) < 0.2


@pytest.mark.parametrize("rate", [16000, 24000])
def test_a_commit_is_written_down_like_a_file_of_the_same_audio(audio_server, recording, rate):
    form = {"type": "audio/pcm", "rate": rate}
    settings = {"type": "transcription", "audio": {"input": {"format": form, "turn_detection": None}}}
    with session(audio_server, f"?model={SPEECH}", settings) as socket:
        say(socket, pcm(recording, rate))
        send(socket, "input_audio_buffer.commit")
        kinds = [receive(socket)["type"] for _ in range(4)]
        assert kinds == [
            "input_audio_buffer.committed",
            *(f"conversation.item.{each}" for each in ("added", "created", "done")),
        ]
        completed = receive(socket, f"{HEARD}.completed")
        assert all(sentence in completed["transcript"] for sentence in SENTENCES)
        assert completed["usage"] == {"type": "duration", "seconds": 19}
        send(socket, "conversation.item.retrieve", item_id=completed["item_id"])
        content = receive(socket)["item"]["content"]
        assert content == [{"type": "input_audio", "transcript": completed["transcript"]}]


def test_vllm_s_clients_get_vllm_s_events(audio_server, recording):
    with session(audio_server) as socket:
        send(socket, "session.update", model=SPEECH)
        assert receive(socket)["type"] == "session.updated"
        send(socket, "input_audio_buffer.commit", final=False)
        say(socket, pcm(recording, 16000))
        send(socket, "input_audio_buffer.commit", final=True)
        text = ""
        while (event := receive(socket))["type"] == "transcription.delta":
            text += event["delta"]
        assert event["type"] == "transcription.done"
        assert event["text"] == text
        assert all(sentence in text for sentence in SENTENCES)
        assert event["usage"]["total_tokens"] > event["usage"]["completion_tokens"] > 10


def test_the_former_names_of_transcription_sessions_are_understood(audio_server):
    with session(audio_server, "?intent=transcription") as socket:
        former = {"input_audio_format": "pcm16", "input_audio_transcription": {"model": SPEECH}, "turn_detection": None}
        send(socket, "transcription_session.update", session=former)
        event = receive(socket)
        assert event["type"] == "transcription_session.updated"
        assert event["session"]["input_audio_transcription"]["model"] == SPEECH
        assert event["session"]["turn_detection"] is None
        send(socket, "transcription_session.update", session={"input_audio_format": "g711_ulaw"})
        assert "g711_ulaw" in error(socket)["message"]


def ask(connection, text):
    content = [{"type": "input_text", "text": text}]
    connection.conversation.item.create(item={"type": "message", "role": "user", "content": content})


def until_done(connection):
    """Events up to the end of the response."""
    events = [connection.recv()]
    while events[-1].type != "response.done":
        events.append(connection.recv())
    return events


def test_openai_s_client_chats_in_text(ai):
    with ai.realtime.connect(model=TEXT) as connection:
        assert connection.recv().session.model == TEXT
        connection.session.update(session={"type": "realtime", "temperature": 0, "instructions": "Be brief."})
        ask(connection, "Name a color.")
        connection.response.create(response={"max_output_tokens": 40, "metadata": {"turn": "1"}})
        events = until_done(connection)
        answer = {"model": TEXT, "temperature": 0, "max_tokens": 40}
        messages = [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Name a color."},
        ]
        expected = ai.chat.completions.create(messages=messages, **answer).choices[0].message.content
        ask(connection, "And another one.")
        connection.response.create(response={"max_output_tokens": 2})
        second = until_done(connection)[-1].response
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == expected
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        *("session.updated", *(f"conversation.item.{kind}" for kind in ("added", "created", "done"))),
        *("response.created", "response.output_item.added", "conversation.item.added", "conversation.item.created"),
        *("response.content_part.added", "response.output_text.done", "response.content_part.done"),
        *("response.output_item.done", "conversation.item.done", "response.done"),
    ]
    response = events[-1].response
    assert (response.status, response.metadata) == ("completed", {"turn": "1"})
    assert response.output[0].content[0].text == text
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert second.usage.input_tokens > response.usage.input_tokens  # the conversation so far was read
    assert (second.status, second.status_details.reason) == ("incomplete", "max_output_tokens")


WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def test_openai_s_client_calls_a_tool_and_hears_what_comes_of_it(ai):
    with ai.realtime.connect(model=TEXT) as connection:
        connection.recv()
        connection.session.update(session={"type": "realtime", "temperature": 0, "tools": [WEATHER]})
        ask(connection, "What is the weather in Paris?")
        connection.response.create(response={"tool_choice": "required", "parallel_tool_calls": False})
        events = until_done(connection)
        (call,) = events[-1].response.output
        assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
        assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
        deltas = [event for event in events if event.type == "response.function_call_arguments.delta"]
        (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
        assert "".join(event.delta for event in deltas) == done.arguments == call.arguments
        assert {event.call_id for event in deltas} == {call.call_id}
        output = {"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}
        connection.conversation.item.create(item=output)
        connection.response.create(response={"max_output_tokens": 8, "tool_choice": "none"})
        (message,) = until_done(connection)[-1].response.output
        assert message.content[0].text


def test_what_came_of_a_call_that_is_not_there_fails_the_response(ai):
    with ai.realtime.connect(model=TEXT) as connection:
        connection.recv()
        connection.conversation.item.create(item={"type": "function_call_output", "call_id": "x", "output": "1"})
        connection.response.create()
        response = until_done(connection)[-1].response
        assert (response.status, response.output) == ("failed", [])
        assert response.status_details.error.type == "invalid_request_error"


def test_a_response_is_cancelled_and_the_session_goes_on(ai):
    with ai.realtime.connect(model=TEXT) as connection:
        connection.recv()
        ask(connection, "Write a very long story about a cat.")
        connection.response.create()
        while connection.recv().type != "response.output_text.delta":
            pass
        connection.response.create()
        connection.response.cancel()
        events = until_done(connection)
        (refused,) = [event.error for event in events if event.type == "error"]
        assert refused.code == "conversation_already_has_active_response"
        response = events[-1].response
        assert (response.status, response.status_details.reason) == ("cancelled", "client_cancelled")
        assert response.output[0].status == "incomplete"
        connection.response.cancel(event_id="late")
        late = connection.recv().error
        assert (late.code, late.event_id) == ("response_cancel_not_active", "late")
        out_of_band = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say yes."}]}
        connection.response.create(response={"conversation": "none", "input": [out_of_band], "max_output_tokens": 4})
        events = until_done(connection)
        assert events[-1].response.conversation_id is None
        assert not any(event.type.startswith("conversation.item") for event in events)


def test_what_is_said_is_answered(audio_server, recording):
    """A turn becomes a message by the model of speech, and the model of text answers it."""
    settings = {"type": "realtime", "temperature": 0, "max_output_tokens": 8}
    with session(audio_server, settings=settings) as socket:
        say(socket, pcm(recording[: 5 * 16000], 24000) + 2 * SECOND)
        heard = receive(socket, f"{HEARD}.completed")
        assert "old beer" in heard["transcript"]
        response = receive(socket, "response.done")["response"]
        assert response["output"][0]["content"][0]["text"]


def test_items_are_put_where_they_are_asked_for_and_deleted(audio_server):
    with session(audio_server, f"?model={TEXT}") as socket:
        for id, after in (("b", None), ("a", "root"), ("c", "b")):
            item = {"id": id, "type": "message", "role": "user", "content": [{"type": "input_text", "text": id}]}
            send(socket, "conversation.item.create", item=item, previous_item_id=after)
            assert receive(socket)["previous_item_id"] == {"b": None, "a": None, "c": "b"}[id]
            receive(socket, "conversation.item.done")
        send(socket, "conversation.item.delete", item_id="b")
        assert receive(socket)["item_id"] == "b"
        for kind in ("delete", "retrieve"):
            send(socket, f"conversation.item.{kind}", item_id="b")
            assert error(socket)["code"] == "item_not_found"
        send(socket, "conversation.item.create", item=item)
        assert error(socket)["param"] == "item.id"


LONG_TEXT = "x" * (1 << 20)
BAD_EVENTS = [  # what is sent, the error's code and its param
    ("nothing", "invalid_json", None),
    ("[1]", "invalid_json", None),
    ('"text"', "invalid_json", None),
    ('{"a": NaN}', "invalid_json", None),
    ('{"type": "x", "type": "y"}', "invalid_json", None),
    ("[" * 100_000, "too_many_values", None),
    ("[" * 30_000, "invalid_json", None),
    (b"\0\1", "invalid_json", None),
    ({}, "invalid_value", "type"),
    ({"type": 5}, "invalid_value", "type"),
    ({"type": LONG_TEXT}, "invalid_value", "type"),
    ({"type": "response.think"}, "invalid_value", "type"),
    ({"type": "conversation.item.truncate", "item_id": "x"}, "invalid_value", "type"),
    ({"type": "input_audio_buffer.append"}, "missing_field", "audio"),
    ({"type": "input_audio_buffer.append", "audio": 5}, "invalid_type", "audio"),
    ({"type": "input_audio_buffer.append", "audio": "!!!!"}, "invalid_audio", "audio"),
    ({"type": "input_audio_buffer.append", "audio": "AAA"}, "invalid_audio", "audio"),
    ({"type": "input_audio_buffer.append", "audio": "ä"}, "invalid_audio", "audio"),
    ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None),
    ({"type": "input_audio_buffer.commit", "more": 1}, "unknown_parameter", "more"),
    ({"type": "session.update"}, "missing_field", "session"),
    ({"type": "session.update", "session": []}, "invalid_type", "session"),
    ({"type": "session.update", "session": {"type": "dance"}}, "invalid_value", "session.type"),
    ({"type": "session.update", "session": {"type": []}}, "invalid_value", "session.type"),
    ({"type": "session.update", "session": {"audio": None}}, "invalid_type", "session.audio"),
    ({"type": "session.update", "session": {"audio": 5, "turn_detection": None}}, "invalid_type", "session.audio"),
    ({"type": "session.update", "session": {"more": 1}}, "unknown_parameter", "session.more"),
    (
        {"type": "session.update", "session": {"type": "realtime", "voice": "a"}},
        "unsupported_parameter",
        "session.voice",
    ),
    ({"type": "session.update", "session": {"type": "realtime", "tools": [{}]}}, "invalid_value", "session.tools"),
    ({"type": "session.update", "session": {"type": "realtime", "model": "gpt"}}, "model_not_found", "model"),
    ({"type": "session.update", "session": {"type": "realtime", "model": SPEECH}}, "model_not_suitable", "model"),
    ({"type": "session.update", "model": "gpt"}, "model_not_found", "model"),
    ({"type": "conversation.item.create", "item": {}}, "invalid_value", "item"),
    ({"type": "response.create"}, "invalid_value", "type"),
    ({"type": "response.cancel"}, "response_cancel_not_active", "response_id"),
    ({"type": "conversation.item.delete"}, "missing_field", "item_id"),
]
BAD_SETTINGS = [
    ({"format": {"type": "audio/pcmu"}}, "format.type"),
    ({"format": {"type": "audio/pcm", "rate": 44100}}, "format.rate"),
    ({"turn_detection": {"type": "semantic_vad"}}, "turn_detection.type"),
    ({"turn_detection": {"threshold": 2}}, "turn_detection.threshold"),
    ({"turn_detection": {"silence_duration_ms": 0}}, "turn_detection.silence_duration_ms"),
    ({"turn_detection": {"silence_duration_ms": 1e9}}, "turn_detection.silence_duration_ms"),
    ({"noise_reduction": {"type": "near_field"}}, "noise_reduction"),
    ({"transcription": {"keywords": ["beer"]}}, "transcription.keywords"),
    ({"transcription": {"model": "x" * 1000}}, "transcription.model"),
]


def test_bad_events_are_told_by_name_and_the_session_goes_on(audio_server):
    with session(audio_server, settings=MANUAL) as socket:
        for number, (event, code, param) in enumerate(BAD_EVENTS):
            name = f"e{number}"
            bad = json.dumps({"event_id": name, **event}) if isinstance(event, dict) else event
            socket.send(bad)
            found = error(socket)
            assert (found["code"], found["param"]) == (code, param), (str(bad)[:100], found)
            assert found["event_id"] == (name if isinstance(event, dict) else None)
        for settings, param in BAD_SETTINGS:
            send(socket, "session.update", session={"audio": {"input": settings}})
            assert error(socket)["param"] == f"session.audio.input.{param}"
        send(socket, "input_audio_buffer.clear")
        assert receive(socket)["type"] == "input_audio_buffer.cleared"


ODD = (
    None,
    True,
    0,
    -1,
    1.5,
    10**400,
    "",
    "x",
    "\ud83d",
    "a\0b",
    [],
    [None],
    [[]],
    {},
    {"type": None},
    {"type": "x"},
    {"x": {}},
)
TEMPLATES = [
    {
        "type": "session.update",
        "session": {"type": "realtime", "instructions": "a", "audio": {"input": {"format": {}}}},
    },
    {
        "type": "session.update",
        "session": {"audio": {"input": {"transcription": {"model": SPEECH}, "turn_detection": {}}}},
    },
    {"type": "session.update", "session": {"tools": [{"type": "function", "name": "a", "parameters": {}}]}},
    {"type": "session.update", "model": SPEECH},
    {"type": "transcription_session.update", "session": {"input_audio_format": "pcm16", "turn_detection": {}}},
    {"type": "input_audio_buffer.append", "audio": "AAAA", "event_id": "a"},
    {"type": "input_audio_buffer.commit", "final": True},
    {"type": "conversation.item.create", "previous_item_id": "root", "item": {"type": "message", "role": "user"}},
    {"type": "conversation.item.create", "item": {"type": "function_call", "name": "a", "arguments": "{}"}},
    {"type": "conversation.item.retrieve", "item_id": "a"},
    {"type": "response.create", "response": {"conversation": "none", "input": [], "metadata": {"a": "b"}}},
    {"type": "response.cancel", "response_id": "a"},
]


def mutants(value, odd):
    """The values that have something odd in one place."""
    yield odd
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for place, each in inside:
        for mutant in mutants(each, odd):
            changed = value.copy()
            changed[place] = mutant
            yield changed


def test_odd_values_anywhere_are_told_and_break_nothing(audio_server):
    codes = set()
    with session(audio_server) as socket:
        for event in TEMPLATES:
            for odd in ODD:
                for mutant in mutants(event, odd):
                    socket.send(json.dumps(mutant))
                send(socket, "session.update", event_id="last", session={"type": "end"})
                while (found := receive(socket)).get("error", {}).get("event_id") != "last":
                    codes.add(found.get("error", {}).get("code"))
    assert "internal_error" not in codes
    assert {"invalid_type", "invalid_value", "unknown_parameter", "invalid_json"} <= codes
    audio_server.settle()


def test_a_transcription_that_fails_is_told_with_its_item(audio_server):
    settings = {
        "type": "transcription",
        "audio": {"input": {"turn_detection": None, "transcription": {"language": "xx"}}},
    }
    with session(audio_server, settings=settings) as socket:
        say(socket, SECOND)
        send(socket, "input_audio_buffer.commit")
        item = receive(socket, "conversation.item.added")["item"]["id"]
        failed = receive(socket, f"{HEARD}.failed")
        assert failed["item_id"] == item
        assert set(failed["error"]) == {"message", "type", "param", "code"}
        send(socket, "session.update", session={"audio": {"input": {"transcription": None}}})
        say(socket, SECOND)
        send(socket, "input_audio_buffer.commit")
        assert receive(socket, f"{HEARD}.completed")["transcript"] == ""


def test_the_format_can_t_change_under_audio(audio_server):
    with session(audio_server, settings=MANUAL) as socket:
        say(socket, SECOND)
        settings = {"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}
        send(socket, "session.update", session=settings)
        assert error(socket)["param"] == "session.audio.input.format"
        send(socket, "input_audio_buffer.clear")
        send(socket, "session.update", session=settings)
        assert receive(socket, "session.updated")["session"]["audio"]["input"]["format"]["rate"] == 16000


def test_a_session_that_was_not_closed_leaves_nothing(audio_server):
    with session(audio_server, f"?model={TEXT}") as socket:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Tell a story."}]}
        send(socket, "conversation.item.create", item=item)
        send(socket, "response.create")
        receive(socket, "response.output_text.delta")
        socket.socket.close()
    audio_server.settle()


def test_a_huge_frame_closes_its_connection_alone(audio_server):
    with session(audio_server) as other:
        with session(audio_server) as socket:
            with contextlib.suppress(ConnectionClosed):
                socket.send("x" * (100 << 20))
            with pytest.raises(ConnectionClosed) as closed:
                receive(socket)
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
        send(other, "input_audio_buffer.clear")
        assert receive(other)["type"] == "input_audio_buffer.cleared"


def refusal(server, path, **options):
    """(status, error) of a WebSocket that is not opened."""
    with pytest.raises(InvalidStatus) as refused:
        connect(address(server, path=path), open_timeout=SECONDS, proxy=None, **options)
    response = refused.value.response
    check_shape(response.body)
    return response.status_code, json.loads(response.body)["error"]


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/v1/chat/completions", 404, "/v1/realtime"),
        ("/nothing", 404, "/v1/realtime"),
        ("/v1/realtime?model=gpt", 404, "gpt"),
        ("/v1/realtime?intent=dance", 400, "intent"),
        (f"/v1/realtime?intent=transcription&model={TEXT}", 400, TEXT),
    ],
)
def test_other_websockets_are_refused_with_a_word(audio_server, path, status, word):
    found, told = refusal(audio_server, path)
    assert found == status
    assert word in told["message"]


def test_a_request_for_the_websocket_s_path_is_told_to_upgrade(audio_server):
    with audio_server.client() as client:
        answer = client.get("/v1/realtime")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    check_shape(answer.content)
    assert answer.json()["error"]["code"] == "not_a_websocket"


def test_broken_handshakes_are_400(audio_server):
    head = b"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    for lines in (b"\r\n", b"Sec-WebSocket-Key: short\r\nSec-WebSocket-Version: 13\r\n\r\n"):
        status, _, _ = exchange(audio_server, head + lines)
        assert status == 400


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """A server of a tiny model of speech, with a key, an allowed origin, and few and short sessions."""
    from .running import Server

    folder = tmp_path_factory.mktemp("realtime")
    flags = ("--api-key", "sesame", "--api-key", "a/b+c=(%2F)", "--allowed-origins", "https://friend.example")
    limits = ("--max-realtime-sessions", 3, "--max-realtime-seconds", 5)
    server = Server(folder / "log", make_tiny_whisper(folder / "tiny"), *flags, *limits)
    yield server.wait()
    server.stop()


KEY = {"additional_headers": {"authorization": "Bearer sesame"}}


def test_keys_are_asked_for_in_headers_and_pages_subprotocols(locked):
    status, told = refusal(locked, "/v1/realtime")
    assert (status, told["code"]) == (401, "invalid_api_key")
    assert refusal(locked, "/v1/realtime", subprotocols=["realtime", "openai-insecure-api-key.wrong"])[0] == 401
    assert refusal(locked, "/nothing")[0] == 401
    with session(locked, subprotocols=["realtime", "openai-insecure-api-key.sesame"]) as socket:
        assert socket.subprotocol == "realtime"
    encoded = "openai-insecure-api-key.a%2Fb%2Bc%3D%28%252F%29"  # a subprotocol has no / and no =
    with session(locked, subprotocols=["realtime", encoded]) as socket:
        assert socket.subprotocol == "realtime"
    with session(locked, **KEY) as socket:
        assert socket.subprotocol is None
    assert "sesame" not in locked.read_log()


def test_pages_of_other_origins_are_refused(locked):
    status, told = refusal(locked, "/v1/realtime", origin="https://foe.example", **KEY)
    assert (status, told["code"]) == (403, "origin_not_allowed")
    for origin in ("https://friend.example", f"http://{locked.host}:{locked.port}"):
        with session(locked, origin=origin, **KEY):
            pass


def test_sessions_and_their_audio_are_limited(locked):
    with contextlib.ExitStack() as open_ones:
        for _ in range(3):
            socket = open_ones.enter_context(session(locked, settings=MANUAL, **KEY))
        status, told = refusal(locked, "/v1/realtime", **KEY)
        assert (status, told["code"]) == (503, "too_many_sessions")
        say(socket, 4 * SECOND, 96_000)
        send(socket, "input_audio_buffer.append", audio=base64.b64encode(2 * SECOND).decode())
        assert error(socket)["code"] == "too_much_audio"
        send(socket, "input_audio_buffer.commit")
        assert receive(socket, f"{HEARD}.completed")
        say(socket, 4 * SECOND, 96_000)
        send(socket, "input_audio_buffer.clear")
        assert receive(socket)["type"] == "input_audio_buffer.cleared"


def test_silence_is_not_kept_while_turns_are_detected(locked):
    with session(locked, settings={"type": "transcription"}, **KEY) as socket:
        for _ in range(40):
            say(socket, SECOND, 96_000)
        send(socket, "input_audio_buffer.clear")
        assert receive(socket)["type"] == "input_audio_buffer.cleared"


def test_a_shutdown_finishes_what_was_said_and_closes_idle_sessions(start, tmp_path):
    server = start(make_tiny_whisper(tmp_path / "tiny"))
    with session(server) as idle, session(server, settings=MANUAL) as busy:
        say(busy, 2 * SECOND)
        send(busy, "input_audio_buffer.commit")
        receive(busy, "input_audio_buffer.committed")
        server.process.send_signal(signal.SIGTERM)
        for socket in (idle, busy):
            with pytest.raises(ConnectionClosed) as closed:
                receive(socket, "nothing")
            assert closed.value.rcvd.code == 1001
    assert server.process.wait(SECONDS) == 0


def test_settings_are_changed_field_by_field():
    old = {"audio": {"input": {"turn_detection": {"threshold": 0.5}, "transcription": None}}, "instructions": "a"}
    new = merged(old, renamed({"turn_detection": {"threshold": 0.7}, "input_audio_transcription": {"model": "m"}}))
    assert new["audio"]["input"] == {"turn_detection": {"threshold": 0.7}, "transcription": {"model": "m"}}
    assert new["instructions"] == "a"
    assert old["audio"]["input"]["transcription"] is None


@pytest.mark.parametrize("piece", [1, 2, 3, 999])
def test_a_buffer_joins_what_comes_in_pieces_of_any_size(piece):
    from octavo.server.protocol.realtime import AudioInput

    buffer = AudioBuffer(AudioInput(turn_detection=None))
    samples = np.arange(5000, dtype="<i2").tobytes()
    for at in range(0, len(samples), piece):
        assert list(buffer.append(samples[at : at + piece])) == []
    assert buffer.end == 5000
    assert buffer.take(0, 2000).file.read()[44:] == samples[:4000]
    assert buffer.take().file.read()[44:] == samples[4000:]
    assert buffer.seconds == 0


def test_base64_that_is_none_is_refused():
    for text in ("====", "A", "AA AA", "AAAA\n", "€"):
        with pytest.raises(OctavoError, match="base64"):
            decode_audio(text)


def test_a_conversation_has_an_end():
    conversation = Conversation()
    for _ in range(MAX_ITEMS):
        conversation.add(Item("user", "a"))
    with pytest.raises(OctavoError, match=str(MAX_ITEMS)):
        conversation.add(Item("user", "a"))
    second = conversation.items[1]
    conversation.make_room()
    conversation.add(Item("user", "b"))
    assert (len(conversation.items), conversation.items[0]) == (MAX_ITEMS, second)
