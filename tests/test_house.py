"""The bench that counts the source, on a checkout small enough to count by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    "src/mini/__init__.py": '"""A package."""\n',
    "src/mini/one.py": '''"""A module.

Two lines of it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mini.deep.three import Three


def shared(a, b, c, d, e, f, *rest) -> Any:  # seven
    """Call the other."""
    from mini.deep import two

    text = """first

    third"""
    return two.other(text)


class Both:
    def method(self, a, b, c, d, e, f):
        return "no more than six"
''',
    "src/mini/deep/__init__.py": "",
    "src/mini/deep/two.py": """import mini.one

def other(text):
    total = 0
    for word in text.split():
        if word in ("a", "b"):
            total += 1
        else:
            total -= 2
    return total, mini.one

def another(text):
    total = 0
    for word in text.split():
        if word in ("a", "b"):
            total += 1
        else:
            total -= 2
    return total

def third(line):
    value = 7
    for part in line.rows():
        if part in ("c", "d"):
            value += 3
        else:
            value -= 4
    return value
""",
    "src/mini/deep/three.py": "from mini import one\n\nclass Three: ...\nclass Both: ...\ndef _own(): ...\n",
    "tests/test_one.py": "def test() -> None:\n    assert True  # always\n",
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    checkout = tmp_path_factory.mktemp("checkout")
    for name, text in FILES.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    command = [sys.executable, "-m", "bench.house", str(checkout)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_code_lines_are_those_of_neither_comments_nor_docstrings(figures: dict[str, Any]) -> None:
    assert figures["modules"] == 5
    assert dict(figures["largest_files"]) == {
        "deep/two.py": 25,
        "one.py": 11,
        "deep/three.py": 4,
        "__init__.py": 0,
        "deep/__init__.py": 0,
    }
    assert figures["packages"] == {
        "(top)": {"modules": 2, "code_lines": 11},
        "deep": {"modules": 3, "code_lines": 29},
    }
    assert figures["code_lines"] == 40
    assert figures["tests_over_code"] == 0.05
    assert figures["largest_functions"][:2] == [["deep.two.another", 8], ["deep.two.other", 8]]


def test_cycles_go_through_late_imports_but_not_through_those_of_the_type_checker(figures: dict[str, Any]) -> None:
    assert figures["module_cycles_list"] == [["mini.deep.two", "mini.one"]]
    assert figures["package_cycles_list"] == [["deep", "one"]]
    assert figures["late_imports"] == 1


def test_names_parameters_and_any(figures: dict[str, Any]) -> None:
    assert figures["names_defined_twice_list"] == {"Both": ["mini.deep.three", "mini.one"]}
    assert figures["many_parameters_list"] == [["one.shared", 7]]
    assert figures["any_uses"] == 1


def test_duplicates_are_found_literally_and_by_shape(figures: dict[str, Any]) -> None:
    literal, shape = figures["duplicates_literal"], figures["duplicates_shape"]
    assert literal == {"matches": 1, "lines": 12, "longest": [["deep/two.py", 4, "deep/two.py", 13, 6]]}
    assert [match[4] for match in shape["longest"]] == [8, 7, 7]
    assert shape["lines"] == 23  # all but one return
