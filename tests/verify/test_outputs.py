"""Programs by what they do: shared inputs, outputs out of the sandbox, groups, and a vote over them."""

from __future__ import annotations

import asyncio
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.api import asolve
from samplewise.core.errors import UsageError
from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Message, Problem, Question, Score
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.runs.redecide import redecide
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.verify.outputs import (
    CallArguments,
    annotated_call,
    example_calls,
    generated_calls,
    group_outputs,
    outputs,
    run_calls,
    shared_calls,
    why_no_inputs,
)

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
KEY = Key(5)


def question(text: str = "Square it.", *tests: str, name: str = "f") -> Question:
    return Question("q", (Message("user", text),), {"entry_point": name, "tests": list(tests)})


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_inputs_are_the_calls_that_a_question_shows() -> None:
    asked = question(
        "def f(x, k=1):\n    '''f([3], k=2) gives 9, as f(g(1)) or f(4,\n 5) does; half(1), f(x) and f(7 are none'''",
        "assert f([1, 2]) == 3\nassert f((1, -2.5), k='a') in {4, f([1, 2])}",
        "import math\nassert math.isclose(f({'a': 1}), 2.0)",
        "assert f(math.pi) == 3",
        "not Python(",
    )
    assert example_calls(asked) == (
        CallArguments(([1, 2],)),
        CallArguments(((1, -2.5),), (("k", "a"),)),
        CallArguments(({"a": 1},)),
        CallArguments(([3],), (("k", 2),)),
        CallArguments((4, 5)),
    )
    assert example_calls(asked._replace(facts={})) == ()


def test_inputs_are_lines_that_give_all_parameters_a_value() -> None:
    asked = question(
        "def f(arr, k, sep=' '):\n  Input: arr = [-3, [4], 5], k = 12\n  For k = -1.5, arr = 'a\\'b' it is 3\n"
        "  arr == [1], k = 3\n  k: 2 alone\n  arr = [1, k = 3\n  arr = x, k = 3\n  arr: {'a': 1}, k: (1, 2)"
    )
    assert example_calls(asked) == (
        CallArguments(([-3, [4], 5], 12)),
        CallArguments(("a'b", -1.5)),
        CallArguments(({"a": 1}, (1, 2))),
    )


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("def f(n: int) -> int:", (7,)),
        ("def f(xs: List[float], t: 'float' = 0.5) -> bool:", ([2.5, 1.0, 4.5],)),
        ("def f(a: str,\n      b: Optional[List[int]],\n      c: Tuple[int, str]):", None),
        ("def f(d: Dict[str, int], s: set):", ({"hello world": 7}, {1, 2, 3})),
        ("def f(grid: list[list[int]]):", ([[3, 1, 2], [3, 1, 2]],)),
        ("def f(x, y: int):", None),
        ("def f(x: Widget):", None),
        ("def f():", None),
        ("no function", None),
    ],
)
def test_without_an_example_inputs_follow_from_annotations(head: str, expected: tuple[object, ...] | None) -> None:
    call = annotated_call(question(f"Write it:\n\n    {head}\n        '''doc'''\n"))
    if "Optional" in head:
        assert call == CallArguments(("hello world", [3, 1, 2], (7, "hello world")))
    else:
        assert (None if call is None else call.args) == expected


values = st.recursive(
    st.integers(-9, 99) | st.floats(-9, 9) | st.text("abc ", max_size=4) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text("ab"), inner),
    max_leaves=6,
)


@given(st.lists(values, min_size=1, max_size=3), st.integers(0, 20), st.integers(0, 9))
def test_generated_inputs_are_of_the_same_types(args: list[object], num: int, seed: int) -> None:
    """They follow from the key, are different, and each can be written down and read again."""
    examples = (CallArguments(tuple(args)),)
    calls = generated_calls(Key(seed), examples, num)
    assert calls == generated_calls(Key(seed), examples, num)
    assert len(calls) <= num
    assert len({repr(call) for call in (*examples, *calls)}) == len(calls) + 1
    for call in calls:
        assert [type(value) for value in call.args] == [type(value) for value in args]
        assert repr(eval(repr(call.args))) == repr(call.args)


