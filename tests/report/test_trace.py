"""What is said of a power sampler's trace."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from samplewise import solve
from samplewise.cli.commands import app
from samplewise.report.trace import describe_trace
from samplewise.samplers.infos import MoveInfo, WeightInfo, to_json

MOVE = MoveInfo(0, 0, 0, 0, 0, "same", None, tokens=3, saved=2, length=4, logp=-1.0, ended=True)


def test_a_chain_in_words() -> None:
    outcomes: list[Any] = ["accepted", "rejected", "same", "behind"]
    moves = [to_json(MOVE._replace(step=step, outcome=outcome)) for step, outcome in enumerate(outcomes)]
    # 4 steps with 3 tokens drawn and 2 saved each; one of two proposals that differ was accepted; two sent a request.
    assert describe_trace([{"target": {}}, {"moves": moves}]) == [
        "chains: 4 steps, 2 of them free; 50% of the proposals that differ accepted; 12 tokens drawn, 8 saved; "
        "0.50 requests a step"
    ]
    moves[0] |= {"requests": 4, "unused": 2}
    assert "12 tokens drawn (2 in vain), 8 saved; 1.25 requests a step" in describe_trace([{"moves": moves}])[0]


def test_collapsed_weights_are_reported() -> None:
    one, two, three = ({"weights": to_json(WeightInfo(*info, 0.0))} for info in ((8, 3.0), (16, 1.25), (16, 2.5)))
    lines = describe_trace([one, two])
    assert lines[0] == "weights: 16 responses, effective sample size 1.2"
    assert "collapsed" in lines[1]
    assert len(lines) == 2
    assert len(describe_trace([three])) == 1


def test_other_traces_say_nothing() -> None:
    assert describe_trace([]) == []
    assert describe_trace([None, "words", {"arms": 3}, {"moves": []}]) == []


@pytest.mark.parametrize(
    ("sampler", "words"),
    {
        "power(2, 6, 2, max_tokens=4)": ["chains: 12 steps", "split R-hat"],
        "tempering((1.5, 2.0), 4, max_tokens=4)": ["chains: 8 steps", "neighbors swap"],
        "adaptive(4, 2, 3, max_tokens=4)": ["adaptive, so of no stated distribution"],
        "sir(8, 2, max_tokens=4)": ["weights: 8 responses"],
        "smc(4, 2, block=2, max_tokens=4)": ["particles: resampled", "weights: 4 responses"],
        "greedy(4, max_tokens=4)": ["chains: 4 steps"],
    }.items(),
    ids=lambda value: value.partition("(")[0] if isinstance(value, str) else "",
)
def test_every_power_sampler_has_words(sampler: str, words: list[str]) -> None:
    """The trace is the samplers' own, so a field that is renamed there is seen here."""
    result = solve("say something", engine="toy", recipe=f"{sampler} | first")
    said = "\n".join(describe_trace(result.trace))
    for each in words:
        assert each in said, said


def test_ask_tells_of_its_chains() -> None:
    line = "power(2, 6, 2, max_tokens=4) | first"
    done = CliRunner().invoke(app, ["ask", "say something", "-e", "toy", "-r", line])
    assert done.exit_code == 0
    assert "chains: 12 steps" in done.stdout
