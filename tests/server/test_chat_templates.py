"""Chat templates over HTTP: programs from a model's files, which must hold up nobody but their own request."""

import asyncio
import threading
from types import SimpleNamespace

from octavo.config import EngineConfig
from octavo.server.instance import ModelInstance
from octavo.server.limits import Queue
from octavo.server.metrics import ModelMetrics
from octavo.text.chat import ChatPrompt

from .running import SECONDS

RUNAWAY = (
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{% if messages[0].content == 'run' %}{{ f(60) }}{% endif %}{{ messages[0].content }}"
)


def test_the_loop_goes_on_while_a_template_is_rendered():
    gate = threading.Event()

    class Waiting:
        def encode(self, conversation, **options):
            assert gate.wait(SECONDS), "the event loop stands still"
            return ChatPrompt("x", [1])

    plan = SimpleNamespace(total=0)
    loaded = SimpleNamespace(max_model_len=100, config=EngineConfig(model="x"), plan=plan, chat_template=None)
    model = ModelInstance("x", SimpleNamespace(model=loaded), (Queue(1, 1), Queue(1, 1)), ModelMetrics())
    model._chat = Waiting()

    async def main():
        reading = asyncio.create_task(model.read_chat([{"role": "user", "content": "x"}]))
        await asyncio.sleep(0)
        gate.set()
        return await reading

    assert asyncio.run(main()).token_ids == [1]


def test_a_template_that_runs_away_ends_its_own_requests_only(start, tiny_model, tmp_path):
    file = tmp_path / "runaway.jinja"
    file.write_text(RUNAWAY)
    server = start(tiny_model, "--chat-template", file, "--served-model-name", "m")
    with server.client() as client:
        body = {"model": "m", "max_tokens": 1}
        for path in ("/v1/chat/completions", "/tokenize"):
            fields = body if path != "/tokenize" else {"model": "m"}
            answer = client.post(path, json={**fields, "messages": [{"role": "user", "content": "run"}]})
            assert answer.status_code == 400, answer.text
            assert "the chat template failed: it takes more than" in answer.json()["error"]["message"]
            answer = client.post(path, json={**fields, "messages": [{"role": "user", "content": "walk"}]})
            assert answer.status_code == 200, answer.text
