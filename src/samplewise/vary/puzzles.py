"""The same five levels of arms in the language of the bundled model, which knows `make 24 from 4 6 7 8` and a few
hints.

So every level can be measured in minutes, on a model that nobody tuned for it.

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

from samplewise.core.checks import check_count
from samplewise.core.errors import UsageError
from samplewise.core.keys import Key
from samplewise.core.types import Json, Message, Question
from samplewise.samplers.base import Variant
from samplewise.vary.base import Arm, ArmResult, PlainArm
from samplewise.vary.helpers import Drafts, DraftVerdict, Helper, family_id
from samplewise.vary.pools.versions import versioned
from samplewise.vary.reading import without_thoughts
from samplewise.vary.slots import reworded, wording

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


class PromptPuzzle(NamedTuple):
    """The numbers in the prompt's order, the target, and the prompt's own text for the puzzle."""

    numbers: tuple[int, ...]
    target: int
    plain: str


def permute(num: int = 4) -> Arm:
    """Vary the order of a puzzle's numbers, drawn by the key: a rephrasing without a helper.

    A puzzle with fewer different orders has fewer variants.
    """
    check_count("num", num)

    def make(key: Key, question: Question, replies: object) -> ArmResult:
        puzzle = puzzle_of(question, "permute", "rephrase")
        if len(puzzle.numbers) > MAX_NUMBERS:
            raise UsageError(f"permute takes puzzles of at most {MAX_NUMBERS} numbers, got {len(puzzle.numbers)}")
        orders = sorted(set(permutations(puzzle.numbers)) - {puzzle.numbers})
        picked = [orders[index] for index in key.generator().permutation(len(orders))[:num].tolist()]
        text = wording(question)
        variants = [
            Variant(f"permute/{index}", reworded(question, text.replace(puzzle.plain, _plain(puzzle.target, order))))
            for index, order in enumerate(picked, start=1)
        ]
        if not variants:
            return ArmResult((Variant("permute/1", question.messages),), fallbacks=1)
        return ArmResult(tuple(variants))

    return Arm("permute", make)


def step(num: int = 4, *, helper: Helper = "", max_tokens: int = 8) -> Arm:
    """Vary by first steps for a puzzle, which the bundled model names as its own helper; ids are `step.single/1` and so
    on.

    If a step is not possible with the numbers, or repeats another, the helper is asked for it once more. Cost: a
    request of about 20 tokens each.
    """

    def request(key: Key, question: Question, index: int, shown: tuple[str, ...]) -> str:
        return f"first step to {puzzle_of(question, 'step', 'idea').plain}"

    def judge(question: Question, text: str) -> DraftVerdict:
        return "" if text in steps_of(puzzle_of(question, "step", "idea").numbers) else "loss"

    def placed(question: Question, text: str) -> tuple[Message, ...]:
        return _hinted(question, f"start with {text}")

    def twice(question: Question, texts: Sequence[str]) -> tuple[bool, ...]:
        return tuple(text in texts[:index] for index, text in enumerate(texts))

    return Drafts(
        family_id("step", helper),
        num,
        helper,
        request,
        read_step,
        placed,
        judge,
        twice,
        max_tokens,
    ).arm()


def random_step(num: int = 4) -> Arm:
    """Vary by first steps drawn by the key from all that the numbers allow: ideas without a helper, often dead ends."""
    check_count("num", num)

    def make(key: Key, question: Question, replies: object) -> ArmResult:
        steps = steps_of(puzzle_of(question, "random_step", "idea").numbers)
        if not steps:
            return ArmResult((Variant("random_step/1", question.messages),), fallbacks=1)
        picked = [steps[index] for index in key.generator().permutation(len(steps))[:num].tolist()]
        return ArmResult(
            tuple(
                Variant(name, _hinted(question, f"start with {text}"), group=name)
                for name, text in ((f"random_step/{index}", text) for index, text in enumerate(picked, start=1))
            )
        )

    return Arm("random_step", make)


def prefer(*operations: str) -> PlainArm:
    """Vary by an operation to prefer, one variant each: `prefer("*", "/")`; all four by default."""
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
    """Vary by a remark about something else in the bundled model's words, `num` of twelve: a control. Ids
    `remark/01` to 12."""
    if check_count("num", num) > len(REMARKS):
        raise ValueError(f"num must be at most {len(REMARKS)}, the size of the pool; got {num}")

    def make(key: Key, question: Question, replies: object) -> ArmResult:
        puzzle_of(question, "remark", "irrelevant")
        indices, prefix = key.generator().permutation(len(REMARKS))[:num].tolist(), versioned("remark")
        return ArmResult(
            tuple(Variant(f"{prefix}/{index + 1:02}", _hinted(question, REMARKS[index])) for index in indices)
        )

    return Arm("remark", make)


def again() -> PlainArm:
    """Give the puzzle twice, in the bundled model's words: a control."""

    def arm(question: Question) -> tuple[Variant, ...]:
        return (Variant("again", _hinted(question, puzzle_of(question, "again", "verbatim").plain)),)

    return arm


def puzzle_of(question: Question, arm: str, instead: str) -> PromptPuzzle:
    """Return the puzzle that a question asks. UsageError, which names the arm to use `instead`, if it asks none in
    these words."""
    numbers: Json = question.facts.get("numbers")
    target: Json = question.facts.get("target")
    if not _are_whole(numbers) or not _are_whole([target]):
        raise UsageError(
            f"arm {arm} is for puzzles with whole numbers and a target in their facts, and question {question.id!r} "
            f"has none; {instead} suits any question"
        )
    match = re.search(rf"\bmake {target} from (\d+(?: \d+)*)", wording(question))
    prompt_numbers = tuple(map(int, match[1].split())) if match else ()
    if match is None or Counter(prompt_numbers) != Counter(numbers):
        raise UsageError(
            f"arm {arm} speaks the bundled model's language, and the prompt of question {question.id!r} does not say "
            f"{_plain(target, numbers)!r}; {instead} suits any prompt"
        )
    return PromptPuzzle(prompt_numbers, target, match[0])


def steps_of(numbers: Sequence[int]) -> tuple[str, ...]:
    """Return every first step with two of the numbers that stays in whole numbers from 0 to CAP, larger number
    first."""
    steps: dict[str, None] = {}
    for larger, smaller in combinations(sorted(numbers, reverse=True), 2):
        fits = {
            "+": larger + smaller <= CAP,
            "-": True,
            "*": larger * smaller <= CAP,
            "/": smaller > 0 and larger % smaller == 0,
        }
        steps |= {f"{larger} {operation} {smaller}": None for operation in OPERATIONS if fits[operation]}
    return tuple(steps)


def read_step(reply: str) -> str:
    """Return the first operation in a reply, larger number first where order does not matter; "" if there is none."""
    match = _STEP.search(without_thoughts(reply))
    if match is None:
        return ""
    larger, operation, smaller = int(match[1]), match[2], int(match[3])
    if operation in "+*" and smaller > larger:
        larger, smaller = smaller, larger
    return f"{larger} {operation} {smaller}"


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
