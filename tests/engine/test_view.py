"""An engine as it is looked at from outside: between steps, for all who ask at once, and without waking it."""

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from octavo import AsyncLLM, SamplingParams
from octavo.engine import driver as driver_module
from octavo.engine.engine import Engine
from octavo.engine.inputs import read_prompt
from octavo.engine.view import take_view

LONG = SamplingParams(temperature=0, max_tokens=150, ignore_eos=True, n=1)


@pytest.fixture
def llm(tiny, executor):
    made = AsyncLLM(str(tiny[0]), executor=executor, dtype="float32", block_size=16, max_num_seqs=16)
    yield made
    made.close()


class Steps:
    """Lets an engine compute some steps, and then waits inside the next until it is told to go on."""

    def __init__(self, llm, monkeypatch, steps):
        self.run, self.left = llm.model.executor.run, steps
        self.holds, self.goes_on = threading.Event(), threading.Event()
        monkeypatch.setattr(llm.model.executor, "run", self)

    def __call__(self, step):
        self.left -= 1
        if self.left < 0:
            self.holds.set()
            assert self.goes_on.wait(60)
        return self.run(step)


def submit(llm, name, text="Ask not what your country", params=LONG):
    done = threading.Event()
    prompt = read_prompt(text, llm.model.tokenizer)
    llm.driver.submit(name, prompt, params, 0, lambda output: getattr(output, "finished", True) and done.set())
    return done


def test_an_idle_engine_is_looked_at_where_one_is_and_sleeps_on(llm, monkeypatch):
    threads = []
    monkeypatch.setattr(driver_module, "take_view", lambda engine: threads.append(threading.get_ident()))
    while not llm.driver._is_asleep:
        pass
    llm.driver.view().result(60)
    assert threads == [threading.get_ident()]


def test_whoever_asks_during_a_step_gets_one_view_after_it(llm, monkeypatch):
    steps = Steps(llm, monkeypatch, 3)
    done = submit(llm, "one")
    assert steps.holds.wait(60)
    first, second = llm.driver.view(), llm.driver.view()
    assert first is second
    assert not first.done()
    steps.goes_on.set()
    view = first.result(60)
    (request,) = view.requests
    assert (request.id, request.state, request.sequences, request.max_tokens) == ("one", "decode", 1, 150)
    assert 0 < request.prompt_tokens < request.computed_tokens
    assert request.output_tokens == 4
    owned = {block for table in request.tables for block in table}
    assert not owned & set(view.free)
    assert len(owned) + len(view.free) + view.num_cached == view.num_blocks
    assert [record.sequences for record in view.records] == [1, 1, 1, 1]
    assert view.records[0].prompt_tokens == request.prompt_tokens
    assert all(0 <= record.other <= record.seconds for record in view.records)
    assert done.wait(60)


def test_what_goes_wrong_in_a_look_is_told_to_who_looks_alone(llm, monkeypatch):
    steps = Steps(llm, monkeypatch, 2)
    done = submit(llm, "one")
    assert steps.holds.wait(60)
    monkeypatch.setattr(driver_module, "take_view", lambda _: 1 / 0)
    asked = llm.driver.view()
    steps.goes_on.set()
    with pytest.raises(ZeroDivisionError):
        asked.result(60)
    assert done.wait(60)
    assert llm.driver.num_restarts == 0


def test_one_who_stops_waiting_takes_the_view_from_nobody(llm, monkeypatch):
    steps = Steps(llm, monkeypatch, 2)
    done = submit(llm, "one")
    assert steps.holds.wait(60)

    async def ask():
        asked = llm.driver.view()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(asked)), 0.01)
        steps.goes_on.set()
        return await asyncio.wrap_future(asked)

    assert asyncio.run(ask()).num_running == 1
    assert done.wait(60)


def test_a_failed_step_answers_with_the_engine_that_came_after_it(llm, monkeypatch):
    steps = Steps(llm, monkeypatch, 2)
    done = submit(llm, "one")
    assert steps.holds.wait(60)
    asked = llm.driver.view()

    def fail(_):
        raise RuntimeError("a wire came loose")

    steps.run = fail
    steps.goes_on.set()
    assert asked.result(60).requests == ()
    assert done.wait(60)


def test_a_closed_engine_does_not_answer(llm):
    llm.close()
    with pytest.raises(CancelledError):
        llm.driver.view().result(60)


def test_requests_that_wait_are_told_of_after_those_that_run_up_to_a_number(llm, monkeypatch):
    monkeypatch.setattr("octavo.engine.view.MOST_REQUESTS", 17)
    engine = Engine(llm.model)
    for i in range(20):
        engine.submit(str(i), read_prompt("Ask", llm.model.tokenizer), SamplingParams(max_tokens=3, ignore_eos=True))
    view = take_view(engine)
    assert (view.num_running, view.num_waiting, len(view.requests)) == (0, 20, 17)
    engine.step()
    view = take_view(engine)
    assert (view.num_running, view.num_waiting) == (16, 4)
    assert [request.state for request in view.requests] == ["decode"] * 16 + ["waiting"]
    while engine.has_work:
        engine.step()
    assert engine.num_finished == 20
