"""The vary protocol: a machine of the same kind as a sampler, which ends in variants of the question.

An arm that only rewrites text or sampling yields no asks. One that needs a thinker yields asks, through the same loop,
budget and store as every draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from samplewise.errors import UsageError
from samplewise.keys import Key
from samplewise.samplers.base import Advance, Step, Variant, direct
from samplewise.types import Capability, Completion, Question

S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
S_contra = TypeVar("S_contra", contravariant=True)


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


class Arm(Protocol):
    """One way to vary a question without asking anybody. It may give several variants, each with its own arm id."""

    def __call__(self, question: Question) -> tuple[Variant, ...]: ...


def vary(*arms: Arm) -> Vary[tuple[Variant, ...]]:
    """The identity arm first, then the variants of each arm in turn. Costs nothing."""

    def init(question: Question) -> tuple[Variant, ...]:
        mix = (direct(question), *(variant for arm in arms for variant in arm(question)))
        ids = [variant.arm for variant in mix]
        if twice := sorted({i for i in ids if ids.count(i) > 1}):
            raise UsageError(f"arm {twice[0]!r} is in the mix twice; its draws would be the same draws")
        return mix

    def step(
        key: Key, state: tuple[Variant, ...], completions: Sequence[Completion]
    ) -> tuple[tuple[Variant, ...], Step]:
        return state, Step()

    return Vary("vary", frozenset(), init, step, lambda state: state)
