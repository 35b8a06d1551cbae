"""The Game of 24: the enumeration against the published list, the fixed splits, the wordings."""

from __future__ import annotations

import hashlib
import os
from fractions import Fraction
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from samplewise.core.errors import BadInput, SetupError
from samplewise.core.types import Candidate, Message, Problem, Question
from samplewise.tasks.base import Task, data_folder, first_problems
from samplewise.tasks.countdown import solutions, solve_numbers
from samplewise.tasks.game24 import FULL, game24, puzzle_question, ranked_puzzles, solvable
from samplewise.verify.puzzle import is_solution, puzzle, read_puzzle

DATA = Path(os.environ.get("SAMPLEWISE_DATA") or Path(__file__).parents[3] / "shared" / "data")
needs_data = pytest.mark.skipif(
    not (DATA / "benchmarks" / "game24_24.csv").is_file(), reason="no published puzzles: set SAMPLEWISE_DATA"
)


def test_every_puzzle_has_a_right_solution_and_the_others_have_none() -> None:
    puzzles = solvable()
    assert len(puzzles) == 1362
    assert all(is_solution(numbers, 24, solution) for numbers, solution in puzzles)
    rest = set(combinations_with_replacement(range(1, 14), 4)) - {numbers for numbers, _ in puzzles}
    assert len(rest) == 458
    assert all(
        not solutions(numbers, 24) for numbers in sorted(rest)[::60]
    )  # the full search agrees with the quick one


def test_solutions_are_all_right_all_different_and_include_the_one_given() -> None:
    for numbers, solution in solvable()[::90]:
        found = solutions(numbers, 24)
        assert solution in found
        question = puzzle_question(numbers)
        for text in found:
            assert is_solution(numbers, 24, text)
            assert read_puzzle(question, f"Answer: {text} = 24") == text
    assert solutions((3, 3, 8, 8), 24) == {"8 / (3 - 8 / 3)"}
    assert solutions((1, 5, 5, 5), 24) == {"5 * (5 - 1 / 5)"}


def brute(numbers: tuple[Fraction, ...]) -> set[Fraction]:
    """Every value, by taking any two numbers at a time."""
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[Fraction] = set()
    for i in range(len(numbers)):
        for j in range(len(numbers)):
            if i != j:
                a, b = numbers[i], numbers[j]
                rest = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
                for c in (a + b, a - b, a * b, *([a / b] if b else [])):
                    found |= brute((*rest, c))
    return found


@pytest.mark.parametrize("numbers", [(0, 3, 7), (2, 2, 5), (4, 7, 9), (1, 1, 1), (0, 0, 6), (5,), (3, 8)])
def test_the_solver_against_brute_force(numbers: tuple[int, ...]) -> None:
    values = brute(tuple(map(Fraction, numbers)))
    for target in range(-70, 71):
        solution = solve_numbers(numbers, target)
        assert (solution is not None) == (target in values), (numbers, target)
        assert solution is None or is_solution(numbers, target, solution)
        assert (solution is not None) == bool(solutions(numbers, target))


def test_the_solver_does_countdown_and_refuses_what_it_cannot() -> None:
    solution = solve_numbers((2, 5, 10, 25, 75), 812)
    assert solution is None or is_solution((2, 5, 10, 25, 75), 812, solution)
    for numbers in ((), (1,) * 7, (-1, 3)):
        with pytest.raises(ValueError, match="numbers"):
            solve_numbers(numbers, 24)


def test_splits_are_fixed_for_good() -> None:
    """A change of the order would put puzzles that a setting was chosen on into a test."""
    everything = [q.id for q in game24("all").questions]
    assert everything[:5] == [
        "game24/2-2-4-9",
        "game24/2-8-8-10",
        "game24/6-6-9-10",
        "game24/4-7-8-13",
        "game24/10-11-11-12",
    ]
    assert hashlib.sha256("\n".join(everything).encode()).hexdigest()[:16] == "05eb9c10831b122a"
    dev, test = game24("dev"), game24()
    assert (len(dev.problems), len(test.problems)) == (262, 1100)
    assert [q.id for q in (*dev.questions, *test.questions)] == everything
    assert game24(limit=100).problems == test.problems[:100]
    assert len(game24("dev", limit=10_000).problems) == 262


def test_wordings() -> None:
    problem = game24("all", limit=1).problems[0]
    assert problem.question == Question(
        "game24/2-2-4-9", (Message("user", "make 24 from 2 2 4 9"),), {"numbers": [2, 2, 4, 9], "target": 24}
    )
    assert is_solution([2, 2, 4, 9], 24, problem.reference)
    (full,) = game24("all", limit=1, prompt="full").questions
    assert full.id == problem.question.id
    assert full.messages[0].content.startswith("Use the numbers 2, 2, 4 and 9 to make 24.")
    assert full.messages[0].content.endswith("Answer: <expression> = 24")
    assert read_puzzle(full, FULL) is None  # the instructions hold no answer
    assert puzzle_question((9, 4, 2, 2)).id == problem.question.id
    assert puzzle_question((9, 4, 2, 2)).messages[0].content == "make 24 from 9 4 2 2"
    assert puzzle_question((3, 5), target=8).id == "make8/3-5"


def test_reading_and_grading_go_together() -> None:
    task = game24(limit=20)
    verify = puzzle()
    for problem in task.problems:
        assert task.grade(problem, problem.reference).value == 1.0
        assert task.grade(problem, None).value == 0.0
        assert task.grade(problem, "4 * 6").value == 0.0
        assert verify(problem.question, Candidate(f"So {problem.reference} = 24.")).value == 1.0


def test_misuse() -> None:
    with pytest.raises(ValueError, match="split must be one of dev, test, all, published, got 'train'"):
        game24("train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prompt must be one of plain, full"):
        game24(prompt="long")  # type: ignore[arg-type]
    for limit in (0, -3):
        with pytest.raises(ValueError, match="limit must be at least 1"):
            game24(limit=limit)
    task = game24(limit=2)
    with pytest.raises(ValueError, match="no problems"):
        Task("empty", (), task.read, task.grade)
    with pytest.raises(ValueError, match="2 problems but only 1"):
        Task("twice", (task.problems[0],) * 2, task.read, task.grade)
    assert first_problems([Problem(Question("a", ()))], None)[0].question.id == "a"


@needs_data
def test_the_enumeration_is_the_published_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(DATA))
    rows = ranked_puzzles()
    assert len(rows) == 1362
    assert {tuple(sorted(numbers)) for numbers in rows} == {numbers for numbers, _ in solvable()}
    task = game24("published")
    assert len(task.problems) == 100
    assert task.problems[0].question.facts["numbers"] == list(rows[900])
    assert task.licence == "MIT"
    assert len(game24("published", limit=7).problems) == 7


def test_the_published_split_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(tmp_path / "nowhere"))
    assert data_folder() is None
    with pytest.raises(SetupError, match="set SAMPLEWISE_DATA"):
        game24("published")
    monkeypatch.setenv("SAMPLEWISE_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"has no benchmarks/game24_24\.csv"):
        game24("published")
    file = tmp_path / "game24_24.csv"
    for content, message in (
        ("Rank,Puzzles\n1,1 1 4 6\n", "has 1 puzzles"),
        ("Rank,Puzzles\n1,1 one 4 6\n", r"csv:2: expected a column Puzzles"),
        ("Rank\n1\n", r"csv:2: expected a column Puzzles"),
    ):
        file.write_text(content)
        with pytest.raises(BadInput, match=message):
            game24("published")
