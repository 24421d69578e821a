"""How /metrics tells what `metrics.py` has noted: as families of prometheus_client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from octavo.server.metrics import _STEP, BY_LABEL, ENGINE, HISTOGRAMS, ONLY, Histogram, HttpMetrics, ModelMetrics
from octavo.server.models import ModelRegistry, ServedModel


class Collector:
    """Hands everything to prometheus_client, as families of metrics."""

    def __init__(self, models: ModelRegistry, http: HttpMetrics):
        self._models, self._http = models, http

    def collect(self) -> Iterator[Any]:
        models = list(self._models)
        stats = [(model.id, model.stats()) for model in models]
        for name, kind, of_stats, text in ENGINE:
            yield _family(kind, name, text, [((model_id,), of_stats(numbers)) for model_id, numbers in stats])
        for name, kind, label, by_value, text in BY_LABEL:
            entries = [((model_id, key), v) for model_id, numbers in stats for key, v in by_value(numbers).items()]
            yield _family(kind, name, text, entries, label)
        steps = [(model_id, Histogram(_STEP, numbers.steps)) for model_id, numbers in stats]
        yield _histogram_family("vllm:iteration_tokens_total", "Tokens of a step.", steps)
        for attribute, name, _, text in HISTOGRAMS:
            yield _histogram_family(name, text, [(model.id, model.metrics.histograms[attribute]) for model in models])
        for name, label, text, count in _COUNTERS:
            counts = [((model.id, key), number) for model in models for key, number in count(model.metrics)]
            yield _family("counter", name, text, counts, label)
        for name, kind, of_model, text in OWN:
            yield _family(kind, name, text, [((model.id,), of_model(model)) for model in models])
        yield self._caches(models)
        yield from self._http_answers()

    def _caches(self, models: Iterable[ServedModel]) -> Any:
        """vLLM's way of telling its configuration: the labels of a 1."""
        from prometheus_client.core import GaugeMetricFamily

        names = ("block_size", "num_gpu_blocks", "enable_prefix_caching", "gpu_memory_utilization", "cache_dtype")
        text = "The KV cache of a model that is loaded."
        family = GaugeMetricFamily("vllm:cache_config_info", text, labels=["model_name", "engine", *names])
        for model in models:
            if model.llm is not None:
                plan, config = model.llm.model.plan, model.config
                values = (plan.block_size, plan.num_blocks, config.enable_prefix_caching, config.gpu_memory_utilization)
                family.add_metric([model.id, ONLY, *map(str, values), "auto"], 1)
        return family

    def _http_answers(self) -> Iterator[Any]:
        """Ours by status, and those of vLLM's dashboards by kind of status."""
        from prometheus_client.core import CounterMetricFamily

        ours = CounterMetricFamily("octavo:http_requests", "Answers.", labels=["method", "path", "status"])
        kinds: Counter[tuple[str, str, str]] = Counter()
        for (method, path, status), number in self._http.answers.items():
            ours.add_metric([method, path, str(status)], number)
            kinds[method, path, f"{status // 100}xx"] += number
        theirs = CounterMetricFamily("http_requests", "Answers.", labels=["method", "handler", "status"])
        for labels, number in kinds.items():
            theirs.add_metric(labels, number)
        yield from (ours, theirs)


def _family(kind: str, name: str, text: str, entries: Iterable[tuple[tuple[str, ...], float]], label: str = "") -> Any:
    """A gauge or counter; entries are (the model, and the value of `label` if there is one) and the number."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    make = GaugeMetricFamily if kind == "gauge" else CounterMetricFamily
    family = make(name, text, labels=["model_name", "engine", *([label] if label else ())])
    for (model_id, *key), number in entries:
        family.add_metric([model_id, ONLY, *key], number)
    return family


def _histogram_family(name: str, text: str, histograms: Iterable[tuple[str, Histogram]]) -> Any:
    from prometheus_client.core import HistogramMetricFamily

    family = HistogramMetricFamily(name, text, labels=["model_name", "engine"])
    for model_id, histogram in histograms:
        family.add_metric([model_id, ONLY], *histogram.buckets())
    return family


# Of a model: name, type, value, help.
OWN: tuple[tuple[str, str, Callable[[ServedModel], float], str], ...] = (
    ("octavo:model_ready", "gauge", lambda model: model.is_ready, "1 if the model is loaded."),
    (
        "octavo:engine_restarts",
        "counter",
        lambda model: model.llm.driver.num_restarts if model.llm else 0,
        "Engines that failed.",
    ),
    (
        "octavo:kv_cache_tokens",
        "gauge",
        lambda model: model.llm.model.plan.num_blocks * model.llm.model.plan.block_size if model.llm else 0,
        "Tokens that the KV cache holds.",
    ),
    ("octavo:queued_tokens", "gauge", lambda model: model.queue.tokens, "Prompt tokens that wait."),
    ("octavo:audio_seconds", "counter", lambda model: model.metrics.audio_seconds, "Seconds of audio decoded."),
)
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
