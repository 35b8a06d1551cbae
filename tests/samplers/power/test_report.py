"""What a trace says about its chains."""

from __future__ import annotations

import math

import pytest

from samplewise import solve
from samplewise.engines.toy import Toy
from samplewise.report.trace import describe_trace
from samplewise.samplers.infos import MoveInfo, read_trace, to_json
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


@pytest.mark.parametrize("line", ["power(2, 12, 4, max_tokens=6)", "tempering((1.5, 3), 12, 4, max_tokens=6)"])
def test_chains_of_different_arms_are_not_compared(line: str) -> None:
    """Each arm has a target of its own: chains of two arms disagreed whatever they did, and more steps were advised."""
    toy = Toy(3, seed=2, scale=1.5)
    mixed = solve("spell a word", engine=toy, recipe=f"vary(verbatim, share=quota(1, 1)) | {line}")
    infos = read_trace(mixed.trace)
    assert infos.arms == ("direct", "verbatim") * 2
    rungs = len({swap.rung for swap in infos.swaps}) + 1
    top = [[m.logp for m in infos.moves if m.chain == ladder * rungs + rungs - 1] for ladder in range(4)]
    apart = [split_r_hat(top[arm::2]) for arm in range(2)]
    assert summarize_chains(mixed.trace).r_hat == max(apart, key=lambda value: value or 0.0)
    assert summarize_chains(mixed.trace).r_hat != split_r_hat(top)


def test_chains_that_took_no_step_say_so() -> None:
    result = solve("spell a word", engine=Toy(3), recipe="power(4, budget_tokens=1, max_tokens=6)")
    assert describe_trace(result.trace) == [
        "chains: no step was taken, so any response is a start: a larger budget pays for steps"
    ]
    plain = solve("spell a word", engine=Toy(3), recipe="repeat(2, max_tokens=6)")
    assert describe_trace(plain.trace) == []


def test_split_r_hat_of_known_chains() -> None:
    assert split_r_hat([[1.0, 2.0, 3.0, 4.0]]) is None
    assert split_r_hat([[1.0, 1.0, 1.0, 1.0]] * 2) == 1.0
    assert split_r_hat([[0.0] * 4, [1.0] * 4]) == math.inf
    # Halves (1,3), (1,3), (2,4), (2,4): within 2, means 2, 2, 3, 3 of variance 1/3.
    assert split_r_hat([[1, 3, 1, 3], [2, 4, 2, 4]]) == pytest.approx(math.sqrt(0.5 + (1 / 3) / 2))
