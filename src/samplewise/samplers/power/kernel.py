"""One step of a Markov chain over complete responses that leaves p(x)^alpha exp(lambda L) invariant: pure, and exact.

With x the response, m a cut, q the proposal distribution, and x' a redraw of everything from m to a stop token or the
horizon (arXiv 2510.14901, with its defects removed: the proposal's length does not depend on the current one, both sums
run to their own ends, and the two responses' cut probabilities are in the ratio):

    log r = sum_{t>=m} g_t(x') - sum_{t>=m} g_t(x) + lambda (L' - L) + log S(x) - log S(x')
    g_t = alpha log p_t - log q_t        S: sum of the cut weights, see cuts.py

    mh     accept x' if log u <= log r
    mtm    K proposals of weights w_j = r_j, W their sum: choose j by weight, accept if u <= W / (W - w_j + 1)
    isir   K proposals: move to j with probability proportional to w_j, stay in proportion to 1

Three things save tokens and change no distribution:

* Early rejection. u is drawn first. Where 1 <= 1 / temperature <= alpha no token adds to log r, so a proposal whose sum
  has fallen below log u (plus the most that the other terms can still add) is rejected whatever follows: a
  `RejectionBound`. For `isir` the same by a race: Gumbel noise e is drawn first, the largest log w + e wins, and a
  proposal that has fallen behind the current response's own noise cannot win.
* The jump. The proposal and the response part at the first position d where a Bernoulli draw of probability q(x_d)
  fails. Up to d the proposal equals the response, at no cost; at d it is drawn from q without x_d. Terms before d
  cancel, and where g is the same for every token, at temperature 1 / alpha, so does the term at d: it is left out.
* Steps that change nothing (no Bernoulli draw fails) send no request.

The space is that of the complete responses: those that ended with a stop token within the horizon, and those of exactly
T tokens that did not end, which the horizon cut. Both are states, each with its own probability, the product of its
tokens'. Padding a response that ended up to T tokens would add factors of 1. So the target is p^alpha of the model that
stops at T tokens: where the horizon cuts many responses, that is another distribution than the model's without one.

Positions count from 0. The cost of a step is at most K (T - d) tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from samplewise.core.numerics import ratio_cannot_rise
from samplewise.core.types import Completion, Generate, Message, RejectionBound, Sampling
from samplewise.samplers.infos import Outcome
from samplewise.samplers.power.cuts import CutKind, cut_weights
from samplewise.samplers.power.random_choices import RandomChoices
from samplewise.samplers.power.requests import logz_exponents
from samplewise.samplers.power.response import (
    WANT,
    DrawnResponse,
    continuation_of,
    log_ratio_terms,
    splice,
)

Move = Literal["mh", "mtm", "isir"]
MOVES: tuple[Move, ...] = get_args(Move)


class Kernel(NamedTuple):
    """What a step depends on, apart from the response.

    `sampling` is the proposal's. With several `temperatures` each step draws one by `mix`, and only the proposal at
    that temperature counts in the step.
    """

    alpha: float
    horizon: int  # T, tokens
    cuts: CutKind
    sampling: Sampling
    temperatures: tuple[float, ...]  # (E,)
    mix: tuple[float, ...]  # (E,) probabilities
    length_preference: float = 0.0  # lambda, nats per token
    move: Move = "mh"
    tries: int = 1  # K
    jump: bool = True
    early: bool = True

    def sampling_at(self, temperature_index: int) -> Sampling:
        """Return the proposal's sampling at one of the temperatures."""
        return self.sampling._replace(temperature=self.temperatures[temperature_index])

    def terms_cancel(self, temperature_index: int) -> bool:
        """Return whether g is the same for every token at a position."""
        return math.isclose(self.alpha * self.temperatures[temperature_index], 1.0, rel_tol=1e-12)


class MoveProposal(NamedTuple):
    """A step whose requests are in flight. `positions` say where each try departs from the response; -1: nowhere."""

    cut: int
    temperature_index: int
    positions: tuple[int, ...]  # (K,)
    log_u: float
    noise: tuple[float, ...]  # (K + 1,) of the response and the tries, for `isir`

    @property
    def num_asks(self) -> int:
        """Return how many requests the step sends."""
        return sum(position >= 0 for position in self.positions)


class MoveResult(NamedTuple):
    """The response after a step, and how the step went."""

    response: DrawnResponse
    outcome: Outcome
    position: int  # where the try that counted departed from the response before; -1: nowhere
    log_ratio: float | None  # None: not known, or not needed
    tokens: int  # drawn in this step
    saved: int = 0  # tokens that the jump reused instead of drawing them
    requests: int = 0
    unused: int = 0  # of `tokens`, those that an engine drew and could not use


