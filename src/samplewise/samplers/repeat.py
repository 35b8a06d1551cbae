"""Independent draws. Best-of-n and self-consistency are this and a selector.

Cost: `num_samples` requests, each at most `max_tokens` new tokens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from samplewise.core.checks import check_count, check_sampling
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Candidate, Capability, Completion, Generate, Json, Pool, Sampling
from samplewise.samplers.base import Sampler, Step, Variant, candidate, deal, draws_of_arm, sampler_of


def repeat(
    num_samples: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    max_tokens: int = 512,
    stop: str | tuple[str, ...] = (),
    wave: int | None = None,
    top: bool = False,
    certainty: bool = False,
    explore: object = "",
) -> Sampler[RepeatState]:
    """Draw `num_samples` responses, at most `wave` at a time.

    The seed of a draw follows from its arm and index, so neither the wave nor anything else that runs changes it, and
    the first n of 2n draws are the draws of `repeat(n)`. `top` also asks for the likeliest tokens at each position,
    which `deepconf` needs, and `certainty` for each token's distance from uniform, which `self_certainty` needs; not
    every engine returns them.

    `explore` makes the draws of an arm one group of diverse (coordinated) samples: css, lss, esamp(beta=0.5) ... They
    depend on one another, so a wave is drawn whole, and neither the first n of 2n draws nor k of n are what a group of
    that size would have drawn. What each group reports when it ends, and the log-probability of its draws under the
    model and under the distribution drawn from, goes to the trace.
    """
    sampling = Sampling(float(temperature), top_k, float(top_p), float(min_p))
    if explore:
        policy = build("explore", str(explore))
        _check_meeting(policy, num_samples, wave, max_tokens)
        sampling = sampling._replace(explore=str(policy))
    settings = RepeatSettings(
        num_samples=num_samples,
        wave=wave,
        sampling=sampling,
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        top=top,
        certainty=certainty,
    )
    needs = {Capability.GENERATE, *settings.wanted, *([Capability.EXPLORE] if settings.explores else [])}
    # Draws of a group depend on one another, so they are not exchangeable.
    return sampler_of(
        settings,
        "repeat",
        frozenset(needs),
        _init,
        _step,
        _pool,
        exchangeable=not settings.explores,
        copies=settings.sampling.temperature == 0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatSettings:
    """The arguments of `repeat`, checked: ValueError if one is out of range."""

    num_samples: int
    wave: int | None
    sampling: Sampling
    max_tokens: int
    stop: tuple[str, ...]
    top: bool
    certainty: bool

    def __post_init__(self) -> None:
        check_count("num_samples", self.num_samples)
        check_count("max_tokens", self.max_tokens)
        if self.wave is not None:
            check_count("wave", self.wave)
        check_sampling(self.sampling)
        if self.explores and self.sampling.temperature == 0:
            explore = self.sampling.explore
            raise ValueError(f"explore={explore} needs a temperature above 0: there is nothing to vary at 0")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"stop must be strings that are not empty, got {self.stop!r}")

    @property
    def explores(self) -> bool:
        return bool(self.sampling.explore)

    @property
    def wave_size(self) -> int:
        return self.num_samples if self.wave is None else self.wave

    @property
    def wanted(self) -> tuple[Capability, ...]:
        """Return what each draw asks for besides its text."""
        return _wanted(self.top, self.certainty, self.explores)


class MayMeet(Protocol):
    """The settings of a policy, as far as they say when the draws of a group meet."""

    @property
    def meets_at(self) -> str: ...

    @property
    def tokens_after(self) -> int: ...


def _check_meeting(policy: MayMeet, num_samples: int, wave: int | None, max_tokens: int) -> None:
    """Raise ValueError where draws that have to meet cannot."""
    if policy.meets_at and wave is not None and wave < num_samples:
        raise ValueError(f"explore={policy} draws a group at once: leave out wave={wave}")
    if policy.meets_at and max_tokens <= policy.tokens_after:
        raise ValueError(
            f"explore={policy} keeps {policy.tokens_after} tokens for the answer, and max_tokens={max_tokens} leaves "
            "none to reason with"
        )


@functools.cache
def _wanted(top: bool, certainty: bool, explores: bool) -> tuple[Capability, ...]:
    wants = {Capability.TOP: top, Capability.CERTAINTY: certainty, Capability.LOGQ: explores}
    return tuple(capability for capability, wanted in wants.items() if wanted)


class RepeatState(NamedTuple):
    """The draws so far."""

    variants: tuple[Variant, ...]
    num_asked: int
    num_done: int
    candidates: tuple[Candidate, ...]
    num_failed: int


def _init(settings: RepeatSettings, variants: tuple[Variant, ...]) -> RepeatState:
    return RepeatState(variants, 0, 0, (), 0)


def _step(
    settings: RepeatSettings, key: Key, state: RepeatState, completions: Sequence[Completion]
) -> tuple[RepeatState, Step]:
    arms = [deal(state.variants, state.num_done + i).arm for i in range(len(completions))]
    info = explore_info(arms, completions) if settings.explores and completions else None
    candidates = tuple(
        candidate(completion, arm)
        for completion, arm in zip(completions, arms, strict=True)
        if completion.finish != "error"
    )
    state = state._replace(
        num_done=state.num_done + len(completions),
        candidates=state.candidates + candidates,
        num_failed=state.num_failed + len(completions) - len(candidates),
    )
    if state.num_done < state.num_asked:  # part of the wave is still in flight
        return state, Step((), info, splittable=not settings.explores)
    num_asked = min(settings.num_samples, state.num_asked + settings.wave_size)
    asks = tuple(_ask(settings, key, state, index) for index in range(state.num_asked, num_asked))
    return state._replace(num_asked=num_asked), Step(asks, info, splittable=not settings.explores)


def _pool(settings: RepeatSettings, state: RepeatState) -> Pool:
    return Pool(state.candidates, state.num_failed)


def _ask(settings: RepeatSettings, key: Key, state: RepeatState, index: int) -> Generate:
    variant = deal(state.variants, index)
    sampling = variant.sampled(settings.sampling)
    group, group_size = variant.group, 0
    if settings.explores:
        # Equal names are equal groups, so everything that makes a difference to one is in the name.
        group_key = key.fold("group", variant.arm, settings.num_samples, settings.wave_size, settings.max_tokens)
        group = f"{variant.arm}/{settings.num_samples}/{group_key.fold(*settings.stop, *map(str, sampling)).seed():x}"
        group_size = len(draws_of_arm(state.variants, index, settings.num_samples))
    return Generate(
        messages=variant.messages,
        sampling=sampling,
        max_tokens=settings.max_tokens,
        stop=settings.stop,
        seed=key.fold(variant.arm, index).seed(),
        draw=index,
        want=tuple(capability.value for capability in settings.wanted),
        group=group,
        group_size=group_size,
    )


def explore_info(arms: Sequence[str], completions: Sequence[Completion]) -> dict[str, Json]:
    """Return the info of diverse draws: `explored`, the groups that ended among them (see `infos.GroupInfo`), and the
    log-probability of every draw that did not fail, in nats, under the model (`logp`) and under the distribution drawn
    from (`logq`); None where unknown."""
    ended = [{"arm": arm, **c.explored} for arm, c in zip(arms, completions, strict=True) if c.explored is not None]
    drawn = [completion for completion in completions if completion.finish != "error"]
    return {
        "explored": ended,
        "logp": [None if math.isnan(c.logp_sum) else c.logp_sum for c in drawn],
        "logq": [None if c.logq is None else math.fsum(c.logq) for c in drawn],
    }
