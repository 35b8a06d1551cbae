"""DeepConf: the published unit, and windows against a brute-force twin."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.engines.toy import Toy
from samplewise.errors import Unsupported
from samplewise.recipe import recipe
from samplewise.run import check
from samplewise.samplers.base import candidate
from samplewise.samplers.confidence import confidences
from samplewise.types import Candidate, Completion, Question
from samplewise.verify.confidence import deepconf

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
