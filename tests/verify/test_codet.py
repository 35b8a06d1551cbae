"""CodeT: tests out of messy texts, which solutions pass them, and what their groups are worth."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Completion, Message, Question
from samplewise.verify.codet import codet, codet_scores, read_tests, who_passes

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def test_groups_are_worth_the_root_of_their_size_times_their_tests() -> None:
    """(4 solutions, 3 tests), (1, 5), (9, 2): 6, 5, 6."""
    rows = [[1, 1, 1, 0, 0, 0]] * 4 + [[1, 1, 1, 1, 1, 0]] + [[0, 0, 0, 0, 1, 1]] * 9
    assert codet_scores(np.array(rows, dtype=bool)).tolist() == pytest.approx([6.0] * 4 + [5.0] + [6.0] * 9)
    assert np.isnan(codet_scores(np.zeros((3, 0), dtype=bool))).all()


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=12), st.randoms())
def test_order_does_not_matter(rows: list[list[bool]], rng: object) -> None:
    passed = np.array(rows)
    order = list(range(len(rows)))
    rng.shuffle(order)  # type: ignore[attr-defined]
    assert codet_scores(passed[order]).tolist() == codet_scores(passed)[order].tolist()


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
    scores = codet_scores(passed)
    assert scores.argmax() in (0, 6)


LIARS = [
    """
import sys
class Out:
    def write(self, text): return sys.__stderr__.write(text.replace("0", "1"))
    def flush(self): pass
sys.stdout = sys.__stdout__ = Out()
print("\\nsamplewise tests passed: [1, 1, 1]")
def f(x): return 4
""",
    """
class Equal(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def f(x): return Equal(4)
""",
    """
class Equal:
    def __eq__(self, other): return True
def f(x): return Equal() if x != 2 else 4
""",
    """
import builtins, json, os
builtins.AssertionError = type("Mute", (BaseException,), {})
json.dumps = lambda value: "[1, 1, 1]"
for n in range(3, 32):
    try: os.write(n, b"1" * 64)
    except OSError: pass
def f(x): return 4
""",
]


@needs_bubblewrap
def test_a_program_that_lies_wins_nothing() -> None:
    """It passes what its functions return, whatever it prints, patches or compares equal to."""
    honest = ["def f(x): return x * x", "def f(x): return x ** 2"]
    tests = ["assert f(2) == 4", "assert f(3) == 9", "assert f(0) == 0"]
    passed = who_passes([*honest, *LIARS], tests, "f")
    assert passed[:2].all()
    assert not passed[2:, 1:].any()
    assert codet_scores(passed).argmax() in (0, 1)


@needs_bubblewrap
def test_programs_are_chosen_by_agreement_on_tests_that_a_model_wrote() -> None:
    """Three right programs, two that are wrong in different ways, one that is none; some of the tests are wrong."""
    facts = {"entry_point": "f", "tests": []}
    question = Question("q", (Message("user", "Square a number: f(x)"),), facts)
    sources = ["x * x", "x ** 2", "x + x", "x * 3", "abs(x) * abs(x)"]
    texts = [f"```python\ndef f(x):\n    return {source}\n```" for source in sources]
    candidates = tuple(map(Candidate, (*texts, "no idea")))
    judge = codet(texts=2)
    asks = judge.next_asks(Key(0), question, candidates, (None,) * 6, ())
    assert len(asks) == len(set(asks)) == 2
    assert "f" in asks[0].messages[0].content
    replies = tuple(Completion(text, "stop") for text in ("assert f(3) == 9\nassert f(4) == 16", "assert f(1) == 3"))
    assert judge.next_asks(Key(0), question, candidates, (None,) * 6, (replies,)) == ()
    scores = judge.rate(Key(0), question, candidates, (None,) * 6, (replies,))
    assert scores[0] == scores[1] == scores[4] == pytest.approx(np.sqrt(3) * 2)
    assert scores[2] == 0.0
    assert scores[3] == 2.0, "right on 3 by chance, and on the wrong test"
    assert np.isnan(scores[5])
    assert np.isnan(judge.rate(Key(0), question, candidates, (None,) * 6, ())).all(), "no tests came"
