"""What the numbers on a mix of arms say, in words: the first rule that fires, in a fixed order.

Unknown numbers (nan, None) fire no rule; a verdict is never better than what was measured.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

from samplewise.measure._bootstrap import Ratio
from samplewise.measure.estimate import Estimate

LEVEL = 0.05


class Word(StrEnum):
    NO_VERDICT = "no verdict"
    NO_HEADROOM = "no headroom"
    INERT = "inert: try idea or plan level"
    HARMFUL = "harmful"
    PAID_FOR = "paid for by tokens"
    SELECTION = "selection is the bottleneck"
    USE = "use"
    NOTHING = "no detectable gain"


class Findings(NamedTuple):
    """What was measured. Gains are paired differences of coverage, mix minus the other, over problems."""

    num_draws: int
    smallest_gain: float  # of interest, stated before drawing; absolute, in coverage
    detectable: float  # the smallest gain these problems can show (`detectable_gain`, or 1.96 standard errors)
    direct: Estimate  # coverage of direct at N draws
    total: Ratio  # failure of the mix over failure of direct (`two_factor_gain`)
    dispersion_p: float  # of M1 against shuffled arms
    divergence_p: float  # of the answers' divergence against shuffled arms
    at_equal_draws: Estimate  # gain over direct at N draws each
    at_equal_tokens: Estimate  # gain over direct at the mix's tokens, thinkers and judges included
    over_ladder: Estimate  # gain over a temperature ladder at equal tokens
    selected: Estimate  # gain of the selected answer over direct's; nan where nothing is selected (an oracle)
    worst_arm: str = ""  # the arm with the largest eps
    allocation: str = "round-robin"


class Verdict(NamedTuple):
    word: Word
    reason: str  # one sentence with the numbers


def give_verdict(found: Findings) -> Verdict:
    """The first rule that fires. ValueError for a smallest gain outside (0, 1]."""
    if not 0 < found.smallest_gain <= 1:
        raise ValueError(f"smallest_gain must be in (0, 1], stated before drawing; got {found.smallest_gain}")
    n, wanted = found.num_draws, _points(found.smallest_gain)
    if not found.detectable <= found.smallest_gain:
        shown = "no gain at all" if math.isnan(found.detectable) else f"gains from {_points(found.detectable)}"
        return Verdict(
            Word.NO_VERDICT,
            f"{found.direct.num_problems} problems can show {shown}, and {wanted} was to be shown: add problems",
        )
    headroom = 1 - found.direct.low
    if headroom < found.smallest_gain:
        return Verdict(
            Word.NO_HEADROOM,
            f"direct covers at least {_share(found.direct.low)} at {n} draws, which leaves less than {wanted}",
        )
    nulls = [p for p in (found.dispersion_p, found.divergence_p) if not math.isnan(p)]
    if nulls and min(nulls) > LEVEL:
        return Verdict(
            Word.INERT,
            f"the arms fail and answer like shuffled arms (p = {_p(found.dispersion_p)} for M1, "
            f"{_p(found.divergence_p)} for the answers)",
        )
    if found.total.low > 1:
        return Verdict(
            Word.HARMFUL,
            f"the mix fails {found.total.value:.2f} times as often as direct at {n} draws (at least "
            f"{found.total.low:.2f}); the worst arm is {found.worst_arm or 'not known'}",
        )
    if found.at_equal_draws.low > 0 and found.at_equal_tokens.low <= 0:
        return Verdict(
            Word.PAID_FOR,
            f"{_gain(found.at_equal_draws)} at equal draws, {_gain(found.at_equal_tokens)} at equal tokens",
        )
    if found.at_equal_draws.low > 0 and found.selected.low <= 0:
        return Verdict(
            Word.SELECTION,
            f"coverage {_gain(found.at_equal_draws)}, the selected answer {_gain(found.selected)}",
        )
    if found.at_equal_tokens.low > 0 and found.over_ladder.low > 0:
        return Verdict(
            Word.USE,
            f"with allocation {found.allocation}: {_gain(found.at_equal_tokens)} over direct and "
            f"{_gain(found.over_ladder)} over the temperature ladder, at equal tokens",
        )
    return Verdict(
        Word.NOTHING,
        f"at equal tokens {_gain(found.at_equal_tokens)} over direct, {_gain(found.over_ladder)} over the ladder",
    )


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _p(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.3f}"


def _gain(gain: Estimate) -> str:
    if math.isnan(gain.value):
        return "unknown"
    return f"{100 * gain.value:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
