"""Speech, the map and the engine room in a real browser."""

import json
import re

import httpx
import numpy as np
import pytest

from server.running import SECONDS
from speech.encoded import wav

LINES = ["cat", "dog", "cat dog", "river bank", "money"]  # of words that the encoder knows


def spoken(seconds=3):
    """A file of noise that comes and goes, of which the model of random weights makes some text."""
    times = np.arange(16_000 * seconds) / 16_000
    loudness = (np.sin(2 * np.pi * 3 * times) > 0) * 9000
    return wav((np.random.default_rng(0).standard_normal(times.size) * loudness).clip(-32767, 32767).astype(np.int16))


def segments(*texts):
    """The body of a stream that tells segments of two seconds each."""
    events = [
        {"type": "transcript.text.segment", "id": str(i), "start": 2 * i, "end": 2 * i + 1.5, "text": text}
        for i, text in enumerate(texts)
    ]
    events.append({"type": "transcript.text.done", "text": " ".join(texts)})
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"


def saved(page, form):
    with page.expect_download() as download:
        page.get_by_role("button", name=f"Save as {form}").click()
    return download.value.suggested_filename, download.value.path().read_text()


def test_a_file_becomes_text_at_the_server(server, visit, tmp_path):
    page = visit(f"{server.url}/#speech")
    (tmp_path / "noise.wav").write_bytes(spoken())
    page.locator("input[type=file]").set_input_files(tmp_path / "noise.wav")
    page.get_by_text("noise.wav: written down in").wait_for()
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": spoken()},
        data={"model": "whisper", "response_format": "verbose_json"},
        timeout=SECONDS,
    )
    texts = [segment["text"].strip() or "…" for segment in answer.json()["segments"]]
    shown = page.locator(".cues li > span").evaluate_all("spans => spans.map((span) => span.textContent)")
    assert shown == texts


def test_subtitles_are_shown_and_saved(server, visit, tmp_path):
    page = visit(f"{server.url}/#speech")
    page.route(
        "**/v1/audio/transcriptions",
        lambda route: route.fulfill(
            body=segments(" Hello <b>you</b>.", " Good --> bye."), content_type="text/event-stream"
        ),
    )
    (tmp_path / "talk.wav").write_bytes(spoken())
    page.locator("input[type=file]").set_input_files(tmp_path / "talk.wav")
    page.get_by_text("written down in").wait_for()
    assert page.locator(".cues li > span").all_inner_texts() == ["Hello <b>you</b>.", "Good --> bye."]
    srt = "1\n00:00:00,000 --> 00:00:01,500\nHello <b>you</b>.\n\n2\n00:00:02,000 --> 00:00:03,500\nGood -> bye.\n"
    assert saved(page, "srt") == ("talk.srt", srt)
    vtt = "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nHello <b>you</b>.\n\n00:00:02.000 --> 00:00:03.500\nGood -> bye.\n"
    assert saved(page, "vtt") == ("talk.vtt", vtt)
    assert saved(page, "txt") == ("talk.txt", "Hello <b>you</b>.\nGood -> bye.\n")


def test_a_file_that_is_no_sound_is_told(server, visit, tmp_path):
    page = visit(f"{server.url}/#speech")
    (tmp_path / "text.wav").write_text("no sound")
    page.locator("input[type=file]").set_input_files(tmp_path / "text.wav")
    page.locator("#view-speech .notice:visible").wait_for()
    assert page.get_by_role("button", name="Choose a file").is_visible()


def test_the_microphone_is_written_down_while_somebody_speaks(launch, server, tmp_path):
    (tmp_path / "noise.wav").write_bytes(spoken(2)[:44] + spoken(2)[44:] + bytes(32_000))
    browser = launch(f"--use-file-for-fake-audio-capture={tmp_path / 'noise.wav'}")
    page = browser.new_page()
    frames = []
    page.on("websocket", lambda socket: socket.on("framereceived", lambda text: frames.append(json.loads(text))))
    page.goto(f"{server.url}/#speech")
    page.get_by_role("button", name="Listen").click()
    page.locator(".cues li").first.wait_for(timeout=SECONDS * 1000)
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("The microphone is off.").wait_for(timeout=SECONDS * 1000)
    kinds = {frame["type"].removeprefix("conversation.item.input_audio_transcription.") for frame in frames}
    assert {"session.updated", "input_audio_buffer.speech_started", "completed"} <= kinds
    assert not page.locator("#view-speech .notice").is_visible()
    browser.close()


def test_a_microphone_that_is_stopped_before_it_is_allowed_stays_off(server, visit):
    page = visit("about:blank")
    sockets = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.add_init_script(
        """const devices = navigator.mediaDevices, ask = devices.getUserMedia.bind(devices);
        window.asked = new Promise((resolve) => {
          devices.getUserMedia = async (wanted) => {
            window.media = await ask(wanted);
            resolve();
            await new Promise((allow) => { window.allow = allow; });
            return window.media;
          };
        });"""
    )
    page.goto(f"{server.url}/#speech")
    page.get_by_role("button", name="Listen").click()
    page.evaluate("asked")
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("The microphone is off.").wait_for()
    page.evaluate("allow(), new Promise((resolve) => setTimeout(resolve))")  # what waited for it has gone on then
    assert page.evaluate("media.getTracks().map((track) => track.readyState)") == ["ended"]
    assert sockets == []
    assert not page.locator("#view-speech .notice").is_visible()


