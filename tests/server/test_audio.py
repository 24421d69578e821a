"""Speech over HTTP: OpenAI's contract with OpenAI's client, and forms that are wrong in every way."""

import io
import json
import re
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import openai
import pytest

from octavo.errors import OctavoError
from octavo.server import upload
from octavo.speech.languages import LANGUAGES
from speech.encoded import KINDS, encode, encode_signal, opus_silence, wav
from speech.tiny_whisper import make_tiny_whisper

from .conftest import SPEECH, TEXT
from .running import SECONDS, exchange
from .test_bad_input import check_error, check_shape
from .test_monitoring import families, value

PATH = "/v1/audio/transcriptions"
BROKEN = Path(__file__).with_name("broken.py")
SENTENCES = ("stale smell of old beer", "tastes fine with ham", "hot cross bun.")
QUIET = wav(np.zeros(8000, np.int16))
CHAT = {"model": TEXT, "messages": [{"role": "user", "content": "Hello"}], "temperature": 0, "max_tokens": 24}


@pytest.fixture
def http(audio_server):
    with audio_server.client() as client:
        yield client


@pytest.fixture
def ai(audio_server):
    with openai.OpenAI(base_url=f"{audio_server.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def speech(recording):
    """The recording as a file of 16 bits."""
    return wav((recording * 32767).astype(np.int16))


@pytest.fixture(scope="module")
def long_speech(recording):
    """The recording six times, with pauses: several windows."""
    once = np.concatenate([recording, np.zeros(24_000, np.float32)])
    return wav((np.tile(once, 6) * 32767).astype(np.int16))


def ask(http, file=QUIET, path=PATH, name="audio.wav", headers=None, **fields):
    return http.post(path, files={"file": (name, file)}, data=fields, headers=headers)


# What clients get


def test_a_transcription_is_its_text_and_how_long_the_audio_was(ai, speech):
    answer = ai.audio.transcriptions.create(file=("a.wav", speech), model=SPEECH)
    assert all(sentence in answer.text for sentence in SENTENCES)
    assert answer.text == answer.text.strip()
    assert (answer.usage.type, answer.usage.seconds) == ("duration", 19)


def test_text_is_text_and_not_json(ai, http, speech):
    json_text = ai.audio.transcriptions.create(file=("a.wav", speech), model=SPEECH).text
    text = ai.audio.transcriptions.create(file=("a.wav", speech), model=SPEECH, response_format="text")
    assert text == json_text + "\n"
    answer = ask(http, speech, model=SPEECH, response_format="text")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_subtitles_are_files_of_their_format(ai, http, speech):
    srt = ai.audio.transcriptions.create(file=("a.wav", speech), model=SPEECH, response_format="srt")
    assert srt.startswith("1\n00:00:00,")
    assert " --> " in srt
    vtt = ai.audio.transcriptions.create(file=("a.wav", speech), model=SPEECH, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.")
    assert all(sentence in srt and sentence in vtt for sentence in SENTENCES)
    for form, media_type in (("srt", "application/x-subrip"), ("vtt", "text/vtt")):
        answer = ask(http, speech, response_format=form)
        assert answer.headers["content-type"] == f"{media_type}; charset=utf-8"


def test_verbose_json_has_segments_with_times_and_ids_of_their_own(ai, long_speech):
    answer = ai.audio.transcriptions.create(
        file=("a.wav", long_speech), model=SPEECH, response_format="verbose_json", language="en"
    )
    assert answer.task == "transcribe"
    assert (answer.language, answer.words) == ("english", None)
    assert answer.duration == pytest.approx(6 * (18.356 + 1.5), abs=0.1)
    assert [segment.id for segment in answer.segments] == list(range(len(answer.segments)))
    assert " ".join(segment.text for segment in answer.segments) == answer.text
    starts = [segment.start for segment in answer.segments]
    assert starts == sorted(starts)
    assert all(0 <= s.start < s.end <= answer.duration for s in answer.segments)
    assert len({segment.seek for segment in answer.segments}) > 1
    assert answer.usage.seconds == 120


@pytest.mark.parametrize("granularities", [["word"], ["segment", "word"]])
def test_words_have_times_where_they_are_asked_for(ai, speech, granularities):
    answer = ai.audio.transcriptions.create(
        file=("a.wav", speech), model=SPEECH, response_format="verbose_json", timestamp_granularities=granularities
    )
    words = [word.word for word in answer.words]
    assert " ".join(words) == answer.text
    assert all(word.start <= word.end <= answer.duration for word in answer.words)
    assert (answer.segments is not None) == ("segment" in granularities)


def test_granularities_may_be_spelled_without_brackets(http, speech):
    for name in ("timestamp_granularities", "timestamp_granularities[]"):
        answer = ask(http, speech, response_format="verbose_json", **{name: "word"}).json()
        assert answer["words"]
        assert "segments" not in answer


def test_a_stream_has_the_text_in_order_one_end_and_the_usage(ai, http, long_speech):
    options = {"file": ("a.wav", long_speech), "model": SPEECH}
    *deltas, done = ai.audio.transcriptions.create(stream=True, **options)
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert len(deltas) > 1
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas) == done.text
    assert done.text == ai.audio.transcriptions.create(**options).text
    usage = done.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_token_details.audio_tokens > usage.input_token_details.text_tokens > 0


def test_events_are_lines_of_data_and_end_in_done(http, speech):
    answer = ask(http, speech, stream="true")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last, rest = answer.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    kinds = [json.loads(event.removeprefix("data: "))["type"] for event in events]
    assert kinds == ["transcript.text.delta", "transcript.text.done"]


def test_segments_are_streamed_with_their_times(ai, long_speech):
    options = {"file": ("a.wav", long_speech), "model": SPEECH, "response_format": "verbose_json"}
    *events, done = ai.audio.transcriptions.create(stream=True, **options)
    streamed = [event for event in events if event.type == "transcript.text.segment"]
    whole = ai.audio.transcriptions.create(**options)
    assert [(s.start, s.end, s.text) for s in streamed] == [(s.start, s.end, s.text) for s in whole.segments]
    assert done.text == whole.text
    assert len(streamed) > 6


@pytest.mark.parametrize("kind", ["mp3", "m4a", "webm", "ogg", "flac", "wav of 8 kHz"])
def test_what_browsers_and_phones_record_is_understood(http, recording, kind):
    rate = KINDS[kind][2]
    places = np.arange(0, len(recording) - 1, 16_000 / rate)
    samples = np.interp(places, np.arange(len(recording)), recording)
    answer = ask(http, encode(kind, samples), name="blob").json()
    assert "smell of old beer" in answer["text"]


@pytest.mark.parametrize("form", ["json", "text", "srt", "vtt", "verbose_json"])
def test_silence_is_no_text_in_every_format(http, form):
    answer = ask(http, response_format=form)
    assert answer.status_code == 200
    empty = {"text": "\n", "srt": "", "vtt": "WEBVTT\n\n"}
    if form in empty:
        assert answer.text == empty[form]
    else:
        assert answer.json()["text"] == ""
        assert answer.json().get("segments", []) == []


def test_a_prompt_with_control_tokens_is_text(http, speech):
    for prompt in ("<|startoftranscript|><|notimestamps|>", "<|endoftext|>" * 300, "Tacos al pastor. " * 500):
        assert SENTENCES[0] in ask(http, speech, prompt=prompt).json()["text"]


def test_the_same_request_gets_the_same_answer_at_any_temperature(http):
    noise = wav((np.random.default_rng(0).standard_normal(48_000) * 8000).astype(np.int16))
    for temperature in ("0", "0.8"):
        answers = [ask(http, noise, temperature=temperature).json() for _ in range(2)]
        assert answers[0] == answers[1]


def test_fields_that_ask_for_nothing_are_taken(http):
    fields = {"language": "English", "prompt": "", "temperature": "0.0", "stream": "False", "seed": "7"}
    fields |= {"chunking_strategy": "auto", "response_format": "", "top_p": "1"}
    assert ask(http, model=SPEECH, **fields).status_code == 200


# Which model


def test_models_of_both_kinds_are_listed_and_a_text_can_be_tokenized_by_each(http):
    assert [card["id"] for card in http.get("/v1/models").json()["data"]] == [TEXT, SPEECH]
    for model in (TEXT, SPEECH):
        answer = http.post("/tokenize", json={"model": model, "prompt": "Hello"}).json()
        assert answer["count"] > 0


def test_a_model_may_be_left_out_where_only_one_can_do_it(http):
    assert ask(http).status_code == 200
    assert http.post("/v1/chat/completions", json={**CHAT, "model": None}).status_code == 200


@pytest.mark.parametrize("name", [SPEECH, SPEECH.rpartition("/")[2]])
def test_any_name_of_the_model_will_do(http, name):
    assert ask(http, model=name).status_code == 200


def test_a_text_model_can_t_transcribe_and_the_answer_says_which_can(http):
    error = check_error(ask(http, model=TEXT), 400, "model")
    assert SPEECH in error["message"]
    assert error["code"] == "model_not_suitable"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_speech_model_can_t_answer_text_and_the_answer_says_which_can(http, path):
    body = {"model": SPEECH, "prompt": "Hello"} if path == "/v1/completions" else {**CHAT, "model": SPEECH}
    error = check_error(http.post(path, json=body), 400, "model")
    assert f"can: {TEXT}" in error["message"]


def test_an_unknown_model_is_404_with_the_nearest(http):
    error = check_error(ask(http, model="whisper-tiny"), 404, "model")
    assert "Did you mean 'whisper-tiny.en'?" in error["message"]


def test_a_model_for_english_translates_nothing(http):
    for fields in ({}, {"model": SPEECH}):
        error = check_error(ask(http, path="/v1/audio/translations", **fields), 400, "model")
        assert "translate" in error["message"]


def test_a_server_without_speech_says_so(server):
    with server.client() as client:
        error = check_error(ask(client), 400, "model")
        assert "No model that is served can transcribe speech" in error["message"]


def test_a_model_of_many_languages_translates_and_knows_their_names(start, tmp_path):
    server = start(make_tiny_whisper(tmp_path / "tiny"), "--task", "translation")
    babble = encode_signal("wav")
    with server.client() as client:
        verbose = {"response_format": "verbose_json"}
        for language in ("de", "German", ""):
            answer = ask(client, babble, "/v1/audio/translations", language=language, **verbose).json()
            assert (answer["task"], answer["language"]) == ("translate", "english")
        assert ask(client, babble, language="de", **verbose).json()["language"] == "german"
        assert ask(client, babble).status_code == 200
        assert ask(client, babble, "/v1/audio/translations", to_language="en").status_code == 200
        check_error(ask(client, babble, "/v1/audio/translations", to_language="de"), 400, "to_language")
        message = check_error(ask(client, language="xx"), 400, "language")["message"]
        assert all(code in message.split(" codes are ")[1].split(", ") for code in LANGUAGES)


# Fields that are wrong

FIELDS = {
    "language": ["klingon", "fr", "x" * 513],
    "response_format": ["xml", "JSON", "diarized_json"],
    "temperature": ["-0.1", "1.1", "hot", "nan", "inf", "1_0", "1e999"],
    "stream": ["yes", "2"],
    "seed": ["a", "1.5", "9" * 30],
    "timestamp_granularities": ["word", "character"],
    "timestamp_granularities[]": ["segment"],
    "include[]": ["logprobs"],
    "chunking_strategy": ["server_vad", '{"type": "server_vad"}'],
    "chunking_strategy[type]": ["server_vad"],
    "known_speaker_names[]": ["a"],
    "to_language": ["en", "de"],
    "top_p": ["0.5"],
    "use_beam_search": ["true"],
    "max_completion_tokens": ["5"],
    "hotwords": ["a"],
    "never_heard_of": ["1", ""],
    "model": ["m" * 513],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in FIELDS for value in FIELDS[name]])
