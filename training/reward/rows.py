"""Draws as training rows: token ids, the label, and which of the written steps are sound.

Two things widen the draws, both labelled by the exact check again and both behind the hold-out: the numbers of a prompt
come in a fresh order each time (the label cannot change), and some rows are spoilt (a number of the prompt is not what
the response used, or the last step claims the target), since responses that are nearly right are rare.
"""

from __future__ import annotations

import random  # noqa: TID251 - only seeded instances
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.tiny.evaluate import check
from training.tiny.puzzles import OPS, SPOKEN, Row, ask
from training.tiny.tokenizer import encode, vocabulary

from .data import Draw, is_kept

BUCKETS = (22, 28, 34, 40, 48, 64, 96)  # padded lengths; a batch has rows of one length class
SPOILT = 0.2  # share of rows that are spoilt
LAST = re.compile(r"(= |is )(\d+)( \( left )?(?(3)(\d+)( \)))$")
SIGNS = {**{op: op for op in OPS}, **{spoken: op for op, spoken in SPOKEN.items()}}
VOCABULARY = vocabulary()
PAD = VOCABULARY["<pad>"]


class Example(NamedTuple):
    """One row. `marks` are the places (from 0) of step results with 1 where the step is sound, else 0."""

    ids: tuple[int, ...]
    right: bool
    marks: tuple[tuple[int, bool], ...]


class Batch(NamedTuple):
    """Rows padded on the right."""

    ids: Tensor  # (B, T)
    right: Tensor  # (B,) 0 or 1
    rows: Tensor  # (M,) of the marks
    places: Tensor  # (M,)
    sound: Tensor  # (M,) 0 or 1


def example(draw: Draw) -> Example:
    """A draw as token ids, as the chat template writes them."""
    ids, length = encode(Row("", ask(draw.numbers, draw.target), draw.response), VOCABULARY)
    return Example(tuple(ids), draw.right, tuple((length + i, ok) for i, ok in marks(draw.numbers, draw.response)))


def marks(numbers: Sequence[int], response: str) -> list[tuple[int, bool]]:
    """Where the result of each step stands (in words from 0), and whether the step is sound: its operands are there,
    and it is exact. What it made counts as there for the next ones, sound or not."""
    words, left, found = response.split(), list(numbers), []
    for i, word in enumerate(words[:-1]):
        if word not in ("=", "is") or i < 3:
            continue
        before, sign, behind, result = words[i - 3], words[i - 2], words[i - 1], words[i + 1]
        if sign not in SIGNS or not all(number.isdigit() for number in (before, behind, result)):
            continue
        a, b, c = int(before), int(behind), int(result)
        there = True
        for operand in (a, b):
            if operand in left:
                left.remove(operand)
            else:
                there = False
        left.append(c)
        exact = {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b * c == a and b != 0}[SIGNS[sign]]
        found.append((i + 1, there and exact))
    return found


def spoil(draw: Draw, rng: random.Random) -> Draw | None:
    """The draw with one fault put in and judged again; None where that cannot be done, or touches the hold-out."""
    numbers, response = list(draw.numbers), draw.response
    if rng.random() < 0.5:
        place = rng.randrange(len(numbers))
        numbers[place] = max(1, numbers[place] + rng.choice((-3, -2, -1, 1, 2, 3)))
    else:
        last = LAST.search(response)
        if last is None or int(last[2]) == draw.target:
            return None
        kept = f" ( left {draw.target} )" if last[3] else ""
        response = f"{response[: last.start()]}{last[1]}{draw.target}{kept}"
    if not is_kept(numbers, draw.target, response):
        return None
    right = check(numbers, response, draw.target) == "right"
    return draw._replace(numbers=tuple(numbers), response=response, right=right)


def batches(draws: Sequence[Draw], seed: int, tokens: int, *, spoilt: float = SPOILT) -> Iterator[Batch]:
    """Batches of about `tokens` tokens without end, epoch after epoch, every row in a fresh order of its numbers."""
    epoch = 0
    while True:
        rng = random.Random(seed * 1_000 + epoch)
        by_length: dict[int, list[Example]] = {length: [] for length in BUCKETS}
        for i in rng.sample(range(len(draws)), len(draws)):
            draw = draws[i]._replace(numbers=tuple(rng.sample(draws[i].numbers, len(draws[i].numbers))))
            changed = spoil(draw, rng) if rng.random() < spoilt else None
            row = example(changed or draw)
            length = next((length for length in BUCKETS if length >= len(row.ids)), None)
            if length is None:
                continue
            waiting = by_length[length]
            waiting.append(row)
            if len(waiting) * length >= tokens:
                yield collate(waiting)
                waiting.clear()
        epoch += 1


def collate(examples: Sequence[Example]) -> Batch:
    """Rows of about one length as tensors."""
    width = max(len(row.ids) for row in examples)
    ids = np.full((len(examples), width), PAD, dtype=np.int64)
    for i, row in enumerate(examples):
        ids[i, : len(row.ids)] = row.ids
    flat = [(i, place, sound) for i, row in enumerate(examples) for place, sound in row.marks]
    rows, places, sound = zip(*flat, strict=True) if flat else ((), (), ())
    return Batch(
        torch.from_numpy(ids),
        torch.tensor([row.right for row in examples], dtype=torch.float32),
        torch.tensor(rows, dtype=torch.int64),
        torch.tensor(places, dtype=torch.int64),
        torch.tensor(sound, dtype=torch.float32),
    )
