"""Sequential Monte Carlo: N responses grow block by block, are weighted as they grow, and resampled when needed.

    log w += alpha log p - log q + lambda        per token; at temperature 1 / alpha this is log Z_t(alpha)

An ended particle keeps its index and its weight. At every resampling the log of the mean weight is added to the log
normalizer. So exp(log_weight) of a pool is absolute, and its mean times f is unbiased for the sum of p^alpha f; runs
with different normalizers can be merged (arXiv 2602.10273). Drawing one particle by weight is biased at any N.

The sum is over complete responses: those that ended, and those that the horizon cut, as in `kernel`.

Arms: particles are resampled among those of their own arm, so every arm keeps its particles and has a normalizer of its
own. With n_a of the N particles in arm a, the pool's weights target n_a / N p_a^alpha over pairs of arm and response. A
vote over them therefore counts an arm by its normalizer, the sum of p_a^alpha: more where the prompt makes the model
surer. Chains (`power`) give each arm the same say.

Ramp: the power rises from 1 to alpha over the first `ramp` tokens. Before each block every particle, ended ones too,
gains (a' - a) log p of its tokens; if all end earlier, the rest of the rise is applied at the end.

Sweeps: a whole run of N particles is a proposal, and its normalizer is its weight. A new run replaces the kept one with
probability min(1, Z' / Z), which leaves p^alpha invariant at any N (particle independent Metropolis-Hastings).

A particle whose request fails is dropped, and means are over the others: unbiased so long as failures do not depend on
what would have been drawn. Cost: N requests a block, N T tokens at most, for each sweep.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from samplewise.core.checks import check_count, check_number
from samplewise.core.keys import Key
from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Candidate, Capability, Completion, Generate, Json, Pool, Sampling
from samplewise.samplers.base import Sampler, Step, Variant, deal, draws_of_arm, sampler_of
from samplewise.samplers.infos import BlockInfo, to_json
from samplewise.samplers.power.importance import drawn_first
from samplewise.samplers.power.kernel import log_sum_exp
from samplewise.samplers.power.random_choices import KeyChoices, MakeChoices
from samplewise.samplers.power.requests import WEIGHTS_NEED, proposal_sampling
from samplewise.samplers.power.resample import SCHEMES, Scheme, effective_sample_size, resample
from samplewise.samplers.power.response import WANT, continuation_of


def smc(
    num_particles: int,
    alpha: float = 4.0,
    *,
    block: int = 64,
    max_tokens: int = 512,
    temperature: float | None = None,
    threshold: float = 0.5,
    scheme: Scheme = "systematic",
    ramp: int = 0,
    sweeps: int = 1,
    length_preference: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Sampler[SmcState]:
    """Sample p(x)^alpha by sequential Monte Carlo: `num_particles` grown `block` tokens at a time.

    Those of an arm are resampled when their effective sample size falls below `threshold` times their number, by
    `scheme` (systematic, residual, chopthin). The pool is weighted; the particle drawn by weight comes first.
    With `ramp` the power rises to alpha over that many tokens, and the temperature with it unless one is given. With
    several `sweeps` a whole new run replaces the kept one by their normalizers.
    """
    return smc_sampler(
        SmcSettings(
            num_particles=num_particles,
            alpha=alpha,
            block=block,
            max_tokens=max_tokens,
            temperature=temperature,
            threshold=threshold,
            scheme=scheme,
            ramp=ramp,
            sweeps=sweeps,
            length_preference=length_preference,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
        )
    )


@dataclass(frozen=True, kw_only=True)
class SmcSettings:
    """The arguments of `smc`, checked: ValueError if one is out of range. The proofs replace `make_choices`."""

    num_particles: int
    alpha: float
    block: int
    max_tokens: int
    temperature: float | None = None
    threshold: float = 0.5
    scheme: Scheme = "systematic"
    ramp: int = 0
    sweeps: int = 1
    length_preference: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    make_choices: MakeChoices = KeyChoices

    def __post_init__(self) -> None:
        for name in ("num_particles", "block", "max_tokens", "sweeps"):
            check_count(name, getattr(self, name))
        check_number("alpha", self.alpha, 1.0)
        check_number("length_preference", self.length_preference)
        if not 0.0 <= check_number("threshold", self.threshold, 0.0) <= 1.0:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {self.scheme!r}")
        if self.ramp:
            check_count("ramp", self.ramp)
        _ = self.sampling  # checks temperature and filters

    @functools.cached_property
    def sampling(self) -> Sampling:
        return proposal_sampling(self.alpha, self.temperature, self.top_k, self.top_p, self.min_p)

    def power_at(self, block_index: int) -> float:
        """Return the power at which a block is weighted."""
        if not self.ramp:
            return float(self.alpha)
        return 1.0 + (self.alpha - 1.0) * min(1.0, block_index * self.block / self.ramp)

    def sampling_at(self, block_index: int) -> Sampling:
        """Return the sampling of a block: it follows the ramp unless a temperature is given."""
        if self.ramp and self.temperature is None:
            return self.sampling._replace(temperature=1.0 / self.power_at(block_index))
        return self.sampling


class Particle(NamedTuple):
    """A response that grows. `log_weight` is since the last resampling."""

    variant: int  # index
    arm: int = 0  # index, in the order in which arms are dealt
    tokens: tuple[int, ...] = ()
    logp: float = 0.0  # nats, of all tokens
    text: str = ""
    ended: bool = False  # with a stop token
    complete: bool = False  # ended, or at the horizon
    log_weight: float = 0.0


class ParticleSystem(NamedTuple):
    """Particles, and the log of the mean weights that resampling took out of those of each arm (nats)."""

    particles: tuple[Particle, ...] = ()
    log_normalizers: tuple[float, ...] = ()  # (A,)

    def log_weight(self, particle: Particle) -> float:
        """Return a particle's absolute log weight."""
        return particle.log_weight + self.log_normalizers[particle.arm]

    def log_z(self) -> float:
        """Return the log of the estimated normalizer so far, with the particles' present weights."""
        return log_sum_exp([self.log_weight(particle) for particle in self.particles]) - math.log(len(self.particles))

    def grows(self) -> bool:
        """Return whether a particle is not complete yet."""
        return any(not particle.complete for particle in self.particles)


