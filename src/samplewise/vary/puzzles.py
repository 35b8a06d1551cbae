"""The same families in the words of the bundled model, which knows nothing but `make 24 from 4 6 7 8` and a few hints
behind it: so every level can be measured in minutes, on a model that nobody tuned for it.

    level 1  remark                 . note the river is cold today
    level 2  prefer                 . prefer *
    level 3  step, random_step      . start with 8 - 6
    level 4  permute                make 24 from 7 4 8 6
    level 5  again                  . make 24 from 4 6 7 8

Hints may be composed (`permute + prefer`); the model was trained on at most two.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, permutations
from typing import NamedTuple

from samplewise.errors import UsageError
from samplewise.keys import Key
from samplewise.samplers.base import Variant
from samplewise.samplers.repeat import count
from samplewise.types import Json, Message, Question
from samplewise.vary.base import Arm, Made, PlainArm
from samplewise.vary.pools.versions import versioned
from samplewise.vary.reading import without_thoughts
from samplewise.vary.slots import reworded, wording
from samplewise.vary.thinker import Drafts, Thinker, Verdict, family_id

OPERATIONS = {"+": "plus", "-": "minus", "*": "times", "/": "over"}
CAP = 199  # the largest number that the model can write
MAX_NUMBERS = 6  # whose orders are listed
REMARKS = (
    "note the river is cold today",
    "note the old clock is slow",
    "note a dog and a bird are here tonight",
    "the kitchen was warm",
    "remember the lamp near the window",
    "note the market is loud again",
    "note the green boat is small",
    "the mountain was dark",
    "remember the letter near the chair",
    "note the teacher is kind always",
    "note a poet and a pilot are here often",
    "the garden was quiet",
)
_STEP = re.compile(r"(?<![\w.])(\d{1,4})\s*([-+*/])\s*(\d{1,4})(?![\w.])")


class Puzzle(NamedTuple):
    """The numbers in the order in which the prompt has them, and the prompt's own words for the puzzle."""

    numbers: tuple[int, ...]
    target: int
    plain: str


def permute(num: int = 4) -> Arm:
    """The numbers of a puzzle in another order, drawn by the key: a rephrasing that needs no thinker. A puzzle with
    fewer different orders has fewer variants."""
    count("num", num)

    def make(key: Key, question: Question, heard: object) -> Made:
        puzzle = puzzle_of(question, "permute", "rephrase")
        if len(puzzle.numbers) > MAX_NUMBERS:
            raise UsageError(f"permute takes puzzles of at most {MAX_NUMBERS} numbers, got {len(puzzle.numbers)}")
        others = sorted(set(permutations(puzzle.numbers)) - {puzzle.numbers})
        picked = [others[place] for place in key.generator().permutation(len(others))[:num].tolist()]
        text = wording(question)
        variants = [
            Variant(f"permute/{place}", reworded(question, text.replace(puzzle.plain, _plain(puzzle.target, order))))
            for place, order in enumerate(picked, start=1)
        ]
        if not variants:
            return Made((Variant("permute/1", question.messages),), fallbacks=1)
        return Made(tuple(variants))

    return Arm("permute", make)


def step(num: int = 4, *, thinker: Thinker = "", max_tokens: int = 8) -> Arm:
    """First steps for a puzzle, named by the bundled model as its own thinker; ids are `step.single/1` and so on.

    One that the numbers do not allow is asked for once more, and so is one that came already. Cost: a request of about
    20 tokens each.
    """

    def request(key: Key, question: Question, place: int, shown: tuple[str, ...]) -> str:
        return f"first step to {puzzle_of(question, 'step', 'idea').plain}"

    def judge(question: Question, text: str) -> Verdict:
        return "" if text in steps_of(puzzle_of(question, "step", "idea").numbers) else "loss"

    def placed(question: Question, text: str) -> tuple[Message, ...]:
        return _hinted(question, f"start with {text}")

    def twice(question: Question, texts: Sequence[str]) -> tuple[bool, ...]:
        return tuple(text in texts[:place] for place, text in enumerate(texts))

    return Drafts(
        family_id("step", thinker),
        num,
        thinker,
        request,
        read_step,
        placed,
        judge,
        twice,
        max_tokens,
    ).arm()


