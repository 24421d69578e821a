"""OutputStream: nothing is lost on the way from the engine's thread to a reader, and not much waits for a slow one."""

import asyncio

import pytest

from octavo.engine.stream import MAX_BYTES, MAX_EVENTS, Mailbox, OutputStream
from octavo.errors import RequestAbortedError, SlowReaderError
from octavo.request import CompletionOutput, Logprob, RequestOutput
from octavo.sampling_params import RequestOutputKind, SamplingParams


class Driver:
    """Takes requests, and lets a test deliver their outputs."""

    def __init__(self):
        self.deliver, self.aborted = {}, []

    def submit(self, name, prompt, params, priority, deliver):
        self.deliver[name] = deliver

    def abort(self, name):
        self.aborted.append(name)


def output(name, texts, finished=False, logprobs=None):
    outputs = [
        CompletionOutput(i, text, [1] * len(text), logprobs=logprobs, finish_reason="stop" if finished else None)
        for i, text in enumerate(texts)
    ]
    return RequestOutput(name, "", [1], None, outputs, finished)


def make(*names, kind=RequestOutputKind.DELTA):
    driver = Driver()
    stream = OutputStream(driver, Mailbox(asyncio.get_running_loop()))
    for name in names:
        stream.submit(name, None, SamplingParams(output_kind=kind))
    return driver, stream


async def settled():
    for _ in range(3):
        await asyncio.sleep(0)


def test_outputs_of_several_requests_come_in_order():
    async def main():
        driver, stream = make("a", "b")
        for name, text in (("a", "x"), ("b", "y"), ("a", "z")):
            driver.deliver[name](output(name, [text], finished=text != "x"))
        got = []
        while not stream.ended:
            item = await stream.next()
            got.append((item.request_id, item.outputs[0].text))
        assert got == [("a", "x"), ("b", "y"), ("a", "z")]

    asyncio.run(main())


def test_thousands_of_requests_may_end_at_once():
    """As texts do that become vectors: nobody reads while a step's outputs arrive."""

    async def main():
        names = [str(i) for i in range(5000)]
        driver, stream = make(*names)
        for name in names:
            driver.deliver[name](output(name, [], finished=True))
        await settled()
        assert [(await stream.next()).request_id for _ in names] == names
        assert stream.ended
        assert driver.aborted == []

    asyncio.run(main())


@pytest.mark.parametrize("number", [1, MAX_EVENTS, MAX_EVENTS + 1, 1000])
def test_a_slow_reader_gets_all_of_the_text_in_few_outputs(number):
    async def main():
        driver, stream = make("a")
        for i in range(number):
            driver.deliver["a"](output("a", [f"{i},", f"{-i};"], finished=i == number - 1))
        await settled()
        got = []
        while not stream.ended:
            got.append(await stream.next())
        assert len(got) <= MAX_EVENTS
        assert got[-1].finished
        for index, text in enumerate(
            ("".join(f"{i}," for i in range(number)), "".join(f"{-i};" for i in range(number)))
        ):
            assert "".join(item.outputs[index].text for item in got) == text
            assert sum(len(item.outputs[index].token_ids) for item in got) == len(text)

    asyncio.run(main())


def test_of_cumulative_outputs_that_wait_the_newest_counts():
    async def main():
        driver, stream = make("a", kind=RequestOutputKind.CUMULATIVE)
        for i in range(500):
            driver.deliver["a"](output("a", ["x" * i], finished=i == 499))
        await settled()
        got = []
        while not stream.ended:
            got.append(await stream.next())
        assert len(got) <= MAX_EVENTS
        assert len(got[-1].outputs[0].text) == 499

    asyncio.run(main())


def test_what_grows_beyond_the_limit_is_aborted_and_the_reader_is_told():
    async def main():
        driver, stream = make("a", "b")
        position = {i: Logprob(-1.0) for i in range(20)}
        for _ in range(2 * MAX_BYTES // 2000):
            driver.deliver["a"](output("a", ["x"], logprobs=[position]))
        await settled()
        assert sorted(driver.aborted) == ["a", "b"]
        with pytest.raises(SlowReaderError):
            await stream.next()
        assert stream.ended

    asyncio.run(main())


def test_a_reader_of_few_large_outputs_may_let_more_wait():
    async def main():
        driver, stream = make("a", "b")
        stream.max_bytes = 32 * MAX_BYTES
        for name in ("a", "b"):
            driver.deliver[name](output(name, ["x" * MAX_BYTES], finished=True))
        await settled()
        assert [(await stream.next()).request_id for _ in range(2)] == ["a", "b"]

    asyncio.run(main())


def test_one_large_output_alone_is_never_too_much():
    async def main():
        driver, stream = make("a")
        driver.deliver["a"](output("a", ["x" * MAX_BYTES], finished=True))
        assert len((await stream.next()).outputs[0].text) == MAX_BYTES

    asyncio.run(main())


def test_failing_ends_all_requests_and_the_reader_gets_the_error_last():
    async def main():
        driver, stream = make("a", "b")
        driver.deliver["a"](output("a", ["x"]))
        await settled()
        stream.fail(RequestAbortedError("enough"))
        stream.fail(RequestAbortedError("again"))
        driver.deliver["b"](output("b", ["late"]))
        assert (await stream.next()).outputs[0].text == "x"
        with pytest.raises(RequestAbortedError, match="enough"):
            await stream.next()
        await settled()
        assert stream.ended
        assert sorted(driver.aborted) == ["a", "b"]

    asyncio.run(main())


def test_closing_aborts_only_what_has_not_ended():
    async def main():
        driver, stream = make("a", "b")
        driver.deliver["a"](output("a", ["x"], finished=True))
        await settled()
        stream.close()
        assert driver.aborted == ["b"]

    asyncio.run(main())


def test_an_output_for_a_closed_loop_aborts_its_request():
    async def main():
        return make("a")[0]

    driver = asyncio.run(main())
    driver.deliver["a"](output("a", ["x"]))
    assert driver.aborted == ["a"]


def test_a_loop_is_woken_once_for_all_that_came_meanwhile():
    async def main():
        loop = asyncio.get_running_loop()
        calls, got = [], []
        schedule = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda call: calls.append(call) or schedule(call)
        mailbox = Mailbox(loop)
        for i in range(10):
            mailbox.post(lambda i=i: got.append(i))
        await settled()
        mailbox.post(lambda: got.append(10))
        await settled()
        assert got == list(range(11))
        assert len(calls) == 2

    asyncio.run(main())
