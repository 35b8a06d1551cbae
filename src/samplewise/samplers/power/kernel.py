"""One step of a Markov chain over complete responses that leaves p(x)^alpha exp(lambda L) as it is: pure, and exact.

With x the record, m a cut, q the law of the proposal, and x' a redraw of everything from m to a stop token or the
horizon (arXiv 2510.14901, with its defects removed: the proposal's length is never that of the current record, both
sums run to their records' own ends, and a cut law that looks at the record is corrected for):

    log r = sum_{t>=m} g_t(x') - sum_{t>=m} g_t(x) + lambda (L' - L) + log S(x) - log S(x')
    g_t = alpha log p_t - log q_t        S: sum of the cut weights, see cuts.py

    mh     accept x' if log u <= log r
    mtm    K redraws of weights w_j = r_j, W their sum: choose j by weight, accept if u <= W / (W - w_j + 1)
    isir   K redraws: move to j with odds w_j, stay with odds 1

Three things save tokens and change no law:

* Early rejection. u comes first. Where 1 <= 1 / temperature <= alpha no token adds to log r, so a proposal whose sum
  has fallen below log u (plus what the other terms could still bring) is rejected whatever would follow: a floor.
  For `isir` the same by a race: noise e is drawn first, the largest log w + e wins, and a redraw that has fallen
  behind the record's own noise cannot win.
* The jump. The redraw and the record part at the first place d where a coin of odds q(x_d) fails; up to there the
  redraw is the record, at no cost, and at d it is drawn from q without x_d. Terms before d cancel, and where
  g is the same for every token, at temperature 1 / alpha, so does the term at d: it is left out, not subtracted.
* Steps that change nothing (a cut behind the end; no coin fails) ask for nothing.

Places are counted from 0. The cost of a step is at most K (T - d) tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from samplewise.samplers.power.cuts import Cuts, draw_cut, own_weights
from samplewise.samplers.power.dice import Dice
from samplewise.samplers.power.record import WANT, Record, falls, gains, part_of, spliced
from samplewise.types import Completion, Floor, Generate, Message, Sampling

Move = Literal["mh", "mtm", "isir"]
MOVES: tuple[Move, ...] = get_args(Move)
Outcome = Literal["behind", "same", "accepted", "rejected", "aborted", "failed"]


class Kernel(NamedTuple):
    """What a step depends on, the record apart. `sampling` is the proposal's; with several `temperatures` one is drawn
    for each step by `mix`, and only its law counts in that step."""

    alpha: float
    horizon: int  # T, tokens
    cuts: Cuts
    sampling: Sampling
    temperatures: tuple[float, ...]  # (E,)
    mix: tuple[float, ...]  # (E,) odds
    length_preference: float = 0.0  # lambda, nats per token
    move: Move = "mh"
    tries: int = 1  # K
    jump: bool = True
    early: bool = True

    def drawn_at(self, row: int) -> Sampling:
        return self.sampling._replace(temperature=self.temperatures[row])

    def cancels(self, row: int) -> bool:
        """Whether g is the same for every token at a place."""
        return math.isclose(self.alpha * self.temperatures[row], 1.0, rel_tol=1e-12)


class Planned(NamedTuple):
    """A step under way: where each try parts from the record, -1 where it never does."""

    cut: int
    row: int  # of the temperatures
    places: tuple[int, ...]  # (K,)
    log_u: float
    noise: tuple[float, ...]  # (K + 1,) of the record and the tries, for `isir`

    @property
    def num_asks(self) -> int:
        return sum(place >= 0 for place in self.places)


class Moved(NamedTuple):
    """What became of a step. `at` is where the try that counted parted from the record, -1: nowhere."""

    record: Record
    outcome: Outcome
    at: int
    log_ratio: float | None  # None: not known, or not needed
    tokens: int  # drawn in this step
    saved: int = 0  # tokens that need not be drawn, as far as that is known: what the jump kept of the record


def plan(kernel: Kernel, record: Record, dice: Dice) -> Planned:
    """Draw all of a step's randomness that comes before its asks."""
    row = dice.choose(kernel.mix) if len(kernel.temperatures) > 1 else 0
    if not record.tokens:  # a prompt that leaves no room
        return Planned(0, row, (-1,) * kernel.tries, 0.0, ())
    cut = draw_cut(kernel.cuts, dice, kernel.horizon, _weights(kernel, record, row))
    if cut >= len(record.tokens):
        return Planned(cut, row, (-1,) * kernel.tries, 0.0, ())
    log_u = dice.log_uniform() if kernel.move == "mh" and kernel.alpha < math.inf else 0.0
    noise = dice.gumbels(kernel.tries + 1) if kernel.move == "isir" else ()
    places = tuple(parting(record.logq[row], cut, dice) if kernel.jump else cut for _ in range(kernel.tries))
    return Planned(cut, row, places, log_u, noise)