def propose_move(kernel: Kernel, current: DrawnResponse, choices: RandomChoices) -> MoveProposal:
    """Draw all randomness of a step that comes before its requests."""
    temperature_index = choices.choose(kernel.mix) if len(kernel.temperatures) > 1 else 0
    nowhere = (-1,) * kernel.tries
    if not current.tokens:  # the prompt leaves no room
        return MoveProposal(0, temperature_index, nowhere, 0.0, ())
    cut = draw_cut(kernel, current, temperature_index, choices)
    log_u = choices.log_uniform() if kernel.move == "mh" and kernel.alpha < math.inf else 0.0
    noise = choices.gumbels(kernel.tries + 1) if kernel.move == "isir" else ()
    logq = current.logq[temperature_index]
    positions = tuple(first_difference(logq, cut, choices) if kernel.jump else cut for _ in range(kernel.tries))
    return MoveProposal(cut, temperature_index, positions, log_u, noise)


def draw_cut(kernel: Kernel, current: DrawnResponse, temperature_index: int, choices: RandomChoices) -> int:
    """Draw one of the response's own positions."""
    return choices.choose(response_cut_weights(kernel, current, temperature_index))


def first_difference(logq: Sequence[float], cut: int, choices: RandomChoices) -> int:
    """Draw the first position from `cut` on at which a proposal differs from the response; -1 if it never does."""
    positions = range(cut, len(logq))
    return next((position for position in positions if not choices.happens(math.exp(logq[position]))), -1)


def move_asks(
    kernel: Kernel,
    current: DrawnResponse,
    proposal: MoveProposal,
    messages: tuple[Message, ...],
    seeds: Sequence[int],
    group: str,
) -> tuple[Generate, ...]:
    """Return the requests of a step, one for each try that departs from the response."""
    exponents = logz_exponents(kernel.temperatures)
    wanted = (*WANT, "logz") if exponents else WANT
    return tuple(
        Generate(
            messages=messages,
            prefix=current.tokens[:position],
            sampling=kernel.sampling_at(proposal.temperature_index),
            max_tokens=kernel.horizon - position,
            seed=seeds[index],
            want=(*wanted, "whole"),  # the text of the whole response, prefix included
            group=group,
            reject_below=_rejection_bound(kernel, current, proposal, index),
            forbid_first=current.tokens[position] if kernel.jump else None,
            exponents=exponents,
        )
        for index, position in enumerate(proposal.positions)
        if position >= 0
    )


def decide_move(
    kernel: Kernel,
    current: DrawnResponse,
    proposal: MoveProposal,
    completions: Sequence[Completion],
    choices: RandomChoices,
) -> MoveResult:
    """Accept or reject: return the response after a step, given the completions of its requests.

    An engine may take several requests for one, and draw tokens that are in no proposal: all are counted. A
    step with a failed request leaves the response as it is. The target stays invariant so long as failures do not
    depend on what would have been drawn, at most on the prefix: the reverse step sends the same prefix.
    """
    counts = {
        "requests": sum(completion.usage.requests for completion in completions),
        "unused": sum(max(0, c.usage.completion_tokens - len(c.tokens or ())) for c in completions),
    }
    if not current.tokens:
        return MoveResult(current, "behind", -1, None, 0, **counts)
    tokens = sum(completion.usage.completion_tokens for completion in completions)
    length = len(current.tokens)
    saved = sum((length if position < 0 else position) - proposal.cut for position in proposal.positions)
    if not completions:
        return MoveResult(current, "same", -1, None, 0, saved, **counts)
    proposed: list[DrawnResponse | None] = []  # (K,) None: rejected early
    log_weights: list[float] = []  # (K,)
    arrivals = iter(completions)
    for position in proposal.positions:
        if position < 0:
            proposed.append(current)
            log_weights.append(0.0)
            continue
        completion = next(arrivals)
        continuation = continuation_of(completion, kernel.temperatures)
        if continuation is None:
            return MoveResult(current, "failed", position, None, tokens, saved, **counts)
        if completion.finish == "rejected":
            proposed.append(None)
            log_weights.append(-math.inf)
        else:
            response = splice(current, position, completion, continuation, kernel.horizon - position)
            proposed.append(response)
            log_weights.append(log_ratio(kernel, current, response, position, proposal.temperature_index))
    chosen = _choose_try(kernel, proposal, log_weights, choices)
    if chosen is None:
        ratio = max(log_weights)
        outcome: Outcome = "aborted" if all(response is None for response in proposed) else "rejected"
        known_ratio = ratio if ratio > -math.inf else None
        return MoveResult(current, outcome, proposal.positions[0], known_ratio, tokens, saved, **counts)
    accepted = proposed[chosen]
    assert accepted is not None, "a proposal that was rejected early cannot be chosen"
    outcome = "same" if proposal.positions[chosen] < 0 else "accepted"
    return MoveResult(accepted, outcome, proposal.positions[chosen], log_weights[chosen], tokens, saved, **counts)


