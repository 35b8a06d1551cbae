"""The exact transition matrix of a chain sampler on a model small enough to list, and what must hold of it.

    table = transitions(lambda choices: ..., model, horizon)
    check: table.invariance(log_target) < 1e-12, table.detailed_balance(log_target) < 1e-12

The matrix is that of the whole sampler as it is shipped, from its starts to its pool, accelerations included: `forking`
runs it once for every outcome, given where the chain begins. A target is given by its unnormalized log (nats) over the
responses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from tests.support.forking import ForkedChoices, Tree
from tests.support.runs import KEY, PROMPT, given

from samplewise.core.numerics import Floats, log_normalise
from samplewise.core.types import Completion, Generate, Sampling
from samplewise.samplers.base import Sampler, Step
from samplewise.samplers.infos import read_trace
from samplewise.samplers.power.chains import ChainsState
from samplewise.samplers.power.response import DrawnResponse

Outcomes = list[tuple[float, Completion]]


class MakeForked(Protocol):
    """Makes a chain sampler with one chain and these random choices."""

    def __call__(self, choices: ForkedChoices) -> Sampler[ChainsState]: ...


class TransitionTable(NamedTuple):
    """What one step does from each response."""

    responses: list[tuple[int, ...]]  # (S,) token ids
    matrix: Floats  # (S, S) probability of going from row to column
    tokens: Floats  # (S,) drawn on average
    accepted: Floats  # (S, S) the part of the matrix that comes of accepted proposals
    lost: Floats  # (S,) probability of ending in what is no complete response

    def target(self, log_target: Sequence[float]) -> Floats:
        """Return the target (S,), normalized."""
        return np.exp(log_normalise(log_target))

    def invariance(self, log_target: Sequence[float]) -> float:
        """Return max |pi P - pi|."""
        target = self.target(log_target)
        return float(np.abs(target @ self.matrix - target).max())

    def detailed_balance(self, log_target: Sequence[float]) -> float:
        """Return max |pi_i P_ij - pi_j P_ji|."""
        flow = self.target(log_target)[:, None] * self.matrix
        return float(np.abs(flow - flow.T).max())

    def stationary(self) -> Floats:
        """Return the distribution (S,) that many steps end in."""
        size = len(self.responses)
        rows = np.vstack([self.matrix.T - np.eye(size), np.ones((1, size))])
        return np.asarray(np.linalg.lstsq(rows, np.append(np.zeros(size), 1.0), rcond=None)[0], dtype=np.float64)

    def gap(self) -> float:
        """Return 1 less the second largest modulus of the eigenvalues: 0 if some response cannot be reached."""
        moduli = np.sort(np.abs(np.linalg.eigvals(self.matrix)))
        return float(1.0 - moduli[-2])

    def expected_tokens(self, log_target: Sequence[float]) -> float:
        """Return the tokens of a step of the stationary chain."""
        return float(self.target(log_target) @ self.tokens)


def transitions(
    make: MakeForked,
    model: Tree,
    horizon: int,
    *,
    sampling: Sampling,
    tight: bool = True,
) -> TransitionTable:
    """Return the table of a sampler with one step, over every response that `sampling` can reach: row i is where it
    ends if it began at response i."""
    responses = model.responses(horizon, sampling)
    index_of = {tokens: i for i, tokens in enumerate(responses)}
    matrix, accepted = (np.zeros((len(responses), len(responses))) for _ in range(2))
    num_tokens, lost = np.zeros(len(responses)), np.zeros(len(responses))
    cache: dict[Generate, Outcomes] = {}
    forks = ForkedChoices()
    sampler = make(forks)
    asked, first = sampler.step(KEY, sampler.init(PROMPT), ())
    (ask,) = first.asks
    assert isinstance(ask, Generate)
    for i, tokens in enumerate(responses):
        for way in one_step(sampler, asked, given(model, ask, tokens), model, forks, cache, tight=tight):
            num_tokens[i] += way.probability * way.drawn
            j = index_of.get(way.response.tokens, -1)
            if j < 0:
                lost[i] += way.probability
                continue
            matrix[i, j] += way.probability
            accepted[i, j] += way.probability if way.outcome == "accepted" else 0.0
    return TransitionTable(responses, matrix, num_tokens, accepted, lost)


class StepOutcome(NamedTuple):
    """One way that a step can go: its probability, the tokens drawn, its outcome, and the response after it."""

    probability: float
    drawn: int
    outcome: str
    response: DrawnResponse


def one_step(
    sampler: Sampler[ChainsState],
    asked: ChainsState,
    start: Completion,
    model: Tree,
    forks: ForkedChoices,
    cache: dict[Generate, Outcomes],
    *,
    tight: bool = True,
) -> Iterator[StepOutcome]:
    """Yield every way that the sampler's one step can go from a start. `cache` keeps completions of asks without a
    bound."""
    for probability, (state, step) in list(forks.outcomes(lambda: sampler.step(KEY, asked, (start,)))):
        if not step.asks:
            yield _outcome(probability, 0, state, step)
            continue
        asks = [ask for ask in step.asks if isinstance(ask, Generate)]

        def answered(
            state: ChainsState = state, asks: Sequence[Generate] = asks
        ) -> tuple[int, tuple[ChainsState, Step]]:
            completions = [_answer(model, forks, ask, cache, tight) for ask in asks]
            drawn = sum(completion.usage.completion_tokens for completion in completions)
            return drawn, sampler.step(KEY, state, completions)

        for ask in asks:
            if ask.reject_below is None and ask not in cache:
                cache[ask] = list(forks.outcomes(lambda ask=ask: model.answer(forks, ask)))
        for share, (drawn, (after, last)) in forks.outcomes(answered):
            yield _outcome(probability * share, drawn, after, last)


def _answer(
    model: Tree, forks: ForkedChoices, ask: Generate, cache: dict[Generate, Outcomes], tight: bool
) -> Completion:
    if ask.reject_below is not None:
        return model.answer(forks, ask, tight=tight)
    completions = cache[ask]
    return completions[forks.choose([share for share, _ in completions])][1]


def _outcome(probability: float, drawn: int, state: ChainsState, step: Step) -> StepOutcome:
    response = state.chains[0].response
    assert response is not None, "a chain lost its response"
    assert not step.asks, "a chain with one step left asked for another"
    return StepOutcome(probability, drawn, read_trace([step.info]).moves[-1].outcome, response)


def response_of(model: Tree, tokens: tuple[int, ...], samplings: Sequence[Sampling]) -> DrawnResponse:
    """Return a response as if it had been drawn."""
    logq = tuple(tuple(model.logq(tokens, sampling)) for sampling in samplings)
    return DrawnResponse(tokens, tuple(model.logp(tokens)), logq, model.text(tokens), model.ended(tokens))


def power_target(model: Tree, responses: Sequence[tuple[int, ...]], alpha: float, shift: float = 0.0) -> list[float]:
    """Return log p^alpha exp(shift L) (S,) of responses."""
    return [alpha * math.fsum(model.logp(tokens)) + shift * len(tokens) for tokens in responses]


def total_variation(one: Floats, other: Floats) -> float:
    """Return the total variation distance of two distributions (S,)."""
    return float(0.5 * np.abs(one - other).sum())
