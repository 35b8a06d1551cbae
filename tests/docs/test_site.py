"""The site's contents: every page of docs/ is in the navigation, or left out by name. `make site` checks the links."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def listed(part: Any) -> Iterator[tuple[str, str]]:
    """Yield title and page of every entry."""
    for entry in part:
        ((title, content),) = entry.items()
        if isinstance(content, str):
            yield title, content
        else:
            yield from listed(content)


def test_every_page_is_in_the_navigation_once_or_left_out_by_name() -> None:
    entries = list(listed(SETTINGS["nav"]))
    pages = [page for _, page in entries]
    left_out = SETTINGS["exclude_docs"].split()
    there = {
        path.relative_to(DOCS).as_posix()
        for path in DOCS.rglob("*.md")
        if not any(fnmatch.fnmatch(path.name, pattern) for pattern in left_out)
    }
    assert there - set(pages) == set(), "pages that nobody finds: put them into mkdocs.yml, or under exclude_docs"
    assert set(pages) - there == set(), "entries without a page"
    assert len(set(pages)) == len(pages)
    assert len({title for title, _ in entries}) == len(entries)