def log_ratio(
    kernel: Kernel, current: DrawnResponse, proposed: DrawnResponse, position: int, temperature_index: int
) -> float:
    """Return log r (nats) of a proposal that departs from the response at `position`, at one of the temperatures."""
    new = log_ratio_terms(proposed.logp, proposed.logq[temperature_index], kernel.alpha)
    old = log_ratio_terms(current.logp, current.logq[temperature_index], kernel.alpha)
    start = position + 1 if kernel.terms_cancel(temperature_index) else position
    longer = len(proposed.tokens) - len(current.tokens)
    total = math.fsum(new[start:]) - math.fsum(old[start:]) + kernel.length_preference * longer
    return total + cut_correction(kernel, current, proposed, temperature_index)


def cut_correction(kernel: Kernel, current: DrawnResponse, proposed: DrawnResponse, temperature_index: int) -> float:
    """Return the log ratio (nats) of the probabilities of one cut: of the proposal's, for the step back, to the
    response's. 0 where the chain climbs: an optimizer owes no balance."""
    if kernel.alpha == math.inf:
        return 0.0
    sums = [math.fsum(response_cut_weights(kernel, response, temperature_index)) for response in (current, proposed)]
    return math.log(sums[0] / sums[1])


def _choose_try(
    kernel: Kernel, proposal: MoveProposal, log_weights: Sequence[float], choices: RandomChoices
) -> int | None:
    """Return the index of the try that becomes the response; None: the response stays."""
    if kernel.move == "mh":
        return 0 if log_weights[0] > -math.inf and proposal.log_u <= log_weights[0] else None
    if kernel.move == "isir":
        winner = choices.winner((0.0, *log_weights), proposal.noise)
        return winner - 1 if winner else None
    top = max(log_weights)
    chosen = choices.choose([math.exp(log_weight - top) for log_weight in log_weights])
    others = [log_weight for index, log_weight in enumerate(log_weights) if index != chosen]
    reverse = log_sum_exp((*others, 0.0))  # the tries of the reverse step: the others, and the current response
    return chosen if choices.log_uniform() <= log_sum_exp(log_weights) - reverse else None


def _rejection_bound(
    kernel: Kernel, current: DrawnResponse, proposal: MoveProposal, index: int
) -> RejectionBound | None:
    """Return the sum of alpha log p - log q below which a try has lost; None where it could still rise."""
    sampling = kernel.sampling_at(proposal.temperature_index)
    if not kernel.early or kernel.move == "mtm" or not ratio_cannot_rise(kernel.alpha, sampling.temperature):
        return None
    position, length = proposal.positions[index], len(current.tokens)
    logq = current.logq[proposal.temperature_index]
    old = math.fsum(log_ratio_terms(current.logp[position:], logq[position:], kernel.alpha))
    shift = kernel.length_preference
    most = shift * ((kernel.horizon if shift > 0 else position + 1) - length)  # that the length can still add
    # The proposal has the cut weights of the positions up to here, and may have more.
    weights = response_cut_weights(kernel, current, proposal.temperature_index)
    most += math.log(math.fsum(weights) / math.fsum(weights[: position + 1]))
    needed = proposal.noise[0] - proposal.noise[index + 1] if kernel.move == "isir" else proposal.log_u
    return RejectionBound(kernel.alpha, needed + (old - most))


def response_cut_weights(kernel: Kernel, response: DrawnResponse, temperature_index: int) -> list[float]:
    """Return the weights (L,) of the response's cut positions."""
    # A term gives the entropy only where it does not depend on the token.
    entropies_known = kernel.alpha > 1.0 and kernel.terms_cancel(temperature_index)
    cuts = "uniform" if kernel.cuts == "entropy" and not entropies_known else kernel.cuts
    terms = log_ratio_terms(response.logp, response.logq[temperature_index], kernel.alpha)
    return cut_weights(cuts, terms, kernel.alpha)


def log_sum_exp(values: Sequence[float]) -> float:
    """Return the log of the sum of exponentials; -inf for no values."""
    top = max(values, default=-math.inf)
    return top if top == -math.inf else top + math.log(math.fsum(math.exp(value - top) for value in values))


def expected_tokens(kernel: Kernel, response: DrawnResponse) -> float:
    """Return how many tokens a step from this response draws on average if a proposal is as long as the response. O(L).

    Early rejection is not in it.
    """
    logq, length = response.logq[0], len(response.tokens)
    weights = response_cut_weights(kernel, response, 0)
    after, total = 0.0, 0.0  # `after`: expected tokens of a proposal from this position on
    for position in reversed(range(length)):
        stay = math.exp(logq[position]) if kernel.jump else 0.0
        after = stay * after + (1.0 - stay) * (length - position)
        total += weights[position] * after
    return kernel.tries * total / math.fsum(weights) if weights else 0.0
