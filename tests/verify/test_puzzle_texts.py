"""The puzzle verifier on texts by the thousand: solutions and their mutants, hostile texts, recorded draws of GPT-4."""

from __future__ import annotations

import gzip
import json
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from samplewise.core.types import Candidate, Message, Problem, Question, Score
from samplewise.tasks.game24 import ranked_puzzles, solvable
from samplewise.verify.expression import Expression, canonical, parse_tokens
from samplewise.verify.lexing import lex
from samplewise.verify.puzzle import grade_puzzle, is_solution, puzzle, read_puzzle

DATA = Path(os.environ.get("SAMPLEWISE_DATA") or Path(__file__).parents[3] / "shared" / "data")
RECORDED = DATA / "recorded" / "game24_gpt4_100x"


def ask(*numbers: int, target: int = 24) -> Question:
    return Question("q", (Message("user", "make it"),), {"numbers": list(numbers), "target": target})


def canon(text: str) -> str:
    expression = parse_tokens(lex(text))
    assert expression is not None, text
    return canonical(expression)


def verdict(question: Question, text: str, finish: str = "stop") -> Score:
    return puzzle()(question, Candidate(text, finish))  # type: ignore[arg-type]


def number_text(exact: Fraction) -> str:
    return str(exact) if exact.denominator == 1 and exact >= 0 else f"({exact.numerator}/{exact.denominator})"


def test_solutions_are_right_and_their_mutants_wrong() -> None:
    """Each mutant is wrong by construction: other numbers, another value, or a step that is false and used."""
    for numbers, solution in solvable()[::30]:
        question = ask(*numbers)
        tree = parse_tokens(lex(solution))
        assert tree is not None
        chain = derivation(tree)
        for text in (solution, f"Answer: {solution} = 24", " , ".join(chain), " , then ".join(map(spoken, chain))):
            assert verdict(question, text).value == 1.0, (numbers, text)
        most = str(max(numbers))
        mutants = [
            f"Answer: {solution} + 1 = 24",
            f"Answer: ({solution}) ** 1 = 24",
            f"Answer: ({solution})^1 = 24",
            f"Answer: {solution} * {most} / {most} = 24",  # used twice more
            f"Answer: {solution.replace(most, most[:1] + most, 1)} = 24",
            f"Answer: {solution.replace(most, most[0] + ' ' + most, 1)} = 24",  # joined digits, spaced
            f"Answer: {solution[:-1]}",
            "Answer: 24 = 24",
            "Answer: 4 * 6 = 24",
            f"Answer: {' + '.join(map(str, numbers))} = 24" if sum(numbers) != 24 else "",
        ]
        for i, step in enumerate(chain):  # one wrong result, and what follows either goes on with it or does not
            left, _, result = step.rpartition(" = ")
            if "/" in result:
                continue  # the next step writes the fraction out, and needs no result
            false = "23" if result != "23" else "22"
            mutants.append(" , ".join([*chain[:i], f"{left} = {false}", *chain[i + 1 :]]))
            mutants.append(
                " , ".join([*chain[:i], f"{left} = {false}", *(s.replace(result, false) for s in chain[i + 1 :])])
            )
        mutants += [" , ".join(chain[:-1]), " , ".join(chain)[:-1], " , ".join(chain).rpartition(" = ")[0]]
        for mutant in mutants:
            assert verdict(question, mutant).value == 0.0, (numbers, solution, mutant)


def derivation(expression: Expression) -> list[str]:
    if not expression.args:
        return []
    a, b = expression.args
    texts = [
        number_text(x.value) if x.value is not None and x.value >= 0 else f"({x.value})" for x in (a, b, expression)
    ]
    return [*derivation(a), *derivation(b), f"{texts[0]} {expression.op} {texts[1]} = {texts[2]}"]


def spoken(step: str) -> str:
    for sign, word in zip(("+", "-", "*", "=", " / "), ("plus", "minus", "times", "is", " over "), strict=True):
        step = step.replace(f" {sign} ", f" {word} ") if sign != " / " else step.replace(sign, word)
    return step


# -------------------------------------------------------------------------------------------------------- hostile texts