class SmcState(NamedTuple):
    """The sweep in progress and the one that is kept."""

    variants: tuple[Variant, ...]
    system: ParticleSystem = ParticleSystem()
    kept: ParticleSystem = ParticleSystem()  # of the sweeps before
    noise: tuple[float, ...] = ()  # which particle is drawn, see importance.py
    sweep: int = -1
    block: int = 0
    power: float = 1.0  # of the present weights
    num_failed: int = 0


def smc_sampler(settings: SmcSettings) -> Sampler[SmcState]:
    """Return the sampler of these settings."""
    needs = WEIGHTS_NEED | {Capability.PREFIX}
    is_weighted = settings.sweeps == 1
    return sampler_of(settings, "smc", needs, _init, _step, _pool, weighted=is_weighted, stepwise=True, partial=True)


def _init(settings: SmcSettings, variants: tuple[Variant, ...]) -> SmcState:
    return SmcState(variants)


def _pool(settings: SmcSettings, state: SmcState) -> Pool:
    system = state.kept if state.kept.particles else state.system
    drawn = [particle for particle in system.particles if particle.tokens]
    level = 0.0
    if settings.sweeps > 1:  # the kept sweep has no absolute weights, only those within it
        level = -log_sum_exp([system.log_weight(particle) for particle in drawn]) + math.log(max(1, len(drawn)))
    replies = [split_reasoning(particle.text) for particle in drawn]  # of the whole: a piece may end within a tag
    candidates = tuple(
        Candidate(
            text=reply.text,
            finish="stop" if particle.ended else "length",
            arm=deal(state.variants, particle.variant).arm,
            log_weight=system.log_weight(particle) + level,
            num_tokens=len(particle.tokens),
            logp_sum=particle.logp,
            reasoning=reply.reasoning,
        )
        for particle, reply in zip(drawn, replies, strict=True)
    )
    return Pool(drawn_first(candidates, state.noise), state.num_failed)


