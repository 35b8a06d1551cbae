"""Defects that were published, shipped or nearly so, each seen by an exact test."""

from __future__ import annotations

import pytest

from samplewise.conformance.mutants import MUTANTS, sound, worst


@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_dies_and_the_sound_one_lives(name: str) -> None:
    """On one of two models at least: a defect may not show on a model that happens to hide it."""
    errors = [worst(MUTANTS[name], seed) for seed in (1, 2)]
    assert max(errors) > 1e-4, errors
    assert sound(MUTANTS[name]) < 1e-12
