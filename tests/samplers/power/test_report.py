"""What a trace says about its chains."""

from __future__ import annotations

import math

import pytest

from samplewise.samplers.infos import MoveInfo, to_json
from samplewise.samplers.power import chain_notes, summarize_chains
from samplewise.samplers.power.report import split_r_hat


def test_a_frozen_chain_is_reported() -> None:
    move = MoveInfo(
        chain=0,
        stage=0,
        step=0,
        cut=0,
        position=0,
        outcome="rejected",
        log_ratio=-1.0,
        tokens=3,
        saved=0,
        length=4,
        logp=-1.0,
        ended=False,
    )
    report = summarize_chains([{"moves": [to_json(move._replace(step=step)) for step in range(20)]}])
    assert report.frozen == (0,)
    assert report.acceptance == 0.0
    assert report.tokens_per_change is None
    assert "frozen" in chain_notes(report)[0]
    assert "horizon" in chain_notes(report)[1]


def test_split_r_hat_of_known_chains() -> None:
    assert split_r_hat([[1.0, 2.0, 3.0, 4.0]]) is None
    assert split_r_hat([[1.0, 1.0, 1.0, 1.0]] * 2) == 1.0
    assert split_r_hat([[0.0] * 4, [1.0] * 4]) == math.inf
    # Halves (1,3), (1,3), (2,4), (2,4): within 2, means 2, 2, 3, 3 of variance 1/3.
    assert split_r_hat([[1, 3, 1, 3], [2, 4, 2, 4]]) == pytest.approx(math.sqrt(0.5 + (1 / 3) / 2))
