"""Arithmetic puzzles with worked solutions, as text: what the tiny model is trained on.

A puzzle is played forward: from random numbers, random valid steps reach some value, and that value becomes the target.
Steps keep whole numbers from 0 to `CAP` and write the larger number first. Every row goes through `emit`, which drops
whatever touches the held-out set: four numbers from 1 to 13 with target 24, the Game of 24.
"""

from __future__ import annotations

import random  # noqa: TID251 - only seeded instances, much faster than numpy for single draws
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CAP = 199
GOAL = 24
OPS = "+-*/"
SPOKEN = {"+": "plus", "-": "minus", "*": "times", "/": "over"}
STYLES = ("brief", "left", "words")
ASKED = {"brief": "brief", "left": "show what is left", "words": "in words"}

IntArray = npt.NDArray[np.int64]
Rule = Callable[[Sequence[int], int], bool]


class Step(NamedTuple):
    """One line of a solution, `a op b = result`."""

    a: int
    op: str
    b: int
    result: int


class Puzzle(NamedTuple):
    """What the prompt says (`numbers`, `target`) and the steps of a response, right or flawed."""

    numbers: tuple[int, ...]
    target: int
    steps: tuple[Step, ...]


class Row(NamedTuple):
    """One training example as text; tokens are separated by single spaces."""

    system: str
    prompt: str
    response: str


class Flaws(NamedTuple):
    """Shares of flawed rows."""

    falsified: float = 0.16
    slip: float = 0.02
    claimed: float = 0.015
    wrong_number: float = 0.015


FLAWS = Flaws()


# ---------------------------------------------------------------------------------------------------------- hold-out


def is_held_out(numbers: Sequence[int], target: int) -> bool:
    """Whether this is a Game of 24 puzzle: four numbers from 1 to 13 and target 24, solvable or not."""
    return target == GOAL and len(numbers) == 4 and all(1 <= number <= 13 for number in numbers)


def leaves(steps: Sequence[Step]) -> list[int]:
    """The numbers the steps take from the puzzle: operands that no earlier step produced."""
    made: list[int] = []
    taken: list[int] = []
    for step in steps:
        for operand in (step.a, step.b):
            if operand in made:
                made.remove(operand)
            else:
                taken.append(operand)
        made.append(step.result)
    return taken


def touches_held_out(puzzle: Puzzle, rule: Rule = is_held_out) -> bool:
    """Whether the prompt asks a held-out puzzle, or the response works one out under another prompt."""
    if rule(puzzle.numbers, puzzle.target):
        return True
    if not puzzle.steps:
        return False
    shown = puzzle.steps[-1].result
    return rule(puzzle.numbers, shown) or rule(leaves(puzzle.steps), shown)


# ---------------------------------------------------------------------------------------------------- playing forward


