"""What is noted about requests, in plain Python on the event loop; `exposition.py` tells it when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from octavo.request import RequestMetrics

_SECONDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_FIRST = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0),
    *(80.0, 160.0, 640.0, 2560.0),
)
_BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TOKENS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))
_FEW = (1.0, 2.0, 5.0, 10.0, 20.0)
STEP_TOKENS = (1.0, *(float(2**power) for power in range(3, 15)))


class Histogram:
    """Counts of values up to each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...], values: Mapping[int, int] | None = None):
        """`values` are seen already, each so many times."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        for value, times in (values or {}).items():
            self.observe(value, times)

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """(bound, values up to it) in rising order, and the sum of all."""
        bounds = [*map(str, self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum


# Histograms of requests: attribute, name, bounds, help.
HISTOGRAMS = (
    ("first_token", "vllm:time_to_first_token_seconds", _FIRST, "From arrival to the first token."),
    ("between_tokens", "vllm:inter_token_latency_seconds", _BETWEEN, "Between two tokens of a request."),
    ("between_tokens", "vllm:time_per_output_token_seconds", _BETWEEN, "The same, under its older name."),
    ("per_token", "vllm:request_time_per_output_token_seconds", _BETWEEN, "Mean time between tokens of a request."),
    ("whole", "vllm:e2e_request_latency_seconds", _SECONDS, "From arrival to the last token."),
    ("queued", "vllm:request_queue_time_seconds", _SECONDS, "From arrival to the first step."),
    ("inference", "vllm:request_inference_time_seconds", _SECONDS, "From the first step to the last token."),
    ("prefill", "vllm:request_prefill_time_seconds", _SECONDS, "From the first step to the first token."),
    ("decode", "vllm:request_decode_time_seconds", _SECONDS, "From the first token to the last."),
    ("prompt_tokens", "vllm:request_prompt_tokens", _TOKENS, "Tokens of a request's prompt."),
    ("computed", "vllm:request_prefill_kv_computed_tokens", _TOKENS, "Those that the prefix cache did not have."),
    ("output_tokens", "vllm:request_generation_tokens", _TOKENS, "Tokens of a request's answer."),
    ("longest", "vllm:request_max_num_generation_tokens", _TOKENS, "Tokens of the longest of its completions."),
    ("asked_tokens", "vllm:request_params_max_tokens", _TOKENS, "max_tokens of requests that say it."),
    ("asked_n", "vllm:request_params_n", _FEW, "n of requests."),
)


@dataclass
class ModelMetrics:
    """What is noted about the requests of one model."""

    finished: Counter[str] = field(default_factory=Counter)  # completions by finish reason
    failed: Counter[str] = field(default_factory=Counter)  # requests by the error's code
    refused: Counter[str] = field(default_factory=Counter)  # requests that were never queued, by the error's code
    loads: Counter[str] = field(default_factory=Counter)  # by how they ended: ready or failed
    unloads: Counter[str] = field(default_factory=Counter)  # by reason
    load_seconds: float = 0.0  # that loading has taken
    audio_seconds: float = 0.0  # seconds of audio that were decoded
    histograms: dict[str, Histogram] = field(
        default_factory=lambda: {attribute: Histogram(bounds) for attribute, _, bounds, _ in HISTOGRAMS}
    )

    def observe(self, name: str, value: float, times: int = 1) -> None:
        self.histograms[name].observe(value, times)

    def observe_finished(
        self, times: RequestMetrics, num_prompt: int, num_cached: int, lengths: Sequence[int]
    ) -> float | None:
        """Notes a request that has ended, with the lengths of its completions. Returns its mean time between tokens."""
        assert times.finished_time is not None
        self.observe("prompt_tokens", num_prompt)
        self.observe("computed", num_prompt - num_cached)
        self.observe("output_tokens", sum(lengths))
        self.observe("longest", max(lengths, default=0))
        self.observe("whole", times.finished_time - times.arrival_time)
        if times.first_scheduled_time is None or times.first_token_time is None:
            return None
        self.observe("first_token", times.first_token_time - times.arrival_time)
        self.observe("queued", times.first_scheduled_time - times.arrival_time)
        self.observe("inference", times.finished_time - times.first_scheduled_time)
        self.observe("prefill", times.first_token_time - times.first_scheduled_time)
        self.observe("decode", times.finished_time - times.first_token_time)
        length = sum(lengths) // max(1, len(lengths))
        if length < 2:
            return None
        per_token = (times.finished_time - times.first_token_time) / (length - 1)
        self.observe("per_token", per_token)
        return per_token
