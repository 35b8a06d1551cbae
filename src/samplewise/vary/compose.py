"""One arm after another: `role + idea(4)`."""

from __future__ import annotations

from samplewise.errors import UsageError
from samplewise.keys import Key
from samplewise.samplers.base import Variant
from samplewise.spec import build
from samplewise.types import Generate, Question
from samplewise.vary.base import Arm, Heard, Made, PlainArm, as_arm, replayed


def plus(*arms: str) -> Arm:
    """One arm after the other, `role + idea(4)` in a recipe: the second varies what the first has made of the question.

    Ids are joined by +, sampling overrides are merged, and one that both set is a UsageError. Costs of thinkers add up.
    """
    if len(arms) < 2:
        raise ValueError("plus takes two arms or more")
    made: Arm | PlainArm = build("arm", arms[0])
    for arm in arms[1:]:
        made = compose(made, build("arm", arm))
    return as_arm(made)


def compose(first: Arm | PlainArm, second: Arm | PlainArm) -> Arm:
    """One arm after the other: the second varies what the first has made of the question. Ids are joined by +, sampling
    overrides are merged, and one that both set is an error."""
    one, two = as_arm(first), as_arm(second)

    def talks(key: Key, question: Question, heard: Heard) -> tuple[tuple[Generate, ...], Heard, Made, list[Heard]]:
        """The next round, what the first arm heard and made, and what the second heard for each of its variants."""
        rounds = 0
        while asks := one.inquire(key.fold("first"), question, heard[:rounds]):
            if rounds == len(heard):
                return asks, heard, Made(()), []
            rounds += 1
        made = one.make(key.fold("first"), question, heard[:rounds])
        inquiries = [
            lambda part, place=place, variant=variant: two.inquire(
                key.fold("second", place), question_of(question, variant), part
            )
            for place, variant in enumerate(made.variants)
        ]
        asks, own = replayed(inquiries, heard[rounds:])
        return asks, heard[:rounds], made, own

    def inquire(key: Key, question: Question, heard: Heard) -> tuple[Generate, ...]:
        return talks(key, question, heard)[0]

    def make(key: Key, question: Question, heard: Heard) -> Made:
        _, before, made, own = talks(key, question, heard)
        if not own:
            made = one.make(key.fold("first"), question, before)
            own = [()] * len(made.variants)
        variants: list[Variant] = []
        for place, (outer, part) in enumerate(zip(made.variants, own, strict=True)):
            inner = two.make(key.fold("second", place), question_of(question, outer), part)
            made = made._replace(**{name: getattr(made, name) + getattr(inner, name) for name in Made._fields[1:]})
            variants += [_joined(outer, variant) for variant in inner.variants]
        return made._replace(variants=tuple(variants))

    return Arm(f"{one.name}+{two.name}", make, inquire, one.needs | two.needs, one.engines | two.engines)


def _joined(outer: Variant, inner: Variant) -> Variant:
    if twice := sorted(set(outer.sampling) & set(inner.sampling)):
        raise UsageError(f"{outer.arm} and {inner.arm} both set {twice[0]}; leave one of them out")
    group = "/".join(part for part in (outer.group, inner.group) if part)
    return Variant(f"{outer.arm}+{inner.arm}", inner.messages, {**outer.sampling, **inner.sampling}, group)


def question_of(question: Question, variant: Variant) -> Question:
    """The question as a variant puts it, for another arm to vary."""
    return question._replace(messages=variant.messages)
