"""Counted random numbers: uniform, different wherever a counter differs, and normal where asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from samplewise.explore import counters

small = st.integers(0, 2**40)


def test_the_finaliser_is_splitmix64() -> None:
    """The generator's published first outputs from state 1234567 (each adds the golden step, then mixes)."""
    step, state = 0x9E3779B97F4A7C15, 1234567
    found = [int(counters.random_bits((state + i * step) % 2**64)[0]) for i in range(3)]
    assert found == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(small, small, small, small)
def test_a_number_does_not_depend_on_what_it_is_computed_with(seed: int, one: int, other: int, at: int) -> None:
    both = counters.uniforms(seed, [one, other], at)
    assert both[0] == counters.uniforms(seed, one, at)[0]
    assert both[1] == counters.uniforms(seed, other, at)[0]
    assert ((both >= 0) & (both < 1)).all()
    assert (both[0] == both[1]) == (one == other)  # 53 bits: they meet with odds below 1e-15


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_numbers_are_uniform_along_every_counter_and_apart(axis: int) -> None:
    """Chi-square over 100 cells, and over 10 x 10 cells of neighbours: false alarms 1e-4 each, at fixed seeds."""
    at = [np.zeros(100_000, dtype=np.uint64) + 7 for _ in range(3)]
    at[axis] = np.arange(100_000, dtype=np.uint64)
    found = counters.uniforms(*at)
    assert stats.chisquare(np.bincount((found * 100).astype(int), minlength=100)).pvalue > 1e-4
    pairs = (found[:-1] * 10).astype(int) * 10 + (found[1:] * 10).astype(int)
    assert stats.chisquare(np.bincount(pairs, minlength=100)).pvalue > 1e-4


def test_normals_are_normal() -> None:
    found = counters.normals(3, np.arange(200)[:, None], np.arange(100)[None])
    assert found.shape == (200, 100)
    assert stats.kstest(found.ravel(), "norm").pvalue > 1e-4
    assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1]) < 0.3
