"""CodeT: tests out of messy texts, which solutions pass them, and what their groups are worth."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.verify.agreement import agreement_scores, read_tests, who_passes

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def test_groups_are_worth_the_root_of_their_size_times_their_tests() -> None:
    """(4 solutions, 3 tests), (1, 5), (9, 2): 6, 5, 6."""
    rows = [[1, 1, 1, 0, 0, 0]] * 4 + [[1, 1, 1, 1, 1, 0]] + [[0, 0, 0, 0, 1, 1]] * 9
    assert agreement_scores(np.array(rows, dtype=bool)).tolist() == pytest.approx([6.0] * 4 + [5.0] + [6.0] * 9)
    assert np.isnan(agreement_scores(np.zeros((3, 0), dtype=bool))).all()


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=12), st.randoms())
def test_order_does_not_matter(rows: list[list[bool]], rng: object) -> None:
    passed = np.array(rows)
    order = list(range(len(rows)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    assert agreement_scores(passed[order]).tolist() == agreement_scores(passed)[order].tolist()


def test_tests_are_read_out_of_texts() -> None:
    texts = [
        "\n    f([], 1) == False, 'Empty list'\nassert \n    f([1, 1], 1) == True, 'same'\nassert \n    f([1",
        "____ == ____, 'failed'\n\nimport os",
        "assert f([], 1)==False\nassert g(2) == 3\nassert True",
        "f(0) == 0\nprint(1)\n" + "".join(f"assert f({i}) == {i}\n" for i in range(1, 9)),
        "(f(1) == 1, 'a tuple is always true')",
    ]
    found = read_tests(texts, "f")
    assert found[0] == "assert f([], 1) == False", "the most frequent first, in one spelling"
    assert set(found[1:]) == {"assert f([1, 1], 1) == True", *(f"assert f({i}) == {i}" for i in range(5))}


@needs_bubblewrap
def test_who_passes_what() -> None:
    right = "def f(x):\n    return x * x"
    solutions = [
        right,
        "def f(x):\n    return x + x",
        "def f(x):\n    while x == 3:\n        pass\n    return x * x",
        "import sys\ndef f(x):\n    sys.exit(0)",
        "def f(x)",
        "raise SystemExit",
        right,
    ]
    tests = ["assert f(2) == 4", "assert f(3) == 9", "assert f(0) == 0"]
    passed = who_passes(solutions, tests)
    assert passed.astype(int).tolist() == [[1, 1, 1], [1, 0, 1], [1, 0, 1], [0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 1, 1]]
    scores = agreement_scores(passed)
    assert scores.argmax() in (0, 6)
