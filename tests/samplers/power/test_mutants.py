"""Defects that were published, shipped or nearly so, each detected by an exact test."""

from __future__ import annotations

import pytest
from tests.support.mutants import MUTANTS, sound, worst


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_dies_and_the_sound_one_lives(name: str) -> None:
    """A defect's error is above 1e-3 of probability, nine powers of ten above that of the sound code."""
    assert worst(MUTANTS[name]) > 1e-3
    assert sound(MUTANTS[name]) < 1e-12
