"""The picture of a load: how each latency is distributed, and how tokens came over time. PNG, SVG or an HTML page."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octavo.cli.bench.figures import (
    COLUMNS,
    OBJECTIVES,
    ROWS,
    TITLES,
    Json,
    distributions,
    headline,
    percentile,
    summary_lines,
    tokens_per_second,
)
from octavo.cli.bench.load import Measured
from octavo.cli.parser import UsageError
from octavo.errors import OctavoError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BARS, MAX_BINS, BIN_SECONDS = 48, 96, 0.25
KINDS = (".png", ".svg", ".html")
INK, FAINT, BAR = "#1b1f27", "#6b7280", "#7ba4db"
PERCENTILES = {50: "#1f9d55", 90: "#c77700", 99: "#c8283c"}
STYLE: dict[Any, Any] = {
    "axes.edgecolor": FAINT,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.size": 9,
    "legend.borderpad": 0,
    "legend.columnspacing": 1,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "legend.handlelength": 0,  # the colors of the letters are those of the lines
    "legend.handletextpad": 0,
    "svg.fonttype": "none",  # letters stay text
    "text.color": INK,
    "text.parse_math": False,  # a model's name may have dollar signs
    "xtick.color": FAINT,
    "ytick.left": False,
    "ytick.labelleft": False,
}


def check_kind(flag: str, file: Path, kinds: Sequence[str] = KINDS) -> None:
    """Raises UsageError for another ending, OctavoError without Matplotlib: before anything is measured."""
    if file.suffix not in kinds:
        raise UsageError(f"{flag} {str(file)!r}: the name must end in {', '.join(kinds)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        how = "pip install '.[bench]' in a checkout of Octavo, or pip install matplotlib"
        raise OctavoError(f"the picture of {flag} is drawn by Matplotlib, which is not installed: {how}") from None


def write_picture(file: Path, document: Json, measured: Sequence[Measured]) -> None:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = draw(document, measured)
        if file.suffix != ".html":
            figure.savefig(file, dpi=200)
            return
        drawing = io.StringIO()
        figure.savefig(drawing, format="svg")
    svg = drawing.getvalue()
    file.write_text(page(document, svg[svg.index("<svg") :]), encoding="utf-8")


def draw(document: Json, measured: Sequence[Measured]) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    results = document["results"]
    summary = summary_lines(results)[:3]
    layout = ConstrainedLayoutEngine(h_pad=0.12, w_pad=0.12, rect=(0, 0, 1, 0.95 - 0.019 * len(summary)))
    figure = Figure(figsize=(9.6, 7.7), layout=layout)
    figure.text(0.01, 0.985, headline(document), fontsize=13, va="top")
    figure.text(0.01, 0.953, "\n".join(summary), color=FAINT, va="top")
    axes = figure.subplot_mosaic([["ttft_s", "tpot_s"], ["itl_s", "e2e_s"], ["rate", "rate"]])
    objectives = (results["goodput"] or {}).get("objectives_ms", {})
    goals = {OBJECTIVES[name]: limit / 1000 for name, limit in objectives.items()}
    for name, values in distributions(measured).items():
        _histogram(axes[name], TITLES[name], values, goals.get(name))
    num_bins = max(8, min(MAX_BINS, round(results["seconds"] / BIN_SECONDS)))
    rates, seconds = tokens_per_second(measured, num_bins), results["seconds"]
    axes["rate"].stairs(rates, [seconds * i / num_bins for i in range(num_bins + 1)], fill=True, color=BAR)
    axes["rate"].set_title("tokens per second, over the seconds of the run")
    axes["rate"].set_title(f"highest {max(rates):.0f}", loc="right", color=FAINT)
    axes["rate"].margins(x=0)
    return figure


def _histogram(axes: Axes, title: str, values: Sequence[float], goal: float | None) -> None:
    """Bars over the sorted `values`, in seconds; the far end of a long tail is counted, not drawn."""
    if not values:
        axes.set_title(title)
        axes.set_xticks([])
        axes.text(0.5, 0.5, "nothing was measured", color=FAINT, ha="center", transform=axes.transAxes)
        return
    low, high, num_beyond = _span(values)
    unit, per_unit = ("ms", 1000.0) if high < 10 else ("s", 1.0)
    axes.set_title(f"{title}, {unit}")
    num_bars = max(12, min(MAX_BARS, round(3 * math.sqrt(len(values)))))  # few values make a comb of many bars
    span = (low * per_unit, high * per_unit)
    axes.hist([value * per_unit for value in values], bins=num_bars, range=span, color=BAR, rwidth=0.9)
    axes.set_xlim(span)
    for percent, color in PERCENTILES.items():
        value = percentile(values, percent) * per_unit
        axes.axvline(value, color=color, label=f"p{percent} {value:.{1 if value < 100 else 0}f}")
    if goal is not None and low <= goal <= high:
        axes.axvline(goal * per_unit, color=INK, linestyle="--", label="objective")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, labelcolor="linecolor")  # beside the title
    if num_beyond:
        axes.set_xlabel(f"{num_beyond} farther out", loc="right", color=FAINT)


def _span(values: Sequence[float]) -> tuple[float, float, int]:
    """What an axis shows of sorted values: all, or up to a little beyond p99, and how many are farther out."""
    low, high, p99 = values[0], values[-1], percentile(values, 99)
    if high - low > 1.5 * (p99 - low) and p99 > low:
        high = p99 + 0.15 * (p99 - low)
    low = 0.0 if low < 0.5 * high else low
    high = max(high, low + 1e-4)
    return low, high, sum(value > high for value in values)


def page(document: Json, drawing: str) -> str:
    """A page that needs nothing else: the drawing, the table of numbers, and the JSON in it."""
    results = document["results"]
    head = "".join(f"<th>{name}</th>" for name in COLUMNS)
    rows = "".join(
        f"<tr><th>{title}</th>{''.join(f'<td>{1000 * results[name][column]:.1f}</td>' for column in COLUMNS)}</tr>"
        for name, title in ROWS.items()
        if results[name] is not None
    )
    asked = "".join(
        f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in document["workload"].items()
        if value is not None
    )
    data = json.dumps(document, indent=1).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(headline(document))}</title>
<meta name="viewport" content="width=device-width"><style>{_PAGE_STYLE}</style></head>
<body>
{drawing}
<div><table><tr><th>ms</th>{head}</tr>{rows}</table>
<table>{asked}</table></div>
<p>octavo {escape(document["octavo"])} · {escape(document["time"])}</p>
<script type="application/json" id="results">{data}</script>
</body></html>
"""


_PAGE_STYLE = (
    "body{font:14px system-ui,sans-serif;max-width:960px;margin:1rem auto;padding:0 1rem;background:#fff;color:#1b1f27}"
    "svg{max-width:100%;height:auto}p,th:first-child{color:#6b7280}"
    "div{display:flex;align-items:start;flex-wrap:wrap;gap:3rem}th,td{text-align:right;padding:.15rem .8rem}"
    "th{font-weight:normal}th:first-child{text-align:left;padding-left:0}"
)
