"""Imports go down the list in README.md, folder by folder, and never in a circle; what is imported late counts too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "octavo"
FILES = {path.relative_to(SRC).as_posix(): path for path in sorted(SRC.rglob("*.py"))}


@cache
def order() -> list[str]:
    """Files and folders of src/octavo as the list has them, from the top. Several of a line are in order too."""
    (listed,) = re.findall(r"^    src/octavo/\n(.*?)^    native/\n", (ROOT / "README.md").read_text(), re.M | re.S)
    names = []
    for line in listed.splitlines():
        if re.match(r" {6}\S", line):  # others go on with what the line before says
            said = re.split(r" {2,}", line.strip())[0]
            names += [name.strip() for name in said.split(",") if name.strip()]
    return names


def place(file: str) -> int:
    """Where in the list a file is: its own line, or its folder's."""
    found = [i for i, name in enumerate(order()) if file == name or (name.endswith("/") and file.startswith(name))]
    return max(found, key=lambda i: len(order()[i]))


def file_of(module: str) -> str | None:
    """The file of a module of Octavo; None of what is not written in Python."""
    path = "/".join(module.split(".")[1:])
    candidates = (f"{path}.py", f"{path}/__init__.py".lstrip("/"))
    return next((name for name in candidates if name in FILES), None)


def imports(file: str) -> Iterator[str]:
    """The files of Octavo that a file imports, wherever in it, also for its types alone."""
    for node in ast.walk(ast.parse(FILES[file].read_text())):
        if isinstance(node, ast.Import):
            modules = [[alias.name] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [[f"{node.module}.{alias.name}", node.module] for alias in node.names]
        else:
            continue
        for names in modules:
            if names[-1].split(".")[0] == "octavo" and names[0] != "octavo._native":
                yield next(found for name in names if (found := file_of(name)) is not None)


def test_every_file_has_a_place_in_the_list() -> None:
    assert [name for name in order() if name not in FILES and not (SRC / name).is_dir()] == []
    for file in FILES:
        place(file)


@pytest.mark.parametrize("file", FILES)
def test_imports_go_down_only(file: str) -> None:
    up = [imported for imported in imports(file) if place(imported) < place(file)]
    assert up == [], f"{order()[place(file)]} stands below them"


def test_no_file_imports_itself_through_others() -> None:
    tuple(TopologicalSorter({file: set(imports(file)) - {file} for file in FILES}).static_order())
