"""The sampler protocol: a state machine that yields asks and is handed their completions.

A sampler does no I/O, knows no engine and holds no state of its own: `step` is a pure function of a key, a state and
the completions of the asks it yielded last. So whole samplers are tested exactly, by enumeration, and a run is replayed
from its key and its stored completions. The laws that every registered sampler keeps are in `samplewise.testing`.

Every sampler here is built the same way: a frozen settings object, module-level `init`, `step` and `pool` functions
that take the settings first, and `sampler_of`, which binds them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from samplewise.core.keys import Key
from samplewise.core.types import Ask, Candidate, Capability, Completion, Json, Message, Pool, Question, Sampling
from samplewise.samplers.confidence import deepconf_scores, mean_certainty

S = TypeVar("S")  # a sampler's state: plain data
S_co = TypeVar("S_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)
P = TypeVar("P")  # its settings
P_contra = TypeVar("P_contra", contravariant=True)


class Variant(NamedTuple):
    """A question as one arm rewrote it. `sampling` overrides fields of the sampler's own sampling."""

    arm: str
    messages: tuple[Message, ...]
    sampling: Mapping[str, Json] = {}
    group: str = ""  # draws that share an idea share a group

    def sampled(self, sampling: Sampling) -> Sampling:
        """Return `sampling` with the arm's overrides."""
        return sampling._replace(**self.sampling) if self.sampling else sampling


def direct(question: Question) -> Variant:
    """Return the identity arm: the question as it stands."""
    return Variant("direct", question.messages)


class Step(NamedTuple):
    """What a sampler wants next. No asks, and nothing in flight: finished.

    A splittable step holds independent draws: the loop may hand its completions over one at a time, in the order of
    the asks, and may send only part of it. Any other step waits for all completions, and is sent whole or not at all.
    """

    asks: tuple[Ask, ...] = ()
    info: Any = None  # for people: goes to the trace
    splittable: bool = False


class Init(Protocol[S_co]):
    """Makes the first state."""

    def __call__(self, variants: tuple[Variant, ...]) -> S_co: ...


class Advance(Protocol[S]):
    """Takes the new completions and says what to ask next."""

    def __call__(self, key: Key, state: S, completions: Sequence[Completion]) -> tuple[S, Step]: ...


class Gather(Protocol[S_contra]):
    """Returns the candidates so far."""

    def __call__(self, state: S_contra) -> Pool: ...


@dataclass(frozen=True, slots=True)
class Sampler(Generic[S]):
    """A named sampler.

    `init(variants)` makes the first state; draw or chain `i` takes its prompt from `deal(variants, i)`.
    `step(key, state, completions)` gets the same key at every step (fold in what tells draws apart: arm and index) and
    the completions that are new since the last step, none on the first.
    `pool(state)` is valid after every step, whatever the budget.
    """

    name: str
    needs: frozenset[Capability]
    init: Init[S]
    step: Advance[S]
    pool: Gather[S]
    exchangeable: bool = False  # permuting the completions permutes the pool
    weighted: bool = False  # the pool's weights make it follow a stated distribution
    copies: bool = False  # at temperature 0 every draw is the same one, or meant to be
    stepwise: bool = False  # a candidate is made of several completions, and changes with the next one
    partial: bool = False  # candidates are parts of responses until it has finished: no stop rule sees them

    @property
    def independent(self) -> bool:
        """Whether a rule for independent draws may count on them."""
        return self.exchangeable and not self.copies


class InitWith(Protocol[P_contra, S_co]):
    """`init` with the settings first."""

    def __call__(self, settings: P_contra, variants: tuple[Variant, ...]) -> S_co: ...


class AdvanceWith(Protocol[P_contra, S]):
    """`step` with the settings first."""

    def __call__(self, settings: P_contra, key: Key, state: S, completions: Sequence[Completion]) -> tuple[S, Step]: ...


class GatherWith(Protocol[P_contra, S_contra]):
    """`pool` with the settings first."""

    def __call__(self, settings: P_contra, state: S_contra) -> Pool: ...


def sampler_of(
    settings: P,
    name: str,
    needs: frozenset[Capability],
    init: InitWith[P, S],
    step: AdvanceWith[P, S],
    pool: GatherWith[P, S],
    *,
    exchangeable: bool = False,
    weighted: bool = False,
    copies: bool = False,
    stepwise: bool = False,
    partial: bool = False,
) -> Sampler[S]:
    """Bind settings to the functions of a sampler."""
    return Sampler(
        name=name,
        needs=needs,
        init=functools.partial(init, settings),
        step=functools.partial(step, settings),
        pool=functools.partial(pool, settings),
        exchangeable=exchangeable,
        weighted=weighted,
        copies=copies,
        stepwise=stepwise,
        partial=partial,
    )


def deal(variants: tuple[Variant, ...], index: int) -> Variant:
    """Return the variant of draw or chain `index`, round-robin: the identity arm comes first and is always drawn."""
    return variants[index % len(variants)]


def draws_of_arm(variants: tuple[Variant, ...], index: int, num: int) -> tuple[int, ...]:
    """Return which of `num` draws or chains take the arm of draw `index`. An allocation has an arm several times."""
    arm = deal(variants, index).arm
    turns = [turn for turn, variant in enumerate(variants[:num]) if variant.arm == arm]
    return tuple(sorted(draw for turn in turns for draw in range(turn, num, len(variants))))


def candidate(completion: Completion, arm: str) -> Candidate:
    """Return an independent draw as a candidate, scored by the confidence figures that its completion allows."""
    scores = dict(deepconf_scores(completion.top)) if completion.top else {}
    if completion.certainty:
        scores["self_certainty"] = mean_certainty(completion.certainty)
    return Candidate(
        text=completion.text,
        finish=completion.finish,
        arm=arm,
        num_tokens=completion.usage.completion_tokens,
        logp_sum=completion.logp_sum,
        scores=scores,
        reasoning=completion.reasoning,
    )
