"""DeepConf and self-certainty: the published units, windows against a brute-force twin, bounds, and drawn ones."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.engines.http import http
from samplewise.engines.http.profile import Profile
from samplewise.engines.http.wire import unsupported
from samplewise.engines.toy import LETTERS, Toy
from samplewise.errors import Unsupported
from samplewise.keys import Key
from samplewise.recipe import recipe
from samplewise.run import check, run
from samplewise.samplers.base import candidate
from samplewise.samplers.confidence import certainty_bound, confidences
from samplewise.types import Candidate, Capability, Completion, Generate, Message, Question
from samplewise.verify.confidence import deepconf, self_certainty

PLACE = (("a", -0.1), ("b", -2.5), ("c", -4.0))


def test_the_confidence_of_a_token() -> None:
    """Top-3 log-probs -.1, -2.5, -4: 2.2."""
    assert confidences([PLACE]) == pytest.approx(
        dict.fromkeys(("deepconf.mean", "deepconf.tail", "deepconf.bottom", "deepconf.least"), 2.2)
    )
    assert confidences([]) == confidences([()]) == {}


@given(st.lists(st.floats(-9, 0), min_size=1, max_size=60), st.integers(1, 70))
def test_windows(logp: list[float], window: int) -> None:
    found = confidences([(("x", value),) for value in logp], window)
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
    assert deepconf()(question, drawn).value == pytest.approx(2.2)
    assert deepconf("least")(question, drawn).value == pytest.approx(2.2)
    assert math.isnan(deepconf()(question, Candidate("x")).value)
    with pytest.raises(ValueError, match="part must be one of"):
        deepconf("most")  # type: ignore[arg-type]


def test_an_engine_that_does_not_show_them_is_refused() -> None:
    with pytest.raises(Unsupported, match="needs top"):
        check(recipe("repeat(4, top=True) | best(deepconf)"), Toy(3))


# --- self-certainty ---------------------------------------------------------------------------------------------------


def kl_from_uniform(law: list[float]) -> float:
    return math.fsum(math.log(1 / len(law) / p) for p in law) / len(law)


def test_certainty_bounds() -> None:
    """Uniform 0; (.9, .1) .510826; (.7, .2, .07, .03) .646688, of which its likeliest token alone shows .429813."""
    assert kl_from_uniform([0.9, 0.1]) == pytest.approx(0.510826, abs=1e-6)
    logs = [math.log(p) for p in (0.7, 0.2, 0.07, 0.03)]
    assert certainty_bound(logs, 4) == pytest.approx(0.646688, abs=1e-6)
    assert certainty_bound(logs[:1], 4) == pytest.approx(0.429813, abs=1e-6)
    assert certainty_bound([math.log(0.25)], 4) == pytest.approx(0, abs=1e-12)
    assert certainty_bound([0.0], 4) == math.inf
    for top, vocabulary in (([], 4), (logs, 3), ([-0.1, -0.1], 4)):
        with pytest.raises(ValueError, match="log-probabilities of one law"):
            certainty_bound(top, vocabulary)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=8), st.data())
def test_the_bound_is_one(masses: list[float], data: st.DataObject) -> None:
    law = sorted((mass / math.fsum(masses) for mass in masses), reverse=True)
    shown = data.draw(st.integers(1, len(law)))
    assert certainty_bound([math.log(p) for p in law[:shown]], len(law)) <= kl_from_uniform(law) + 1e-9


def test_a_candidate_carries_its_mean_certainty() -> None:
    question = Question("q", ())
    drawn = candidate(Completion("x", "stop", certainty=(0.5, 1.0, 3.0)), "direct")
    assert drawn.scores == {"self_certainty": 1.5}
    assert self_certainty()(question, drawn).value == 1.5
    both = candidate(Completion("x", "stop", top=(PLACE,), certainty=(2.0,)), "direct").scores
    assert both["self_certainty"] == 2.0
    assert "deepconf.mean" in both
    for without in (Completion("x", "stop"), Completion("", "stop", certainty=())):
        score = self_certainty()(question, candidate(without, "direct"))
        assert math.isnan(score.value)
        assert "certainty=True" in score.reason


def test_draws_of_the_toy_engine_have_the_certainty_of_its_law() -> None:
    engine = Toy(4)
    question = Question("q", (Message("user", "hi"),))
    line = recipe("repeat(6, max_tokens=4, certainty=True) | best(self_certainty)")
    assert Capability.CERTAINTY in line.needs
    result = asyncio.run(run(question, line, engine, Key(0), read=lambda question, text: text or None))
    for each in result.pool.candidates:
        tokens = [*(LETTERS.index(letter) for letter in each.text), *([engine.eos] if each.finish == "stop" else [])]
        laws = [engine.next_logp(question.messages, tuple(tokens[:place])) for place in range(len(tokens))]
        by_hand = [kl_from_uniform([math.exp(logp) for logp in law.tolist()]) for law in laws]
        assert each.scores["self_certainty"] == pytest.approx(math.fsum(by_hand) / len(by_hand))


def test_an_endpoint_cannot_show_its_whole_law() -> None:
    engine = http("m", base_url="http://127.0.0.1:9/v1", probe="never")
    with pytest.raises(Unsupported, match="needs certainty"):
        check(recipe("repeat(4, certainty=True) | best(self_certainty)"), engine)
    assert "the whole law" in unsupported(Generate((), want=("certainty",)), Profile())