def parting(logq: Sequence[float], cut: int, dice: Dice) -> int:
    """The first place from `cut` at which a redraw is not the record, -1 for none."""
    return next((place for place in range(cut, len(logq)) if not dice.happens(math.exp(logq[place]))), -1)


def asks(
    kernel: Kernel, record: Record, planned: Planned, messages: tuple[Message, ...], seeds: Sequence[int], group: str
) -> tuple[Generate, ...]:
    """The requests of a step, one for each try that parts from the record."""
    wanted = (*WANT, "logz") if len(kernel.temperatures) > 1 else WANT
    made = []
    for number, place in enumerate(planned.places):
        if place >= 0:
            ask = Generate(
                messages=messages,
                prefix=record.tokens[:place],
                sampling=kernel.drawn_at(planned.row),
                max_tokens=kernel.horizon - place,
                seed=seeds[number],
                want=(*wanted, "whole"),  # the text of the whole response, prefix included
                group=group,
                floor=_floor(kernel, record, planned, number),
                forbid_first=record.tokens[place] if kernel.jump else None,
                exponents=tuple(1.0 / tau for tau in kernel.temperatures) if len(kernel.temperatures) > 1 else (),
            )
            made.append(ask)
    return tuple(made)


def decide(kernel: Kernel, record: Record, planned: Planned, completions: Sequence[Completion], dice: Dice) -> Moved:
    """The record after a step, given the completions of its asks.

    A step with a failed ask leaves the record as it is. So long as what fails does not depend on what would have been
    drawn, and only on the prefix if on anything, the law is untouched: the step back asks with the same prefix.
    """
    if planned.cut >= len(record.tokens):
        return Moved(record, "behind", -1, None, 0)
    tokens = sum(completion.usage.completion_tokens for completion in completions)
    kept = sum((len(record.tokens) if place < 0 else place) - planned.cut for place in planned.places)
    if not completions:
        return Moved(record, "same", -1, None, 0, kept)
    proposals: list[Record | None] = []  # (K,) None: given up
    log_weights: list[float] = []  # (K,)
    waiting = iter(completions)
    for place in planned.places:
        if place < 0:
            proposals.append(record)
            log_weights.append(0.0)
            continue
        completion = next(waiting)
        part = part_of(completion, kernel.temperatures)
        if part is None:
            return Moved(record, "failed", place, None, tokens, kept)
        if completion.finish == "floor":
            proposals.append(None)
            log_weights.append(-math.inf)
        else:
            proposals.append(spliced(record, place, completion, part, kernel.horizon - place))
            log_weights.append(log_ratio(kernel, record, proposals[-1], place, planned.row))
    chosen = _chosen(kernel, planned, log_weights, dice)
    if chosen is None:
        ratio = max(log_weights)
        given_up = all(proposal is None for proposal in proposals)
        outcome: Outcome = "aborted" if given_up else "rejected"
        return Moved(record, outcome, planned.places[0], ratio if ratio > -math.inf else None, tokens, kept)
    moved = proposals[chosen]
    assert moved is not None, "a redraw that was given up cannot be chosen"
    outcome = "same" if planned.places[chosen] < 0 else "accepted"
    return Moved(moved, outcome, planned.places[chosen], log_weights[chosen], tokens, kept)


