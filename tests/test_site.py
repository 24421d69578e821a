"""The documentation site has every page, its links lead there, and it fetches nothing from other sites."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "mkdocs.yml"
SMALL = 100 << 10  # bytes of a picture


class Reader(yaml.SafeLoader):
    """Reads mkdocs.yml without calling what it names."""


Reader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def pages(entries):
    """The files of a navigation, in order."""
    for entry in entries:
        for value in entry.values():
            yield from pages(value) if isinstance(value, list) else [value]


def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "site_hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation_once():
    listed = list(pages(yaml.load(SETTINGS.read_text(encoding="utf-8"), Reader)["nav"]))
    docs = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert len(listed) == len(set(listed))
    assert set(listed) == docs | {"index.md", "CHANGELOG.md", "benchmarks/schema.md"}


@pytest.mark.parametrize(
    ("page", "link", "there"),
    [
        ("index.md", "(docs/api.md#class-llm)", "(api.md#class-llm)"),
        ("index.md", "(docs/pictures/load.svg)", "(pictures/load.svg)"),
        ("index.md", "(LICENSE)", "(LICENSE)"),
        ("clients.md", "(../benchmarks/schema.md)", "(benchmarks/schema.md)"),
        ("serving.md", "(metrics.md#traces)", "(metrics.md#traces)"),
        ("serving.md", "(#limits)", "(#limits)"),
        ("serving.md", "(https://example.com/a.md)", "(https://example.com/a.md)"),
        ("serving.md", "(../src/no-page.py)", "(../src/no-page.py)"),
        ("benchmarks/schema.md", "(../docs/clients.md)", "(../clients.md)"),
        ("CHANGELOG.md", "(docs/tools.md)", "(tools.md)"),
        ("serving.md", "(../README.md#try-it)", "(index.md#try-it)"),
    ],
)
def test_links_of_the_repository_become_those_of_the_site(page, link, there):
    assert hooks().rewritten(f"[a]{link}", page) == f"[a]{there}"


def test_what_is_not_on_the_site_is_named_without_a_link():
    assert hooks().rewritten("in [src](../src) and [`this`](../mkdocs.yml)", "serving.md") == "in src and `this`"


def test_pictures_are_small_and_each_is_on_a_page():
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    for picture in (ROOT / "docs" / "pictures").iterdir():
        assert picture.stat().st_size <= SMALL, picture.name
        assert f"pictures/{picture.name}" in text


@pytest.mark.skipif(
    importlib.util.find_spec("material") is None, reason="needs mkdocs-material; .ci/run builds the site"
)
def test_the_site_is_built_and_fetches_nothing(tmp_path):
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=quiet, check=True, timeout=300)
    for page in tmp_path.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"""(?:<script|<img|<iframe)[^>]*src=["']?https?:|<link[^>]*href=["']?https?://""", text)
