"""DeepConf and self-certainty: the published units, windows against a brute-force twin, bounds, and drawn ones."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import Unsupported
from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Capability, Completion, Generate, Message, Question
from samplewise.engines.http import http
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.dialect.requests import why_unsupported
from samplewise.engines.toy import LETTERS, Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import check_recipe, run_question
from samplewise.recipe import recipe
from samplewise.samplers.base import candidate
from samplewise.samplers.confidence import deepconf_scores
from samplewise.verify.confidence import deepconf_score, self_certainty_score

PLACE = (("a", -0.1), ("b", -2.5), ("c", -4.0))


def test_the_confidence_of_a_token() -> None:
    """Top-3 log-probs -.1, -2.5, -4: 2.2."""
    assert deepconf_scores([PLACE]) == pytest.approx(
        dict.fromkeys(("deepconf.mean", "deepconf.tail", "deepconf.bottom", "deepconf.least"), 2.2)
    )
    assert deepconf_scores([]) == deepconf_scores([()]) == {}


@given(st.lists(st.floats(-9, 0), min_size=1, max_size=60), st.integers(1, 70))
def test_windows(logp: list[float], window: int) -> None:
    found = deepconf_scores([(("x", value),) for value in logp], window)
    token = [-value for value in logp]
    size = min(window, len(token))
    windows = sorted(math.fsum(token[i : i + size]) / size for i in range(len(token) - size + 1))
    lowest = windows[: max(1, round(len(windows) * 0.1))]
    assert found["deepconf.mean"] == pytest.approx(math.fsum(token) / len(token), abs=1e-9)
    assert found["deepconf.tail"] == pytest.approx(math.fsum(token[-size:]) / size, abs=1e-9)
    assert found["deepconf.bottom"] == pytest.approx(math.fsum(lowest) / len(lowest), abs=1e-9)
    assert found["deepconf.least"] == pytest.approx(windows[0], abs=1e-9)


def test_a_candidate_carries_it_and_the_verifier_reads_it() -> None:
    drawn = candidate(Completion("x", "stop", top=(PLACE, PLACE)), "direct")
    question = Question("q", ())
    assert deepconf_score()(question, drawn).value == pytest.approx(2.2)
    assert deepconf_score("least")(question, drawn).value == pytest.approx(2.2)
    assert math.isnan(deepconf_score()(question, Candidate("x")).value)
    with pytest.raises(ValueError, match="part must be one of"):
        deepconf_score("most")  # type: ignore[arg-type]


def test_an_engine_that_does_not_show_them_is_refused() -> None:
    with pytest.raises(Unsupported, match="needs top"):
        check_recipe(recipe("repeat(4, top=True) | best(deepconf)"), Toy(3))


# --- self-certainty ---------------------------------------------------------------------------------------------------


def kl_from_uniform(distribution: list[float]) -> float:
    return math.fsum(math.log(1 / len(distribution) / p) for p in distribution) / len(distribution)


def test_a_candidate_carries_its_mean_certainty() -> None:
    question = Question("q", ())
    drawn = candidate(Completion("x", "stop", certainty=(0.5, 1.0, 3.0)), "direct")
    assert drawn.scores == {"self_certainty": 1.5}
    assert self_certainty_score()(question, drawn).value == 1.5
    both = candidate(Completion("x", "stop", top=(PLACE,), certainty=(2.0,)), "direct").scores
    assert both["self_certainty"] == 2.0
    assert "deepconf.mean" in both
    for without in (Completion("x", "stop"), Completion("", "stop", certainty=())):
        score = self_certainty_score()(question, candidate(without, "direct"))
        assert math.isnan(score.value)
        assert "certainty=True" in score.reason


def test_draws_of_the_toy_engine_have_the_certainty_of_its_law() -> None:
    engine = Toy(4)
    question = Question("q", (Message("user", "hi"),))
    line = recipe("repeat(6, max_tokens=4, certainty=True) | best(self_certainty)")
    assert Capability.CERTAINTY in line.needs
    result = asyncio.run(
        run_question(question, line, RunContext(engine), Key(0), read=lambda question, text: text or None)
    )
    for each in result.pool.candidates:
        tokens = [*(LETTERS.index(letter) for letter in each.text), *([engine.eos] if each.finish == "stop" else [])]
        distributions = [
            engine.next_logp(question.messages, tuple(tokens[:position])) for position in range(len(tokens))
        ]
        by_hand = [
            kl_from_uniform([math.exp(logp) for logp in distribution.tolist()]) for distribution in distributions
        ]
        assert each.scores["self_certainty"] == pytest.approx(math.fsum(by_hand) / len(by_hand))


def test_an_endpoint_cannot_show_its_whole_law() -> None:
    engine = http("m", base_url="http://127.0.0.1:9/v1", probe="never")
    with pytest.raises(Unsupported, match="needs certainty"):
        check_recipe(recipe("repeat(4, certainty=True) | best(self_certainty)"), engine)
    assert "the whole distribution" in why_unsupported(Generate((), want=("certainty",)), Profile())