def _step(settings: SmcSettings, key: Key, state: SmcState, completions: Sequence[Completion]) -> tuple[SmcState, Step]:
    key = key.fold("smc")
    info: BlockInfo | None = None
    if state.sweep < 0:
        state = _begin_sweep(settings, state)
    else:
        state = _grow(settings, state, completions)
        if state.system.particles:
            state, info = _resample_if_needed(settings, key, _raise_power(settings, state))
            state = _raise_power(settings, state)  # resampling may have left none that grows
    if not (asks := _asks(settings, key, state)):
        state = _end_sweep(settings, key, state)
        if info is not None:
            info = info._replace(log_z=state.system.log_z(), kept_log_z=state.kept.log_z())
        if state.sweep + 1 < settings.sweeps:
            state = _begin_sweep(settings, state)
            asks = _asks(settings, key, state)
    noise = settings.make_choices(key.fold("noise", state.sweep, state.block)).gumbels(settings.num_particles)
    data: Json = None if info is None else to_json(info)
    return state._replace(noise=noise), Step(asks, data)


def _begin_sweep(settings: SmcSettings, state: SmcState) -> SmcState:
    names = [deal(state.variants, index).arm for index in range(settings.num_particles)]
    arms = {name: arm for arm, name in enumerate(dict.fromkeys(names))}
    particles = tuple(Particle(variant=index, arm=arms[name]) for index, name in enumerate(names))
    system = ParticleSystem(particles, (0.0,) * len(arms))
    return state._replace(system=system, sweep=state.sweep + 1, block=0, power=settings.power_at(0))


def _asks(settings: SmcSettings, key: Key, state: SmcState) -> tuple[Generate, ...]:
    """Return the requests that grow the particles by a block."""
    asks = []
    for index, particle in enumerate(state.system.particles):
        if particle.complete:
            continue
        variant = deal(state.variants, particle.variant)
        ask = Generate(
            messages=variant.messages,
            prefix=particle.tokens,
            sampling=variant.sampled(settings.sampling_at(state.block)),
            max_tokens=min(settings.block, settings.max_tokens - len(particle.tokens)),
            seed=key.fold("draw", state.sweep, state.block, index).seed(),
            want=WANT,
            group=variant.group,
            draw=index,
        )
        asks.append(ask)
    return tuple(asks)


def _grow(settings: SmcSettings, state: SmcState, completions: Sequence[Completion]) -> SmcState:
    """Add a block to the particles, and drop those whose request failed."""
    arrivals = iter(completions)
    grown = [
        particle if particle.complete else _grow_particle(settings, state, particle, next(arrivals))
        for particle in state.system.particles
    ]
    alive = tuple(particle for particle in grown if particle is not None)
    return state._replace(
        system=state.system._replace(particles=alive),
        num_failed=state.num_failed + len(grown) - len(alive),
        block=state.block + 1,
    )


def _grow_particle(
    settings: SmcSettings, state: SmcState, particle: Particle, completion: Completion
) -> Particle | None:
    variant = deal(state.variants, particle.variant)
    temperature = variant.sampled(settings.sampling_at(state.block)).temperature
    continuation = continuation_of(completion, (temperature,))
    if continuation is None:
        return None
    logp, logq, num_new = math.fsum(continuation.logp), math.fsum(continuation.logq[0]), len(continuation.tokens)
    tokens = particle.tokens + continuation.tokens
    log_ratio = settings.power_at(state.block) * logp - logq + float(settings.length_preference) * num_new
    # Fewer tokens than were asked for, and no end: the model's context is full.
    asked = min(settings.block, settings.max_tokens - len(particle.tokens))
    full = completion.finish == "length" and num_new < asked
    return particle._replace(
        tokens=tokens,
        logp=particle.logp + logp,
        text=particle.text + (completion.text if completion.raw is None else completion.raw),
        ended=completion.finish == "stop",
        complete=completion.finish == "stop" or full or len(tokens) >= settings.max_tokens,
        log_weight=particle.log_weight + log_ratio,
    )