def test_a_bad_field_is_refused_by_name(http, name, value):
    error = check_error(ask(http, **{name: value}), 400)
    assert name.removesuffix("[]") in error["param"]


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_what_is_one_text_with_times_is_not_streamed(http, form):
    check_error(ask(http, stream="true", response_format=form), 400, "response_format")


def test_times_of_words_are_not_streamed(http):
    fields = {"stream": "true", "response_format": "verbose_json", "timestamp_granularities": "word"}
    check_error(ask(http, **fields), 400, "timestamp_granularities")


def test_an_unknown_language_is_told_the_known_ones(http):
    assert "English" in check_error(ask(http, language="xx"), 400, "language")["message"]


@pytest.mark.parametrize("name", ["model", "language", "response_format", "stream"])
def test_a_repeated_field_is_refused(http, name):
    assert "twice" in check_error(ask(http, **{name: ["en", "en"]}), 400, name)["message"]


def test_a_huge_field_is_413(http):
    check_error(ask(http, prompt="a" * 65_537), 413, "prompt")


def test_another_content_type_is_415_and_says_what_to_send(http):
    for answer in (http.post(PATH, json={"model": SPEECH}), http.post(PATH, data={"model": SPEECH}), http.post(PATH)):
        assert "multipart/form-data" in check_error(answer, 415)["message"]


