"""What a trace says of its chains."""

from __future__ import annotations

import math

import pytest

from samplewise.samplers.power import notes, summary
from samplewise.samplers.power.report import split_r_hat


def test_a_frozen_chain_is_told() -> None:
    move = {
        "stage": 0,
        "outcome": "rejected",
        "at": 0,
        "tokens": 3,
        "kept": 0,
        "length": 4,
        "logp": -1.0,
        "ended": False,
    }
    told = summary([{"moves": [{**move, "chain": 0, "step": step} for step in range(20)]}])
    assert told["frozen"] == [0]
    assert told["acceptance"] == 0.0
    assert told["tokens_per_change"] is None
    assert "frozen" in notes(told)[0]
    assert "horizon" in notes(told)[1]


def test_split_r_hat_of_known_chains() -> None:
    assert split_r_hat([[1.0, 2.0, 3.0, 4.0]]) is None
    assert split_r_hat([[1.0, 1.0, 1.0, 1.0]] * 2) == 1.0
    assert split_r_hat([[0.0] * 4, [1.0] * 4]) == math.inf
    # Halves (1,3), (1,3), (2,4), (2,4): within 2, means 2, 2, 3, 3 of variance 1/3.
    assert split_r_hat([[1, 3, 1, 3], [2, 4, 2, 4]]) == pytest.approx(math.sqrt(0.5 + (1 / 3) / 2))
