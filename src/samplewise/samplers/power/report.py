"""What a chain sampler's trace says: how well it mixed, what it cost, what each acceleration saved. Pure; O(trace).

Figures are over the steps of the last horizon, which alone carries the guarantee. Unknown is None: a rate of nothing, a
diagnostic of too few steps. Moves that change nothing (a cut behind the end, a proposal equal to the response) are no
evidence of mixing, and are not in the acceptance rate.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from samplewise.core.types import Json
from samplewise.samplers.infos import MoveInfo, read_trace

NUM_DEPTHS = 4  # parts of a response's length by which acceptance is reported
FROZEN_AFTER = 10  # steps a chain needs before it is called frozen: none accepted, though some could have been


class TokensSaved(NamedTuple):
    """Tokens saved: reused by the jump; and what a proposal rejected early lacked to the response's length."""

    jump: int
    early: int


class ChainsReport(NamedTuple):
    """Figures of chains. Rates are None where nothing was tried."""

    steps: int
    free: int  # steps that changed nothing and sent no request
    failed: int
    tokens: int  # drawn in steps, all horizons
    acceptance: float | None  # of proposals that differ from the response
    by_depth: tuple[float | None, ...]  # the same by where they depart from it, from the front to the end
    tokens_per_change: float | None
    r_hat: float | None  # split R-hat of log p over chains of one target; of several arms, the largest
    at_horizon: float | None  # share of chains whose response did not end
    saved: TokensSaved
    frozen: tuple[int, ...]  # chains
    swap_rates: tuple[float | None, ...] = ()  # of a ladder, by rung
    round_trips: int = 0
    requests_per_step: float | None = None  # steps that changed nothing and sent none are among them
    unused: int = 0  # of `tokens`: drawn, and in no proposal, as an endpoint is asked for chunks


def summarize_chains(trace: Sequence[Json]) -> ChainsReport:
    """Return the report of one question's trace."""
    infos = read_trace(trace)
    moves = infos.moves
    last = max((move.stage for move in moves), default=0)
    final = [move for move in moves if move.stage == last]
    decided = [move for move in final if move.differed]
    tokens = sum(move.tokens for move in moves)
    runs = _by_chain(final)
    num_rungs = len({swap.rung for swap in infos.swaps}) + 1
    by_target: dict[str, list[list[MoveInfo]]] = {}  # by arm; of a ladder, the highest rung
    for run in runs:
        ladder, rung = divmod(run[0].chain, num_rungs)
        if rung == num_rungs - 1:
            by_target.setdefault(infos.arms[ladder] if infos.arms else "", []).append(run)
    report = ChainsReport(
        steps=len(final),
        free=sum(move.outcome in ("behind", "same") for move in final),
        failed=sum(move.outcome == "failed" for move in final),
        tokens=tokens,
        acceptance=_rate(sum(move.outcome == "accepted" for move in decided), len(decided)),
        by_depth=_by_depth(decided),
        tokens_per_change=_rate(tokens, sum(move.outcome == "accepted" for move in moves)),
        r_hat=_largest(split_r_hat([[move.logp for move in run] for run in alike]) for alike in by_target.values()),
        at_horizon=_rate(sum(not run[-1].ended for run in runs), len(runs)),
        saved=TokensSaved(
            jump=sum(move.saved for move in moves),
            early=sum(max(0, move.length - move.position - move.tokens) for move in moves if move.outcome == "aborted"),
        ),
        frozen=tuple(run[0].chain for run in runs if _frozen(run)),
        requests_per_step=_rate(sum(move.num_requests for move in final), len(final)),
        unused=sum(move.unused or 0 for move in moves),
    )
    if not infos.swaps:
        return report
    by_rung = [[swap.swapped for swap in infos.swaps if swap.rung == rung] for rung in range(num_rungs - 1)]
    rates = tuple(_rate(sum(swapped), len(swapped)) for swapped in by_rung)
    return report._replace(swap_rates=rates, round_trips=_round_trips(infos.walkers, num_rungs))


def chain_notes(report: ChainsReport) -> list[str]:
    """Return what a person should know about a report, and what to do."""
    notes = []
    if report.frozen:
        notes.append(f"chains {list(report.frozen)} are frozen: lower alpha or use a ladder")
    if report.r_hat is not None and report.r_hat > 1.05:
        notes.append(f"chains disagree in log p (split R-hat {report.r_hat:.2f}): more steps are needed")
    if report.at_horizon:
        notes.append(f"{report.at_horizon:.0%} of the responses reached the horizon: raise max_tokens")
    return notes


def split_r_hat(runs: Sequence[Sequence[float]]) -> float | None:
    """Return the split R-hat of two or more chains: the halves of every chain are taken as chains.

    None with fewer than 4 steps a chain; 1 if nothing differs, and infinite if only the chains do.
    """
    size = min((len(run) for run in runs), default=0) // 2
    if len(runs) < 2 or size < 2:
        return None
    halves = [half for run in runs for half in (run[-2 * size : -size], run[-size:])]
    means = [math.fsum(half) / size for half in halves]
    within = math.fsum(_variance(half) for half in halves) / len(halves)
    between = _variance(means)
    if within == 0.0:
        return 1.0 if between == 0.0 else math.inf
    return math.sqrt((size - 1) / size + between / within)


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _by_chain(moves: Sequence[MoveInfo]) -> list[list[MoveInfo]]:
    runs: dict[int, list[MoveInfo]] = {}
    for move in moves:
        runs.setdefault(move.chain, []).append(move)
    return [runs[chain] for chain in sorted(runs)]


def _by_depth(decided: Sequence[MoveInfo]) -> tuple[float | None, ...]:
    counts = [[0, 0] for _ in range(NUM_DEPTHS)]
    for move in decided:
        # An accepted proposal has another length than the response it departed from; either will do for a quarter.
        depth = min(NUM_DEPTHS - 1, NUM_DEPTHS * max(0, move.position) // max(1, move.length))
        counts[depth][0] += move.outcome == "accepted"
        counts[depth][1] += 1
    return tuple(_rate(accepted, num) for accepted, num in counts)


def _frozen(run: Sequence[MoveInfo]) -> bool:
    could_change = any(move.outcome not in ("behind", "failed") for move in run[len(run) // 2 :])
    return len(run) >= FROZEN_AFTER and could_change and not any(move.outcome == "accepted" for move in run)


def _round_trips(walkers: Sequence[Sequence[int]], num_rungs: int) -> int:
    """Return how often a start went from the highest rung to the lowest and up again, over all starts and ladders."""
    trips = 0
    for walker in range(len(walkers[-1])):
        goals = [num_rungs - 1, 0]
        legs = 0
        for rung in (row.index(walker) % num_rungs for row in walkers if walker in row):
            if rung == goals[legs % 2]:
                legs += 1
        trips += max(0, legs - 1) // 2
    return trips


def _rate(part: float, whole: float) -> float | None:
    return part / whole if whole else None
