"""What pictures are drawn on: SVG, by hand, or a PNG, by Pillow. Coordinates are pixels from the upper left corner."""

from __future__ import annotations

import io
from html import escape
from typing import Any, Protocol

from octavo.errors import OctavoError

# Roles of colors: light, and dark where the reader's system is so (SVG and HTML only).
COLORS = {
    "paper": ("#ffffff", "#16181d"),
    "ink": ("#1b1f27", "#e6e8ec"),
    "faint": ("#6b7280", "#9aa2af"),
    "grid": ("#e5e7eb", "#2b303a"),
    "bar": ("#7ba4db", "#4f7fc0"),
    "p50": ("#1f9d55", "#4cc38a"),
    "p90": ("#c77700", "#f0a33a"),
    "p99": ("#c8283c", "#f2667a"),
    "goal": ("#1b1f27", "#e6e8ec"),
}


class Canvas(Protocol):
    """`color` is a name of COLORS; `anchor` says which end of a text is at x: start, middle or end."""

    def rect(self, x: float, y: float, width: float, height: float, color: str) -> None: ...

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str, dashed: bool = False) -> None: ...

    def text(self, x: float, y: float, text: str, color: str, size: int = 12, anchor: str = "start") -> None: ...


class SvgCanvas:
    """An <svg> element whose colors are CSS classes."""

    def __init__(self, width: int, height: int):
        self._size = (width, height)
        self._parts: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, color: str) -> None:
        self._parts.append(f'<rect class="{color}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>')

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self._parts.append(f'<line class="{color}" {place}{dash}/>')

    def text(self, x: float, y: float, text: str, color: str, size: int = 12, anchor: str = "start") -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
        self._parts.append(f'<text class="{color}" {place}>{escape(text)}</text>')

    def element(self) -> str:
        width, height = self._size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img"'
        body = "\n".join(self._parts)
        return f'{head} font-family="system-ui, sans-serif">\n<style>{style()}</style>\n{body}\n</svg>'


def style() -> str:
    """The colors as CSS, for both kinds of light."""
    rules = ["", ""]
    for name, colors in COLORS.items():
        for i, color in enumerate(colors):
            rules[i] += f".{name}{{fill:{color};stroke:{color}}}"
    common = "text{stroke:none!important}rect{stroke:none!important}"
    return f"{rules[0]}{common}@media(prefers-color-scheme:dark){{{rules[1]}}}"


class PngCanvas:
    """A raster image, drawn at twice the size. Raises OctavoError where Pillow is not installed."""

    SCALE = 2

    def __init__(self, width: int, height: int):
        try:
            from PIL import Image, ImageDraw, ImageFont
        except ImportError:
            raise OctavoError(
                "a PNG is drawn by Pillow, which is not installed: pip install pillow, or name it .svg or .html"
            ) from None
        self._image = Image.new("RGB", (width * self.SCALE, height * self.SCALE), COLORS["paper"][0])
        self._draw = ImageDraw.Draw(self._image)
        self._font: Any = ImageFont.load_default

    def rect(self, x: float, y: float, width: float, height: float, color: str) -> None:
        if width > 0 and height > 0:
            box = [self.SCALE * value for value in (x, y, x + width, y + height)]
            self._draw.rectangle([box[0], box[1], max(box[0], box[2] - 1), max(box[1], box[3] - 1)], COLORS[color][0])

    def line(self, x1: float, y1: float, x2: float, y2: float, color: str, dashed: bool = False) -> None:
        pieces = 40 if dashed else 1
        for i in range(0, pieces, 2):
            ends = [(x1 + (x2 - x1) * k / pieces, y1 + (y2 - y1) * k / pieces) for k in (i, i + 1)]
            place = [(self.SCALE * x, self.SCALE * y) for x, y in ends]
            self._draw.line(place, COLORS[color][0], self.SCALE)

    def text(self, x: float, y: float, text: str, color: str, size: int = 12, anchor: str = "start") -> None:
        letter = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
        font = self._font(size * self.SCALE)
        self._draw.text((x * self.SCALE, y * self.SCALE), text, COLORS[color][0], font, letter)

    def data(self) -> bytes:
        out = io.BytesIO()
        self._image.save(out, "PNG")
        return out.getvalue()
