"""The page on tools has every format of the tables."""

import re
from pathlib import Path

import pytest

from octavo.chat_formats.table import CALL_FORMATS
from octavo.chat_formats.thinking import THINKING

PAGE = Path(__file__).parents[2] / "docs" / "tools.md"


@pytest.mark.parametrize(
    ("flag", "entries"), [("tool-call-parser", CALL_FORMATS), ("reasoning-parser", THINKING)], ids=["calls", "thinking"]
)
def test_the_page_on_tools_has_every_format_with_its_names(flag, entries):
    table = PAGE.read_text(encoding="utf-8").split(f"| format | `--{flag}`")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `([\w.-]+)` \| (.*?) \|", table, re.MULTILINE)
    found = [(name, tuple(re.findall(r"`([\w.-]+)`", names))) for name, names in rows]
    assert found == [(entry.name, entry.parsers) for entry in entries]
