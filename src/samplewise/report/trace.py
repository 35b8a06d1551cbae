"""What a trace says, in lines for people: how well a power sampler mixed, what was saved and what to do about it; how
samples explored.

Other samplers leave no such trace, and nothing is said of them. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from samplewise.report import explored
from samplewise.samplers.power.report import notes, summary
from samplewise.types import Json

COLLAPSED = 2.0  # effective draws below which a draw by weight is the choice of the heaviest


def chains_in_words(trace: Sequence[Json]) -> list[str]:
    """Lines about the chains, weights, particles or groups of one question; none where the trace has none of these.

    Acceptance is of redraws that differ from what they would replace; steps that change nothing are no evidence.
    """
    infos = [info for info in trace if isinstance(info, Mapping)]
    said: list[str] = []
    if any(info.get("moves") for info in infos):
        said += _chains(summary(infos))
    said += [_adapted(each) for info in infos for each in info.get("rounds", ()) if "ended" in each]
    if weights := [info["weights"] for info in infos if "weights" in info]:
        said += _weights(weights[-1]["ess"], weights[-1]["num"])
    if blocks := [info for info in infos if "sweep" in info and "ess" in info]:
        resampled = sum(block["resampled"] for block in blocks)
        said.append(f"particles: resampled after {resampled} of {len(blocks)} blocks")
        said += _weights(blocks[-1]["ess"], blocks[-1]["num"])
    groups = explored.summary(infos)
    return said if groups is None else [*said, *explored.in_words(groups)]


def _chains(told: Mapping[str, Any]) -> list[str]:
    rate = told["acceptance"]
    parts = [
        f"chains: {told['steps']} steps, {told['free']} of them free",
        "no redraw differed" if rate is None else f"{rate:.0%} of the redraws that differ accepted",
        f"{told['tokens']:,} tokens drawn, {told['saved']['jump'] + told['saved']['early']:,} saved",
    ]
    if told["failed"]:
        parts.append(f"{told['failed']} steps failed")
    if told["r_hat"] is not None:
        parts.append(f"split R-hat {told['r_hat']:.2f}")
    if "swap_rates" in told:
        rates = ", ".join("none" if each is None else f"{each:.2f}" for each in told["swap_rates"])
        parts.append(f"neighbours change places at {rates}; {told['round_trips']} round trips")
    return ["; ".join(parts), *notes(told)]


def _adapted(told: Mapping[str, Any]) -> str:
    return f"adaptive, so of no stated law: alpha {told['alpha']:.2f} after {told['round']} rounds ({told['ended']})"


def _weights(ess: float, num: int) -> list[str]:
    said = [f"weights: {num} responses, effectively {ess:.1f}"]
    if ess < COLLAPSED and num > 1:
        said.append("the weights have collapsed: this is best-of-n by weight; draw more, or lower alpha")
    return said
