"""A verdict in words on a mix of arms: the first rule that applies, in a fixed order.

Unknown numbers (nan, None) trigger no rule, so a verdict is never better than what was measured. Each gain carries what
it was compared at, and the sentence is made from that.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Literal, NamedTuple

from samplewise.measure._bootstrap import RatioEstimate
from samplewise.measure.estimate import Estimate

LEVEL = 0.05


class Word(StrEnum):
    """The verdicts, as printed."""

    NO_VERDICT = "no verdict"
    NO_HEADROOM = "no headroom"
    INERT = "inert: try idea or plan level"
    HARMFUL = "harmful"
    PAID_FOR = "paid for by tokens"
    SELECTION = "selection is the bottleneck"
    USE = "use"
    NOTHING = "no detectable gain"


class Compared(NamedTuple):
    """A gain, and what the two sides had in common."""

    gain: Estimate
    compared_at: Literal["draws", "tokens"]

    @property
    def low(self) -> float:
        return self.gain.low

    def over(self, other: str) -> str:
        """Return the gain over `other` in words, with its interval and what it was compared at."""
        return f"{_points(self.gain)} over {other} at equal {self.compared_at}"


class Findings(NamedTuple):
    """What was measured. Gains are paired differences of coverage over problems, the mix minus the other."""

    num_draws: int
    smallest_gain: float  # of interest, stated before drawing; absolute, in coverage
    detectable: float  # the smallest gain that these problems can show (`detectable_gain`, or 1.96 standard errors)
    direct: Estimate  # coverage of direct at N draws
    total: RatioEstimate  # failure of the mix over failure of direct (`two_factor_gain`)
    dispersion_p: float  # of M1 against shuffled arms
    divergence_p: float  # of the answers' divergence against shuffled arms
    at_equal_draws: Compared  # over direct at N draws each
    at_equal_tokens: Compared  # over direct at the mix's tokens, helpers and judges included
    over_ladder: Compared  # over a temperature ladder
    selected: Estimate  # gain of the selected answer over direct's; nan where nothing is selected (an oracle)
    worst_arm: str = ""  # the arm with the largest eps
    allocation: str = "round-robin"
    mix_tokens: float = math.nan  # a question, of the mix's N draws, helpers included
    direct_tokens: float = math.nan  # a question, of the direct draws at equal tokens; nan: the direct draws end before
    direct_end: float = math.nan  # a question, of all direct draws


class EffectVerdict(NamedTuple):
    """A word, and one sentence with the numbers behind it. `compared_at` says at what the two sides were compared."""

    word: Word
    reason: str
    compared_at: str = ""


def give_verdict(findings: Findings) -> EffectVerdict:
    """Return the first verdict that applies, with what it was compared at. Raise ValueError for a smallest gain outside
    (0, 1]."""
    return _first_verdict(findings)._replace(compared_at=_compared_at(findings))


def _compared_at(findings: Findings) -> str:
    words = f"{findings.num_draws} draws each"
    if math.isnan(findings.mix_tokens):
        return words
    mix = f"{findings.mix_tokens:,.0f} tokens a question of the mix"
    if math.isnan(findings.direct_tokens):
        end = f"the direct draws end at {findings.direct_end:,.0f}"
        return f"{words}; not at equal tokens: these draws cost {mix}, and {end}"
    return f"{words}; at equal tokens, {mix} and {findings.direct_tokens:,.0f} direct"


def _first_verdict(findings: Findings) -> EffectVerdict:
    if not 0 < findings.smallest_gain <= 1:
        raise ValueError(f"smallest_gain must be in (0, 1], stated before drawing; got {findings.smallest_gain}")
    n, wanted = findings.num_draws, f"{100 * findings.smallest_gain:.1f} points"
    by_draws, by_tokens, ladder = findings.at_equal_draws, findings.at_equal_tokens, findings.over_ladder
    if not findings.detectable <= findings.smallest_gain:
        unknown = math.isnan(findings.detectable)
        shown = "no gain at all" if unknown else f"gains from {100 * findings.detectable:.1f} points"
        reason = f"{findings.direct.num_problems} problems can show {shown}, and {wanted} was to be shown: add problems"
        return EffectVerdict(Word.NO_VERDICT, reason)
    if 1 - findings.direct.low < findings.smallest_gain:
        covered = f"{100 * findings.direct.low:.1f} %"
        reason = f"direct covers at least {covered} at {n} draws, which leaves less than {wanted}"
        return EffectVerdict(Word.NO_HEADROOM, reason)
    p_values = [p for p in (findings.dispersion_p, findings.divergence_p) if not math.isnan(p)]
    if p_values and min(p_values) > LEVEL:
        reason = (
            f"the arms fail and answer like shuffled arms (p = {_p(findings.dispersion_p)} for M1, "
            f"{_p(findings.divergence_p)} for the answers)"
        )
        return EffectVerdict(Word.INERT, reason)
    if findings.total.low > 1:
        reason = (
            f"the mix fails {findings.total.value:.2f} times as often as direct at {n} draws (at least "
            f"{findings.total.low:.2f}); the worst arm is {findings.worst_arm or 'not known'}"
        )
        return EffectVerdict(Word.HARMFUL, reason)
    if by_draws.low > 0 and by_tokens.low <= 0:
        return EffectVerdict(Word.PAID_FOR, f"{by_draws.over('direct')}, {by_tokens.over('direct')}")
    if by_draws.low > 0 and findings.selected.low <= 0:
        selected = f"the selected answer {_points(findings.selected)} with all draws of each"
        reason = f"coverage {by_draws.over('direct')}, {selected}"
        return EffectVerdict(Word.SELECTION, reason)
    gains = f"{by_tokens.over('direct')}, {ladder.over('the temperature ladder')}"
    if by_tokens.low > 0 and ladder.low > 0:
        return EffectVerdict(Word.USE, f"with allocation {findings.allocation}: {gains}")
    return EffectVerdict(Word.NOTHING, gains)


def _p(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.3f}"


def _points(gain: Estimate) -> str:
    if math.isnan(gain.value):
        return "unknown"
    return f"{100 * gain.value:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
