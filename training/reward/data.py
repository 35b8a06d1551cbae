"""Labelled draws for the tiny reward model: `python -m training.reward.data`.

Puzzles are made as in `training.tiny.puzzles`, responses are drawn from the bundled tiny model through the local
engine, and the exact checker says which are right. The hold-out is that of the tiny model: no row asks four numbers
from 1 to 13 to make 24, and none whose response works such a puzzle out under another prompt is kept.

One part file for each chunk of puzzles; parts that are there are not drawn again. A part follows from its seed alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random  # noqa: TID251 - only seeded instances, as the generator of puzzles wants them
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Generate, Message, Sampling
from samplewise.engines.base import Engine
from samplewise.engines.local import tiny
from samplewise.tasks.game24 import puzzle_question as question
from samplewise.verify.puzzle import puzzle as checker
from training.tiny.puzzles import (
    ASKED,
    SPOKEN,
    Flaws,
    Puzzle,
    Rule,
    Step,
    ask,
    first_hint,
    is_held_out,
    operation_hint,
    puzzles,
    touches_held_out,
)

WORK = Path(__file__).parents[2] / "build" / "reward"  # ignored by git
CHUNK = 500  # puzzles of one part
TEMPERATURES = (1.0, 1.0, 1.0, 1.0, 1.0, 0.7, 1.3)  # of the draws of one puzzle
HINTED = 0.25  # share of puzzles whose responses are drawn under a hint; the reward model never sees it
SOUND = Flaws(0.0, 0.0, 0.0, 0.0)
SPLITS = ("train", "dev", "test")
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
CHECK = checker()


class Draw(NamedTuple):
    """A response to a puzzle and whether it is right."""

    numbers: tuple[int, ...]  # in the order of the prompt
    target: int
    response: str
    right: bool
    temperature: float


def steps_of(response: str) -> tuple[Step, ...]:
    """The steps that a response writes down, in any of the three styles, sound or not."""
    for op, spoken in SPOKEN.items():
        response = response.replace(f" {spoken} ", f" {op} ")
    response = re.sub(r"\( left [\d ]*\)", "", response.replace(" is ", " = "))
    return tuple(Step(int(a), op, int(b), int(c)) for a, op, b, c in STEP.findall(response))


def is_kept(numbers: Sequence[int], target: int, response: str, rule: Rule = is_held_out) -> bool:
    """Whether a row stays clear of the hold-out: in what it asks, and in what its response works out."""
    return not touches_held_out(Puzzle(tuple(numbers), target, steps_of(response)), rule)


def is_right(numbers: Sequence[int], target: int, response: str) -> bool:
    """The verdict of the package's exact checker."""
    return CHECK(question(tuple(numbers), target=target), Candidate(response)).value == 1.0


def split_of(numbers: Sequence[int], target: int) -> str:
    """Which split a puzzle is in, whatever the order of its numbers: 90 % train, 5 % dev, 5 % test."""
    place = Key(24).fold("reward", "split", target, *sorted(numbers)).seed() % 20
    return SPLITS[1 + place] if place < 2 else SPLITS[0]


def prompt_of(puzzle: Puzzle, rng: random.Random) -> str:
    """What the tiny model is asked: the plain puzzle, now and then with a hint."""
    plain = ask(puzzle.numbers, puzzle.target)
    if rng.random() >= HINTED:
        return plain
    hints = (operation_hint(puzzle, rng), first_hint(puzzle, rng), *ASKED.values())
    return f"{plain} . {rng.choice(hints)}"


async def draw(engine: Engine, seed: int, chunk: int, count: int = CHUNK) -> list[Draw]:
    """The labelled draws of one chunk of puzzles, those that touch the hold-out left out."""
    made = puzzles(count, np.random.default_rng([seed, chunk]), SOUND)
    key = Key(seed).fold("reward", "draws", chunk)
    rng = random.Random(key.seed())
    asks: list[Generate] = []
    for i, puzzle in enumerate(made):
        messages = (Message("user", prompt_of(puzzle, rng)),)
        for k, temperature in enumerate(TEMPERATURES):
            sampling = Sampling(temperature)
            asks.append(Generate(messages, sampling=sampling, max_tokens=64, seed=key.fold(i, k).seed(), draw=k))
    found: dict[int, Draw] = {}
    async for position, completion in engine.answer(asks):
        numbers, target, _ = made[position // len(TEMPERATURES)]
        if completion.finish == "stop" and is_kept(numbers, target, completion.text):
            right = is_right(numbers, target, completion.text)
            temperature = TEMPERATURES[position % len(TEMPERATURES)]
            found[position] = Draw(numbers, target, completion.text, right, temperature)
    return [found[position] for position in sorted(found)]


def load(folder: Path) -> list[Draw]:
    """All draws of a folder of parts, in the order of the parts."""
    rows = [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [Draw(tuple(numbers), *rest) for numbers, *rest in rows]


def write(folder: Path, parts: range, seed: int) -> None:
    """Draw the parts that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = tiny()
    began = time.perf_counter()
    for chunk in parts:
        path = folder / f"{chunk:04}.jsonl"
        if path.exists():
            continue
        draws = asyncio.run(draw(engine, seed, chunk))
        fresh = path.with_suffix(".writing")
        fresh.write_text("".join(json.dumps(row) + "\n" for row in draws))
        fresh.replace(path)
        share = np.mean([row.right for row in draws])
        print(f"part {chunk}: {len(draws)} draws, {share:.3f} right, {time.perf_counter() - began:.0f} s", flush=True)
    asyncio.run(engine.close())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WORK, help="folder of the parts")
    parser.add_argument("--parts", type=int, default=24)
    parser.add_argument("--first", type=int, default=0, help="number of the first part")
    parser.add_argument("--seed", type=int, default=24)
    args = parser.parse_args()
    write(args.out, range(args.first, args.first + args.parts), args.seed)


if __name__ == "__main__":
    main()
