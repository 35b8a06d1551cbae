"""Particles: N responses grow block by block, are weighted as they grow, and resampled when the weight gathers on few.

    log w += alpha log p - log q + lambda        per token; at temperature 1 / alpha this is log Z_t(alpha)

An ended particle keeps its place and its weight. At every resampling the log of the mean weight goes into the evidence
product: so exp(log_weight) of a pool is absolute, and its mean times f is unbiased for the sum of p^alpha f; rounds of
different evidence can be merged (arXiv 2602.10273). Drawing one particle by weight is biased at any N.

Ramp: the power rises from 1 to alpha over the first `ramp` tokens. Before each block every particle, ended ones too,
gets (a' - a) log p of what it has; where all end earlier, what is missing is made up for.

Sweeps: a run of N particles is a proposal as a whole, and its evidence is its weight: a fresh run replaces the one
that is kept with odds min(1, Z' / Z), which leaves p^alpha as it is at any N (particle independent
Metropolis-Hastings).

A particle whose request fails is dropped, and the mean is that of the others: unbiased so long as what fails does not
depend on what would have been drawn. Cost: N requests a block, N T tokens at most, for each sweep.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.keys import Key
from samplewise.samplers.base import Sampler, Step, Variant, deal
from samplewise.samplers.power.dice import KeyDice, Roll
from samplewise.samplers.power.importance import drawn_first
from samplewise.samplers.power.kernel import log_sum
from samplewise.samplers.power.record import WANT, part_of
from samplewise.samplers.power.resample import SCHEMES, Scheme, effective, resample
from samplewise.samplers.power.settings import NEEDS, number, proposal
from samplewise.samplers.repeat import count
from samplewise.types import Candidate, Capability, Completion, Generate, Json, Pool, Sampling


class Particle(NamedTuple):
    arm: int  # which of the variants
    tokens: tuple[int, ...] = ()
    logp: float = 0.0  # nats, of all tokens
    text: str = ""
    ended: bool = False  # with a stop token
    over: bool = False  # ended, or at the horizon
    log_weight: float = 0.0  # since the last resampling


class System(NamedTuple):
    """Particles with what was taken out of their weights."""

    particles: tuple[Particle, ...] = ()
    evidence: float = 0.0  # nats

    def log_z(self) -> float:
        return self.evidence + log_sum([p.log_weight for p in self.particles]) - math.log(len(self.particles))


class SmcState(NamedTuple):
    variants: tuple[Variant, ...]
    system: System = System()
    kept: System = System()  # of the sweeps before
    noise: tuple[float, ...] = ()  # which particle is drawn, see importance.py
    sweep: int = -1
    block: int = 0
    power: float = 1.0  # that the weights stand at
    num_failed: int = 0


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
    """Sequential Monte Carlo for p(x)^alpha: `num_particles` grown `block` tokens at a time.

    They are resampled when their effective number falls below `threshold` times their number, by `scheme` (systematic,
    residual, chopthin). The pool is weighted; the particle that is drawn in proportion to the weights stands first.
    With `ramp` the power rises to alpha over so many tokens, and the temperature with it unless one is given. With
    several `sweeps` a whole fresh run replaces the one that is kept by their evidence.
    """
    return _smc(
        num_particles,
        alpha,
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


def _smc(
    num_particles: int,
    alpha: float,
    *,
    block: int,
    max_tokens: int,
    temperature: float | None = None,
    threshold: float = 0.5,
    scheme: Scheme = "systematic",
    ramp: int = 0,
    sweeps: int = 1,
    length_preference: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    roll: Roll = KeyDice,
) -> Sampler[SmcState]:
    """`smc`, with other dice where the proofs want them."""
    for name, value in (("num_particles", num_particles), ("block", block), ("max_tokens", max_tokens)):
        count(name, value)
    count("sweeps", sweeps)
    alpha = number("alpha", alpha, 1.0)
    if not 0.0 <= number("threshold", threshold, 0.0) <= 1.0:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme must be one of {', '.join(SCHEMES)}, got {scheme!r}")
    if ramp:
        count("ramp", ramp)
    shift = number("length_preference", length_preference, -math.inf)
    fixed = proposal(alpha, temperature, top_k, top_p, min_p)

    def power_at(number_of_block: int) -> float:
        return alpha if not ramp else 1.0 + (alpha - 1.0) * min(1.0, number_of_block * block / ramp)

    def law_at(number_of_block: int) -> Sampling:
        ramped = ramp and temperature is None
        return fixed._replace(temperature=1.0 / power_at(number_of_block)) if ramped else fixed

    def grown(particle: Particle, completion: Completion, state: SmcState) -> Particle | None:
        variant = deal(state.variants, particle.arm)
        part = part_of(completion, (variant.sampled(law_at(state.block)).temperature,))
        if part is None:
            return None
        logp, logq = math.fsum(part.logp), math.fsum(part.logq[0])
        tokens = particle.tokens + part.tokens
        gain = power_at(state.block) * logp - logq + shift * len(part.tokens)
        # Fewer tokens than were asked for, and no end: the model's context is full.
        full = completion.finish == "length" and len(part.tokens) < min(block, max_tokens - len(particle.tokens))
        return particle._replace(
            tokens=tokens,
            logp=particle.logp + logp,
            text=particle.text + completion.text,
            ended=completion.finish == "stop",
            over=completion.finish == "stop" or full or len(tokens) >= max_tokens,
            log_weight=particle.log_weight + gain,
        )

    def absorbed(state: SmcState, completions: Sequence[Completion]) -> SmcState:
        waiting = iter(completions)
        new = [p if p.over else grown(p, next(waiting), state) for p in state.system.particles]
        alive = tuple(p for p in new if p is not None)
        failed = len(new) - len(alive)
        return state._replace(
            system=state.system._replace(particles=alive), num_failed=state.num_failed + failed, block=state.block + 1
        )

    def risen(state: SmcState) -> SmcState:
        """All weights at the power of the next block, or at the last one where nothing grows any more."""
        to = power_at(state.block) if _grows(state) else alpha
        made = tuple(p._replace(log_weight=p.log_weight + rise(p, to - state.power)) for p in state.system.particles)
        return state._replace(system=state.system._replace(particles=made), power=to)

    def thinned(key: Key, state: SmcState) -> tuple[SmcState, Json]:
        """Resampled where the weight is on few and something still grows; and what to tell of it."""
        particles, evidence = state.system
        top = max(p.log_weight for p in particles)
        weights = [math.exp(p.log_weight - top) for p in particles]
        ess = effective(weights)
        told = {"sweep": state.sweep, "block": state.block, "num": len(particles), "ess": ess}
        if not _grows(state) or ess >= threshold * len(particles):
            return state, {**told, "resampled": False}
        offspring = resample(scheme, weights, num_particles, roll(key.fold("resample", state.sweep, state.block)))
        mean = math.fsum(offspring.weights) / num_particles
        made = tuple(
            particles[parent]._replace(log_weight=math.log(weight / mean))
            for parent, weight in zip(offspring.parents, offspring.weights, strict=True)
        )
        state = state._replace(system=System(made, evidence + top + math.log(mean)))
        return state, {**told, "resampled": True, "ancestors": len(set(offspring.parents))}

    def asks(key: Key, state: SmcState) -> tuple[Generate, ...]:
        made = []
        for index, particle in enumerate(state.system.particles):
            if not particle.over:
                variant = deal(state.variants, particle.arm)
                ask = Generate(
                    messages=variant.messages,
                    prefix=particle.tokens,
                    sampling=variant.sampled(law_at(state.block)),
                    max_tokens=min(block, max_tokens - len(particle.tokens)),
                    seed=key.fold("draw", state.sweep, state.block, index).seed(),
                    want=WANT,
                    group=variant.group,
                    draw=index,
                )
                made.append(ask)
        return tuple(made)

    def finished(key: Key, state: SmcState) -> SmcState:
        """A sweep is over: keep it or the one before. One in which something failed does not replace another."""
        old, new = state.kept, state.system
        whole = len(new.particles) == num_particles
        if not old.particles or not new.particles:
            better = not old.particles
        else:
            u = roll(key.fold("sweep", state.sweep)).log_uniform()
            better = whole and u <= new.log_z() - old.log_z()
        return state._replace(kept=new if better else old)

    def begun(state: SmcState) -> SmcState:
        fresh = tuple(Particle(arm=index) for index in range(num_particles))
        return state._replace(system=System(fresh, 0.0), sweep=state.sweep + 1, block=0, power=power_at(0))

    def step(key: Key, state: SmcState, completions: Sequence[Completion]) -> tuple[SmcState, Step]:
        key = key.fold("smc")
        info: Json = None
        if state.sweep < 0:
            state = begun(state)
        else:
            state = absorbed(state, completions)
            if state.system.particles:
                state, info = thinned(key, risen(state))
                state = risen(state)  # of those that grow none may have been left
        if not (requests := asks(key, state)):
            state = finished(key, state)
            if info is not None:
                info = {**info, "log_z": state.system.log_z(), "kept_log_z": state.kept.log_z()}
            if state.sweep + 1 < sweeps:
                state = begun(state)
                requests = asks(key, state)
        noise = roll(key.fold("noise", state.sweep, state.block)).gumbels(num_particles)
        return state._replace(noise=noise), Step(requests, info)

    def pool(state: SmcState) -> Pool:
        system = state.kept if state.kept.particles else state.system
        shown = [p for p in system.particles if p.tokens]
        # Of several sweeps the kept one follows no stated weights but those within it.
        level = (
            -log_sum([p.log_weight for p in shown]) + math.log(max(1, len(shown))) if sweeps > 1 else system.evidence
        )
        candidates = tuple(_candidate(p, level, deal(state.variants, p.arm).arm) for p in shown)
        return Pool(drawn_first(candidates, state.noise), state.num_failed)

    return Sampler(
        name="smc",
        needs=NEEDS | {Capability.PREFIX},
        init=lambda variants: SmcState(variants),
        step=step,
        pool=pool,
        weighted=sweeps == 1,
    )


def _grows(state: SmcState) -> bool:
    return any(not particle.over for particle in state.system.particles)


def rise(particle: Particle, more: float) -> float:
    """What a particle's log weight gains (nats) as the power rises by `more`, ended or not."""
    return more * particle.logp


def _candidate(particle: Particle, level: float, arm: str) -> Candidate:
    return Candidate(
        text=particle.text,
        finish="stop" if particle.ended else "length",
        arm=arm,
        log_weight=particle.log_weight + level,
        num_tokens=len(particle.tokens),
        logp_sum=particle.logp,
    )