def test_generated_inputs_stay_within_what_the_examples_show() -> None:
    calls = generated_calls(KEY, (CallArguments(([4, 7], "abc")), CallArguments(([2], "b"))), 60)
    assert len(calls) == 60
    for numbers, text in (call.args for call in calls):
        assert numbers, "no list of the examples is empty"
        assert all(number >= 1 for number in numbers), "and no number below 1"
        assert text
        assert set(text) <= set("abc")
    assert min(call.args[0] for call in generated_calls(KEY, (CallArguments((2,)), CallArguments((3,))), 40)) == 1
    negative = generated_calls(KEY, (CallArguments((-1,)), CallArguments((5,))), 40)
    assert any(call.args[0] < -1 for call in negative)


def test_examples_come_first_and_are_the_same_for_all() -> None:
    asked = question("f(9)", "assert f(2) == 4", "assert f(3) == 9")
    calls = shared_calls(KEY, asked, 8)
    assert calls[:3] == (CallArguments((2,)), CallArguments((3,)), CallArguments((9,)))
    assert len(calls) == len(set(calls)) == 8
    assert shared_calls(KEY, asked, 2) == calls[:2]
    assert calls == shared_calls(KEY, asked, 8) != shared_calls(Key(6), asked, 8)


def test_why_there_are_no_inputs() -> None:
    assert why_no_inputs(question("f(3)")) == ""
    assert why_no_inputs(question("def f(x: int):")) == ""
    assert "shows no call" in why_no_inputs(question("Square it."))
    assert "does not name a function" in why_no_inputs(Question("q", (Message("user", "f(3)"),)))


# --- groups -----------------------------------------------------------------------------------------------------------


def test_programs_with_equal_outputs_are_one_group() -> None:
    rows = [("=1", "=2"), ("=1", "=3"), ("=1", "=2"), None, ("!Error", "!Error"), ("=1", "!Error")]
    groups = group_outputs(rows, 2).tolist()
    assert groups[:3] == [0.0, 1.0, 0.0]
    assert math.isnan(groups[3])
    assert math.isnan(groups[4])
    assert groups[5] == 2.0
    assert np.isnan(group_outputs([None, ("!late",)], 1)).all()


def test_a_generated_input_on_which_most_fail_is_none() -> None:
    """Two of three raise on the third input, each in its own way: the function is not meant for it."""
    rows = [("=1", "=2", "!ValueError"), ("=1", "=2", "!IndexError"), ("=1", "=2", "=0")]
    assert group_outputs(rows, 2).tolist() == [0.0, 0.0, 0.0]
    assert group_outputs(rows, 3).tolist() == [0.0, 1.0, 2.0], "an example counts, whoever fails on it"
    two = [("=1", "=2", "!ValueError"), ("=1", "=2", "=0"), ("=1", "=2", "=0")]
    assert group_outputs(two, 2).tolist() == [0.0, 1.0, 1.0]


SQUARES = ["x * x", "x ** 2", "x + x", "abs(x) * abs(x)", "x ** 2.0"]


