"""What /metrics tells, under vLLM's names where vLLM has one. docs/metrics.md lists all of it.

Numbers are noted on the event loop and are plain Python; prometheus_client writes them out when somebody asks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from octavo.engine.driver import EngineStats
from octavo.request import RequestMetrics

if TYPE_CHECKING:
    from octavo.server.models import ModelRegistry, ServedModel

_SECONDS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_FIRST = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_BETWEEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
_TOKENS = tuple(float(digit * 10**power) for power in range(6) for digit in (1, 2, 5))
_FEW = (1.0, 2.0, 5.0, 10.0, 20.0)


class Histogram:
    """Counts of values up to each bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]):
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

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
    ("output_tokens", "vllm:request_generation_tokens", _TOKENS, "Tokens of a request's answer."),
    ("asked_tokens", "vllm:request_params_max_tokens", _TOKENS, "max_tokens of requests that say it."),
    ("asked_n", "vllm:request_params_n", _FEW, "n of requests."),
)
# From the engine's statistics: name, type, value, help.
ENGINE: tuple[tuple[str, str, Callable[[EngineStats], float], str], ...] = (
    ("vllm:num_requests_running", "gauge", lambda stats: stats.running, "Requests that are in steps."),
    ("vllm:num_requests_waiting", "gauge", lambda stats: stats.waiting, "Requests that wait for a seat."),
    ("vllm:kv_cache_usage_perc", "gauge", lambda stats: stats.block_usage, "Share of KV blocks in use; 1 is all."),
    ("vllm:gpu_cache_usage_perc", "gauge", lambda stats: stats.block_usage, "The same, under its older name."),
    ("vllm:prompt_tokens", "counter", lambda stats: stats.prompt_tokens, "Prompt tokens computed."),
    ("vllm:generation_tokens", "counter", lambda stats: stats.output_tokens, "Tokens generated."),
    ("vllm:prefix_cache_queries", "counter", lambda stats: stats.prefix_queries, "Tokens looked up in the cache."),
    ("vllm:prefix_cache_hits", "counter", lambda stats: stats.prefix_hits, "Those that the prefix cache had."),
    ("vllm:gpu_prefix_cache_queries", "counter", lambda stats: stats.prefix_queries, "The older name of those."),
    ("vllm:gpu_prefix_cache_hits", "counter", lambda stats: stats.prefix_hits, "The older name of those."),
    ("vllm:num_preemptions", "counter", lambda stats: stats.preemptions, "Requests that lost their blocks."),
)


@dataclass
class ModelMetrics:
    """What is noted about the requests of one model."""

    finished: Counter[str] = field(default_factory=Counter)  # completions by finish reason
    failed: Counter[str] = field(default_factory=Counter)  # requests by the error's code
    refused: Counter[str] = field(default_factory=Counter)  # requests that were never queued, the same
    audio_seconds: float = 0.0  # of audio that was decoded
    histograms: dict[str, Histogram] = field(
        default_factory=lambda: {attribute: Histogram(bounds) for attribute, _, bounds, _ in HISTOGRAMS}
    )

    def observe(self, name: str, value: float, times: int = 1) -> None:
        self.histograms[name].observe(value, times)

    def observe_finished(self, times: RequestMetrics, num_prompt: int, num_output: int, length: int) -> float | None:
        """Notes a request that has ended; `length` is that of one completion. Returns its mean time between tokens."""
        assert times.finished_time is not None
        self.observe("prompt_tokens", num_prompt)
        self.observe("output_tokens", num_output)
        self.observe("whole", times.finished_time - times.arrival_time)
        if times.first_scheduled_time is None or times.first_token_time is None:
            return None
        self.observe("first_token", times.first_token_time - times.arrival_time)
        self.observe("queued", times.first_scheduled_time - times.arrival_time)
        self.observe("inference", times.finished_time - times.first_scheduled_time)
        self.observe("prefill", times.first_token_time - times.first_scheduled_time)
        self.observe("decode", times.finished_time - times.first_token_time)
        if length < 2:
            return None
        per_token = (times.finished_time - times.first_token_time) / (length - 1)
        self.observe("per_token", per_token)
        return per_token


@dataclass
class HttpMetrics:
    """Answers by path and status, over all models."""

    answers: Counter[tuple[str, str, int]] = field(default_factory=Counter)


class Collector:
    """Hands everything to prometheus_client, as families of metrics."""

    def __init__(self, models: ModelRegistry, http: HttpMetrics):
        self._models, self._http = models, http

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        models = list(self._models)
        stats = [(model.id, model.stats()) for model in models]
        for name, kind, value, text in ENGINE:
            family = (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(name, text, labels=["model_name"])
            for model_id, numbers in stats:
                family.add_metric([model_id], value(numbers))
            yield family
        for attribute, name, _, text in HISTOGRAMS:
            histogram = HistogramMetricFamily(name, text, labels=["model_name"])
            for model in models:
                buckets, total = model.metrics.histograms[attribute].buckets()
                histogram.add_metric([model.id], buckets, total)
            yield histogram
        for name, label, text, count in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["model_name", label])
            for model in models:
                for reason, number in count(model.metrics):
                    counter.add_metric([model.id, reason], number)
            yield counter
        yield from self._own(models)

    def _own(self, models: Iterable[ServedModel]) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        loaded = GaugeMetricFamily("octavo:model_ready", "1 if the model is loaded.", labels=["model_name"])
        restarts = CounterMetricFamily("octavo:engine_restarts", "Engines that failed.", labels=["model_name"])
        blocks = GaugeMetricFamily("octavo:kv_cache_tokens", "Tokens that the KV cache holds.", labels=["model_name"])
        queued = GaugeMetricFamily("octavo:queued_tokens", "Prompt tokens that wait.", labels=["model_name"])
        audio = CounterMetricFamily("octavo:audio_seconds", "Seconds of audio decoded.", labels=["model_name"])
        for model in models:
            loaded.add_metric([model.id], model.is_ready)
            restarts.add_metric([model.id], model.llm.driver.num_restarts if model.llm else 0)
            plan = model.llm.model.plan if model.llm else None
            blocks.add_metric([model.id], plan.num_blocks * plan.block_size if plan else 0)
            queued.add_metric([model.id], model.queue.tokens)
            audio.add_metric([model.id], model.metrics.audio_seconds)
        yield from (loaded, restarts, blocks, queued, audio)
        answers = CounterMetricFamily("octavo:http_requests", "Answers.", labels=["method", "path", "status"])
        for (method, path, status), number in self._http.answers.items():
            answers.add_metric([method, path, str(status)], number)
        yield answers


_Count = Callable[[ModelMetrics], Iterable[tuple[str, int]]]
FINISH_REASONS = ("stop", "length", "abort", "error")
_COUNTERS: tuple[tuple[str, str, str, _Count], ...] = (
    (
        "vllm:request_success",
        "finished_reason",
        "Completions that ended, by reason.",
        lambda metrics: [(reason, metrics.finished[reason]) for reason in FINISH_REASONS],
    ),
    (
        "octavo:requests_failed",
        "code",
        "Requests that ended in an error, by its code.",
        lambda metrics: metrics.failed.items(),
    ),
    (
        "octavo:requests_refused",
        "code",
        "Requests that were not queued, by the error's code.",
        lambda metrics: metrics.refused.items(),
    ),
)


def exposition(models: ModelRegistry, http: HttpMetrics) -> bytes:
    """The text format of Prometheus."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.process_collector import ProcessCollector

    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Collector(models, http))
    return generate_latest(registry)
