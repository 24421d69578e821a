"""Hooks of mkdocs: files beside docs/ become pages of the site, and the README its first, without a copy of any."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = {"README.md": "index.md"}  # where files of the repository are on the site, where that is not as they are called
OUTSIDE = ("README.md", "CHANGELOG.md", "LICENSE", "benchmarks/schema.md")
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_files(files: Any, *, config: Any) -> Any:
    """Adds the files that are not in docs/."""
    from mkdocs.structure.files import File

    for name in OUTSIDE:
        files.append(File.generated(config, FILES.get(name, name), content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links that are right in the repository become those that are right on the site."""
    return rewritten(markdown, page.file.src_uri)


def rewritten(markdown: str, page: str) -> str:
    """The text of a page, by its path on the site, with links by where files are there.

    What is in the repository and not on the site is named without a link.
    """
    inside = {site: file for file, site in FILES.items()}
    source = inside.get(page, page if page in OUTSIDE else f"docs/{page}")

    def link(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target in OUTSIDE or target.startswith("docs/"):
            on_site = FILES.get(target, target.removeprefix("docs/"))
            return f"[{text}]({posixpath.relpath(on_site, posixpath.dirname(page) or '.')}{anchor})"
        return text if (ROOT / target).exists() else match[0]  # which is an error of the build

    return LINK.sub(link, markdown)
