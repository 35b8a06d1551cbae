"""Training can never yield a Game of 24 puzzle: four numbers from 1 to 13 with target 24."""

from __future__ import annotations

import random  # noqa: TID251 - seeded instances for the generator
import re
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.tiny.puzzles import (
    MIX,
    Flaws,
    Puzzle,
    Row,
    Step,
    deal,
    emit,
    is_held_out,
    leaves,
    play,
    rows,
    touches_held_out,
)

SAMPLE = 12_000


def asked(text: str) -> list[tuple[list[int], int]]:
    """Every puzzle a text asks, read back from the text alone."""
    found = re.findall(r"make (\d+) from ((?:\d+ ?)+)", text)
    return [([int(number) for number in numbers.split()], int(target)) for target, numbers in found]


def solved(response: str) -> tuple[list[int], int] | None:
    """The numbers a worked response takes from outside and the value it ends in, read back from the text alone."""
    text = re.sub(r"\( left [\d ]+ \)", "", response)
    steps = re.findall(r"(\d+) (?:[-+*/]|plus|minus|times|over) (\d+) (?:=|is) (\d+)", text)
    made: list[str] = []
    outside: list[int] = []
    for a, b, result in steps:
        for operand in (a, b):
            if operand in made:
                made.remove(operand)
            else:
                outside.append(int(operand))
        made.append(result)
    return (outside, int(steps[-1][2])) if steps else None


def forbidden(numbers: Sequence[int], target: int) -> bool:
    """The hold-out again, written another way than the generator's rule."""
    return target == 24 and len(numbers) == 4 and min(numbers) >= 1 and max(numbers) <= 13


def leaks(row: Row) -> list[tuple[list[int], int]]:
    """Held-out puzzles that a row asks, repeats, or works out in its response."""
    seen = asked(row.prompt) + asked(row.response)
    worked = solved(row.response)
    if worked is not None:
        seen.append(worked)
        seen += [(numbers, worked[1]) for numbers, _ in asked(row.prompt)]
    return [puzzle for puzzle in seen if forbidden(*puzzle)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5), st.integers(0, 60))
def test_the_filter_is_the_definition(numbers: list[int], target: int) -> None:
    assert is_held_out(numbers, target) == forbidden(numbers, target)


@given(st.permutations([1, 13, 6, 8]), st.lists(st.integers(1, 13), min_size=4, max_size=4))
def test_the_filter_ignores_order(order: list[int], numbers: list[int]) -> None:
    assert is_held_out(order, 24)
    assert is_held_out(numbers, 24) == is_held_out(numbers[::-1], 24)
    assert not is_held_out(numbers, 23)


@given(st.lists(st.integers(1, 16), min_size=4, max_size=4), st.sampled_from([22, 24, 30]), st.integers(0, 2**31))
def test_no_row_of_any_kind_passes_the_filter(numbers: list[int], target: int, seed: int) -> None:
    steps = play(np.array([numbers]), np.random.default_rng(seed), slip=0.5)[0]
    path = tuple(Step(a, "+-*/"[op], b, c) for a, op, b, c in steps.tolist())
    puzzle = Puzzle(tuple(numbers), target, path)
    row = emit(puzzle, random.Random(seed))
    if forbidden(numbers, target) or forbidden(numbers, path[-1].result):
        assert row is None
    if row is not None:
        assert not leaks(row)


def test_other_prompts_do_not_hide_a_held_out_solution() -> None:
    solution = (Step(8, "-", 6, 2), Step(7, "-", 4, 3), Step(3, "*", 2, 6))
    reaches = (Step(8, "-", 4, 4), Step(7, "-", 1, 6), Step(6, "*", 4, 24))
    assert leaves(solution) == [8, 6, 7, 4]
    assert touches_held_out(Puzzle((4, 6, 7, 8), 24, solution))  # a falsified target is still that puzzle
    assert touches_held_out(Puzzle((1, 4, 7, 8), 30, reaches))  # worked out under another target
    assert touches_held_out(Puzzle((15, 4, 7, 8), 30, reaches))  # and with a wrong number in the prompt
    assert not touches_held_out(Puzzle((4, 6, 7, 8), 6, solution))


def test_a_large_sample_has_none() -> None:
    sample = rows(SAMPLE, (24, 0))
    assert len(sample) > 0.98 * SAMPLE
    assert not [row for row in sample if leaks(row)]
    kinds = [
        any(row.prompt.startswith(start) for row in sample)
        for start in ("make 24 from", "first step to make 24 from", "rephrase make 24 from")
    ]
    assert all(kinds)
    assert any(row.prompt.count("make") == 2 for row in sample)
    four = [puzzle for row in sample for puzzle in asked(row.prompt) if len(puzzle[0]) == 4 and puzzle[1] == 24]
    assert len(four) > SAMPLE / 4  # target 24 is seen with four numbers, so the filter had work to do


@pytest.mark.parametrize("flaws", [Flaws(), Flaws(falsified=0.9), Flaws(slip=0.9), Flaws(0.0, 0.0, 0.5, 0.5)])
def test_none_whatever_the_flaws(flaws: Flaws) -> None:
    assert not [row for row in rows(3_000, (5, 5), flaws=flaws) if leaks(row)]


def test_the_detector_finds_them_once_the_filter_is_off() -> None:
    def open_door(numbers: Sequence[int], target: int) -> bool:
        return False

    sample = rows(SAMPLE, (24, 0), rule=open_door, flaws=Flaws(wrong_number=0.2))
    assert [row for row in sample if leaks(row)]
    # and with puzzles dealt from the held-out set, in every kind of row
    numbers = deal("small", 200_000, np.random.default_rng(1))
    steps = play(numbers, np.random.default_rng(2))
    language = random.Random(3)
    made = []
    for i in np.flatnonzero(steps[:, -1, 3] == 24)[:2_000]:
        path = tuple(Step(a, "+-*/"[op], b, c) for a, op, b, c in steps[i].tolist())
        puzzle = Puzzle(tuple(numbers[i].tolist()), 24, path)
        assert emit(puzzle, language) is None
        row = emit(puzzle, language, rule=open_door)
        assert row is not None
        made.append(row)
    assert all(leaks(row) for row in made)
    starts = {row.prompt.split()[0] for row in made}
    assert starts == {"make", "first", "rephrase"}


def test_the_mix_never_deals_the_held_out_kind() -> None:
    assert ("small", True) not in {(kind, goal) for kind, goal, _ in MIX}
    assert sum(share for *_, share in MIX) == pytest.approx(1.0)
    large = deal("large", 5_000, np.random.default_rng(0))
    assert (large.max(axis=1) > 13).all()


def test_all_of_the_game_is_held_out() -> None:
    assert all(is_held_out(numbers, 24) for numbers in product(range(1, 14), repeat=4))
