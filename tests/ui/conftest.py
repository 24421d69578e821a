"""A real browser, and servers for it. Without Chromium or playwright these tests are skipped, and say so."""

import asyncio
import json
import shutil
import threading
from urllib.parse import urlsplit

import pytest

from cli.conftest import make_tiny_llama
from encoders import ENCODERS, save_modules, save_words
from server.running import Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
)
PATIENCE = 120_000  # milliseconds that anything may take, however busy the machine is


@pytest.fixture(scope="module")
def launch():
    """Starts browsers with further flags; they end with the module."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="there is no playwright: pip install 'octavo[ui]'")
    with playwright.sync_playwright() as running:
        yield lambda *flags: running.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *flags])


@pytest.fixture(scope="module")
def browser(launch):
    running = launch()
    yield running
    running.close()


@pytest.fixture
def visit(browser):
    """Opens an address in a tab of its own. What a page may never do is looked for at the end."""
    opened, complaints, hosts = [], [], set()

    def visit(url, width=1280, height=800, settings=None, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(PATIENCE)
        opened.append(context)
        page = context.new_page()
        if settings is not None:
            kept = json.dumps(json.dumps(settings))
            page.add_init_script(f"sessionStorage['octavo.settings'] ??= {kept}")
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda message: complaints.append(message.text) if "Policy" in message.text else None)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        hosts.add(urlsplit(url).netloc)
        page.goto(url)
        return page

    yield visit
    for context in opened:
        context.close()
    assert complaints == []
    assert len(hosts - {""}) <= len(opened), hosts  # no page asked another server than its own


@pytest.fixture(scope="package")
def server(real_model, tmp_path_factory):
    """The default model, a speech model of random weights, and an encoder of some words."""
    from speech.tiny_whisper import make_tiny_whisper

    folder = tmp_path_factory.mktemp("ui-server")
    make_tiny_whisper(folder / "whisper")
    ENCODERS["BERT"].save(folder / "words")
    save_words(folder / "words")
    save_modules(folder / "words")
    models = [
        {"model": str(real_model), "served-model-name": "assistant", "max-model-len": 2048, "max-num-seqs": 8},
        {"model": str(folder / "whisper"), "served-model-name": "whisper"},
        {"model": str(folder / "words"), "served-model-name": "words", "dtype": "float32"},
    ]
    (folder / "serve.yaml").write_text(json.dumps({"models": models}))
    running = Server(folder / "log", "--config", folder / "serve.yaml", environment={"OCTAVO_NUM_THREADS": "1"})
    try:
        yield running.wait()
    finally:
        running.stop()


@pytest.fixture(scope="package")
def tiny_model(tmp_path_factory):
    return make_tiny_llama(tmp_path_factory.mktemp("models") / "tiny", max_position_embeddings=8192)


class Relay:
    """An address whose server can be another one later, or none. `url` is what the browser asks."""

    def __init__(self):
        self.target = None  # the port of the server; None: connections are closed
        self._writers = set()
        self._loop, ready = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,))
        self._thread.start()
        assert ready.wait(60)

    def _run(self, ready):
        self._loop.run_until_complete(self._serve(ready))
        self._loop.close()

    async def _serve(self, ready):
        self._stop = asyncio.Event()
        listening = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        ready.set()
        await self._stop.wait()
        listening.close()
        self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, reader, writer):
        try:
            if self.target is None:
                return
            there = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers |= {writer, there[1]}
            await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _pass(self, reader, writer):
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def _cut(self):
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def lose(self):
        """The server is gone, in the middle of whatever it says."""
        self.target = None
        self._loop.call_soon_threadsafe(self._cut)

    def close(self):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture
def relay():
    running = Relay()
    yield running
    running.close()
