"""The sampler protocol: a machine that yields asks and is handed completions.

A sampler does no I/O, knows no engine and holds no state of its own: `step` is a pure function of a key, a state and
the completions of the asks it yielded last. So a whole sampler is tested exactly, by enumeration, and a run is replayed
from its key and its stored completions. The laws that every registered sampler keeps are in `samplewise.conformance`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from samplewise.keys import Key
from samplewise.samplers.confidence import confidences, self_certainty
from samplewise.types import Ask, Candidate, Capability, Completion, Json, Message, Pool, Question, Sampling

S = TypeVar("S")  # a sampler's state: plain data
S_co = TypeVar("S_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)


class Variant(NamedTuple):
    """A question as one arm rewrote it. `sampling` overrides fields of the sampler's own sampling."""

    arm: str
    messages: tuple[Message, ...]
    sampling: Mapping[str, Json] = {}
    group: str = ""  # draws that share an idea share a group

    def sampled(self, sampling: Sampling) -> Sampling:
        return sampling._replace(**self.sampling)


def direct(question: Question) -> Variant:
    """The identity arm: the question as it stands."""
    return Variant("direct", question.messages)


class Step(NamedTuple):
    """What a sampler wants next. No asks, and nothing in flight: finished.

    A splittable step holds independent draws: the loop may hand its completions over one at a time, in the order of
    the asks, and may send a part of it only. A whole step waits for all completions, and is sent whole or not at all.
    """

    asks: tuple[Ask, ...] = ()
    info: Any = None  # for people: goes to the trace
    splittable: bool = False


class Init(Protocol[S_co]):
    def __call__(self, variants: tuple[Variant, ...]) -> S_co: ...


class Advance(Protocol[S]):
    def __call__(self, key: Key, state: S, completions: Sequence[Completion]) -> tuple[S, Step]: ...


class Gather(Protocol[S_contra]):
    def __call__(self, state: S_contra) -> Pool: ...


@dataclass(frozen=True, slots=True)
class Sampler(Generic[S]):
    """A named machine.

    `init(variants)` makes the first state; draw or chain `i` takes its prompt from `deal(variants, i)`.
    `step(key, state, completions)` gets the same key at every step (fold what tells draws apart: arm and index) and the
    completions that are new since the last step, none on the first.
    `pool(state)` is valid after every step, whatever the budget.
    """

    name: str
    needs: frozenset[Capability]
    init: Init[S]
    step: Advance[S]
    pool: Gather[S]
    exchangeable: bool = False  # permuting the completions permutes the pool
    weighted: bool = False  # the pool's weights make it follow a stated law


def deal(variants: tuple[Variant, ...], index: int) -> Variant:
    """The variant of draw or chain `index`: round-robin, so the identity arm, which stands first, is always drawn."""
    return variants[index % len(variants)]


def candidate(completion: Completion, arm: str) -> Candidate:
    """An exchangeable draw as a candidate, with the scores that follow from what the engine showed of its law."""
    scores = dict(confidences(completion.top)) if completion.top else {}
    if completion.certainty:
        scores["self_certainty"] = self_certainty(completion.certainty)
    return Candidate(
        text=completion.text,
        finish=completion.finish,
        arm=arm,
        num_tokens=completion.usage.completion_tokens,
        logp_sum=completion.logp_sum,
        scores=scores,
    )
