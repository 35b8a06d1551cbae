"""The vary protocol: a state machine like a sampler that ends in variants of the question.

An arm that only rewrites text or sampling yields no asks. An arm with a helper model yields asks, round after round,
through the same loop, budget and store as every draw. Arms hold no state: each call gets all replies so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from samplewise.core.errors import UsageError
from samplewise.core.keys import Key
from samplewise.core.types import Capability, Completion, Generate, Question
from samplewise.samplers.base import Advance, Step, Variant, direct

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)

HelperTexts = tuple[tuple[str | None, ...], ...]  # the helpers' texts, round by round; None where a request failed


class Begin(Protocol[S_co]):
    def __call__(self, question: Question) -> S_co: ...


class Deal(Protocol[S_contra]):
    def __call__(self, state: S_contra) -> tuple[Variant, ...]: ...


@dataclass(frozen=True, slots=True)
class Vary(Generic[S]):
    """How a recipe varies a question.

    `variants(state)` is valid after every step and never empty. Draw i takes variant i modulo their number.
    """

    name: str
    needs: frozenset[Capability]
    init: Begin[S]
    step: Advance[S]
    variants: Deal[S]
    engines: frozenset[str] = frozenset()


class ArmResult(NamedTuple):
    """The variants that an arm made, and what it refused on the way.

    A variant is a fallback, the question itself under the arm's id, where a helper's text was refused or never came.
    """

    variants: tuple[Variant, ...]
    fallbacks: int = 0
    leaks: int = 0  # ideas that gave the answer away
    losses: int = 0  # rephrasings that lost a number or a name
    repeats: int = 0  # texts like an earlier one


class AskHelpers(Protocol):
    def __call__(self, key: Key, question: Question, replies: HelperTexts) -> tuple[Generate, ...]: ...


class MakeVariants(Protocol):
    def __call__(self, key: Key, question: Question, replies: HelperTexts) -> ArmResult: ...


def _no_asks(key: Key, question: Question, replies: HelperTexts) -> tuple[Generate, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to vary a question. It may give several variants, each with its own arm id.

    `next_asks` returns the next round of requests to helpers, or none when the arm has all that it needs. `make`
    returns the variants. Both are pure functions of the same key, the question, and the replies so far.
    """

    name: str
    make: MakeVariants
    next_asks: AskHelpers = _no_asks
    needs: frozenset[Capability] = frozenset()
    engines: frozenset[str] = frozenset()  # names of the helpers that it asks, besides the solver


PlainArm = Callable[[Question], tuple[Variant, ...]]  # an arm without helpers or randomness: a function will do
AllocateDraws = Callable[[Key, tuple[Variant, ...]], tuple[Variant, ...]]  # variants to the variants of draws 0, 1, ...


def as_arm(arm: Arm | PlainArm) -> Arm:
    """Return the arm itself, or wrap a function of the question as an arm."""
    if isinstance(arm, Arm):
        return arm
    return Arm(getattr(arm, "__name__", "arm"), lambda key, question, replies: ArmResult(arm(question)))


def split_rounds(
    askers: Sequence[Callable[[HelperTexts], tuple[Generate, ...]]], replies: HelperTexts
) -> tuple[tuple[Generate, ...], list[HelperTexts]]:
    """Run several dialogues with helpers side by side, each with its own part of every round of `replies`.

    Returns the next round of asks of all dialogues, and the replies that belong to each.
    """
    if not askers:
        return (), []
    part_replies: list[HelperTexts] = [()] * len(askers)
    for texts in (*replies, None):
        asks = [next_asks(part) for next_asks, part in zip(askers, part_replies, strict=True)]
        if texts is None or not any(asks):
            return tuple(ask for part in asks for ask in part), part_replies
        start = 0
        for index, part in enumerate(asks):
            if part:
                part_replies[index] = (*part_replies[index], texts[start : start + len(part)])
                start += len(part)
    raise AssertionError("the last round has no end")


class MixState(NamedTuple):
    """The state of a mix of arms. `key` is None before the first step."""

    question: Question
    key: Key | None = None
    replies: HelperTexts = ()
    asking: bool = False


def vary(*arms: Arm | PlainArm, share: AllocateDraws | None = None) -> Vary[MixState]:
    """Mix arms: the identity arm first, then the variants of each arm. Costs what the arms' helpers cost.

    `share` allocates draws to variants. Without it draws take the variants in turn.
    """
    if not arms and share is None:
        return DIRECT
    mixed = [as_arm(arm) for arm in arms]

    def rounds(state: MixState) -> tuple[tuple[Generate, ...], list[HelperTexts]]:
        key = state.key or Key(0)
        askers = [
            lambda part, index=index, arm=arm: arm.next_asks(key.fold(index, arm.name), state.question, part)
            for index, arm in enumerate(mixed)
        ]
        return split_rounds(askers, state.replies)

    def results(state: MixState) -> list[ArmResult]:
        key, (_, arm_replies) = state.key or Key(0), rounds(state)
        return [
            arm.make(key.fold(index, arm.name), state.question, part)
            for index, (arm, part) in enumerate(zip(mixed, arm_replies, strict=True))
        ]

    def variants(state: MixState) -> tuple[Variant, ...]:
        mix = (direct(state.question), *(variant for result in results(state) for variant in result.variants))
        ids = [variant.arm for variant in mix]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise UsageError(f"arm {twice[0]!r} is in the mix twice; its draws would be the same draws")
        return share((state.key or Key(0)).fold("share"), mix) if share else mix

    def step(key: Key, state: MixState, completions: Sequence[Completion]) -> tuple[MixState, Step]:
        texts = tuple(None if c.finish == "error" else c.text for c in completions)
        state = MixState(state.question, key, (*state.replies, texts) if state.asking else state.replies)
        asks, _ = rounds(state)
        if asks:
            return state._replace(asking=True), Step(asks)
        counts = [
            {"arm": arm.name, **{name: value for name, value in result._asdict().items() if name != "variants"}}
            for arm, result in zip(mixed, results(state), strict=True)
        ]
        nonzero = [entry for entry in counts if any(value for name, value in entry.items() if name != "arm")]
        return state, Step((), {"vary": nonzero} if nonzero else None)

    needs = frozenset({capability for arm in mixed for capability in arm.needs})
    engines = frozenset({name for arm in mixed for name in arm.engines})
    return Vary("vary", needs, MixState, step, variants, engines)


def _step_alone(key: Key, state: MixState, completions: Sequence[Completion]) -> tuple[MixState, Step]:
    return MixState(state.question, key), Step()


def _variants_alone(state: MixState) -> tuple[Variant, ...]:
    return (direct(state.question),)


DIRECT: Vary[MixState] = Vary("vary", frozenset(), MixState, _step_alone, _variants_alone)  # the question as it is
