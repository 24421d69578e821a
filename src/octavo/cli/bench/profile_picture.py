"""The picture of a profile: a bar for each op's time in a step, and in it what the machine's limits ask. PNG or SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from octavo.cli.bench.figures import Json
from octavo.cli.bench.picture import BAR, FAINT, STYLE
from octavo.cli.profile import KINDS, shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILES = (".png", ".svg")
LIMIT = "#1d5fa8"
INCHES = {"bar": 0.27, "head": 0.9, "width": 9.6}


def write_profile(file: Path, title: str, profile: Json) -> None:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        draw_profile(title, profile).savefig(file, dpi=200)


def draw_profile(title: str, profile: Json) -> Figure:
    """Kinds of steps, one below the other."""
    from matplotlib.figure import Figure

    kinds = [name for name in KINDS if profile[name] is not None]
    heights = [INCHES["head"] + INCHES["bar"] * len(profile[name]["ops"]) for name in kinds]
    figure = Figure(figsize=(INCHES["width"], sum(heights) + INCHES["head"] / 2), layout="constrained")
    figure.suptitle(title, fontsize=13, x=0.01, ha="left")
    subplots = figure.subplots(len(kinds), 1, squeeze=False, height_ratios=heights)
    for name, (axes,) in zip(kinds, subplots, strict=True):
        _bars(axes, name, profile[name])
    return figure


def _bars(axes: Axes, name: str, found: Json) -> None:
    ops, number = found["ops"], found["steps"]
    places, times = range(len(ops)), [1000 * op["seconds"] / number for op in ops]
    least = [time * min(1.0, op["limit_share"] or 0.0) for time, op in zip(times, ops, strict=True)]
    axes.barh(places, times, color=BAR, label="measured")
    axes.barh(places, least, color=LIMIT, label="at the machine's limit")
    for place, time, op in zip(places, times, ops, strict=True):
        axes.text(time, place, f"  {_said(op)}", va="center", color=FAINT, fontsize=8)
    axes.set_yticks(places, [shorten(op["op"], 36) for op in ops])
    axes.tick_params(axis="y", labelleft=True)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.45 * max(times))  # room for the words behind the longest bar
    axes.set_title(f"{name}, ms of {1000 * found['seconds'] / number:.2f} a step")
    axes.legend(loc="lower right", handlelength=1, handletextpad=0.5)


def _said(op: Json) -> str:
    seconds, parts = op["seconds"] or 1.0, [f"{op['share']:.1%}"]
    if op["read_bytes"]:
        parts.append(f"{op['read_bytes'] / seconds / 1e9:.1f} GB/s")
    if op["flops"]:
        parts.append(f"{op['flops'] / seconds / 1e9:.0f} GFLOP/s")
    return " · ".join(parts)