def test_lines_become_a_map_with_their_nearest_ones(server, visit):
    page = visit(f"{server.url}/#map")
    page.get_by_role("textbox", name="Lines").fill("\n".join([*LINES, "", "cat"]))
    page.get_by_role("button", name="Make the map").click()
    dots = page.locator(".dot-place")
    dots.first.wait_for()
    assert dots.count() == len(LINES)
    assert page.locator(".nearest tbody tr").count() == len(LINES)
    found = {"input": LINES, "model": "words"}
    vectors = np.array(
        [
            entry["embedding"]
            for entry in httpx.post(f"{server.url}/v1/embeddings", json=found, timeout=SECONDS).json()["data"]
        ]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors @ vectors.T)[0]
    assert page.locator(".nearest tbody tr").first.locator(".cosine").all_inner_texts() == [
        f"{value:.2f}" for value in sorted(cosines[1:])[::-1][:3]
    ]
    dots.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator(".dot-place.picked text").text_content() == "dog"
    assert page.locator(".edges line").count() == 3
    places = dots.evaluate_all("dots => dots.map(dot => dot.getAttribute('transform'))")
    assert len(set(places)) == len(LINES)
    assert not any("NaN" in place for place in places)
    page.get_by_label("Places").select_option("Principal components")
    page.get_by_text("of the variance").wait_for()
    assert dots.evaluate_all("dots => dots.map(dot => dot.getAttribute('transform'))") != places


@pytest.mark.parametrize(
    ("lines", "told"), [(["one", "two"], "at least three"), ([str(n) for n in range(500)], "500 lines")]
)
def test_too_few_and_too_many_lines_are_told(server, visit, lines, told):
    page = visit(f"{server.url}/#map")
    page.get_by_role("textbox", name="Lines").fill("\n".join(lines))
    page.keyboard.press("Control+Enter")
    assert told in page.locator("#view-map .notice:visible").inner_text()


def test_the_engine_room_shows_a_request_while_it_runs(server, visit):
    page = visit(f"{server.url}/#engine")
    page.get_by_label("Model").select_option("assistant")
    page.get_by_text("Requests as a table").click()
    page.get_by_role("cell", name="No requests.").wait_for()
    body = {"model": "assistant", "prompt": "Once upon a time", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=SECONDS) as answer:
        lines = answer.iter_lines()  # the answer ends with it
        next(lines)
        page.get_by_role("cell", name="decode").wait_for()
        page.get_by_role("img", name=re.compile("1 in decode")).wait_for()
        assert page.locator(".figures div", has_text="Batch").inner_text().startswith("Batch\n1")
        page.get_by_role("img", name=re.compile("Blocks of the KV cache: [1-9]")).wait_for()
        assert "steps. The last" in page.locator(".step").inner_text()
        painted = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(Boolean)"
        assert page.locator("#view-engine canvas").evaluate_all(f"all => all.map({painted})") == [True] * 3
    page.get_by_role("cell", name="No requests.").wait_for()
    server.settle()


def test_the_engine_room_can_be_paused_and_asks_for_nothing_then(server, visit):
    page = visit(f"{server.url}/#engine")
    running = []
    page.on("request", lambda request: running.append(request.url) if "engine/events" in request.url else None)
    page.locator(".figures div").first.wait_for()
    with page.expect_event("requestfailed", lambda request: "engine/events" in request.url):
        page.get_by_role("button", name="Pause").click()
    running.clear()
    with page.expect_request("**/engine/events*"):
        page.keyboard.press("Space")
    with page.expect_event("requestfailed", lambda request: "engine/events" in request.url):
        page.get_by_role("link", name="Chat").click()


def test_the_engine_room_waits_for_a_key_and_asks_for_it_once(server, visit):
    page = visit("about:blank")
    keys, refused = {"Bearer good"}, []

    def answer(route):
        if route.request.headers.get("authorization") in keys:
            return route.continue_()
        refused.append(route.request.url)
        return route.fulfill(status=401, json={"error": {"message": "wrong", "code": "invalid_api_key"}})

    page.route("**/engine/events*", answer)
    page.clock.install()
    page.goto(f"{server.url}/#engine")
    dialog = page.get_by_role("dialog", name="API key")
    dialog.wait_for()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.clock.run_for(10_000)
    page.get_by_role("button", name="API key").click()
    dialog.get_by_label("Key").fill("good")
    dialog.get_by_role("button", name="Use this key").click()
    dialog.wait_for(state="hidden")
    page.locator(".figures div").first.wait_for()
    assert len(refused) == 1


def test_every_block_is_drawn_once_in_its_owners_colour(server, visit):
    page = visit(f"{server.url}/#engine")
    drawn = page.evaluate(
        """async () => {
          const { Blocks } = await import(new URL('ui/blocks.js', location.href));
          const drawn = [];
          const note = function (x, y) { drawn.push([x, y, this.fillStyle]); };
          const blocks = new Blocks();
          blocks.take({blocks: [[2, 7], [1, 'shared'], [1, 7], [1, 3], [2, 'free']]});
          blocks.height(4 * 14);
          blocks.draw({fillRect: note, clearRect() {}});
          return drawn.sort((a, b) => a[1] - b[1] || a[0] - b[0]);
        }"""
    )
    assert [place[:2] for place in drawn] == [[14 * (i % 4), 14 * (i // 4)] for i in range(7)]
    names = {}
    assert [names.setdefault(colour, len(names)) for _, _, colour in drawn] == [0, 0, 1, 0, 2, 3, 3]


def test_the_engine_room_goes_on_when_the_server_is_back(server, relay, visit):
    relay.target = server.port
    page = visit(f"{relay.url}/#engine")
    page.locator(".figures div").first.wait_for()
    relay.lose()
    page.locator("#banner", has_text="does not answer").wait_for()
    relay.target = server.port
    with page.expect_request("**/engine/events*"):
        page.locator("#banner").wait_for(state="hidden")