# Files that are wrong


def forged(rate=16_000, channels=1):
    return wav(np.zeros(4000, np.int16), rate, channels)


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("audio.wav", QUIET)
    return file.getvalue()


BAD_FILES = {
    "empty": b"",
    "text": b"This is no audio at all. " * 100,
    "a zip that is called wav": zipped(),
    "only a header": QUIET[:44],
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "64 channels": forged(channels=64),
    "a rate of 4 GHz": forged(rate=2**32 - 1),
    "a rate of 0": forged(rate=0),
    "random bytes": np.random.default_rng(0).bytes(100_000),
    "an mp4 of nothing": b"\0\0\0\x18ftypisom" + bytes(2000),
}


@pytest.mark.parametrize("file", BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_is_no_audio_is_refused(http, file):
    check_error(ask(http, file), 400, "file")
    check_error(ask(http, file, stream="true"), 400, "file")


def test_of_a_file_that_was_cut_what_is_there_is_used(http, speech):
    answer = ask(http, speech[: len(speech) // 2]).json()
    assert SENTENCES[0] in answer["text"]
    assert answer["usage"]["seconds"] == 10


def test_a_small_file_of_many_hours_takes_no_memory(audio_server, http):
    """An hour of it is 230 MB when it is decoded."""

    def kilobytes(name):
        status = Path(f"/proc/{audio_server.process.pid}/status").read_text()
        return int(re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)[1])

    bomb = opus_silence(3600)
    ask(http, encode_signal("ogg"))
    Path(f"/proc/{audio_server.process.pid}/clear_refs").write_text("5")  # forgets the peak
    before = kilobytes("VmRSS")
    answer = ask(http, bomb, response_format="verbose_json")
    assert answer.json()["duration"] == pytest.approx(3600, abs=1)
    assert kilobytes("VmHWM") - before < 64 << 10


# Bodies that are wrong


def part(name, content, filename=None, *headers):
    disposition = f'Content-Disposition: form-data; name="{name}"'
    disposition += f'; filename="{filename}"' if filename is not None else ""
    return "\r\n".join(["--edge", disposition, *headers, "", ""]).encode() + content + b"\r\n"


def named(parameters):
    """The part of a file, whose name is in `parameters` of its disposition."""
    return part("file", QUIET).replace(b'name="file"', f'name="file"; {parameters}'.encode())


END = b"--edge--\r\n"
FILE = part("file", QUIET, "a.wav")
TWICE = part("file", QUIET + bytes(100_000), "a.wav", 'Content-Disposition: form-data; name="file"')
BODIES = {
    "nothing": (b"", 400, None),
    "only an end": (END, 400, None),
    "no end": (FILE, 400, None),
    "cut in a header": (FILE + b"--edge\r\nContent-Dispo", 400, None),
    "another boundary": (FILE.replace(b"edge", b"ledge") + END, 400, None),
    "no file": (part("model", SPEECH.encode()) + END, 400, "file"),
    "two files": (FILE + FILE + END, 400, "file"),
    "a file that is text": (part("file", QUIET) + END, 400, "file"),
    "a file that is text, and long": (part("file", QUIET + bytes(100_000)) + END, 400, "file"),
    "a file whose name is encoded": (named("filename*=UTF-8''%e2%82%ac%20rates.wav") + END, 200, None),
    "a file whose name is encoded in pieces": (named("filename*0*=UTF-8''%e2; filename*1=a.wav") + END, 200, None),
    "a file with both kinds of name": (named("filename=\"a.wav\"; filename*=UTF-8''b.wav") + END, 200, None),
    "a file with two dispositions": (TWICE + END, 400, None),
    "a text that is a file": (FILE + part("model", b"a", "a.txt") + END, 400, "model"),
    "a file of no bytes": (part("file", b"", "a.wav") + END, 400, "file"),
    "a part without a name": (b"--edge\r\nContent-Disposition: form-data\r\n\r\nx\r\n" + END, 400, None),
    "a part without headers": (b"--edge\r\n\r\nx\r\n" + END, 400, None),
    "a field that is not UTF-8": (FILE + part("prompt", b"\xff\xfe") + END, 400, "prompt"),
    "base64": (part("file", b"UklGRg==", "a.wav", "Content-Transfer-Encoding: base64") + END, 400, None),
    "many parts": (FILE + b"".join(part(f"f{i}", b"") for i in range(100)) + END, 400, None),
    "many headers": (part("file", QUIET, "a.wav", *(f"X-{i}: 1" for i in range(50))) + END, 400, None),
    "a huge header": (part("file", QUIET, "a.wav", "X: " + "x" * 100_000) + END, 400, None),
    "a huge name": (FILE + part("n" * 3000, b"") + END, 400, "n" * 80),
    "a name with quotes and paths": (part("file", QUIET, '../../etc/\\"passwd\\"') + END, 200, None),
}


def request(body, *headers, boundary="; boundary=edge", length=None):
    lines = [f"POST {PATH} HTTP/1.1", "Host: a", f"Content-Type: multipart/form-data{boundary}", "Connection: close"]
    lines += [f"Content-Length: {len(body) if length is None else length}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@pytest.mark.parametrize(("body", "status", "param"), BODIES.values(), ids=BODIES)
def test_a_broken_form_is_refused(audio_server, http, body, status, param):
    got, _, answer = exchange(audio_server, request(body))
    assert got == status, answer
    if status != 200:
        check_shape(answer, param)
    assert http.get("/readyz").status_code == 200


@pytest.mark.parametrize("boundary", ["", "; boundary=", "; boundary=" + "b" * 1000])
def test_a_form_needs_a_boundary(audio_server, boundary):
    status, _, answer = exchange(audio_server, request(FILE + END, boundary=boundary))
    assert status == 400
    check_shape(answer)


def test_a_form_that_is_shorter_than_it_says_is_not_waited_for_when_the_client_leaves(audio_server):
    files = audio_server.num_files()
    connection = audio_server.connect()
    connection.sendall(request(FILE, length=10 * len(FILE)))
    time.sleep(0.1)
    connection.close()
    audio_server.settle()
    assert audio_server.num_files() <= files + 1


def test_a_form_that_is_longer_than_it_says_is_cut_there(audio_server):
    status, _, answer = exchange(audio_server, request(FILE + END, length=len(FILE) // 2))
    assert status == 400
    check_shape(answer)


def test_a_form_in_tiny_pieces_is_read(audio_server):
    body = FILE + part("response_format", b"text") + END
    head = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    with audio_server.connect() as connection:
        connection.sendall(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")


# Limits


def test_a_file_that_is_too_large_is_413_however_it_is_sent(audio_server, http, ai):
    """The server of these tests takes 8 MiB."""
    large = QUIET + bytes(20 << 20)
    check_error(ask(http, large), 413, "file")
    with pytest.raises(openai.APIStatusError) as caught:
        ai.audio.transcriptions.create(file=("a.wav", large), model=SPEECH)
    assert caught.value.status_code == 413
    status, _, answer = exchange(audio_server, request(FILE, length=1 << 40))
    assert status == 413
    check_shape(answer, "file")

    def pieces():
        yield b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        for _ in range(200):
            yield bytes(1 << 16)

    headers = {"content-type": "multipart/form-data; boundary=edge"}
    error = check_error(http.post(PATH, content=pieces(), headers=headers), 413, "file")
    assert "--max-audio-bytes" in error["message"]


def test_an_audio_that_is_not_done_in_time_is_504(http, long_speech):
    check_error(ask(http, long_speech, headers={"x-request-timeout": "0.05"}), 504)
    answer = ask(http, long_speech, headers={"x-request-timeout": "0.3"}, stream="true")
    if answer.status_code == 200:  # it had begun
        assert json.loads(answer.text.split("data: ")[-1])["error"]["code"] == "request_timeout"


def test_an_audio_has_a_second_more_for_each_second_that_has_become_text(start, whisper_model, recording):
    """All of it may take longer than a request may, but goes on."""
    limits = ("--request-timeout", "4", "--max-num-seqs", "1")
    server = start(whisper_model, *limits, environment={"OCTAVO_NUM_THREADS": "1"})
    once = np.concatenate([recording, np.zeros(160_000, np.float32)])
    with server.client() as client:
        answer = ask(client, wav((np.tile(once, 20) * 32767).astype(np.int16)))
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"].count(SENTENCES[0]) == 20


def test_uploads_that_would_take_too_much_together_are_503():
    space = upload.UploadSpace(10)
    *uploads, last = (upload.Upload(space) for _ in range(upload.FILES + 1))
    for one in uploads:
        one.add(bytes(10))
    with pytest.raises(OctavoError) as caught:
        last.add(b"1")
    assert (caught.value.status, caught.value.code) == (503, "queue_full")
    with pytest.raises(OctavoError, match="larger than 10 bytes"):
        uploads[0].add(b"1")
    for one in (*uploads, *uploads, last):
        one.close()
    assert space.used == 0


def test_a_full_disk_is_503(monkeypatch):
    class Full(io.BytesIO):
        def writelines(self, pieces):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(upload, "SpooledTemporaryFile", lambda size: Full())
    with pytest.raises(OctavoError) as caught:
        upload.Upload(upload.UploadSpace(10))._write([b"1"])
    assert (caught.value.status, caught.value.code) == (503, "storage_full")


# Many at once, and those that leave


def test_eight_uploads_and_eight_chats_at_once_are_all_right(audio_server, http, speech):
    chat = http.post("/v1/chat/completions", json=CHAT).json()["choices"][0]["message"]["content"]
    text = ask(http, speech).json()["text"]
    found = {}

    def talk(index):
        with openai.OpenAI(base_url=f"{audio_server.url}/v1", api_key="EMPTY", max_retries=0) as client:
            chunks = client.chat.completions.create(**CHAT, stream=True)
            found["chat", index] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)

    def listen(index):
        with audio_server.client() as client:
            found["text", index] = ask(client, speech).json()["text"]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8) for work in (talk, listen)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert found == {(kind, i): {"chat": chat, "text": text}[kind] for kind in ("chat", "text") for i in range(8)}


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_leaves_takes_all_of_its_windows_with_it(audio_server, http, long_speech, stream):
    text = ask(http, long_speech).json()["text"]
    files = audio_server.num_files()
    body = part("stream", stream.encode()) + part("file", long_speech, "a.wav") + END
    for seconds in (0.05, 0.3, 0.6):
        with audio_server.connect() as connection:
            connection.sendall(request(body))
            time.sleep(seconds)
    audio_server.settle()
    assert audio_server.num_files() <= files + 1
    assert ask(http, long_speech).json()["text"] == text


@pytest.fixture
def breakable(start, whisper_model, tmp_path):
    """Whisper, one window at a time, and a function that says what its steps do from now on."""
    told = tmp_path / "told"
    told.write_text("slow")
    code = f"import runpy; runpy.run_path({str(BROKEN)!r}, run_name='__main__')"
    limits = ("--max-num-seqs", "1", "--shutdown-timeout", "0.2")
    server = start(told, "serve", whisper_model, *limits, code=code, environment={"OCTAVO_NUM_THREADS": "1"})
    return server, told.write_text


def events_after(client, audio, act):
    """The events of a stream that come after `act`, which is done when the first has come."""
    with client.stream("POST", PATH, files={"file": audio}, data={"stream": "true"}) as answer:
        lines = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data:"))
        assert json.loads(next(lines))["type"] == "transcript.text.delta"
        act()
        return list(lines)


def test_a_stream_whose_engine_fails_ends_in_one_error_and_the_next_is_right(breakable, long_speech, speech):
    server, tell = breakable
    with server.client() as client:
        *_, last = events_after(client, long_speech, lambda: tell("fail"))
        assert json.loads(last)["error"]["code"] == "engine_failed"
        check_error(ask(client, speech), 500)
        tell("ok")
        while (answer := ask(client, speech)).status_code != 200:
            time.sleep(0.1)
        assert SENTENCES[0] in answer.json()["text"]


def test_a_stream_that_is_not_done_when_the_server_ends_is_told(breakable, long_speech):
    server, _ = breakable
    with server.client() as client:
        *_, last = events_after(client, long_speech, lambda: server.process.send_signal(15))
    assert json.loads(last)["error"]["code"] == "shutting_down"
    assert server.process.wait(SECONDS) == 0


def test_running_transcriptions_finish_when_the_server_ends(start, whisper_model, long_speech):
    server = start(whisper_model, environment={"OCTAVO_NUM_THREADS": "1"})
    found = []

    def listen():
        with server.client() as client:
            found.append(ask(client, long_speech).json()["text"])

    thread = threading.Thread(target=listen)
    thread.start()
    with server.client() as client:
        while client.get("/load").json()["running"] == 0:
            time.sleep(0.01)
    assert server.stop() == 0
    thread.join(SECONDS)
    assert found[0].count(SENTENCES[0]) == 6


def test_keys_are_needed_for_speech_too(start, whisper_model):
    server = start(whisper_model, "--api-key", "secret", "--requests-per-minute", "1")
    with server.client() as client:
        check_error(ask(client), 401)
        key = {"authorization": "Bearer secret"}
        assert ask(client, headers=key).status_code == 200
        check_error(ask(client, headers=key), 429)


def test_seconds_of_audio_are_counted_and_logged(audio_server, http):
    def seconds():
        found = families(http.get("/metrics").text)
        return value(found, "octavo:audio_seconds_total", model_name=SPEECH)

    before = seconds()
    ask(http, wav(np.zeros(40_000, np.int16)), headers={"x-request-id": "counted"})
    assert seconds() - before == pytest.approx(2.5)
    (line,) = [line for line in audio_server.read_log().splitlines() if "id=counted" in line]
    assert "audio_seconds=2.5" in line


def test_after_all_of_that_the_same_good_request_gets_the_same_answer(audio_server, http):
    before = ask(http, encode_signal("wav")).json()
    files = audio_server.num_files()
    for file in BAD_FILES.values():
        ask(http, file)
    for body, _, _ in BODIES.values():
        exchange(audio_server, request(body))
    audio_server.settle()
    assert ask(http, encode_signal("wav")).json() == before
    assert audio_server.num_files() <= files + 1
    assert "Traceback" not in audio_server.read_log()
