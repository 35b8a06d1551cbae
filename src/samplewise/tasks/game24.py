"""The Game of 24: make 24 from four numbers from 1 to 13, each used once, with + - * / and brackets.

Of the 1,820 sets of four numbers 1,362 can be solved. The exact solver finds all of them in under a second, so nothing
has to be downloaded. The checker is exact as well, so a reference is never needed; a problem still carries one
solution.

Splits are fixed: a fixed key puts the puzzles in an order, the first 262 are `dev` and the other 1,100 `test`, and any
`limit` is a fair sample. `published` is the test set of the literature, puzzles 901 to 1000 by the time that people
needed, read from the file of princeton-nlp/tree-of-thought-llm (MIT).
"""

from __future__ import annotations

import csv
from functools import lru_cache
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Literal, get_args

from samplewise.core.checks import check_choice
from samplewise.core.errors import BadInput, SetupError
from samplewise.core.keys import Key
from samplewise.core.types import Message, Problem, Question
from samplewise.tasks.base import Task, data_folder, first_problems
from samplewise.tasks.countdown import solve_numbers
from samplewise.verify.puzzle import grade_puzzle, read_puzzle

Split = Literal["dev", "test", "all", "published"]
Prompt = Literal["plain", "full"]

TARGET = 24
NUM_DEV = 262
RANKS = slice(900, 1000)  # of the published file
FILE = "game24_24.csv"
_ORDER = Key(24).fold("game24", "order")

FULL = """Use the numbers {numbers} to make {target}.

Rules:
- Use each of the {count} numbers exactly once. A number that is given twice is used twice.
- Use only +, -, * and / (exact division), and brackets. Do not join digits, and use no other numbers.

Work step by step if it helps. End with one line of this form, a single expression that uses all the numbers:
Answer: <expression> = {target}"""


def game24(split: Split = "test", *, limit: int | None = None, prompt: Prompt = "plain") -> Task:
    """Load the Game of 24.

    `prompt` is "plain" (`make 24 from 4 6 7 8`, as the bundled model was trained) or "full" (for chat models).
    """
    check_choice("split", split, get_args(Split))
    check_choice("prompt", prompt, get_args(Prompt))
    if split == "published":
        rows = published_puzzles()
        solved = tuple((numbers, solve_numbers(numbers, TARGET)) for numbers in rows[:limit])
    else:
        chosen = {"dev": slice(None, NUM_DEV), "test": slice(NUM_DEV, None), "all": slice(None)}[split]
        solved = solvable()[chosen]
    return Task(
        name="game24" if split == "test" else f"game24-{split}",
        problems=first_problems(
            [Problem(puzzle_question(numbers, prompt=prompt), solution) for numbers, solution in solved], limit
        ),
        read=read_puzzle,
        grade=grade_puzzle,
        source=f"ranks 901 to 1000 of {FILE}, princeton-nlp/tree-of-thought-llm"
        if split == "published"
        else "enumerated",
        licence="MIT" if split == "published" else "Apache-2.0",
        description="Make 24 from four numbers from 1 to 13.",
    )


def puzzle_question(numbers: tuple[int, ...], *, target: int = TARGET, prompt: Prompt = "plain") -> Question:
    """Return the question for some numbers, in the order given; its id does not depend on their order."""
    if prompt == "plain":
        text = f"make {target} from {' '.join(map(str, numbers))}"
    else:
        listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        text = FULL.format(numbers=listed, target=target, count=len(numbers))
    name = "game24" if target == TARGET else f"make{target}"
    return Question(
        id=f"{name}/{'-'.join(map(str, sorted(numbers)))}",
        messages=(Message("user", text),),
        facts={"numbers": list(numbers), "target": target},
    )


@lru_cache(maxsize=1)
def solvable() -> tuple[tuple[tuple[int, ...], str], ...]:
    """Return the 1,362 solvable puzzles with one solution each, in the fixed order of the splits."""
    puzzles = [
        (numbers, solution)
        for numbers in combinations_with_replacement(range(1, 14), 4)
        if (solution := solve_numbers(numbers, TARGET)) is not None
    ]
    return tuple(sorted(puzzles, key=lambda puzzle: _ORDER.fold("-".join(map(str, puzzle[0]))).seed()))


def published_puzzles() -> tuple[tuple[int, ...], ...]:
    """Return the published test set: ranks 901 to 1000, in the order of the file."""
    return ranked_puzzles()[RANKS]


def ranked_puzzles() -> tuple[tuple[int, ...], ...]:
    """Return all puzzles of the published file, easiest for people first."""
    folder = data_folder()
    if folder is None:
        raise SetupError(f"the published Game of 24 puzzles need {FILE}; set SAMPLEWISE_DATA to the folder that has it")
    path = next((p for p in (folder / "benchmarks" / FILE, folder / FILE) if p.is_file()), None)
    if path is None:
        raise BadInput(f"{folder}: has no benchmarks/{FILE}; point SAMPLEWISE_DATA at a folder that does")
    return _rows(path)


def _rows(path: Path) -> tuple[tuple[int, ...], ...]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        try:
            puzzles = tuple(tuple(int(number) for number in row["Puzzles"].split()) for row in rows)
        except (KeyError, ValueError, AttributeError):
            raise BadInput(
                f"{path}:{rows.line_num}: expected a column Puzzles of whole numbers such as 4 6 7 8"
            ) from None
    if len(puzzles) < RANKS.stop:
        raise BadInput(f"{path}: has {len(puzzles)} puzzles, expected at least {RANKS.stop}")
    return puzzles
