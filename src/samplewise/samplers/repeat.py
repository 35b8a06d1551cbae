"""Independent draws. Best-of-n and self-consistency are this and a selector.

Cost: `num_samples` requests, each at most `max_tokens` new tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.keys import Key
from samplewise.samplers.base import Sampler, Step, Variant, candidate, deal
from samplewise.spec import build
from samplewise.types import Candidate, Capability, Completion, Generate, Json, Pool, Sampling


class RepeatState(NamedTuple):
    variants: tuple[Variant, ...]
    num_asked: int
    num_done: int
    candidates: tuple[Candidate, ...]
    num_failed: int


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
    the first n of 2n draws are the draws of `repeat(n)`. `top` asks for the likeliest tokens at each place too, which
    `deepconf` needs, and `certainty` for how far each token's law was from uniform, which `self_certainty` needs; not
    every engine shows them.

    `explore` makes the draws of an arm one group, whose samples keep out of each other's way: css, lss,
    esamp(beta=0.5) ... They depend on one another, so a wave is drawn whole, and neither the first n of 2n draws nor k
    of n are what a group of that size would have drawn. What each group says of itself when it ends, and how likely its
    samples were under the model and as drawn, goes to the trace.
    """
    count("num_samples", num_samples)
    count("max_tokens", max_tokens)
    size = num_samples if wave is None else count("wave", wave)
    sampling = checked(Sampling(float(temperature), top_k, float(top_p), float(min_p)))
    if explore:
        sampling = sampling._replace(explore=str(build("explore", str(explore))))
        if temperature == 0:
            raise ValueError(f"explore={sampling.explore} needs a temperature above 0: there is nothing to vary at 0")
    endings = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(s, str) and s for s in endings):
        raise ValueError(f"stop must be strings that are not empty, got {stop!r}")

    wants = {Capability.TOP: top, Capability.CERTAINTY: certainty, Capability.LOGQ: bool(explore)}
    shown = frozenset(capability for capability, wanted in wants.items() if wanted)

    def init(variants: tuple[Variant, ...]) -> RepeatState:
        return RepeatState(variants, 0, 0, (), 0)

    def ask(key: Key, state: RepeatState, index: int) -> Generate:
        variant = deal(state.variants, index)
        law = variant.sampled(sampling)
        name = variant.group
        if explore:  # equal names are equal groups, so all that makes a difference to one is in it
            own = key.fold("group", variant.arm, num_samples, size, max_tokens, *endings, *map(str, law)).seed()
            name = f"{variant.arm}/{num_samples}/{own:x}"
        return Generate(
            messages=variant.messages,
            sampling=law,
            max_tokens=max_tokens,
            stop=endings,
            seed=key.fold(variant.arm, index).seed(),
            draw=index,
            want=tuple(capability.value for capability in wants if capability in shown),
            group=name,
            group_size=len(range(index % len(state.variants), num_samples, len(state.variants))) if explore else 0,
        )

    def step(key: Key, state: RepeatState, completions: Sequence[Completion]) -> tuple[RepeatState, Step]:
        arms = [deal(state.variants, state.num_done + i).arm for i in range(len(completions))]
        info = of_groups(arms, completions) if explore and completions else None
        drawn = tuple(
            candidate(completion, arm)
            for completion, arm in zip(completions, arms, strict=True)
            if completion.finish != "error"
        )
        state = state._replace(
            num_done=state.num_done + len(completions),
            candidates=state.candidates + drawn,
            num_failed=state.num_failed + len(completions) - len(drawn),
        )
        if state.num_done < state.num_asked:  # a part of the wave is still in flight
            return state, Step((), info, splittable=not explore)
        upto = min(num_samples, state.num_asked + size)
        asks = tuple(ask(key, state, i) for i in range(state.num_asked, upto))
        return state._replace(num_asked=upto), Step(asks, info, splittable=not explore)

    return Sampler(
        name="repeat",
        needs=shown | {Capability.GENERATE} | ({Capability.EXPLORE} if explore else set()),
        init=init,
        step=step,
        pool=lambda state: Pool(state.candidates, state.num_failed),
        exchangeable=not explore,  # samples of a group depend on one another
    )


def of_groups(arms: Sequence[str], completions: Sequence[Completion]) -> dict[str, Json]:
    """Of samples that explore, for the trace: the groups that ended among them, `explored`, and the log-probability
    of every sample that there is, nats, under the model (`logp`) and as drawn (`logq`); None where it is not known."""
    ended = [{"arm": arm, **c.explored} for arm, c in zip(arms, completions, strict=True) if c.explored is not None]
    there = [completion for completion in completions if completion.finish != "error"]
    return {
        "explored": ended,
        "logp": [None if math.isnan(c.logp_sum) else c.logp_sum for c in there],
        "logq": [None if c.logq is None else math.fsum(c.logq) for c in there],
    }


def count(name: str, value: int) -> int:
    """The value, or ValueError where it is no whole number from 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def checked(sampling: Sampling) -> Sampling:
    """The same sampling, or ValueError where a value is out of its range."""
    if not 0.0 <= sampling.temperature < float("inf"):
        raise ValueError(f"temperature must be 0 or more, got {sampling.temperature}")
    if not isinstance(sampling.top_k, int) or sampling.top_k < 0:
        raise ValueError(f"top_k must be a whole number, 0 (off) or more, got {sampling.top_k!r}")
    if not 0.0 < sampling.top_p <= 1.0:
        raise ValueError(f"top_p must be in (0, 1], got {sampling.top_p}")
    if not 0.0 <= sampling.min_p < 1.0:
        raise ValueError(f"min_p must be in [0, 1), got {sampling.min_p}")
    return sampling