def play(numbers: IntArray, rng: np.random.Generator, slip: float = 0.0) -> IntArray:
    """Random valid steps for each row of numbers: an array (rows, n - 1, 4) of a, op, b, result.

    With probability `slip` per row, one of its results is off by a little, and later steps use the wrong value.
    """
    rows, count = numbers.shape
    state = numbers.copy()
    steps = np.empty((rows, count - 1, 4), dtype=np.int64)
    slipping = np.where(rng.random(rows) < slip, rng.integers(0, max(count - 1, 1), rows), -1)
    for k in range(count - 1):
        state = rng.permuted(state, axis=1)
        a, b = np.maximum(state[:, 0], state[:, 1]), np.minimum(state[:, 0], state[:, 1])
        op: IntArray = np.asarray(rng.integers(0, 4, rows))
        inexact = (op == 3) & ((b == 0) | (a % np.maximum(b, 1) != 0))
        op = np.where(inexact, rng.integers(0, 3, rows), op)
        op = np.where((op == 2) & (a * b > CAP), rng.integers(0, 2, rows), op)
        op = np.where((op == 0) & (a + b > CAP), 1, op)
        result = np.choose(op, [a + b, a - b, a * b, a // np.maximum(b, 1)])
        off = rng.choice(np.array([-10, -2, -1, 1, 2, 10]), rows)
        result = np.where((slipping == k) & (result + off >= 0) & (result + off <= CAP), result + off, result)
        steps[:, k] = np.stack([a, op, b, result], axis=1)
        state = np.concatenate([state[:, 2:], result[:, None]], axis=1)
    return steps


def deal(kind: str, rows: int, rng: np.random.Generator) -> IntArray:
    """Numbers for one kind of puzzle: `large` has some number above 13, `three` has one in-between result."""
    small = rng.integers(1, 14, (rows, 4))
    if kind == "small":
        return small
    if kind == "large":
        where = np.arange(rows)
        small[where, rng.integers(0, 4, rows)] = 14 + np.minimum(rng.geometric(0.12, rows) - 1, 30)
        again = rng.random(rows) < 0.12
        small[where[again], rng.integers(0, 4, again.sum())] = rng.integers(14, 31, again.sum())
        return small
    if kind == "three":
        made = play(small[:, :2], rng)[:, 0, 3]
        return np.stack([small[:, 2], small[:, 3], np.maximum(made, 1)], axis=1)
    if kind == "two":
        return rng.integers(1, 40, (rows, 2))
    raise ValueError(f"no such kind of puzzle: {kind}")


# How a batch is mixed: kind, whether the target is 24, share.
MIX = (
    ("large", True, 0.46),
    ("small", False, 0.24),
    ("large", False, 0.04),
    ("three", True, 0.17),
    ("three", False, 0.05),
    ("two", True, 0.02),
    ("two", False, 0.02),
)


def puzzles(count: int, rng: np.random.Generator, flaws: Flaws = FLAWS, rule: Rule = is_held_out) -> list[Puzzle]:
    """About `count` puzzles of the training mix, in random order, none of them touching the held-out set."""
    found: list[Puzzle] = []
    for kind, goal, share in MIX:
        found += _kind(kind, goal, round(count * share), rng, flaws, rule)
    return [found[i] for i in rng.permutation(len(found))]


def _kind(kind: str, goal: bool, count: int, rng: np.random.Generator, flaws: Flaws, rule: Rule) -> Iterator[Puzzle]:
    left = count
    while left > 0:
        rows = min(400_000, max(2_000, left * (80 if goal else 3)))
        numbers = deal(kind, rows, rng)
        slip = flaws.slip / (1 + flaws.slip)
        steps = play(numbers, rng, slip)
        final = steps[:, -1, 3]
        hit = (final == GOAL) if goal else (final >= 10) & (final <= 40) & (final != GOAL)
        keep = np.flatnonzero(hit)[:left]
        loose = np.flatnonzero(~hit)
        claims = rng.random(len(keep))
        for i, claim in zip(keep.tolist(), claims.tolist(), strict=True):
            target = int(final[i])
            if claim < flaws.falsified + flaws.claimed and len(loose):
                i = int(loose[rng.integers(len(loose))])
            path = tuple(Step(a, OPS[op], b, c) for a, op, b, c in steps[i].tolist())
            if claim < flaws.claimed:
                path = (*path[:-1], path[-1]._replace(result=target))
            shown = rng.permutation(numbers[i]).tolist()
            if 1 - claim < flaws.wrong_number:
                shown[0] = max(1, shown[0] + int(rng.integers(-3, 4)))
            puzzle = Puzzle(tuple(shown), target, path)
            if not touches_held_out(puzzle, rule):
                left -= 1
                yield puzzle


# ------------------------------------------------------------------------------------------------------------ language

NOUNS = (  # noqa: SIM905
    "river sky garden train bread window teacher student baker friend clock lamp road forest cat dog bird boat market "
    "letter song story table chair kitchen mountain winter summer morning evening engineer judge poet pilot farmer "
    "doctor mathematician"
).split()
ADJECTIVES = (  # noqa: SIM905
    "cold warm quiet loud bright dark old new small large blue green red slow fast careful patient curious bold calm "
    "kind clever precise cheerful"
).split()
TIMES = ["today", "tonight", "again", "always", "often"]
REMARKS = (
    "note the {n} is {a} {t}",
    "note the {a} {n} is {a}",
    "note a {n} and a {n} are here {t}",
    "the {n} was {a}",
    "remember the {n} near the {n}",
)
ROLES = (
    "you are a {a} {n}",
    "you are a {a} and {a} {n}",
    "you are a {n} who likes numbers",
    "think like a {a} {n} and check each step",
    "you solve puzzles one step at a time",
    "be {a} and try an idea that others would not",
)
UNKNOWN = "<unk>"
FIRST, REPHRASE = "first step to", "rephrase"


def words() -> list[str]:
    """Every word of the language, in a fixed order."""
    text = " ".join(
        [
            *("make from prefer start with then is ( left ) , . = + - * /", FIRST, REPHRASE),
            *SPOKEN.values(),
            *ASKED.values(),
            *NOUNS,
            *ADJECTIVES,
            *TIMES,
            *(template.replace("{n}", "").replace("{a}", "").replace("{t}", "") for template in REMARKS + ROLES),
            "use only the all number answer solution solve find another different way good please ? ! : ; ' \"",
        ]
    )
    return list(dict.fromkeys(text.split()))


def fill(template: str, rng: random.Random) -> str:
    """A template with random words in its places; now and then one word is unknown."""
    out = []
    for word in template.split():
        pick = {"{n}": NOUNS, "{a}": ADJECTIVES, "{t}": TIMES}.get(word)
        word = rng.choice(pick) if pick else word
        out.append(UNKNOWN if pick and rng.random() < 0.08 else word)
    return " ".join(out)


def ask(numbers: Sequence[int], target: int) -> str:
    """The plain prompt."""
    return f"make {target} from {' '.join(map(str, numbers))}"


def write(puzzle: Puzzle, style: str) -> str:
    """The steps of a puzzle as a response in one of the three styles."""
    left = list(puzzle.numbers)
    parts = []
    for a, op, b, result in puzzle.steps:
        if style == "words":
            parts.append(f"{a} {SPOKEN[op]} {b} is {result}")
            continue
        text = f"{a} {op} {b} = {result}"
        if style == "left":
            for operand in (a, b):
                if operand in left:
                    left.remove(operand)
            left.append(result)
            text += f" ( left {' '.join(map(str, left))} )"
        parts.append(text)
    return (" , then " if style == "words" else " , ").join(parts)


def first_hint(puzzle: Puzzle, rng: random.Random) -> str:
    """A first step to start with: mostly the real one, else a random one."""
    a, op, b, _ = puzzle.steps[0]
    if rng.random() < 0.2:
        a, b = rng.sample(puzzle.numbers, 2)
        a, b = max(a, b), min(a, b)
        op = rng.choice(OPS)
    if rng.random() < 0.15 and op in "+*":
        a, b = b, a
    return f"start with {a} {op} {b}"


def operation_hint(puzzle: Puzzle, rng: random.Random) -> str:
    """An operation to prefer: mostly the most frequent one, sometimes another one used, rarely any."""
    used = [step.op for step in puzzle.steps]
    draw = rng.random()
    if draw < 0.75:
        return f"prefer {max(rng.sample(used, len(used)), key=used.count)}"
    return f"prefer {rng.choice(used if draw < 0.92 else OPS)}"


def emit(puzzle: Puzzle, rng: random.Random, rule: Rule = is_held_out) -> Row | None:
    """A puzzle as one training row, or None if it touches the held-out set. Every row is made here."""
    if touches_held_out(puzzle, rule):
        return None
    plain = ask(puzzle.numbers, puzzle.target)
    system = fill(rng.choice(ROLES), rng) if rng.random() < 0.05 else ""
    draw = rng.random()
    if draw < 0.025:
        step = puzzle.steps[0]
        return Row(system, f"{FIRST} {plain}", f"{step.a} {step.op} {step.b}")
    if draw < 0.045:
        shuffled = rng.sample(puzzle.numbers, len(puzzle.numbers))
        return Row(system, f"{REPHRASE} {plain}", ask(shuffled, puzzle.target))
    if draw < 0.07:
        plain = f"{plain} . {plain}"
    style = rng.choices(STYLES, (0.5, 0.3, 0.2))[0]
    hints = []
    families = rng.sample(("prefer", "start", "remark", "style"), rng.choices((0, 1, 2), (0.52, 0.38, 0.10))[0])
    for family in families:
        if family == "prefer":
            hints.append(operation_hint(puzzle, rng))
        elif family == "start":
            hints.append(first_hint(puzzle, rng))
        elif family == "remark":
            hints.append(fill(rng.choice(REMARKS), rng))
        else:
            asked = style if rng.random() < 0.95 else rng.choice(STYLES)
            hints.append(ASKED[asked])
    return Row(system, " . ".join([plain, *hints]), write(puzzle, style))


def rows(count: int, seed: Sequence[int], rule: Rule = is_held_out, flaws: Flaws = FLAWS) -> list[Row]:
    """About `count` training rows from a seed."""
    numbers = np.random.default_rng(list(seed))
    language = random.Random(int(numbers.integers(2**62)))
    made = (emit(puzzle, language, rule) for puzzle in puzzles(count, numbers, flaws, rule))
    return [row for row in made if row is not None]


# ------------------------------------------------------------------------------------------------------------- solving


def solvable(numbers: Sequence[int], target: int = GOAL) -> bool:
    """Whether the target can be reached with all numbers, fractions and negative numbers included."""

    def search(state: tuple[float, ...]) -> bool:
        if len(state) == 1:
            return abs(state[0] - target) < 1e-6
        for i in range(len(state)):
            for j in range(i):
                a, b = state[i], state[j]
                rest = tuple(state[k] for k in range(len(state)) if k not in (i, j))
                results = {a + b, a - b, b - a, a * b}
                results |= {a / b} if b else set()
                results |= {b / a} if a else set()
                if any(search((*rest, result)) for result in results):
                    return True
        return False

    return search(tuple(map(float, numbers)))
