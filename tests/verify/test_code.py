"""Public tests for the verifier, hidden tests for the grader alone."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from samplewise.core.errors import SetupError
from samplewise.core.types import Candidate, Problem, Question
from samplewise.verify.code import (
    CodeGrader,
    PublicTests,
    grade_code,
    hidden_program,
    makes_objects,
    modules_used,
    public_tests,
    score_of,
)
from samplewise.verify.sandbox import Limits, ProgramVerdict, Sandbox

HEAD = 'import math\n\ndef f(x):\n    """Twice x."""\n'
COMPLETE = Question(
    "q", (), {"entry_point": "f", "preamble": "import math\n\n", "prompt": HEAD, "tests": ["assert f(1) == 2"]}
)
CHAT = Question(
    "q", (), {"entry_point": "f", "tests": ["assert f(1) == 2", "assert f(3) == 6", "assert f('a') == 'aa'"]}
)
HIDDEN = Problem(CHAT, {"tests": "def check(g):\n    assert g(5) == 10\n    assert g([1]) == [1, 1]\n\ncheck(f)\n"})


def test_the_verifier_cannot_see_hidden_tests() -> None:
    """By type: it is handed a question and a candidate. The grader's program is not made of the question's tests."""
    assert "g(5)" in hidden_program(HIDDEN, "x").tests
    assert "f(1)" not in hidden_program(HIDDEN, "x").tests
    assert "check" not in str(HIDDEN.question.facts)


def test_scores_of_verdicts() -> None:
    assert score_of(ProgramVerdict("passed", reason="fine")).value == 1
    for status in ("failed", "timeout", "memory", "output", "disk", "crashed"):
        score = score_of(ProgramVerdict(status, reason="why"))  # type: ignore[arg-type]
        assert score.value == 0
        assert "why" in score.reason
    for status in ("broken", "unknown"):
        assert math.isnan(score_of(ProgramVerdict(status)).value)


def test_what_tests_need() -> None:
    assert modules_used("assert math.isclose(f(1), 2)\nre.match('a', f(2))\nf.x = 1") == ("math", "re")
    assert modules_used("math = 3\nassert f(math.real)") == ()
    assert modules_used("assert os.listdir()") == ()  # tests that do not say so get no more than the usual
    assert makes_objects("assert f(Node(1))", "class Node: pass")
    assert not makes_objects("assert f(1)", "class Node: pass")
    assert not makes_objects("assert f('\\d')", "x = '\\d'")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    try:
        with Sandbox(1, "bubblewrap") as made:
            made.run(hidden_program(HIDDEN, "pass"))
            yield made
    except SetupError as error:
        pytest.skip(str(error))


def test_grading(sandbox: Sandbox) -> None:
    grade = CodeGrader(Limits(wall_s=1), sandbox)
    assert grade(HIDDEN, "def f(x):\n    return 2 * x\n").value == 1
    wrong = grade(HIDDEN, "def f(x):\n    return 10\n")
    assert (wrong.value, wrong.reason) == (0, "failed: assert g([1]) == [1, 1]")
    assert grade(HIDDEN, None) == grade(HIDDEN, "")
    assert grade(HIDDEN, None).value == 0
    assert "SyntaxError" in grade(HIDDEN, "def f(x) return").reason
    assert grade(HIDDEN, "def f(x):\n    while True: pass").reason == "timeout: stopped after 1 s"
    assert "TypeError" in grade(HIDDEN, "def f(): pass").reason
    assert math.isnan(grade(Problem(CHAT), "def f(x): pass").value)
    assert grade_code == CodeGrader()


def test_tests_that_need_the_programs_own_objects(sandbox: Sandbox) -> None:
    grade = CodeGrader(sandbox=sandbox)
    question = Question("q", (), {"entry_point": "f"})
    tests = "n = Node(3)\nassert f(n) == 3\nassert isinstance(n, Node)"
    answer = "class Node:\n    def __init__(self, v): self.v = v\ndef f(n): return n.v"
    score = grade(Problem(question, {"tests": tests, "level": "together"}), answer)
    assert score.value == 1
    assert "the weaker level" in score.reason
    score = grade(Problem(question, {"tests": tests, "level": "apart"}), answer)
    assert math.isnan(score.value), "what cannot cross is unknown, not wrong"
    assert score.reason == "the program gave a value of type Node, which is not plain data"


@pytest.mark.parametrize("level", ["apart", "together"])
@pytest.mark.parametrize(
    ("answer", "tests", "passes"),
    [
        ("import math\ndef f(x): return math.sqrt(x)", "assert math.isclose(f(2), 1.41421356, rel_tol=1e-6)", True),
        ("def f(x): x.append(1)", "y = [0]\nf(y)\nassert y == [0, 1]", True),
        ("def f(x): return (1, [2.5, {'a': {3}}], None, b'x')",
         "assert f(0) == (1, [2.5, {'a': {3}}], None, b'x')", True),
        ("def f(x): return x * x", "assert f(9 ** 99) == 9 ** 198", True),
        ("def f(x): return [1]", "assert f(0) == (1,)", False),
        ("def f(x): raise ValueError('no')",
         "try:\n    f(1)\nexcept ValueError as e:\n    ok = str(e)\nassert ok == 'no'", True),
        ("class Bad(KeyError): pass\ndef f(x): raise Bad(1)",
         "try:\n    f(1)\nexcept KeyError:\n    x = 1\nassert x", True),
        ("import sys\ndef f(x): sys.exit()", "try:\n    f(1)\nexcept Exception:\n    pass", False),
        ("def f(x): return (i for i in range(x))", "assert list(f(3)) == [0, 1, 2]", True),
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}", True),
        ("def f(x): return g(x)\ndef g(x): return x + 1", "assert f(1) == g(1) == 2", True),
        ("K = 5\ndef f(x): return K * x", "assert f(2) == 2 * K", True),
        ("def f(x, *, y=1): return x + y", "assert f(1, y=2) == 3", True),
        ("f = lambda x: x", "assert f(1) == 1", True),
        ("def sum(a, b): return a + b\ndef f(x): return sum(x, x)", "assert f(1) == 2 and sum([1, 2]) == 3", True),
        ("def f(x): return x", "assert f(1) == 1\nraise RuntimeError('test')", False),
        ("def f(x): return float('nan')", "y = f(1)\nassert y != y", True),
        ("def f(x): return type(x)", "assert f(1) is int", True),
        ("x = 1", "assert f(1) == 1", False),
        ("from __future__ import annotations\ndef f(x: nothing) -> nothing: return 1", "assert f(1) == 1", True),
        ("def f(x: nothing): return 1", "assert f(1) == 1", False),
        # what a program keeps at its top level is its own affair
        ("import itertools\nids = itertools.count(1)\ndef f(x): return next(ids)",
         "assert f(0) == 1\nassert f(0) == 2", True),
        ("def primes():\n    n = 2\n    while True:\n"
         "        if all(n % d for d in range(2, n)): yield n\n        n += 1\n"
         "gen = primes()\ndef f(x): return next(gen)", "assert f(0) == 2\nassert f(0) == 3", True),
        ("table = list(range(10 ** 7))\ndef f(x): return table[x]", "assert f(7) == 7", True),
        ("table = bytearray(4 * 10 ** 7)\ndef f(x): return table[x]", "assert f(7) == 0", True),
        ("text = 'x' * 70_000_000\ndef f(x): return text[x]", "assert f(7) == 'x'", True),
        ("calls = 0\nlog = []\ndef f(x):\n    global calls\n    calls += 1\n    log.append(x)\n    return x",
         "f(3)\nf(4)\nassert calls == 2 and log == [3, 4]", True),
        ("class A: pass\ndef f(x): return A()", "assert f(1) == 1", False),
        ("def f(x): return lambda: x", "assert f(1) == 1", False),
        ("def f(x): return f", "assert f(1) != 1 and not isinstance(f(1), int)", True),
    ],
)  # fmt: skip
def test_both_levels_agree_on_honest_programs(
    sandbox: Sandbox, level: str, answer: str, tests: str, passes: bool
) -> None:
    question = Question("q", (), {"entry_point": "f"})
    score = CodeGrader(sandbox=sandbox)(Problem(question, {"tests": tests, "level": level}), answer)
    assert score.value == passes, score


@pytest.mark.parametrize(
    ("answer", "tests"),
    [
        ("import itertools\nids = itertools.count(1)\ndef f(x): return x", "assert next(ids) == 1"),
        ("class A:\n    v = 3\ndef f(x): return A()", "assert f(1).v == 3"),
        ("class A:\n    def __eq__(self, other): return other == 3\ndef f(x): return A()", "assert f(1) == 3"),
        ("def f(x): return lambda: 3", "assert f(1)() == 3"),
        ("def f(x): return [lambda: 3]", "assert f(1)[0]() == 3"),
        ("def f(g): return g(3)", "assert f(lambda x: x) == 3"),
        ("def f(x): return 'x' * 70_000_000", "assert len(f(1)) == 70_000_000"),
        ("import itertools\ndef f(x): return itertools.count(x)", "assert next(f(3)) == 3"),
    ],
)
def test_what_cannot_cross_is_unknown(sandbox: Sandbox, answer: str, tests: str) -> None:
    """Right programs, as the other level says, whose tests need more than plain data."""
    question = Question("q", (), {"entry_point": "f"})
    grade = CodeGrader(sandbox=sandbox)
    assert grade(Problem(question, {"tests": tests, "level": "together"}), answer).value == 1
    score = grade(Problem(question, {"tests": tests, "level": "apart"}), answer)
    assert math.isnan(score.value), score
    assert "the program gave" in score.reason or "an argument is" in score.reason


def test_programs_that_read_standard_input(sandbox: Sandbox) -> None:
    grade = CodeGrader(Limits(wall_s=1), sandbox)
    problem = Problem(Question("q", (), {"entry_point": "main"}), {"cases": [["1 2\n", "3\n"], ["5 5", "10"]]})
    assert grade(problem, "print(sum(map(int, input().split())))").value == 1
    assert grade(problem, "print(sum(map(int, input().split())), end='  \\n\\n')").value == 1
    assert grade(problem, "print(3)").reason == "case 2: another output than expected"
    assert grade(problem, "print('3 ', 10)").value == 0
    assert "EOFError" in grade(problem, "input(); input()").reason
    assert grade(problem, "while True: pass").value == 0


def test_an_entry_point_may_have_the_name_of_a_builtin(sandbox: Sandbox) -> None:
    problem = Problem(Question("q", (), {"entry_point": "sum"}), {"tests": "assert sum(1, 2) == 3"})
    assert CodeGrader(sandbox=sandbox)(problem, "def sum(a, b): return a + b").value == 1


def test_public_tests(sandbox: Sandbox) -> None:
    verify = PublicTests(Limits(wall_s=1), sandbox)

    def score(text: str, question: Question = CHAT) -> float:
        return verify(question, Candidate(text)).value

    assert score("def f(x): return 2 * x") == 1
    assert score("def f(x): return x + x if x != 3 else 0") == pytest.approx(2 / 3)
    assert score("def f(x): return 0") == 0
    assert score("no code") == 0
    assert score("    return 2 * x", COMPLETE) == 1
    assert score("    return x", COMPLETE) == 0
    assert math.isnan(score("def f(x): return 1", Question("q", (), {"entry_point": "f"})))
    assert verify(CHAT, Candidate("def f(x): return x + x if x != 3 else 0")).reason == "2 of 3 public tests passed"
    assert isinstance(public_tests(), PublicTests)
    with pytest.raises(ValueError, match="wall_s must be more than 0"):
        public_tests(wall_s=0)