HOSTILE = [
    *(
        "(",
        ")",
        "()",
        "1+",
        "-",
        "1/",
        "**",
        "2**",
        "\\",
        "\\frac{",
        "\\frac{1}{2}",
        "\\boxed{",
        "{",
        "}",
        "9",
        "9a",
        "1.1",
    ),
    *(
        "8 - 6 = 2 , ",
        "8-6=2\n",
        "answer: ",
        "Answer: 24\n",
        "answer is ",
        "a",
        "4x6 ",
        " ",
        "\n",
        "²",
        "∑",
        "\ud800",
        "1+1=2 ",
    ),
    *(
        "not possible ",
        "is equal ",
        "Answer: " + "1+" * 900 + "\n",
        "Answer: " + "(" * 1900 + "\n",
        "1/999999999-",
        "− ",
    ),
]


def test_no_text_takes_long() -> None:
    """A few milliseconds on a free core; the bound leaves room for a busy one. A quadratic step would take seconds."""
    slowest = 0.0
    for unit in HOSTILE:
        text = unit * (100_000 // len(unit))
        taken = []
        for _ in range(2):
            start = time.thread_time()
            assert verdict(ask(4, 6), text).value == 0.0
            assert verdict(ask(4, 6), text, "length").value == 0.0
            taken.append((time.thread_time() - start) / 2)
        slowest = max(slowest, min(taken))
    assert slowest < 0.05, slowest
    assert is_solution([4, 6], 24, "(" * 100_000 + "4*6" + ")" * 100_000) is False
    assert verdict(ask(4, 6), "<p>" * 30_000 + "\nAnswer: 4 * 6 = 24").value == 1.0


@settings(max_examples=120, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.text("0123456789+-*/()=., \n^!{}[]\\xX×÷−−≠½²", max_size=120),
        st.lists(
            st.sampled_from(
                [
                    "4",
                    "6",
                    "24",
                    "+",
                    "-",
                    "*",
                    "/",
                    "(",
                    ")",
                    "=",
                    ",",
                    "\n",
                    "answer:",
                    "Answer",
                    "is",
                    "\\frac",
                    "{",
                    "}",
                    "\\boxed{",
                    "**",
                    "^",
                    "x",
                    "left",
                    "then",
                    ".",
                    "8",
                    "1.5",
                ]
            ),
            max_size=60,
        ).map(" ".join),
    )
)
def test_no_text_raises_and_what_is_read_is_stable(text: str) -> None:
    question = ask(4, 6, 8, 24)
    answer = read_puzzle(question, text)
    score = verdict(question, text)
    assert score == grade_puzzle(Problem(question), answer) if answer else score == Score(0.0, "unread")
    assert verdict(question, text, "length").value in (0.0, 1.0)
    assert is_solution([4, 6], 24, text) in (True, False)
    assert answer is None or canon(answer) == answer


# ------------------------------------------------------------------------------------------------------- recorded draws


@pytest.mark.skipif(not RECORDED.is_dir(), reason="no recorded draws: set SAMPLEWISE_DATA")
@pytest.mark.parametrize(("kind", "right", "solved"), [("cot", 403, 49), ("standard", 734, 33)])
def test_recorded_gpt4_draws(kind: str, right: int, solved: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the published rewards, 10,000 texts each: no verdict differs. The recorded grader reads the last line
    alone, and simplifies it with sympy."""
    monkeypatch.setenv("SAMPLEWISE_DATA", str(DATA))
    with gzip.open(RECORDED / f"gpt-4_0.7_naive_{kind}_sample_100_start900_end1000.json.gz") as file:
        rows = json.load(file)
    puzzles = ranked_puzzles()
    total, some, disagreements = 0, 0, []
    for row in rows:
        question = ask(*puzzles[row["idx"]])
        rewards = row["accs"] if "accs" in row else [info["r"] for info in row["infos"]]
        ours = {text: verdict(question, text).value for text in set(row["ys"])}
        disagreements += [t for t, r in zip(row["ys"], rewards, strict=True) if ours[t] != float(r)]
        total += int(sum(ours[text] for text in row["ys"]))
        some += any(ours.values())
    print(f"{kind}: {total} right of 10000, {some} of 100 puzzles solved, {len(disagreements)} disagreements")
    assert (len(disagreements), total, some) == (0, right, solved)
