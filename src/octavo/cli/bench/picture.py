"""The picture of a load: how each latency is distributed, and how tokens came over time. PNG, SVG or an HTML page."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from html import escape
from itertools import pairwise
from pathlib import Path

from octavo.cli.bench.canvas import Canvas, PngCanvas, SvgCanvas
from octavo.cli.bench.figures import (
    OBJECTIVES,
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

WIDTH, HEIGHT, MARGIN, TOP, PANEL = 960, 770, 24, 100, 204
MAX_BARS, MAX_BINS, BIN_SECONDS = 48, 96, 0.25
KINDS = (".png", ".svg", ".html")


def check_kind(file: Path) -> None:
    """Raises UsageError for another ending, OctavoError for a PNG without Pillow: before anything is measured."""
    if file.suffix not in KINDS:
        raise UsageError(f"--picture {str(file)!r}: the name must end in {', '.join(KINDS)}")
    if file.suffix == ".png":
        PngCanvas(1, 1)


def write_picture(file: Path, document: Json, measured: Sequence[Measured]) -> None:
    if file.suffix == ".png":
        raster = PngCanvas(WIDTH, HEIGHT)
        draw(raster, document, measured)
        file.write_bytes(raster.data())
        return
    canvas = SvgCanvas(WIDTH, HEIGHT)
    draw(canvas, document, measured)
    drawing = canvas.element()
    file.write_text(drawing + "\n" if file.suffix == ".svg" else page(document, drawing), encoding="utf-8")


def draw(canvas: Canvas, document: Json, measured: Sequence[Measured]) -> None:
    results = document["results"]
    canvas.rect(0, 0, WIDTH, HEIGHT, "paper")
    canvas.text(MARGIN, 30, headline(document), "ink", 17)
    for i, line in enumerate(summary_lines(results)[:3]):
        canvas.text(MARGIN, 48 + 15 * i, line, "faint")
    objectives = (results["goodput"] or {}).get("objectives_ms", {})
    goals = {OBJECTIVES[name]: limit / 1000 for name, limit in objectives.items()}
    width = (WIDTH - 3 * MARGIN) / 2
    for i, (name, values) in enumerate(distributions(measured).items()):
        x, y = MARGIN + (i % 2) * (width + MARGIN), TOP + (i // 2) * (PANEL + MARGIN)
        _histogram(canvas, (x, y, width, PANEL), TITLES[name], values, goals.get(name))
    box = (MARGIN, TOP + 2 * (PANEL + MARGIN), WIDTH - 2 * MARGIN, HEIGHT - TOP - 2 * (PANEL + MARGIN) - 12)
    num_bins = max(8, min(MAX_BINS, round(results["seconds"] / BIN_SECONDS)))
    _timeline(canvas, box, tokens_per_second(measured, num_bins), results["seconds"])


Box = tuple[float, float, float, float]  # x, y, width, height


def _histogram(canvas: Canvas, box: Box, title: str, values: Sequence[float], goal: float | None) -> None:
    """Bars over the sorted `values`, in seconds; the far end of a long tail is counted, not drawn."""
    x, y, width, height = box
    if not values:
        canvas.text(x, y + 14, title, "ink", 13)
        canvas.text(x + width / 2, y + height / 2, "nothing was measured", "faint", 12, "middle")
        return
    low, high, num_beyond = _span(values)
    unit, per_unit = ("ms", 1000.0) if high < 10 else ("s", 1.0)
    canvas.text(x, y + 14, f"{title}, {unit}", "ink", 13)
    marks = {f"p{percent}": percentile(values, percent) for percent in (99, 90, 50)}
    right = x + width
    for name, value in marks.items():  # from the right
        text = f"{name} {value * per_unit:.{1 if value * per_unit < 100 else 0}f}"
        canvas.text(right, y + 14, text, name, 12, "end")
        right -= 7.2 * len(text) + 8
    plot = (x, y + 24, width, height - 44)
    num_bars = max(12, min(MAX_BARS, round(3 * math.sqrt(len(values)))))  # few values make a comb of many bars
    edges = [low + (high - low) * i / num_bars for i in range(num_bars)]
    places = [*[bisect_left(values, edge) for edge in edges], len(values) - num_beyond]
    counts = [after - before for before, after in pairwise(places)]
    _bars(canvas, plot, counts)

    def across(value: float) -> float:
        return x + width * (value - low) / (high - low)

    for tick in ticks(low * per_unit, high * per_unit):
        canvas.text(across(tick / per_unit), y + height - 6, f"{tick:g}", "faint", 11, "middle")
    if num_beyond:
        canvas.text(x + width, y + height + 8, f"{num_beyond} farther out", "faint", 11, "end")
    lines = {name: value for name, value in marks.items() if value <= high}
    if goal is not None and low <= goal <= high:
        lines["goal"] = goal
        is_right = across(goal) > x + width / 2  # where the marks of the tail are
        side, anchor = (-4, "end") if is_right else (4, "start")
        canvas.text(across(goal) + side, plot[1] + 10, "objective", "faint", 11, anchor)
    for name, value in lines.items():
        canvas.line(across(value), plot[1], across(value), plot[1] + plot[3], name, dashed=name == "goal")


def _timeline(canvas: Canvas, box: Box, rates: Sequence[float], seconds: float) -> None:
    x, y, width, height = box
    canvas.text(x, y + 14, "tokens per second, over the seconds of the run", "ink", 13)
    plot = (x, y + 24, width, height - 44)
    _bars(canvas, plot, rates)
    canvas.text(x + width, y + 14, f"highest {max(rates):.0f}", "faint", 12, "end")
    for tick in ticks(0, seconds, 8):
        canvas.text(x + width * tick / seconds, y + height - 6, f"{tick:g}", "faint", 11, "middle")


def _bars(canvas: Canvas, plot: Box, heights: Sequence[float]) -> None:
    x, y, width, height = plot
    step, highest = width / len(heights), max(heights) or 1
    for i, value in enumerate(heights):
        if value:
            tall = max(1.0, height * value / highest)
            canvas.rect(x + i * step, y + height - tall, step - 0.8, tall, "bar")
    canvas.line(x, y + height, x + width, y + height, "grid")


def _span(values: Sequence[float]) -> tuple[float, float, int]:
    """What an axis shows of sorted values: all, or up to a little beyond p99, and how many are farther out."""
    low, high, p99 = values[0], values[-1], percentile(values, 99)
    if high - low > 1.5 * (p99 - low) and p99 > low:
        high = p99 + 0.15 * (p99 - low)
    low = 0.0 if low < 0.5 * high else low
    high = max(high, low + 1e-4)
    return low, high, len(values) - bisect_left(values, math.nextafter(high, math.inf))


def ticks(low: float, high: float, number: int = 5) -> list[float]:
    """About `number` round values from `low` to `high`."""
    rough = (high - low) / number
    power = 10 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def page(document: Json, drawing: str) -> str:
    """A page that needs nothing else: the drawing, the table of numbers, and the JSON in it."""
    results, columns = document["results"], ("mean", "p50", "p90", "p99")
    head = "".join(f"<th>{name}</th>" for name in columns)
    rows = "".join(
        f"<tr><th>{title}</th>{''.join(f'<td>{1000 * results[name][column]:.1f}</td>' for column in columns)}</tr>"
        for name, title in {**TITLES, "refusal_s": "refusals"}.items()
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
    "svg{max-width:100%;height:auto}div,p{margin-left:24px}p,th:first-child{color:#6b7280}"
    "div{display:flex;align-items:start;flex-wrap:wrap;gap:3rem}th,td{text-align:right;padding:.15rem .8rem}"
    "th{font-weight:normal}th:first-child{text-align:left;padding-left:0}"
    "@media(prefers-color-scheme:dark){body{background:#16181d;color:#e6e8ec}p,th:first-child{color:#9aa2af}}"
)
