"""What /metrics tells, under vLLM's names where vLLM has one. docs/metrics.md lists all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily as Count
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from octavo.engine.driver import EngineStats
from octavo.server.batches.records import UNFINISHED
from octavo.server.metrics import HISTOGRAMS, STEP_TOKENS, Histogram
from octavo.server.model_state import Status
from octavo.server.models import ServedModel
from octavo.server.state import ServerState

OF_MODEL = ("model_name", "engine")
ONLY = "0"  # vLLM counts its engines; here a model has one
SLEEP = ("awake", "weights_offloaded", "discard_all")  # vLLM's words, by level
CACHE = ("block_size", "num_gpu_blocks", "enable_prefix_caching", "gpu_memory_utilization", "cache_dtype")
_Numbers = Mapping[tuple[str, ...], float]
_Values = Callable[[ServedModel, EngineStats], float | _Numbers]


def _cache(model: ServedModel) -> _Numbers:
    """vLLM's way of telling its configuration: the labels of a 1."""
    if model.llm is None:
        return {}
    plan, config = model.llm.model.plan, model.llm.model.config
    cache = (plan.block_size, plan.num_blocks, config.enable_prefix_caching)
    return {tuple(map(str, (*cache, config.gpu_memory_utilization, config.kv_cache_dtype))): 1}


def _by_source(stats: EngineStats) -> _Numbers:
    computed = stats.prefix_queries - stats.prefix_hits
    return {("local_compute",): computed, ("local_cache_hit",): stats.prefix_hits, ("external_kv_transfer",): 0}


def _counted(counts: Counter[str], *always: str) -> _Numbers:
    return {(name,): counts[name] for name in always or counts}


# Counts of the prefix cache on disk: the end of the name, the field of StoreStats, help.
DISK = (
    ("hits", "hit_tokens", "Tokens whose keys and values came from disk."),
    ("read_bytes", "read_bytes", "Bytes read that were good."),
    ("written_bytes", "written_bytes", "Bytes written."),
    ("written_blocks", "written_blocks", "Blocks written."),
    ("dropped_blocks", "dropped_blocks", "Blocks that could not be written."),
    ("damaged_files", "damaged_files", "Files that were damaged, and not used."),
    ("errors", "errors", "Errors of the disk."),
)
# Of each model: name, further labels, help, and the number, or one for each of the labels' values.
GAUGES: tuple[tuple[str, tuple[str, ...], str, _Values], ...] = (
    ("vllm:num_requests_running", (), "Requests that are in steps.", lambda _, stats: stats.running),
    ("vllm:num_requests_waiting", (), "Requests that wait for a seat.", lambda _, stats: stats.waiting),
    ("vllm:kv_cache_usage_perc", (), "Share of KV blocks in use; 1 is all.", lambda _, stats: stats.block_usage),
    ("vllm:gpu_cache_usage_perc", (), "The same, under its older name.", lambda _, stats: stats.block_usage),
    (
        *("vllm:num_requests_waiting_by_reason", ("reason",), "Requests that wait for a seat, and for anything else."),
        lambda _, stats: {("capacity",): stats.waiting, ("deferred",): 0},
    ),
    (
        *("vllm:engine_sleep_state", ("sleep_state",), "1 for the state of an engine: awake, or how deep it sleeps."),
        lambda model, _: {(name,): model.state.sleep_level == level for level, name in enumerate(SLEEP)},
    ),
    ("vllm:cache_config_info", CACHE, "The KV cache of a model that is loaded.", lambda model, _: _cache(model)),
    ("octavo:model_ready", (), "1 if the model is loaded.", lambda model, _: model.is_ready),
    (
        *("octavo:model_status", ("status",), "1 for the status of the model."),
        lambda model, _: {(status.value,): model.status is status for status in Status},
    ),
    ("octavo:model_memory_bytes", (), "Memory that is kept for the model.", lambda model, _: model.held),
    (
        *("octavo:kv_cache_tokens", (), "Tokens that the KV cache holds."),
        lambda model, _: model.llm.model.plan.num_blocks * model.llm.model.plan.block_size if model.llm else 0,
    ),
    (
        *("octavo:prefix_cache_disk_bytes", (), "Bytes of the prefix cache on disk, as far as is known."),
        lambda _, stats: stats.disk.size,
    ),
    ("octavo:queued_tokens", (), "Prompt tokens that wait.", lambda model, _: model.queue.tokens),
)
COUNTERS: tuple[tuple[str, tuple[str, ...], str, _Values], ...] = (
    ("vllm:prompt_tokens", (), "Tokens of prompts that have begun.", lambda _, stats: stats.prefix_queries),
    ("vllm:prompt_tokens_cached", (), "Those that the prefix cache had.", lambda _, stats: stats.prefix_hits),
    (
        *("vllm:prompt_tokens_by_source", ("source",)),
        "Tokens of prompts that have begun, by where their keys and values came from.",
        lambda _, stats: _by_source(stats),
    ),
    ("vllm:generation_tokens", (), "Tokens generated.", lambda _, stats: stats.output_tokens),
    ("vllm:prefix_cache_queries", (), "Tokens looked up in the cache.", lambda _, stats: stats.prefix_queries),
    ("vllm:prefix_cache_hits", (), "Those that the prefix cache had.", lambda _, stats: stats.prefix_hits),
    ("vllm:gpu_prefix_cache_queries", (), "The older name of those.", lambda _, stats: stats.prefix_queries),
    ("vllm:gpu_prefix_cache_hits", (), "The older name of those.", lambda _, stats: stats.prefix_hits),
    ("vllm:num_preemptions", (), "Requests that lost their blocks.", lambda _, stats: stats.preemptions),
    (
        *("vllm:request_success", ("finished_reason",), "Completions that ended, by reason."),
        lambda model, _: _counted(model.metrics.finished, "stop", "length", "abort", "error"),
    ),
    (
        *("octavo:requests_failed", ("code",), "Requests that ended in an error, by its code."),
        lambda model, _: _counted(model.metrics.failed),
    ),
    (
        *("octavo:requests_refused", ("code",), "Requests that were not queued, by the error's code."),
        lambda model, _: _counted(model.metrics.refused),
    ),
    (
        *("octavo:engine_restarts", (), "Engines that failed."),
        lambda model, _: model.llm.driver.num_restarts if model.llm else 0,
    ),
    (
        *("octavo:model_loads", ("result",), "How often the model was loaded."),
        lambda model, _: _counted(model.metrics.loads, "ready", "failed"),
    ),
    ("octavo:model_load_seconds", (), "Seconds that took.", lambda model, _: model.metrics.load_seconds),
    (
        *("octavo:model_unloads", ("reason",), "How often it was unloaded, and why."),
        lambda model, _: _counted(model.metrics.unloads, "idle", "room", "request", "reload", "sleep"),
    ),
    *(
        (f"octavo:prefix_cache_disk_{name}", (), text, lambda _, stats, field=field: getattr(stats.disk, field))
        for name, field, text in DISK
    ),
    ("octavo:audio_seconds", (), "Seconds of audio decoded.", lambda model, _: model.metrics.audio_seconds),
)


