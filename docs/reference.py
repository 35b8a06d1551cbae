"""Write docs/reference.md: every registered part with its arguments. `make docs` runs it; a test compares the two.

python docs/reference.py            write the page
python docs/reference.py --check    exit with 1 where the page is not what the registry says
"""

from __future__ import annotations

import sys
from pathlib import Path

from samplewise.cli.parts import STAGES, sorted_names
from samplewise.core import registry

PAGE = Path(__file__).with_name("reference.md")
HEAD = """# Reference: every part

Made from the registry by `make docs`. `samplewise list` prints the same, with the plugins that are installed.
Arguments after `*` are given by name.
"""


def reference() -> str:
    """Return the page as Markdown. Plugins are left out: the page is the same on every machine."""
    sections = [HEAD]
    for kind, heading in STAGES:
        built_in = [name for name in sorted_names(kind) if name in registry.BUILT_IN[kind]]
        advised = [name for name in built_in if not registry.published(kind, name)]
        published = [name for name in built_in if registry.published(kind, name)]
        sections.append(_section(f"## {heading[0].upper()}{heading[1:]}", kind, advised))
        if published:
            title = "### Published, kept for comparison"
            sections.append(_section(title, kind, published))
    return "\n".join(sections)


def _section(title: str, kind: registry.Kind, names: list[str]) -> str:
    rows = [f"| `{name}{registry.signature(kind, name)}` | {_cell(registry.summary(kind, name))} |" for name in names]
    return "\n".join([title, "", "| call | what it does |", "| --- | --- |", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(PAGE.read_text(encoding="utf-8") != reference())
    PAGE.write_text(reference(), encoding="utf-8")
