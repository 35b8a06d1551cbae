"""The folder as its users see it: names, imports, speed."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

from samplewise import measure
from samplewise.core.keys import Key


def test_names_are_sorted_and_there():
    assert measure.__all__ == sorted(measure.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
    assert all(hasattr(measure, name) for name in measure.__all__)


def test_importing_is_light():
    """numpy and nothing that opens a socket, a file or a GPU; scipy only when a quantile is asked for."""
    code = "import sys, samplewise.measure; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "scipy", "asyncio", "sqlite3", "httpx", "pydantic"} & set(loaded)


def test_a_million_outcomes_in_seconds():
    """1.1 s of one core when written; a bound that only a change of order trips."""
    generator = Key(1).generator()
    num_problems, num_draws = 1_000, 1_000
    right = generator.beta(0.5, 0.7, num_problems)[:, None]
    answers = np.where(generator.random((num_problems, num_draws)) < right, 0, generator.integers(1, 12, num_draws))
    outcomes = answers == 0
    ks = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    start = time.process_time()
    curve = measure.pass_curve(outcomes)
    votes = measure.majority_at(answers, outcomes, ks, key=Key(2))
    estimates = (*measure.mean_intervals(curve), *measure.mean_intervals(votes))
    assert time.process_time() - start < 4
    assert len(estimates) == 1_010
    assert estimates[0].value == votes[0].mean() or abs(estimates[0].value - votes[0].mean()) < 0.02


def test_a_thousand_exact_votes_in_seconds():
    """1,000 problems of 64 draws: .3 s when written."""
    generator = Key(3).generator()
    answers = (generator.exponential(2, (1_000, 64)) * generator.uniform(0.2, 3, (1_000, 1))).astype(int)
    start = time.process_time()
    measure.majority_at(answers, answers == 0, [1, 2, 4, 8, 16, 32, 64])
    assert time.process_time() - start < 3
