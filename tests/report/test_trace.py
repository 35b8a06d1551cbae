"""What is said of a power sampler's trace."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from samplewise import solve
from samplewise.cli.app import app
from samplewise.report.trace import chains_in_words

MOVE = {"chain": 0, "stage": 0, "at": 0, "tokens": 3, "kept": 2, "length": 4, "logp": -1.0, "ended": True}


def test_a_chain_in_words() -> None:
    outcomes = ["accepted", "rejected", "same", "behind"]
    moves: list[Any] = [{**MOVE, "step": step, "outcome": outcome} for step, outcome in enumerate(outcomes)]
    # 4 steps with 3 tokens and 2 kept ones each; one of two redraws that differ was accepted.
    assert chains_in_words([{"target": {}}, {"moves": moves}]) == [
        "chains: 4 steps, 2 of them free; 50% of the redraws that differ accepted; 12 tokens drawn, 8 saved"
    ]


def test_collapsed_weights_are_told() -> None:
    said = chains_in_words([{"weights": {"num": 8, "ess": 3.0}}, {"weights": {"num": 16, "ess": 1.25}}])
    assert said[0] == "weights: 16 responses, effectively 1.2"
    assert "collapsed" in said[1]
    assert len(said) == 2
    assert len(chains_in_words([{"weights": {"num": 16, "ess": 2.5}}])) == 1


def test_other_traces_say_nothing() -> None:
    assert chains_in_words([]) == []
    assert chains_in_words([None, "words", {"arms": 3}, {"moves": []}]) == []


@pytest.mark.parametrize(
    ("sampler", "words"),
    {
        "power(2, 6, 2, max_tokens=4)": ["chains: 12 steps", "split R-hat"],
        "tempering((1.5, 2.0), 4, max_tokens=4)": ["chains: 8 steps", "change places"],
        "adaptive(4, 2, 3, max_tokens=4)": ["adaptive, so of no stated law"],
        "sir(8, 2, max_tokens=4)": ["weights: 8 responses"],
        "smc(4, 2, block=2, max_tokens=4)": ["particles: resampled", "weights: 4 responses"],
        "greedy(4, max_tokens=4)": ["chains: 4 steps"],
    }.items(),
    ids=lambda value: value.partition("(")[0] if isinstance(value, str) else "",
)
def test_every_power_sampler_has_words(sampler: str, words: list[str]) -> None:
    """The trace is the samplers' own, so a field that is renamed there is seen here."""
    result = solve("say something", engine="toy", recipe=f"{sampler} | first")
    said = "\n".join(chains_in_words(result.trace))
    for each in words:
        assert each in said, said


def test_ask_tells_of_its_chains() -> None:
    line = "power(2, 6, 2, max_tokens=4) | first"
    done = CliRunner().invoke(app, ["ask", "say something", "-e", "toy", "-r", line])
    assert done.exit_code == 0
    assert "chains: 12 steps" in done.stdout
