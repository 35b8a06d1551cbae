"""Every rule can fire, in order; what is not known fires none."""

from __future__ import annotations

import math

import pytest

from samplewise.measure._bootstrap import RatioEstimate
from samplewise.measure.estimate import Estimate
from samplewise.measure.verdict import Compared, Findings, Word, give_verdict

nan = math.nan


def estimate(value, half=0.02):
    return Estimate(value, value - half, value + half, half / 2, 150, 0)


UNKNOWN = Estimate(nan, nan, nan, nan, 0, 150)
GOOD = Findings(
    num_draws=32,
    smallest_gain=0.05,
    detectable=0.04,
    direct=estimate(0.6),
    total=RatioEstimate(0.8, 0.7, 0.9, 0.05),
    dispersion_p=0.001,
    divergence_p=0.001,
    at_equal_draws=Compared(estimate(0.08), "draws"),
    at_equal_tokens=Compared(estimate(0.06), "tokens"),
    over_ladder=Compared(estimate(0.05), "draws"),
    selected=estimate(0.05),
    worst_arm="role/7",
    allocation="quota(4, 14, 14)",
)

CASES = [
    (Word.USE, {}, "with allocation quota(4, 14, 14): +6.0 points [+4.0, +8.0] over direct"),
    (Word.NO_VERDICT, {"detectable": 0.06}, "150 problems can show gains from 6.0 points, and 5.0 points was"),
    (Word.NO_VERDICT, {"detectable": nan}, "no gain at all"),
    (Word.NO_HEADROOM, {"direct": estimate(0.98)}, "direct covers at least 96.0 % at 32 draws"),
    (Word.INERT, {"dispersion_p": 0.4, "divergence_p": 0.06}, "p = 0.400 for M1, 0.060 for the answers"),
    (Word.INERT, {"dispersion_p": nan, "divergence_p": 0.3}, "p = unknown for M1"),
    (
        Word.HARMFUL,
        {"total": RatioEstimate(1.3, 1.1, 1.5, 0.1)},
        "fails 1.30 times as often .* the worst arm is role/7",
    ),
    (
        Word.PAID_FOR,
        {"at_equal_tokens": Compared(estimate(0.01), "tokens")},
        "+8.0 points .* over direct at equal draws, +1.0 points",
    ),
    (Word.SELECTION, {"selected": estimate(-0.01)}, "the selected answer -1.0 points"),
    (Word.NOTHING, {"over_ladder": Compared(estimate(0.0), "draws")}, "over direct at equal tokens, +0.0 points"),
    (Word.NOTHING, {"over_ladder": Compared(UNKNOWN, "draws")}, "unknown over the temperature ladder"),
    (
        Word.NOTHING,
        {"at_equal_draws": Compared(estimate(0.0), "draws"), "at_equal_tokens": Compared(estimate(0.0), "tokens")},
        "at equal tokens",
    ),
    (Word.USE, {"selected": UNKNOWN}, "over the temperature ladder"),  # an oracle: nothing is selected
    (Word.USE, {"dispersion_p": nan, "divergence_p": nan}, ""),  # unknown is not inert
    (Word.USE, {"total": RatioEstimate(nan, nan, nan, nan)}, ""),
]


@pytest.mark.parametrize(("word", "changes", "reason"), CASES)
def test_every_rule_fires(word, changes, reason):
    found = give_verdict(GOOD._replace(**changes))
    assert found.word is word
    parts = reason.split(" .* ")
    assert all(part in found.reason for part in parts), found.reason


def test_every_word_is_reached():
    assert {word for word, *_ in CASES} == set(Word)


def test_the_first_rule_wins():
    """Each fault added before the last one takes over."""
    faults = [
        (Word.SELECTION, {"selected": estimate(-0.01)}),
        (Word.PAID_FOR, {"at_equal_tokens": Compared(estimate(0.0), "tokens")}),
        (Word.HARMFUL, {"total": RatioEstimate(1.3, 1.1, 1.5, 0.1)}),
        (Word.INERT, {"dispersion_p": 0.4, "divergence_p": 0.4}),
        (Word.NO_HEADROOM, {"direct": estimate(0.98)}),
        (Word.NO_VERDICT, {"detectable": 0.06}),
    ]
    found = GOOD
    for word, changes in faults:
        found = found._replace(**changes)
        assert give_verdict(found).word is word


def test_the_sentence_says_what_each_gain_was_compared_at():
    """A ladder compared at equal draws must never be printed as "at equal tokens"."""
    for ladder in ("draws", "tokens"):
        found = give_verdict(GOOD._replace(over_ladder=Compared(estimate(0.05), ladder)))
        assert found.reason.endswith(f"over the temperature ladder at equal {ladder}")
        assert "over direct at equal tokens" in found.reason


def test_nothing_known_is_nothing_said():
    unknown = (Compared(UNKNOWN, "draws"), Compared(UNKNOWN, "tokens"), Compared(UNKNOWN, "draws"))
    nothing = Findings(32, 0.05, 0.04, UNKNOWN, RatioEstimate(nan, nan, nan, nan), nan, nan, *unknown, UNKNOWN)
    assert give_verdict(nothing).word is Word.NOTHING


def test_a_smallest_gain_is_stated_first():
    with pytest.raises(ValueError, match="stated before drawing"):
        give_verdict(GOOD._replace(smallest_gain=0.0))
