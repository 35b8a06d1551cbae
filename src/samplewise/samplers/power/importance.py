"""Importance weights on whole draws: the cheap way to p(x)^alpha, in one round of requests.

N responses x_i from q, log W_i = alpha log p(x_i) + lambda L_i - log q(x_i). The mean of W f is unbiased for the sum of
p^alpha f. Drawing one response in proportion to W is consistent in N and biased at any N. Where few responses hold all
of the weight (an effective sample size below 2) it is best-of-N by weight, no more.

The sum is over complete responses: those that ended, and those that the horizon cut, as in `kernel`.

With several temperatures each draw picks one of them at random and its weight uses the density of the mixture, so no
weight exceeds what the best of the temperatures would give it (defensive). Cost: N requests of at most T tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from samplewise.core.checks import check_count, check_number
from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Capability, Completion, Generate, Pool, Sampling
from samplewise.samplers.base import Sampler, Step, Variant, deal, sampler_of
from samplewise.samplers.infos import WeightInfo, to_json
from samplewise.samplers.power.kernel import log_sum_exp
from samplewise.samplers.power.random_choices import KeyChoices, MakeChoices
from samplewise.samplers.power.requests import (
    WEIGHTS_NEED,
    logz_exponents,
    proposal_sampling,
    proposal_temperatures,
    single_temperature,
    start_response,
    whole_response_ask,
)
from samplewise.samplers.power.resample import effective_sample_size
from samplewise.samplers.power.response import response_candidate


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
    """Draw `num_samples` responses with importance weights of p(x)^alpha, `wave` at a time.

    The pool is weighted, so `vote` counts by weight. The candidate that is drawn in proportion to the weights comes
    first. Draws are made at `temperature` (1 / alpha unless given), or each at one of several `temperatures`.
    """
    return sir_sampler(
        SirSettings(
            num_samples=num_samples,
            alpha=alpha,
            temperature=temperature,
            temperatures=temperatures,
            max_tokens=max_tokens,
            length_preference=length_preference,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            wave=wave,
        )
    )


@dataclass(frozen=True, kw_only=True)
class SirSettings:
    """The arguments of `sir`, checked: ValueError if one is out of range. The proofs replace `make_choices`."""

    num_samples: int
    alpha: float
    max_tokens: int
    temperature: float | None = None
    temperatures: tuple[float, ...] = ()
    length_preference: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    wave: int | None = None
    make_choices: MakeChoices = KeyChoices

    def __post_init__(self) -> None:
        check_count("num_samples", self.num_samples)
        check_count("max_tokens", self.max_tokens)
        check_number("alpha", self.alpha, 0.0)
        check_number("length_preference", self.length_preference)
        if self.wave is not None:
            check_count("wave", self.wave)
        proposal_temperatures(self.sampling, self.temperatures)

    @functools.cached_property
    def sampling(self) -> Sampling:
        temperature = single_temperature(self.temperature, self.temperatures)
        return proposal_sampling(self.alpha, temperature, self.top_k, self.top_p, self.min_p)

    @property
    def mixed(self) -> bool:
        """Return whether draws are made at several temperatures."""
        return len(self.temperatures) > 1


class SirState(NamedTuple):
    """The draws so far. The largest log weight plus noise is the candidate that is drawn by weight."""

    variants: tuple[Variant, ...]
    num_asked: int = 0
    num_done: int = 0
    candidates: tuple[Candidate, ...] = ()
    noise: tuple[float, ...] = ()  # (N,) of the candidates
    num_failed: int = 0


def sir_sampler(settings: SirSettings) -> Sampler[SirState]:
    """Return the sampler of these settings."""
    needs = WEIGHTS_NEED | ({Capability.LOGZ} if settings.mixed else set())
    return sampler_of(settings, "sir", needs, _init, _step, _pool, weighted=True)


def _init(settings: SirSettings, variants: tuple[Variant, ...]) -> SirState:
    return SirState(variants)


def _pool(settings: SirSettings, state: SirState) -> Pool:
    return Pool(drawn_first(state.candidates, state.noise), state.num_failed)


def _step(settings: SirSettings, key: Key, state: SirState, completions: Sequence[Completion]) -> tuple[SirState, Step]:
    key = key.fold("sir")
    for completion in completions:
        state = _add(settings, key, state, completion)
    if state.num_done < state.num_asked:
        return state, Step(splittable=True)
    wave = settings.num_samples if settings.wave is None else settings.wave
    num_asked = min(settings.num_samples, state.num_asked + wave)
    asks = tuple(_ask(settings, key, state, index) for index in range(state.num_asked, num_asked))
    info = None
    if state.candidates:
        info = {"weights": to_json(weight_info([candidate.log_weight for candidate in state.candidates]))}
    return state._replace(num_asked=num_asked), Step(asks, info, splittable=True)


def _ask(settings: SirSettings, key: Key, state: SirState, index: int) -> Generate:
    variant, sampling = deal(state.variants, index), settings.sampling
    if not settings.mixed:
        return whole_response_ask(key, variant, sampling, settings.max_tokens, index)
    temperatures = tuple(map(float, settings.temperatures))
    chosen = settings.make_choices(key.fold("temperature", index)).choose((1.0,) * len(temperatures))
    sampling = sampling._replace(temperature=temperatures[chosen])
    variant = variant._replace(sampling={})  # the mixture is the proposal, whatever an arm sets
    return whole_response_ask(key, variant, sampling, settings.max_tokens, index, logz_exponents(temperatures))


def _add(settings: SirSettings, key: Key, state: SirState, completion: Completion) -> SirState:
    """Add a draw with its weight, or count its failure."""
    temperatures = settings.temperatures if settings.mixed else (settings.sampling.temperature,)
    response = start_response(completion, temperatures, settings.max_tokens)
    index = state.num_done
    state = state._replace(num_done=index + 1)
    if response is None:
        return state._replace(num_failed=state.num_failed + 1)
    logq_sums = [math.fsum(row) for row in response.logq]
    logq = log_sum_exp(logq_sums) - math.log(len(logq_sums))
    shift = float(settings.length_preference) * len(response.tokens)
    log_weight = float(settings.alpha) * math.fsum(response.logp) + shift - logq
    candidate = response_candidate(response, deal(state.variants, index).arm, log_weight)
    return state._replace(
        candidates=(*state.candidates, candidate),
        noise=(*state.noise, *settings.make_choices(key.fold("noise", index)).gumbels(1)),
    )


def drawn_first(candidates: tuple[Candidate, ...], noise: Sequence[float]) -> tuple[Candidate, ...]:
    """Return the candidates with the one first that the noise (N,) draws in proportion to the weights."""
    if not candidates:
        return ()
    chosen = max(range(len(candidates)), key=lambda i: candidates[i].log_weight + noise[i])
    return (candidates[chosen], *candidates[:chosen], *candidates[chosen + 1 :])


def weight_info(log_weights: Sequence[float]) -> WeightInfo:
    """Return how evenly weights (N,) are spread, and the log of the estimated normalizer (nats)."""
    top = max(log_weights)
    ess = effective_sample_size([math.exp(log_weight - top) for log_weight in log_weights]) if top > -math.inf else 0.0
    return WeightInfo(len(log_weights), ess, log_sum_exp(log_weights) - math.log(len(log_weights)))
