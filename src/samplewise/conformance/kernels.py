"""The exact transition matrix of a chain sampler on a model small enough to list, and what must hold of it.

    table = transitions(lambda roll: ..., model, horizon)
    check: table.invariance(log_target) < 1e-12, table.detailed_balance(log_target) < 1e-12

The matrix is of `step` as it is shipped, accelerations included: `forking` runs it once for every outcome. A target is
given by its unnormalised log (nats) over the records.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from samplewise.conformance.forking import Forks, Tree
from samplewise.keys import Key
from samplewise.numerics import Floats, log_normalise
from samplewise.samplers.base import Sampler, Step, Variant
from samplewise.samplers.power.chains import Chain, ChainsState
from samplewise.samplers.power.record import Record
from samplewise.types import Completion, Generate, Sampling

PROMPT = (Variant("direct", ()),)
KEY = Key(0)  # unused: the dice are forked


class MakeForked(Protocol):
    """A chain sampler with one chain, whose dice are `roll`."""

    def __call__(self, roll: Forks) -> Sampler[ChainsState]: ...


class Table(NamedTuple):
    """What one step does from each record."""

    records: list[tuple[int, ...]]  # (S,)
    matrix: Floats  # (S, S) odds of going from row to column
    tokens: Floats  # (S,) drawn on average
    accepted: Floats  # (S, S) the part of the matrix that comes of accepted redraws
    lost: Floats  # (S,) odds of ending in what is no complete record

    def law(self, log_target: Sequence[float]) -> Floats:
        """The target (S,), normalised."""
        return np.exp(log_normalise(log_target))

    def invariance(self, log_target: Sequence[float]) -> float:
        """max |pi P - pi|."""
        law = self.law(log_target)
        return float(np.abs(law @ self.matrix - law).max())

    def detailed_balance(self, log_target: Sequence[float]) -> float:
        """max |pi_i P_ij - pi_j P_ji|."""
        flow = self.law(log_target)[:, None] * self.matrix
        return float(np.abs(flow - flow.T).max())

    def stationary(self) -> Floats:
        """The law (S,) that many steps end in."""
        size = len(self.records)
        rows = np.vstack([self.matrix.T - np.eye(size), np.ones((1, size))])
        return np.asarray(np.linalg.lstsq(rows, np.append(np.zeros(size), 1.0), rcond=None)[0], dtype=np.float64)

    def gap(self) -> float:
        """1 less the second largest modulus of the eigenvalues: 0 where some record cannot be reached from another."""
        moduli = np.sort(np.abs(np.linalg.eigvals(self.matrix)))
        return float(1.0 - moduli[-2])

    def bill(self, log_target: Sequence[float]) -> float:
        """Tokens of a step of the stationary chain."""
        return float(self.law(log_target) @ self.tokens)


def transitions(
    make: MakeForked,
    model: Tree,
    horizon: int,
    *,
    sampling: Sampling,
    temperatures: Sequence[float] = (),
    near: int | None = None,
    length_preference: float = 0.0,
    tight: bool = True,
) -> Table:
    """The table of one step, over every record that `sampling` can reach. `near` stands for the longest start."""
    records = model.records(horizon, sampling)
    place = {record: i for i, record in enumerate(records)}
    taus = temperatures or (sampling.temperature,)
    matrix, accepted = np.zeros((len(records), len(records))), np.zeros((len(records), len(records)))
    tokens, lost = np.zeros(len(records)), np.zeros(len(records))
    known: dict[Generate, list[tuple[float, Completion]]] = {}
    forks = Forks()
    sampler = make(forks)
    for i, record in enumerate(records):
        chain = Chain(record_of(model, record, [sampling._replace(temperature=tau) for tau in taus]), near=near or 2)
        begun = ChainsState(PROMPT, (chain,), 2, length_preference, 1)
        for odds, drawn, outcome, after in one_step(sampler, begun, model, forks, known, tight=tight):
            tokens[i] += odds * drawn
            to = place.get(after.tokens, -1)
            if to < 0:
                lost[i] += odds
                continue
            matrix[i, to] += odds
            accepted[i, to] += odds if outcome == "accepted" else 0.0
    return Table(records, matrix, tokens, accepted, lost)


class Went(NamedTuple):
    """One way that a step can go: its odds, the tokens drawn, what the trace says of it, and the record after it."""

    odds: float
    drawn: int
    outcome: str
    record: Record


def one_step(
    sampler: Sampler[ChainsState],
    begun: ChainsState,
    model: Tree,
    forks: Forks,
    known: dict[Generate, list[tuple[float, Completion]]],
    *,
    tight: bool = True,
) -> Iterator[Went]:
    """Every way that the one step left of `begun` can go. `known` keeps the completions of asks without a floor."""
    for odds, (state, step) in list(forks.outcomes(lambda: sampler.step(KEY, begun, ()))):
        if not step.asks:
            yield _went(odds, 0, state, step)
            continue
        asks = [ask for ask in step.asks if isinstance(ask, Generate)]

        def answered(
            state: ChainsState = state, asks: Sequence[Generate] = asks
        ) -> tuple[int, tuple[ChainsState, Step]]:
            completions = [_answer(model, forks, ask, known, tight) for ask in asks]
            drawn = sum(completion.usage.completion_tokens for completion in completions)
            return drawn, sampler.step(KEY, state, completions)

        for ask in asks:
            if ask.floor is None and ask not in known:
                known[ask] = list(forks.outcomes(lambda ask=ask: model.answer(forks, ask)))
        for share, (drawn, (after, last)) in forks.outcomes(answered):
            yield _went(odds * share, drawn, after, last)


def _answer(
    model: Tree, forks: Forks, ask: Generate, known: dict[Generate, list[tuple[float, Completion]]], tight: bool
) -> Completion:
    if ask.floor is not None:
        return model.answer(forks, ask, tight=tight)
    found = known[ask]
    return found[forks.choose([share for share, _ in found])][1]


def _went(odds: float, drawn: int, state: ChainsState, step: Step) -> Went:
    record = state.chains[0].record
    assert record is not None, "a chain lost its record"
    assert not step.asks, "a chain with one step left asked for another"
    return Went(odds, drawn, step.info["moves"][-1]["outcome"], record)


def record_of(model: Tree, tokens: tuple[int, ...], samplings: Sequence[Sampling]) -> Record:
    """A response as if it had been drawn."""
    logq = tuple(tuple(model.logq(tokens, sampling)) for sampling in samplings)
    return Record(tokens, tuple(model.logp(tokens)), logq, model.text(tokens), model.ended(tokens))


def power_target(model: Tree, records: Sequence[tuple[int, ...]], alpha: float, shift: float = 0.0) -> list[float]:
    """log p^alpha exp(shift L) (S,) of records."""
    return [alpha * math.fsum(model.logp(record)) + shift * len(record) for record in records]


def total_variation(one_law: Floats, other: Floats) -> float:
    return float(0.5 * np.abs(one_law - other).sum())
