from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.stop.tables import LOG2, LogTable, boundary_at, log_asc, log_e1, log_e2, log_tail

from .twins import asc_exact, e1_exact, e2_exact

counts = st.integers(0, 14)
BEHIND = (0, 1, 2, 3, 5, 10)
GOLDEN = [  # level, the smallest count in front that reaches it, for each count behind: asc, e1, e2
    (0.10, (3, 5, 6, 8, 11, 17), (5, 8, 11, 13, 17, 25), (7, 10, 12, 14, 18, 27)),
    (0.05, (4, 6, 8, 9, 12, 19), (7, 10, 12, 14, 18, 27), (8, 11, 14, 16, 20, 29)),
    (0.01, (6, 9, 11, 13, 16, 24), (9, 13, 15, 18, 22, 32), (11, 14, 17, 19, 24, 33)),
]


@pytest.mark.parametrize(("level", "asc", "e1", "e2"), GOLDEN)
def test_boundaries_are_the_golden_ones(
    level: float, asc: tuple[int, ...], e1: tuple[int, ...], e2: tuple[int, ...]
) -> None:
    assert tuple(map(boundary_at(log_asc, math.log(1 - level)), BEHIND)) == asc
    assert tuple(map(boundary_at(log_e1, -math.log(level)), BEHIND)) == e1
    assert tuple(map(boundary_at(log_e2, -math.log(level)), BEHIND)) == e2


@given(counts, counts)
def test_tables_are_the_exact_values(a: int, b: int) -> None:
    """e1 is the mixture of the products of bets 1 + lam (1[a] - 1[b]), multiplied out over the rationals."""
    assert math.exp(log_asc(a, b)) == pytest.approx(float(asc_exact(a, b)), rel=1e-12)
    assert math.exp(log_e1(a, b)) == pytest.approx(float(e1_exact(a, b)), rel=1e-12)
    assert math.exp(log_e2(a, b)) == pytest.approx(float(e2_exact(a, b)), rel=1e-12)


@given(counts, counts)
def test_two_sides_make_one(a: int, b: int) -> None:
    assert math.exp(log_asc(a, b)) + math.exp(log_asc(b, a)) == pytest.approx(1.0, abs=1e-12)
    assert math.exp(log_e1(a, b)) + math.exp(log_e1(b, a)) == pytest.approx(2 * math.exp(log_e2(a, b)), rel=1e-12)


def test_nothing_is_lost_at_the_edges() -> None:
    assert log_tail(5000, 0) == pytest.approx(-5001 * LOG2, rel=1e-12)  # as a probability it would be 0
    assert log_asc(0, 5000) == pytest.approx(-5001 * LOG2, rel=1e-12)
    assert log_asc(5000, 0) == 0.0
    assert log_asc(30, 30) == pytest.approx(-LOG2, rel=1e-12)
    assert log_asc(100_000, 100_000) == pytest.approx(-LOG2, abs=1e-6)
    assert log_e1(5000, 0) == pytest.approx(5001 * LOG2 - math.log(5001), rel=1e-12)
    assert 1 - math.exp(log_asc(9, 0)) == pytest.approx(2.0**-10, rel=1e-12)


@pytest.mark.parametrize(
    ("table", "log_level"), [(log_asc, math.log(0.95)), (log_e1, math.log(20)), (log_e2, math.log(20))]
)
def test_a_boundary_is_the_first_to_reach_its_level(table: LogTable, log_level: float) -> None:
    boundary = boundary_at(table, log_level)
    for b in (40, 3, 0, 17):  # asked for in any order
        a = boundary(b)
        assert table(a, b) >= log_level > table(a - 1, b) or a == b
        assert boundary(b + 1) > a


def test_a_level_that_is_met_exactly_is_met() -> None:
    assert boundary_at(log_asc, math.log(0.9375))(0) == 3  # asc(3, 0) = 15/16
    assert boundary_at(log_e2, math.log(2.0**9 / 10))(0) == 9
