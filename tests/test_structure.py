"""Files are read in one sitting, functions on one screen, and errors are where they are said to be."""

import ast
import re
from pathlib import Path

import pytest

from octavo import errors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "octavo"
PYTHON = sorted(PACKAGE.rglob("*.py"))
CPP = sorted(path for path in (ROOT / "native").rglob("*") if path.suffix in (".cpp", ".h", ".c"))
LONGEST_FILE, LONGEST_FAMILY, LONGEST_FUNCTION = 450, 120, 60  # lines
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def named(path):
    return str(path.relative_to(ROOT))


def python_functions(source):
    """(name, lines) of each function of a Python file, decorators left out."""
    return [(node.name, node.end_lineno - node.lineno + 1) for node in nodes(source, FUNCTIONS)]


def nodes(source, kind):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, kind)]


def cpp_functions(source):
    """(first line, lines) of each outermost block that is no namespace, class or enumeration: functions and tables."""
    quiet = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', blank, source, flags=re.DOTALL)
    found, scopes, begin = [], [], 0  # scopes: for each open brace, the place of its function's begin, or None
    for at in [match.start() for match in re.finditer(r"[{};]", quiet)]:
        if quiet[at] == "{":
            inside = next((place for place in scopes if place is not None), None)
            head = quiet[begin:at]
            is_scope = re.search(r"\b(namespace|struct|class|union|enum|extern)\b[^()]*$", head) is not None
            scopes.append(None if inside is not None or is_scope else begin + len(head) - len(head.lstrip()))
        elif quiet[at] == "}" and (place := scopes.pop()) is not None:
            lines = source[place : at + 1].splitlines()
            found.append((lines[0], len(lines)))
        begin = at + 1
    return found


def blank(match):
    return re.sub(r"[^\n]", " ", match[0])


def test_the_counts_of_functions_are_right():
    source = "namespace a {\n// a {\nstruct B {\n  int c() const {\n    if (d) { e(); }\n    return '{';\n  }\n};\n"
    assert cpp_functions(source + "}\nint f(\n    int x) {\n}\n") == [("int c() const {", 4), ("int f(", 3)]
    assert python_functions("class A:\n    @b\n    def c(self):\n        def d(): ...\n\n        return d\n") == [
        ("c", 4),
        ("d", 1),
    ]


def test_a_family_is_a_page_and_all_of_them_are_a_short_book():
    lines = {path.stem: len(path.read_text().splitlines()) for path in (PACKAGE / "models").glob("*.py")}
    shared = {"base", "decoder", "mixture", "registry", "rope"}  # what families have in common
    assert [name for name, count in lines.items() if count > LONGEST_FAMILY and name not in shared] == []
    assert sum(lines.values()) <= 5000
    encoders = {path.stem: len(path.read_text().splitlines()) for path in (PACKAGE / "models/encoders").glob("*.py")}
    assert [name for name, count in encoders.items() if count > LONGEST_FAMILY and name != "encoder"] == []


@pytest.mark.parametrize("path", [*PYTHON, *CPP], ids=named)
def test_no_file_and_no_function_is_too_long(path):
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= LONGEST_FILE
    functions = python_functions(source) if path.suffix == ".py" else cpp_functions(source)
    assert [function for function in functions if function[1] > LONGEST_FUNCTION] == []


def test_the_errors_of_the_library_are_in_one_file_and_its_tree_has_all_of_them():
    classes = nodes((PACKAGE / "errors.py").read_text(encoding="utf-8"), ast.ClassDef)
    assert {node.name for node in classes} == set(
        re.findall(r"^\W*(\w+Error)\b", errors.__doc__.split("\n\n")[1], re.MULTILINE)
    )
    known, elsewhere = {node.name for node in classes}, {}
    for path in PYTHON:
        for node in nodes(path.read_text(encoding="utf-8"), ast.ClassDef):
            if known & {ast.unparse(base) for base in node.bases} and path != PACKAGE / "errors.py":
                elsewhere[node.name] = path.relative_to(PACKAGE).parts[0]
    assert "HttpError" in elsewhere
    assert set(elsewhere.values()) <= {"cli", "client", "server"}
