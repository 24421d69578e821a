"""Answers on the screen, as they are made: plain, or as Markdown."""

from __future__ import annotations

import re
import time
from typing import Protocol

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.markdown import Markdown
from rich.segment import ControlType, Segment
from rich.text import Text

from octavo.cli.terminal import printable, write

REDRAW_SECONDS = 0.08  # rendering takes time from the model if both run here
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


class Screen(Protocol):
    """`add` and `end` belong to an answer, `say` to what the program itself tells, between answers."""

    def add(self, text: str) -> None: ...

    def end(self) -> None: ...

    def say(self, text: str) -> None: ...


class PlainScreen:
    """Text as it comes. What the program tells goes to stderr."""

    def __init__(self) -> None:
        self._last = ""

    def add(self, text: str) -> None:
        write(text)
        self._last = text or self._last

    def end(self) -> None:
        if not self._last.endswith("\n"):
            write("\n")
        self._last = ""

    def say(self, text: str) -> None:
        Console(stderr=True, highlight=False, soft_wrap=True).print(Text(printable(text), style="dim"))


class MarkdownScreen:
    """Finished blocks are printed once and for all; the one that grows is drawn again and again below them."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._text = ""  # of the block that grows
        self._widths: list[int] = []  # in cells, of its lines as they were drawn
        self._drawn = 0.0
        self._printed = False  # whether the answer has a block already

    def add(self, text: str) -> None:
        self._text += printable(text)
        blocks, self._text = split_blocks(self._text)
        for block in blocks:
            self._print(block)
        if time.monotonic() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def end(self) -> None:
        if self._text.strip():
            self._print(self._text)
        self._erase()
        self._console.print()
        self._console.show_cursor(True)
        self._text, self._printed = "", False

    def say(self, text: str) -> None:
        self._console.print(Text(printable(text), style="dim"))

    def _print(self, block: str) -> None:
        with self._console:  # in one write: the block is not there twice for a moment, nor gone
            self._erase()
            self._console.print(_Block(block, self._printed), end="")
        self._printed = True

    def _draw(self) -> None:
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            return
        block = _Block(self._text, self._printed, crop=True)
        lines = self._console.render_lines(block, pad=False)
        with self._console:
            self._console.show_cursor(False)
            self._erase()
            self._console.print(block, end="")
        self._widths = [Segment.get_line_length(line) for line in lines]
        self._drawn = time.monotonic()

    def _erase(self) -> None:
        """Takes away what was drawn, by the rows that it has now: a window that was made narrower wrapped its lines."""
        width, height = self._console.size
        rows = min(sum(max(1, -(-cells // width)) for cells in self._widths), height - 1)
        up = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
        if self._widths:
            self._console.control(Control((ControlType.CARRIAGE_RETURN,), *up * rows))
        self._widths = []


class _Block:
    """One block of Markdown, below an empty line if `apart`; with `crop`, as much of its end as the screen holds."""

    def __init__(self, text: str, apart: bool, crop: bool = False):
        self._markdown = Markdown(text, hyperlinks=False)  # addresses are shown: a text can't hide where it leads
        self._apart, self._crop = apart, crop

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._markdown, options.update(height=None), pad=False)
        while lines and _is_blank(lines[-1]):
            lines.pop()
        while lines and _is_blank(lines[0]):
            lines.pop(0)
        if self._apart:
            lines.insert(0, [])
        if self._crop:
            lines = lines[-max(1, options.max_height - 1) :]
        for line in lines:
            yield from line
            yield Segment.line()


def _is_blank(line: list[Segment]) -> bool:
    return not "".join(segment.text for segment in line).strip()


def split_blocks(text: str) -> tuple[list[str], str]:
    """The blocks of a Markdown text that are complete, whatever follows, and the rest.

    A block ends at an empty line that a line without indent follows, outside of fenced code.
    """
    blocks: list[str] = []
    block: list[str] = []
    fence = ""
    *lines, rest = text.split("\n")
    for line in lines:
        if block and not fence and not block[-1].strip() and line[:1].strip():
            blocks.append("\n".join(block).rstrip())
            block = []
        if found := _FENCE.match(line):
            if not fence:
                fence = found[1]
            elif found[1].startswith(fence) and not line[found.end() :].strip():
                fence = ""
        if block or line.strip():
            block.append(line)
    return blocks, "\n".join([*block, rest])