def log_ratio(kernel: Kernel, record: Record, proposal: Record | None, place: int, row: int) -> float:
    """log r (nats) of a proposal that parts from the record at `place`, by the law of temperature `row`."""
    assert proposal is not None
    new = gains(proposal.logp, proposal.logq[row], kernel.alpha)
    old = gains(record.logp, record.logq[row], kernel.alpha)
    start = place + 1 if kernel.cancels(row) else place
    longer = len(proposal.tokens) - len(record.tokens)
    total = math.fsum(new[start:]) - math.fsum(old[start:]) + kernel.length_preference * longer
    if kernel.cuts.fixed:
        return total
    sums = [math.fsum(_weights(kernel, each, row)) for each in (record, proposal)]
    return total + math.log(sums[0] / sums[1])


def _chosen(kernel: Kernel, planned: Planned, log_weights: Sequence[float], dice: Dice) -> int | None:
    """The try that becomes the record; None: the record stays."""
    if kernel.move == "mh":
        return 0 if log_weights[0] > -math.inf and planned.log_u <= log_weights[0] else None
    if kernel.move == "isir":
        winner = dice.winner((0.0, *log_weights), planned.noise)
        return winner - 1 if winner else None
    top = max(log_weights)
    chosen = dice.choose([math.exp(each - top) for each in log_weights])
    others = [each for number, each in enumerate(log_weights) if number != chosen]
    back = log_sum((*others, 0.0))  # the tries that the step back would have: the others, and the record
    return chosen if dice.log_uniform() <= log_sum(log_weights) - back else None


def _floor(kernel: Kernel, record: Record, planned: Planned, number: int) -> Floor | None:
    """Where try `number` has lost, as the sum of alpha log p - log q that it would have to be below."""
    if not kernel.early or kernel.move == "mtm" or not falls(kernel.alpha, kernel.drawn_at(planned.row)):
        return None
    place, length = planned.places[number], len(record.tokens)
    old = math.fsum(gains(record.logp[place:], record.logq[planned.row][place:], kernel.alpha))
    shift = kernel.length_preference
    still = shift * ((kernel.horizon if shift > 0 else place + 1) - length)  # the most that the length can bring
    if not kernel.cuts.fixed:  # the proposal has the weights of the places up to here, and may have more
        weights = _weights(kernel, record, planned.row)
        still += math.log(math.fsum(weights) / math.fsum(weights[: place + 1]))
    needed = planned.noise[0] - planned.noise[number + 1] if kernel.move == "isir" else planned.log_u
    return Floor(kernel.alpha, needed + (old - still))


def _weights(kernel: Kernel, record: Record, row: int) -> list[float]:
    if kernel.cuts.fixed:
        return []
    # An entropy is read off a gain only where the gain does not depend on the token.
    cuts = kernel.cuts if kernel.cancels(row) else kernel.cuts._replace(kind="own")
    return own_weights(cuts, gains(record.logp, record.logq[row], kernel.alpha), kernel.alpha)


def log_sum(values: Sequence[float]) -> float:
    """log of the sum of exponentials; -inf for nothing."""
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(value - top) for value in values))


def expected_tokens(kernel: Kernel, record: Record, masses: Sequence[float]) -> float:
    """Tokens that a step from this record draws on average if a redraw is as long as the record. `masses` (>= L,) are
    the odds of the cuts. O(L)."""
    logq, length = record.logq[0], len(record.tokens)
    after, total = 0.0, 0.0  # expected tokens of a redraw from `place` on
    for place in reversed(range(length)):
        stay = math.exp(logq[place]) if kernel.jump else 0.0
        after = stay * after + (1.0 - stay) * (length - place)
        total += masses[place] * after
    return kernel.tries * total
