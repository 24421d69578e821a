"""AsyncLLM: many requests at once from an event loop, aborts, early breaks, and its end."""

import asyncio
import gc
import os
import subprocess
import sys
import threading

import pytest

from harness import spoil
from octavo import AsyncLLM, SamplingParams
from octavo.engine.inputs import read_prompt
from octavo.errors import (
    EngineFailedError,
    NumericalError,
    ParameterError,
    PromptError,
    RequestAbortedError,
    RequestError,
)
from octavo.sampling_params import RequestOutputKind

TEXT = "Ask not what your country"
LONG = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)


@pytest.fixture
def make_async(tiny, executor):
    made = []

    def make(**options):
        made.append(
            AsyncLLM(
                str(tiny[0]),
                **{"executor": executor, "dtype": "float32", "block_size": 16, "max_num_seqs": 16, **options},
            )
        )
        return made[-1]

    yield make
    for llm in made:
        llm.close()


@pytest.fixture
def allm(make_async):
    return make_async()


async def collect(llm, prompt, params, request_id=None, **options):
    return [output async for output in llm.generate(prompt, params, request_id, **options)]


async def settle(llm):
    """Waits until the engine has nothing left to do."""
    engine = llm.driver._engine
    while engine.has_work or llm.driver._messages:
        await asyncio.sleep(0.001)
    assert engine.scheduler.block_usage == 0
    assert not llm.driver._listeners


class Gate:
    """Lets an engine compute some steps and then holds it inside the next, until it is opened."""

    def __init__(self, llm, monkeypatch, steps=0):
        self._run, self._left, self._open = llm.model.executor.run, steps, threading.Event()
        monkeypatch.setattr(llm.model.executor, "run", self)

    def __call__(self, step):
        self._left -= 1
        if self._left < 0:
            assert self._open.wait(60)
        return self._run(step)

    def open(self):
        self._open.set()


async def first_output(outputs):
    while not outputs:
        await asyncio.sleep(0.001)


def params_of(number):
    return SamplingParams(temperature=0.9, seed=number, max_tokens=5 + number % 7)


def test_concurrent_requests_get_what_they_would_get_alone(allm, llm):
    async def main():
        return await asyncio.gather(*(collect(allm, f"{TEXT} {i}", params_of(i)) for i in range(30)))

    for number, outputs in enumerate(asyncio.run(main())):
        (expected,) = llm.generate(f"{TEXT} {number}", params_of(number), use_tqdm=False)
        assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
        assert outputs[-1].outputs[0].token_ids == expected.outputs[0].token_ids
        assert outputs[-1].outputs[0].text == expected.outputs[0].text


def test_deltas_make_up_the_text(allm):
    async def main():
        whole = await collect(allm, TEXT, params_of(6))
        params = params_of(6)
        params.output_kind = RequestOutputKind.DELTA
        pieces = await collect(allm, TEXT, params)
        assert "".join(piece.outputs[0].text for piece in pieces) == whole[-1].outputs[0].text
        params.output_kind = RequestOutputKind.FINAL_ONLY
        (final,) = await collect(allm, TEXT, params)
        assert final.outputs == whole[-1].outputs

    asyncio.run(main())


def test_an_abort_ends_the_iterator_with_an_error(allm, monkeypatch):
    gate, seen = Gate(allm, monkeypatch, steps=5), []

    async def listen():
        async for output in allm.generate(TEXT, LONG, "mine"):
            seen.append(output)
            if len(seen) == 3:
                await allm.abort("mine")
                gate.open()

    async def main():
        with pytest.raises(RequestAbortedError, match="mine was aborted"):
            await listen()
        assert not any(output.finished for output in seen)
        await allm.abort("mine")
        await allm.abort("unknown")
        await settle(allm)

    asyncio.run(main())


def test_a_request_can_be_aborted_before_it_begins(allm, monkeypatch):
    gate = Gate(allm, monkeypatch)

    async def main():
        first = asyncio.create_task(collect(allm, TEXT, LONG, "first"))
        second = asyncio.create_task(collect(allm, TEXT, LONG, "second"))
        while len(allm.driver._messages) + len(allm.driver._listeners) < 2:
            await asyncio.sleep(0.001)
        await allm.abort("second")
        gate.open()
        with pytest.raises(RequestAbortedError):
            await second
        assert (await first)[-1].finished
        await settle(allm)

    asyncio.run(main())


def test_leaving_an_iterator_early_frees_its_blocks(allm):
    async def main():
        async for _ in allm.generate(TEXT, LONG):
            break
        stream = allm.generate(TEXT, LONG)
        await anext(stream)
        await stream.aclose()
        gc.collect()
        await settle(allm)

    asyncio.run(main())


def test_a_cancelled_task_frees_its_blocks(allm, monkeypatch):
    gate, seen = Gate(allm, monkeypatch, steps=3), []

    async def listen():
        async for output in allm.generate(TEXT, LONG):
            seen.append(output)

    async def main():
        task = asyncio.create_task(listen())
        await first_output(seen)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
        await settle(allm)

    asyncio.run(main())


