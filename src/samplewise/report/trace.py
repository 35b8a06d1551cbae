"""Describe a trace in lines: how well a power sampler mixed, what it saved and what to do about it, how draws explored.

Other samplers leave no such trace and get no lines. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from samplewise.core.types import Json
from samplewise.report.explored import describe_exploration, summarize_exploration
from samplewise.samplers.infos import RoundInfo, read_trace
from samplewise.samplers.power.report import ChainsReport, chain_notes, summarize_chains

COLLAPSED = 2.0  # effective sample size below which a draw by weight picks the heaviest


def describe_trace(trace: Sequence[Json]) -> list[str]:
    """Return lines about the chains, weights, particles or groups of one question; none if the trace has none.

    Acceptance is of proposals that differ from the response; steps that change nothing are no evidence.
    """
    infos = read_trace(trace)
    lines = _chains(summarize_chains(trace)) if infos.moves else []
    if not infos.moves and any(isinstance(info, Mapping) and "target" in info for info in trace):
        lines.append("chains: no step was taken, so any response is a start: a larger budget pays for steps")
    lines += [_adapted(info) for info in infos.rounds if info.ended is not None]
    if infos.weights:
        lines += _weights(infos.weights[-1].ess, infos.weights[-1].num)
    if infos.blocks:
        resampled = sum(block.resampled for block in infos.blocks)
        lines.append(f"particles: resampled after {resampled} of {len(infos.blocks)} blocks")
        lines += _weights(infos.blocks[-1].ess, infos.blocks[-1].num)
    groups = summarize_exploration(trace)
    return lines if groups is None else [*lines, *describe_exploration(groups)]


def _chains(report: ChainsReport) -> list[str]:
    rate, in_vain = report.acceptance, f" ({report.unused:,} in vain)" if report.unused else ""
    parts = [
        f"chains: {report.steps} steps, {report.free} of them free",
        "no proposal differed" if rate is None else f"{rate:.0%} of the proposals that differ accepted",
        f"{report.tokens:,} tokens drawn{in_vain}, {sum(report.saved):,} saved",
        f"{report.requests_per_step or 0.0:.2f} requests a step",
    ]
    if report.failed:
        parts.append(f"{report.failed} steps failed")
    if report.r_hat is not None:
        parts.append(f"split R-hat {report.r_hat:.2f}")
    if report.swap_rates:
        rates = ", ".join("none" if rate is None else f"{rate:.2f}" for rate in report.swap_rates)
        parts.append(f"neighbors swap at {rates}; {report.round_trips} round trips")
    return ["; ".join(parts), *chain_notes(report)]


def _adapted(info: RoundInfo) -> str:
    return f"adaptive, so of no stated distribution: alpha {info.alpha:.2f} after {info.round} rounds ({info.ended})"


def _weights(ess: float, num: int) -> list[str]:
    lines = [f"weights: {num} responses, effective sample size {ess:.1f}"]
    if ess < COLLAPSED and num > 1:
        lines.append("the weights have collapsed: this is best-of-n by weight; draw more, or lower alpha")
    return lines