@needs_bubblewrap
def test_outputs_of_programs() -> None:
    """Equal values have equal texts; what raises, hangs, exits, prints or does not load has its own."""
    programs = [
        "def f(x):\n    return {x, x + 1}, 0.1 + 0.2, True, None, 'a', [1.0]",
        "def f(x):\n    print('noise')\n    return {x + 1, x}, 0.3, 1, None, 'a', [1]",
        "def f(x):\n    return 1 // (x - 1) and (i for i in (1, 2))",
        "def f(x):\n    while x == 2: pass\n    return (1, 2)",
        "import sys\ndef f(x):\n    sys.exit(0)",
        "def f(x",
        "def f(x):\n    x.append(1)",
    ]
    ran = run_calls(programs, [CallArguments((1,)), CallArguments((2,))], "f")
    assert (
        ran[0]
        == ran[1]
        == ("=tuple(set(1, 2), 0.3, 1, None, 'a', list(1))",) * 1 + ("=tuple(set(2, 3), 0.3, 1, None, 'a', list(1))",)
    )
    assert ran[2] == ("!ZeroDivisionError", "=iterator(1, 2)")
    assert ran[3] == ("=tuple(1, 2)", "!late")
    assert ran[4] == ("!SystemExit", "!SystemExit")
    assert ran[5] == ("!failed", "!failed")
    assert ran[6] == ("!AttributeError", "!AttributeError")
    (changed,) = run_calls(["def f(x):\n    x.append(1)"], [CallArguments(([0],))], "f")
    assert changed == ("=list(None, tuple(list(0, 1)))",), "an argument changed in place is what it does"


@needs_bubblewrap
def test_programs_are_numbered_by_what_they_do() -> None:
    asked = question("Square a number.", "assert f(2) == 4")
    texts = [f"```python\ndef f(x):\n    return {source}\n```" for source in SQUARES] + ["no idea"]
    candidates = tuple(map(Candidate, texts))
    judge = outputs()
    assert judge.next_asks(KEY, asked, candidates, (None,) * 6, ()) == ()
    scores = judge.rate(KEY, asked, candidates, (None,) * 6, ())
    assert scores[:5] == (0.0, 0.0, 1.0, 0.0, 0.0), "x + x is right on the example, and not elsewhere"
    assert math.isnan(scores[5])
    assert judge.scores(KEY, asked, candidates, (None,) * 6, ()) == {"": scores} or math.isnan(scores[5])
    (one,) = (outputs(1).rate(KEY, asked, candidates[:3], (None,) * 3, ()),)
    assert one == (0.0, 0.0, 0.0), "on the example alone they cannot be told apart"


# --- in a run ---------------------------------------------------------------------------------------------------------


def test_a_question_without_a_program_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    class Silent(Toy):
        async def answer(self, asks):  # type: ignore[no-untyped-def]
            raise AssertionError("nothing should be drawn")
            yield

    with pytest.raises(UsageError, match=r"outputs cannot score answers to .*does not name a function"):
        asyncio.run(asolve("Square 3", engine=Silent(3), recipe="repeat(2) | behaviour"))
    with pytest.raises(UsageError, match=r"shows no call of its function"):
        asyncio.run(asolve("Square 3", engine=Silent(3), recipe="repeat(2) | behaviour(8)", facts={"entry_point": "f"}))
    problems = tuple(Problem(Question(f"q{i}", (Message("user", "word"),)), "a") for i in range(2))
    task = Task("words", problems, lambda q, t: t or None, lambda p, a: Score(0.0))
    with Store(tmp_path / "s.db") as store, pytest.raises(UsageError, match="does not name a function"):
        asyncio.run(run_task(task, recipe("repeat(2) | behaviour"), Silent(3), store))


@needs_bubblewrap
def test_a_stored_run_is_decided_again_by_behaviour(tmp_path: Path) -> None:
    """No engine, no token: programs of the toy engine are texts that are no programs, so the likeliest is taken."""
    facts = {"entry_point": "f", "tests": ["assert f(1) == 1"]}
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),), facts), "a") for i in range(2))
    task = Task("words", problems, lambda q, t: t or None, lambda p, a: Score(1.0))
    with Store(tmp_path / "s.db") as store:
        asyncio.run(run_task(task, recipe("repeat(4, max_tokens=3) | vote"), Toy(3), store))
        (stored,) = store.runs()
        assert len(redecide(store, stored, "behaviour")) == 2
        chosen = [row for row in store.selections(stored.id) if row.selector == "behaviour"]
        for row, record in zip(chosen, store.records(stored.id), strict=True):
            logp = [c.logp_sum for c in record.pool.candidates]
            assert row.position == logp.index(max(logp))
            assert all(math.isnan(score) for score in store.scores(stored.id, row.question)["outputs"])
