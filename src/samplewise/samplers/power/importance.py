"""Importance weights on whole draws: the cheap way to p(x)^alpha, one round of requests.

N responses x_i from q, log W_i = alpha log p(x_i) + lambda L_i - log q(x_i). The mean of W f is unbiased for the sum of
p^alpha f; drawing one response in proportion to W is consistent in N and biased at any N. Where few responses hold all
of the weight (an effective number below 2) it is best-of-N by weight, no more.

With several temperatures each draw has one of them by chance and the density of the mixture in its weight, so that no
weight exceeds what the best of the temperatures would give it (defensive). Cost: N requests of at most T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.keys import Key
from samplewise.samplers.base import Sampler, Step, Variant, deal
from samplewise.samplers.power.dice import KeyDice
from samplewise.samplers.power.kernel import log_sum
from samplewise.samplers.power.record import candidate_of
from samplewise.samplers.power.resample import effective
from samplewise.samplers.power.settings import NEEDS, number, proposal, started, temperatures_of, whole
from samplewise.samplers.repeat import count
from samplewise.types import Candidate, Capability, Completion, Generate, Pool


class SirState(NamedTuple):
    variants: tuple[Variant, ...]
    num_asked: int = 0
    num_done: int = 0
    candidates: tuple[Candidate, ...] = ()
    noise: tuple[float, ...] = ()  # (N,) of the candidates: the largest log weight plus noise is the one that is drawn
    num_failed: int = 0


def sir(
    num_samples: int,
    alpha: float = 4.0,
    *,
    temperature: float | None = None,
    temperatures: tuple[float, ...] = (),
    max_tokens: int = 512,
    length_preference: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    wave: int | None = None,
) -> Sampler[SirState]:
    """Draws with importance weights of p(x)^alpha: `num_samples`, `wave` at a time.

    The pool is weighted, so that `vote` counts by weight; the candidate that is drawn in proportion to the weights
    stands first. Draws are made at `temperature` (1 / alpha unless given), or each at one of several `temperatures`.
    """
    count("num_samples", num_samples)
    count("max_tokens", max_tokens)
    alpha = number("alpha", alpha, 0.0)
    shift = number("length_preference", length_preference, -math.inf)
    size = num_samples if wave is None else count("wave", wave)
    sampling = proposal(alpha, temperature, top_k, top_p, min_p)
    mixed = temperatures_of(sampling, temperatures) if temperatures else ()
    powers = tuple(1.0 / tau for tau in mixed) if len(mixed) > 1 else ()

    def ask(key: Key, state: SirState, index: int) -> Generate:
        variant, law = deal(state.variants, index), sampling
        if powers:
            row = KeyDice(key.fold("temperature", index)).choose((1.0,) * len(mixed))
            law = sampling._replace(temperature=mixed[row])
            variant = variant._replace(sampling={})  # the mixture is the proposal, whatever an arm would have
        return whole(key, variant, law, max_tokens, index, powers)

    def log_weight(completion: Completion, state: SirState, index: int) -> Candidate | None:
        taus = mixed if powers else (sampling.temperature,)
        record = started(completion, taus, max_tokens)
        if record is None:
            return None
        rows = [math.fsum(row) for row in record.logq]
        logq = log_sum(rows) - math.log(len(rows))
        weight = alpha * math.fsum(record.logp) + shift * len(record.tokens) - logq
        return candidate_of(record, deal(state.variants, index).arm, weight)

    def step(key: Key, state: SirState, completions: Sequence[Completion]) -> tuple[SirState, Step]:
        key = key.fold("sir")
        for completion in completions:
            made = log_weight(completion, state, state.num_done)
            drawn, noise = state.candidates, state.noise
            if made is not None:
                drawn = (*drawn, made)
                noise = (*noise, *KeyDice(key.fold("noise", state.num_done)).gumbels(1))
            state = state._replace(
                num_done=state.num_done + 1,
                candidates=drawn,
                noise=noise,
                num_failed=state.num_failed + (made is None),
            )
        if state.num_done < state.num_asked:
            return state, Step(splittable=True)
        upto = min(num_samples, state.num_asked + size)
        asks = tuple(ask(key, state, i) for i in range(state.num_asked, upto))
        info = {"weights": weights_told([c.log_weight for c in state.candidates])} if state.candidates else None
        return state._replace(num_asked=upto), Step(asks, info, splittable=True)

    return Sampler(
        name="sir",
        needs=NEEDS | ({Capability.LOGZ} if powers else set()),
        init=lambda variants: SirState(variants),
        step=step,
        pool=lambda state: Pool(drawn_first(state.candidates, state.noise), state.num_failed),
        weighted=True,
    )


def drawn_first(candidates: tuple[Candidate, ...], noise: Sequence[float]) -> tuple[Candidate, ...]:
    """The candidates with the one first that the noise draws in proportion to the weights."""
    if not candidates:
        return ()
    chosen = max(range(len(candidates)), key=lambda i: candidates[i].log_weight + noise[i])
    return (candidates[chosen], *candidates[:chosen], *candidates[chosen + 1 :])


def weights_told(log_weights: Sequence[float]) -> dict[str, float]:
    """How evenly the weight is spread, and the log of the estimated normalising constant (nats)."""
    top = max(log_weights)
    ess = effective([math.exp(each - top) for each in log_weights]) if top > -math.inf else 0.0
    return {"num": len(log_weights), "ess": ess, "log_z": log_sum(log_weights) - math.log(len(log_weights))}
