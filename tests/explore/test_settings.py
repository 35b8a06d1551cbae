"""What a user writes: canonical texts, round trips, and errors in one line."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from samplewise.core.registry import build
from samplewise.explore import controls
from samplewise.explore.controls import Reshape, cold, frozen_distiller, hot, zero
from samplewise.explore.settings import Esamp, ExploreSettings, arithmetic, consensus, css, esamp, lss

EVERY = [
    esamp(),
    esamp(0.5, learner="ridge", compensate="entropy", forking=0.25),
    zero(1.0),
    frozen_distiller(),
    controls.noise(),
    css(0.8),
    css(order="vocabulary"),
    esamp(aside="wait", warm_start=True),
    lss(8.0, lag=True),
    hot(1.5),
    cold(0.5),
    controls.top_sigma(2.0),
    controls.top_entropy(),
    arithmetic(),
    consensus(),
    consensus(1.0, start="\\boxed{", answer_tokens=8),
    consensus(start='it\'s "so":\n'),
]


@pytest.mark.parametrize("made", EVERY, ids=str)
def test_the_text_of_settings_makes_them_again(made: Any) -> None:
    again = build("explore", str(made))
    assert again == made
    assert str(again) == str(made)
    assert isinstance(made, ExploreSettings)
    assert hash(again) == hash(made)


def test_texts_name_only_what_differs() -> None:
    assert str(esamp()) == "esamp"
    assert str(esamp(0.25, rate=4e-4)) == "esamp"
    assert str(esamp(0.5)) == "esamp(beta=0.5)"
    assert str(zero(0.5)) == "esamp(beta=0.5, control='zero')"
    assert str(hot(1.5)) == "reshape(heat=1.5)"


def test_who_needs_the_states_after_the_first_block() -> None:
    assert [made.reads_shallow for made in (esamp(), frozen_distiller(), zero(), css(), lss(), hot())] == [
        True,
        True,
    ] + [False] * 4


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: esamp(-0.1), "beta must be at least 0, got -0.1"),
        (lambda: esamp(float("nan")), "beta must be at least 0, got nan"),
        (lambda: esamp(True), "beta must be"),
        (lambda: Esamp(learner="sgd"), "learner must be one of adam, ridge, got 'sgd'"),  # type: ignore[arg-type]
        (lambda: Esamp(aside="late"), "aside must be one of no, wait, drop, got 'late'"),  # type: ignore[arg-type]
        (lambda: lss(background=0.6), "background must be at least 0 and at most 0.5, got 0.6"),
        (lambda: esamp(forking=0.0), "forking must be above 0 and at most 1, got 0.0"),
        (lambda: esamp(width=0), "width must be a whole number of at least 1, got 0"),
        (lambda: css(1.5), "min_cosine must be at least -1 and at most 1, got 1.5"),
        (lambda: lss(sigma=0), "sigma must be above 0, got 0"),
        (lambda: consensus(0.0), "gamma must be above 0, got 0.0"),
        (lambda: consensus(start=" \n"), "start must be a text that is not blank, got ' "),
        (lambda: consensus(start=7), "start must be a text that is not blank, got 7"),  # type: ignore[arg-type]
        (lambda: consensus(answer_tokens=0), "answer_tokens must be a whole number of at least 1, got 0"),
        (lambda: Reshape(heat=0), "heat must be above 0, got 0"),
        (lambda: hot(0.9), "heat must be at least 1, got 0.9"),
        (lambda: cold(1.5), "heat must be above 0 and at most 1, got 1.5"),
    ],
)
def test_what_cannot_be_says_why(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        make()


def test_settings_need_no_torch() -> None:
    code = (
        "import sys; from samplewise.explore import controls, settings; str(settings.esamp(0.5)); controls.hot(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