def random_step(num: int = 4) -> Arm:
    """First steps drawn by the key out of all that the numbers allow: ideas without a thinker, often dead ends."""
    count("num", num)

    def make(key: Key, question: Question, heard: object) -> Made:
        steps = steps_of(puzzle_of(question, "random_step", "idea").numbers)
        if not steps:
            return Made((Variant("random_step/1", question.messages),), fallbacks=1)
        picked = [steps[place] for place in key.generator().permutation(len(steps))[:num].tolist()]
        return Made(
            tuple(
                Variant(name, _hinted(question, f"start with {text}"), group=name)
                for name, text in ((f"random_step/{place}", text) for place, text in enumerate(picked, start=1))
            )
        )

    return Arm("random_step", make)


def prefer(*operations: str) -> PlainArm:
    """An operation to prefer, one variant for each: `prefer("*", "/")`, all four without any."""
    chosen = operations or tuple(OPERATIONS)
    for operation in chosen:
        if operation not in OPERATIONS:
            raise ValueError(f"prefer takes operations out of {' '.join(OPERATIONS)}, got {operation!r}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"prefer names an operation twice: {' '.join(chosen)}")

    def arm(question: Question) -> tuple[Variant, ...]:
        puzzle_of(question, "prefer", "instruction")
        return tuple(
            Variant(f"{versioned('prefer')}/{OPERATIONS[operation]}", _hinted(question, f"prefer {operation}"))
            for operation in chosen
        )

    return arm


def remark(num: int = 4) -> Arm:
    """A remark about something else in the bundled model's words, `num` of twelve: a control. Ids `remark/01` to 12."""
    if count("num", num) > len(REMARKS):
        raise ValueError(f"num must be at most {len(REMARKS)}, the size of the pool; got {num}")

    def make(key: Key, question: Question, heard: object) -> Made:
        puzzle_of(question, "remark", "irrelevant")
        places, own = key.generator().permutation(len(REMARKS))[:num].tolist(), versioned("remark")
        return Made(tuple(Variant(f"{own}/{place + 1:02}", _hinted(question, REMARKS[place])) for place in places))

    return Arm("remark", make)


def again() -> PlainArm:
    """The puzzle given twice, in the bundled model's words: a control."""

    def arm(question: Question) -> tuple[Variant, ...]:
        return (Variant("again", _hinted(question, puzzle_of(question, "again", "verbatim").plain)),)

    return arm


def puzzle_of(question: Question, arm: str, instead: str) -> Puzzle:
    """The puzzle that a question asks; UsageError, with the arm that suits it, where it asks none in these words."""
    numbers: Json = question.facts.get("numbers")
    target: Json = question.facts.get("target")
    if not _are_whole(numbers) or not _are_whole([target]):
        raise UsageError(
            f"arm {arm} is for puzzles with whole numbers and a target in their facts, and question {question.id!r} "
            f"has none; {instead} suits any question"
        )
    match = re.search(rf"\bmake {target} from (\d+(?: \d+)*)", wording(question))
    given = tuple(map(int, match[1].split())) if match else ()
    if match is None or Counter(given) != Counter(numbers):
        raise UsageError(
            f"arm {arm} speaks the bundled model's language, and the prompt of question {question.id!r} does not say "
            f"{_plain(target, numbers)!r}; {instead} suits any prompt"
        )
    return Puzzle(given, target, match[0])


def steps_of(numbers: Sequence[int]) -> tuple[str, ...]:
    """Every first step with two of the numbers that stays in whole numbers from 0 to CAP, the larger number first."""
    found: dict[str, None] = {}
    for one, other in combinations(sorted(numbers, reverse=True), 2):
        fits = {"+": one + other <= CAP, "-": True, "*": one * other <= CAP, "/": other > 0 and one % other == 0}
        found |= {f"{one} {operation} {other}": None for operation in OPERATIONS if fits[operation]}
    return tuple(found)


def read_step(reply: str) -> str:
    """The first operation in a reply, the larger number first where order does not matter; "" where there is none."""
    match = _STEP.search(without_thoughts(reply))
    if match is None:
        return ""
    one, operation, other = int(match[1]), match[2], int(match[3])
    if operation in "+*" and other > one:
        one, other = other, one
    return f"{one} {operation} {other}"


def _hinted(question: Question, hint: str) -> tuple[Message, ...]:
    return reworded(question, f"{wording(question)} . {hint}")


def _plain(target: int, numbers: Sequence[int]) -> str:
    return f"make {target} from {' '.join(map(str, numbers))}"


def _are_whole(values: object) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) > 0
        and all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
    )
