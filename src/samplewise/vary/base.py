"""The vary protocol: a machine of the same kind as a sampler, which ends in variants of the question.

An arm that only rewrites text or sampling yields no asks. One that needs a thinker yields asks, round after round,
through the same loop, budget and store as every draw. An arm holds no state: it is handed all that was heard so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar

from samplewise.errors import UsageError
from samplewise.keys import Key
from samplewise.samplers.base import Advance, Step, Variant, direct
from samplewise.types import Capability, Completion, Generate, Question

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)

Heard = tuple[tuple[str | None, ...], ...]  # of each round the thinkers' texts; None where a request failed


class Begin(Protocol[S_co]):
    def __call__(self, question: Question) -> S_co: ...


class Deal(Protocol[S_contra]):
    def __call__(self, state: S_contra) -> tuple[Variant, ...]: ...


@dataclass(frozen=True, slots=True)
class Vary(Generic[S]):
    """`variants(state)` is valid after every step and never empty: draw i takes variant i modulo their number."""

    name: str
    needs: frozenset[Capability]
    init: Begin[S]
    step: Advance[S]
    variants: Deal[S]
    engines: frozenset[str] = frozenset()


class Made(NamedTuple):
    """What an arm made of a question. Where a thinker's text was refused, or never came, the variant is the question
    itself under the arm's own id: a `fallback`. What happened is counted for the trace."""

    variants: tuple[Variant, ...]
    fallbacks: int = 0
    leaks: int = 0  # ideas that gave the answer away
    losses: int = 0  # rephrasings that lost a number or a name
    repeats: int = 0  # texts that were there already


class Inquire(Protocol):
    def __call__(self, key: Key, question: Question, heard: Heard) -> tuple[Generate, ...]: ...


class Make(Protocol):
    def __call__(self, key: Key, question: Question, heard: Heard) -> Made: ...


def _nothing(key: Key, question: Question, heard: Heard) -> tuple[Generate, ...]:
    return ()


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to vary a question; it may give several variants, each with its own arm id.

    `inquire` gives the next round's requests to the thinker, none when it has heard enough; `make` the variants. Both
    are pure functions of the same key, the question, and what was heard in the rounds so far.
    """

    name: str
    make: Make
    inquire: Inquire = _nothing
    needs: frozenset[Capability] = frozenset()
    engines: frozenset[str] = frozenset()  # names of the thinkers that it asks, beside the solver


PlainArm = Callable[[Question], tuple[Variant, ...]]  # an arm that neither asks nor draws: a function will do
Share = Callable[[Key, tuple[Variant, ...]], tuple[Variant, ...]]  # how draws are shared: who takes draw 0, 1, 2 ...


def as_arm(arm: Arm | PlainArm) -> Arm:
    if isinstance(arm, Arm):
        return arm
    return Arm(getattr(arm, "__name__", "arm"), lambda key, question, heard: Made(arm(question)))


def replayed(
    inquiries: Sequence[Callable[[Heard], tuple[Generate, ...]]], heard: Heard
) -> tuple[tuple[Generate, ...], list[Heard]]:
    """Several thinkers' talks side by side, each handed its own part of every round: what they ask next, and what each
    has heard."""
    own: list[Heard] = [()] * len(inquiries)
    for texts in (*heard, None):
        asks = [inquire(part) for inquire, part in zip(inquiries, own, strict=True)]
        if texts is None or not any(asks):
            return tuple(ask for part in asks for ask in part), own
        start = 0
        for place, part in enumerate(asks):
            if part:
                own[place] = (*own[place], texts[start : start + len(part)])
                start += len(part)
    raise AssertionError("the last round has no end")


class MixState(NamedTuple):
    """`key` is None until the first step."""

    question: Question
    key: Key | None = None
    heard: Heard = ()
    asking: bool = False


def vary(*arms: Arm | PlainArm, share: Share | None = None) -> Vary[MixState]:
    """The identity arm first, then the variants of each arm in turn. Costs what the arms' thinkers cost.

    `share` says which variant each draw takes; without it they take turns.
    """
    mixed = [as_arm(arm) for arm in arms]

    def talk(state: MixState) -> tuple[tuple[Generate, ...], list[Heard]]:
        key = state.key or Key(0)
        inquiries = [
            lambda part, place=place, arm=arm: arm.inquire(key.fold(place, arm.name), state.question, part)
            for place, arm in enumerate(mixed)
        ]
        return replayed(inquiries, state.heard)

    def made(state: MixState) -> list[Made]:
        key, (_, own) = state.key or Key(0), talk(state)
        return [
            arm.make(key.fold(place, arm.name), state.question, part)
            for place, (arm, part) in enumerate(zip(mixed, own, strict=True))
        ]

    def variants(state: MixState) -> tuple[Variant, ...]:
        mix = (direct(state.question), *(variant for each in made(state) for variant in each.variants))
        ids = [variant.arm for variant in mix]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise UsageError(f"arm {twice[0]!r} is in the mix twice; its draws would be the same draws")
        return share((state.key or Key(0)).fold("share"), mix) if share else mix

    def step(key: Key, state: MixState, completions: Sequence[Completion]) -> tuple[MixState, Step]:
        texts = tuple(None if c.finish == "error" else c.text for c in completions)
        state = MixState(state.question, key, (*state.heard, texts) if state.asking else state.heard)
        asks, _ = talk(state)
        if asks:
            return state._replace(asking=True), Step(asks)
        told = [
            {"arm": arm.name, **{name: value for name, value in each._asdict().items() if name != "variants"}}
            for arm, each in zip(mixed, made(state), strict=True)
        ]
        noted = [each for each in told if any(value for name, value in each.items() if name != "arm")]
        return state, Step((), {"vary": noted} if noted else None)

    needs = frozenset({capability for arm in mixed for capability in arm.needs})
    engines = frozenset({name for arm in mixed for name in arm.engines})
    return Vary("vary", needs, MixState, step, variants, engines)
