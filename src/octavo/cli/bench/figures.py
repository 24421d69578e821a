"""Turns measured requests into numbers, into the document that benchmarks write, and the table that people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from octavo.cli.bench.load import Measured
from octavo.version import __version__

Json = dict[str, Any]
TITLES = {
    "ttft_s": "time to first token",
    "tpot_s": "time per output token",
    "itl_s": "inter-token latency",
    "e2e_s": "end-to-end latency",
}
ROWS = {**TITLES, "refusal_s": "refusals"}
OF_TEXTS = {"request_s": "request", "latency_s": "one text alone"}  # see embed.py
COLUMNS = ("mean", "p50", "p90", "p99")
OBJECTIVES = {"ttft": "ttft_s", "tpot": "tpot_s", "e2el": "e2e_s"}  # --goodput's names, which are vLLM's


def make_document(kind: str, **parts: Any) -> Json:
    """What every benchmark writes; see benchmarks/schema.md."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"schema": "octavo-bench/1", "kind": kind, "octavo": __version__, "time": now, **parts}


def latencies(one: Measured) -> dict[str, float]:
    """The latencies of a request that went well, in seconds; no `tpot_s` for a single token."""
    found = {"ttft_s": one.times[0] - one.begin, "e2e_s": one.end - one.begin}
    if one.num_written > 1:
        found["tpot_s"] = (one.times[-1] - one.times[0]) / (one.num_written - 1)
    return found


def distributions(measured: Sequence[Measured]) -> dict[str, list[float]]:
    """Every latency of the requests that went well, sorted; of `itl_s` one per token after the first."""
    values: dict[str, list[float]] = {name: [] for name in TITLES}
    for one in measured:
        if one.error is None:
            for name, value in latencies(one).items():
                values[name].append(value)
            values["itl_s"] += [after - before for before, after in pairwise(one.times)]
    return {name: sorted(found) for name, found in values.items()}


def summarize(measured: Sequence[Measured], goodput: Mapping[str, float], cpu_seconds: float) -> Json:
    """The `results` of benchmarks/schema.md. `goodput` has objectives in milliseconds."""
    good = [one for one in measured if one.error is None]
    seconds = max(one.end for one in measured) - min(one.begin for one in measured)
    num_read, num_written = sum(one.num_read or 0 for one in good), sum(one.num_written for one in good)
    spread = {name: statistics(values) for name, values in distributions(measured).items()}
    refused = sorted(one.end - one.begin for one in measured if (one.error or "").isdigit())
    results = {
        "seconds": seconds,
        "completed": len(good),
        "failed": dict(sorted(Counter(one.error for one in measured if one.error is not None).items())),
        "input_tokens": num_read,
        "output_tokens": num_written,
        "requests_per_second": len(good) / seconds,
        "output_tokens_per_second": num_written / seconds,
        "total_tokens_per_second": (num_read + num_written) / seconds,
        **spread,
        "refusal_s": statistics(refused),
        "goodput": None,
        "client_cpu_share": cpu_seconds / seconds,
    }
    if goodput:
        met = sum(_meets(latencies(one), goodput) for one in good)
        rates = {"requests_per_second": met / seconds, "share": met / len(measured)}
        results["goodput"] = {"objectives_ms": dict(goodput), **rates}
    return results


def statistics(values: Sequence[float]) -> Json | None:
    """Mean and percentiles of sorted values; None where there are none."""
    if not values:
        return None
    percentiles = {f"p{percent}": percentile(values, percent) for percent in (50, 90, 99)}
    return {"mean": sum(values) / len(values), **percentiles}


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of sorted values, interpolated between the two nearest."""
    place = (len(values) - 1) * percent / 100
    below = values[int(place)]
    above = values[min(int(place) + 1, len(values) - 1)]
    return below + (above - below) * (place - int(place))


def tokens_per_second(measured: Sequence[Measured], num_bins: int) -> list[float]:
    """The rate of arriving events of tokens over the run, in bins of the same length."""
    begin = min(one.begin for one in measured)
    width = (max(one.end for one in measured) - begin) / num_bins or 1.0
    bins = Counter(min(num_bins - 1, int((at - begin) / width)) for one in measured for at in one.times)
    return [bins[i] / width for i in range(num_bins)]


def table(document: Json) -> str:
    results = document["results"]
    workload = ", ".join(f"{name} {value}" for name, value in document["workload"].items() if value is not None)
    return "\n".join([headline(document), workload, "", *summary_lines(results), "", *statistics_lines(results)])


def statistics_lines(results: Json) -> list[str]:
    """The statistics that there are, in milliseconds."""
    rows = {
        title: results[name].values() for name, title in {**ROWS, **OF_TEXTS}.items() if results.get(name) is not None
    }
    cells = {title: [f"{1000 * value:.1f}" for value in values] for title, values in rows.items()}
    return [f"{title:<24}" + "".join(f"{cell:>10}" for cell in row) for title, row in {"ms": COLUMNS, **cells}.items()]


def headline(document: Json) -> str:
    return f"{document['model']['name']} at {document['url']}"


def summary_lines(results: Json) -> list[str]:
    """What was done, how fast, and what went wrong."""
    failed = ", ".join(f"{number}x {reason}" for reason, number in results["failed"].items())
    lines = [
        f"{results['completed']} requests in {results['seconds']:.2f} s"
        + (f"; {sum(results['failed'].values())} failed ({failed})" if failed else ""),
        rate_line(results),
    ]
    if results["goodput"] is not None:
        goodput = results["goodput"]
        wanted = ", ".join(f"{name} {limit:g} ms" for name, limit in goodput["objectives_ms"].items())
        lines.append(f"goodput {goodput['requests_per_second']:.2f} requests/s ({goodput['share']:.0%}) with {wanted}")
    return lines


def rate_line(results: Json) -> str:
    return (
        f"{results['requests_per_second']:.2f} requests/s · {results['output_tokens_per_second']:.1f} tok/s of output "
        f"· {results['total_tokens_per_second']:.1f} tok/s in all"
    )


def _meets(found: Mapping[str, float], goodput: Mapping[str, float]) -> bool:
    """Whether a request keeps all objectives; what it has no measure of, it keeps."""
    return all(1000 * found.get(OBJECTIVES[name], 0.0) <= limit for name, limit in goodput.items())