class Collector:
    """Hands everything to prometheus_client, as families of metrics."""

    def __init__(self, server: ServerState):
        self._server = server

    def collect(self) -> Iterator[Metric]:
        models = [(model, model.stats()) for model in self._server.models]
        for kind, families in ((Gauge, GAUGES), (Count, COUNTERS)):
            for name, labels, text, values in families:
                family = kind(name, text, labels=(*OF_MODEL, *labels))
                for model, stats in models:
                    found = values(model, stats)
                    for key, number in (found if isinstance(found, Mapping) else {(): found}).items():
                        family.add_metric((model.id, ONLY, *key), number)
                yield family
        steps = [(model.id, Histogram(STEP_TOKENS, stats.steps)) for model, stats in models]
        yield _histograms("vllm:iteration_tokens_total", "Tokens of a step.", steps)
        for attribute, name, _, text in HISTOGRAMS:
            yield _histograms(name, text, [(model.id, model.metrics.histograms[attribute]) for model, _ in models])
        yield self._batches()
        yield self._http_answers("octavo:http_requests", "path", str)
        yield self._http_answers("http_requests", "handler", lambda status: f"{status // 100}xx")  # vLLM's

    def _batches(self) -> Metric:
        family = Gauge("octavo:batches", "Batches that are not finished.", labels=("status",))
        batches = self._server.folder.batches if self._server.keeps_files else ()
        found = Counter(batch.status for batch in batches)
        for status in UNFINISHED:
            family.add_metric((status,), found[status])
        return family

    def _http_answers(self, name: str, label: str, kind_of: Callable[[int], str]) -> Metric:
        counts: Counter[tuple[str, str, str]] = Counter()
        for (method, path, status), number in self._server.http_answers.items():
            counts[method, path, kind_of(status)] += number
        family = Count(name, "Answers.", labels=("method", label, "status"))
        for labels, number in counts.items():
            family.add_metric(labels, number)
        return family


def _histograms(name: str, text: str, histograms: list[tuple[str, Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=OF_MODEL)
    for model_id, histogram in histograms:
        family.add_metric((model_id, ONLY), *histogram.buckets())
    return family


def exposition(server: ServerState) -> bytes:
    """The text format of Prometheus."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Collector(server))
    return generate_latest(registry)