def test_bad_requests_raise_and_disturb_nobody(allm):
    async def main():
        good = asyncio.create_task(collect(allm, TEXT, LONG))
        for prompt, params, kind in (
            ("", LONG, PromptError),
            ([1, 500], LONG, PromptError),
            ({"image": 1}, LONG, PromptError),
            (TEXT, SamplingParams(logprobs=21), ParameterError),
            (TEXT, SamplingParams(stop_token_ids=[500]), ParameterError),
            (TEXT, SamplingParams(n=17), RequestError),
        ):
            with pytest.raises(kind):
                await collect(allm, prompt, params)
        assert (await good)[-1].finished
        await settle(allm)

    asyncio.run(main())


def test_a_second_request_of_the_same_id_is_refused_and_the_first_goes_on(allm, monkeypatch):
    gate = Gate(allm, monkeypatch)

    async def main():
        first = asyncio.create_task(collect(allm, TEXT, LONG, "same"))
        while "same" not in allm.driver._listeners:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(collect(allm, TEXT, LONG, "same"))
        while not allm.driver._messages:
            await asyncio.sleep(0.001)
        gate.open()
        with pytest.raises(RequestError, match="already running"):
            await second
        assert len((await first)[-1].outputs[0].token_ids) == 200

    asyncio.run(main())


def test_nan_logits_fail_that_request_alone(allm, monkeypatch):
    async def main():
        good = asyncio.create_task(collect(allm, TEXT, LONG))
        with pytest.raises(NumericalError):
            await collect(allm, [5, 6], LONG)
        assert (await good)[-1].finished
        await settle(allm)

    spoil(allm.model.executor, monkeypatch, float("nan"), lambda num_tokens: num_tokens == 2)
    asyncio.run(main())


def test_a_step_that_fails_tells_everyone_and_the_engine_goes_on(allm, monkeypatch, caplog):
    run = allm.model.executor.run

    def broken(step):
        raise RuntimeError("a wire came loose")

    async def main():
        monkeypatch.setattr(allm.model.executor, "run", broken)
        results = await asyncio.gather(*(collect(allm, TEXT, LONG) for _ in range(3)), return_exceptions=True)
        assert all(isinstance(result, EngineFailedError) and "a wire came loose" in str(result) for result in results)
        monkeypatch.setattr(allm.model.executor, "run", run)
        assert (await collect(allm, TEXT, LONG))[-1].finished
        await settle(allm)

    asyncio.run(main())


def test_closing_ends_every_request_however_far_it_is(make_async):
    async def main(turns):
        allm = make_async(max_num_seqs=2)
        tasks = [asyncio.create_task(collect(allm, TEXT, LONG)) for _ in range(5)]
        for _ in range(turns):
            await asyncio.sleep(0)
        allm.close()
        allm.close()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(result, RequestAbortedError) or result[-1].finished
        with pytest.raises(RequestAbortedError, match="closed"):
            await collect(allm, TEXT, LONG)

    for turns in (0, 1, 2, 3, 5, 8, 100):
        asyncio.run(main(turns))


def test_requests_that_were_submitted_just_before_the_end_are_told(allm, monkeypatch):
    """The engine is in a step while a request arrives and the engine is closed: nobody may wait for ever."""
    run, told = allm.model.executor.run, []

    def slow(step):
        if not told:
            driver = allm.driver
            told.append("not yet")
            driver.submit("late", late_prompt, LONG, 0, told.append)
            driver._closing = True
        return run(step)

    late_prompt = read_prompt(TEXT, allm.model.tokenizer)
    monkeypatch.setattr(allm.model.executor, "run", slow)
    with pytest.raises(RequestAbortedError):
        asyncio.run(collect(allm, TEXT, LONG))
    allm.close()
    assert [type(item) for item in told[1:]] == [RequestAbortedError]


def test_leaving_async_with_closes_it(make_async):
    async def main():
        async with make_async() as allm:
            assert (await collect(allm, TEXT, LONG))[-1].finished
        with pytest.raises(RequestAbortedError):
            await collect(allm, TEXT, LONG)

    asyncio.run(main())


def test_it_may_serve_one_event_loop_after_another(allm):
    for _ in range(2):
        assert asyncio.run(collect(allm, TEXT, params_of(1)))[-1].finished


def test_defaults_are_the_model_s(allm):
    assert allm.get_default_sampling_params() == SamplingParams()
    assert len(asyncio.run(collect(allm, TEXT, None))[-1].outputs[0].token_ids) <= 16


def test_losing_the_last_reference_ends_the_thread(tiny):
    def threads():
        return [thread for thread in threading.enumerate() if thread.name == "octavo-engine"]

    before = threads()
    llm = AsyncLLM(str(tiny[0]), dtype="float32", block_size=16)
    asyncio.run(collect(llm, TEXT, SamplingParams(max_tokens=2)))
    (thread,) = set(threads()) - set(before)
    del llm
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


PROGRAM = """
import asyncio, sys
from octavo import AsyncLLM, SamplingParams
llm = AsyncLLM(sys.argv[1])
async def main():
    async for output in llm.generate("hi", SamplingParams(max_tokens=100, ignore_eos=True)):
        if sys.argv[2] == "early":
            break
asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["late", "early"])
def test_a_program_that_never_closes_it_ends_without_a_word(tiny, when):
    command = [sys.executable, "-c", PROGRAM, str(tiny[0]), when]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