def _raise_power(settings: SmcSettings, state: SmcState) -> SmcState:
    """Raise all weights to the power of the next block, or to the last one if nothing grows any more."""
    power = settings.power_at(state.block) if state.system.grows() else float(settings.alpha)
    particles = tuple(
        particle._replace(log_weight=particle.log_weight + power_gain(particle, power - state.power))
        for particle in state.system.particles
    )
    return state._replace(system=state.system._replace(particles=particles), power=power)


def power_gain(particle: Particle, rise: float) -> float:
    """Return what a particle's log weight gains (nats) as the power rises by `rise`, ended or not."""
    return rise * particle.logp


def _resample_if_needed(settings: SmcSettings, key: Key, state: SmcState) -> tuple[SmcState, BlockInfo]:
    """Resample the arms in which few particles hold the weight and something still grows."""
    system = state.system
    log_weights = [system.log_weight(particle) for particle in system.particles]
    weights = [math.exp(log_weight - max(log_weights)) for log_weight in log_weights]
    info = BlockInfo(state.sweep, state.block, len(system.particles), effective_sample_size(weights), resampled=False)
    particles: list[Particle] = []
    log_normalizers = list(system.log_normalizers)
    num_ancestors = 0
    for arm in range(len(log_normalizers)):
        of_arm = [particle for particle in system.particles if particle.arm == arm]
        resampled = _resample_arm(settings, key, state, arm, of_arm)
        particles += of_arm if resampled is None else resampled.particles
        num_ancestors += len(of_arm) if resampled is None else resampled.num_ancestors
        log_normalizers[arm] += 0.0 if resampled is None else resampled.log_mean
        info = info._replace(resampled=info.resampled or resampled is not None)
    if not info.resampled:
        return state, info
    state = state._replace(system=ParticleSystem(tuple(particles), tuple(log_normalizers)))
    return state, info._replace(ancestors=num_ancestors)


class ResampledArm(NamedTuple):
    """An arm's particles after resampling, and the log mean weight that was taken out of them (nats)."""

    particles: tuple[Particle, ...]
    log_mean: float
    num_ancestors: int


def _resample_arm(
    settings: SmcSettings, key: Key, state: SmcState, arm: int, particles: Sequence[Particle]
) -> ResampledArm | None:
    """Resample the particles of one arm, as many as it began with; None if there is no need."""
    if all(particle.complete for particle in particles):
        return None
    top = max(particle.log_weight for particle in particles)
    weights = [math.exp(particle.log_weight - top) for particle in particles]
    if effective_sample_size(weights) >= settings.threshold * len(particles):
        return None
    choices = settings.make_choices(key.fold("resample", state.sweep, state.block, *([arm] if arm else [])))
    num = len(draws_of_arm(state.variants, particles[0].variant, settings.num_particles))
    offspring = resample(settings.scheme, weights, num, choices)
    mean = math.fsum(offspring.weights) / num
    resampled = tuple(
        particles[parent]._replace(log_weight=math.log(weight / mean))
        for parent, weight in zip(offspring.parents, offspring.weights, strict=True)
    )
    return ResampledArm(resampled, top + math.log(mean), len(set(offspring.parents)))


def _end_sweep(settings: SmcSettings, key: Key, state: SmcState) -> SmcState:
    """Keep this sweep or the one before. A sweep in which something failed replaces no other."""
    old, new = state.kept, state.system
    if not old.particles or not new.particles:
        accepted = not old.particles
    else:
        log_u = settings.make_choices(key.fold("sweep", state.sweep)).log_uniform()
        accepted = len(new.particles) == settings.num_particles and log_u <= new.log_z() - old.log_z()
    return state._replace(kept=new if accepted else old)
