"""Readings driven by an engine in this thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from octavo.errors import OctavoError
from octavo.request import Prompt, RequestOutput
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.speech.reading import Reading

AHEAD = 32  # windows of all readings together that the engine is given: each holds some megabytes


def run_readings(
    readings: Sequence[Reading],
    submit: Callable[[Prompt, SamplingParams], str],
    step: Callable[[], list[RequestOutput]],
    progress: Callable[[Sequence[Reading]], None] = lambda readings: None,
) -> None:
    """Reads all of them to their ends; those that fail have an `error`. `progress` is called when a window is done."""
    params = speech_params()
    asked: dict[str, tuple[Reading, int]] = {}
    active = list(readings)
    while active:
        for reading in active:
            while len(asked) < AHEAD and (found := _next(reading)) is not None:
                number, prompt = found
                asked[submit(prompt, params)] = reading, number
        for output in step() if asked else ():
            reading, number = asked.pop(output.request_id)
            if output.error is not None:
                reading.fail(output.error)
            reading.take(number, output)
            progress(readings)
        active = [reading for reading in active if not reading.finished]


def _next(reading: Reading) -> tuple[int, Prompt] | None:
    try:
        return reading.next()
    except OctavoError as error:
        reading.fail(error)
        return None


def speech_params() -> SamplingParams:
    """What all windows ask of an engine: their texts at the end, with how likely they are."""
    return SamplingParams(max_tokens=None, logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY)
