"""Compose arms, one after another: `role + idea(4)`."""

from __future__ import annotations

from samplewise.core.errors import UsageError
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Generate, Question
from samplewise.samplers.base import Variant
from samplewise.vary.base import Arm, ArmResult, HelperTexts, PlainArm, as_arm, split_rounds


def plus(*arms: str) -> Arm:
    """Compose arms, `role + idea(4)` in a recipe: each arm varies what the one before it made of the question.

    Arm ids are joined by +, and sampling overrides are merged. UsageError if two arms set the same override. The costs
    of the arms' helpers add up.
    """
    if len(arms) < 2:
        raise ValueError("plus takes two arms or more")
    composed: Arm = as_arm(build("arm", arms[0]))
    for arm in arms[1:]:
        composed = compose(composed, build("arm", arm))
    return composed


def compose(first: Arm | PlainArm, second: Arm | PlainArm) -> Arm:
    """Compose two arms: the second varies what the first made of the question.

    Arm ids are joined by +, and sampling overrides are merged. UsageError if both arms set the same override.
    """
    outer_arm, inner_arm = as_arm(first), as_arm(second)

    def rounds(
        key: Key, question: Question, replies: HelperTexts
    ) -> tuple[tuple[Generate, ...], HelperTexts, ArmResult, list[HelperTexts]]:
        """Return the next asks, the first arm's replies and result, and the second arm's replies for each variant."""
        first_rounds = 0
        while asks := outer_arm.next_asks(key.fold("first"), question, replies[:first_rounds]):
            if first_rounds == len(replies):
                return asks, replies, ArmResult(()), []
            first_rounds += 1
        result = outer_arm.make(key.fold("first"), question, replies[:first_rounds])
        askers = [
            lambda part, index=index, variant=variant: inner_arm.next_asks(
                key.fold("second", index), question_of(question, variant), part
            )
            for index, variant in enumerate(result.variants)
        ]
        asks, inner_replies = split_rounds(askers, replies[first_rounds:])
        return asks, replies[:first_rounds], result, inner_replies

    def next_asks(key: Key, question: Question, replies: HelperTexts) -> tuple[Generate, ...]:
        return rounds(key, question, replies)[0]

    def make(key: Key, question: Question, replies: HelperTexts) -> ArmResult:
        _, outer_replies, result, inner_replies = rounds(key, question, replies)
        if not inner_replies:
            result = outer_arm.make(key.fold("first"), question, outer_replies)
            inner_replies = [()] * len(result.variants)
        variants: list[Variant] = []
        for index, (outer, part) in enumerate(zip(result.variants, inner_replies, strict=True)):
            inner = inner_arm.make(key.fold("second", index), question_of(question, outer), part)
            result = result._replace(
                **{name: getattr(result, name) + getattr(inner, name) for name in ArmResult._fields[1:]}
            )
            variants += [_joined(outer, variant) for variant in inner.variants]
        return result._replace(variants=tuple(variants))

    return Arm(
        f"{outer_arm.name}+{inner_arm.name}",
        make,
        next_asks,
        outer_arm.needs | inner_arm.needs,
        outer_arm.engines | inner_arm.engines,
    )


def _joined(outer: Variant, inner: Variant) -> Variant:
    """Return the variant of both arms, or raise UsageError if both set the same sampling override."""
    if twice := sorted(set(outer.sampling) & set(inner.sampling)):
        raise UsageError(f"{outer.arm} and {inner.arm} both set {twice[0]}; leave one of them out")
    group = "/".join(part for part in (outer.group, inner.group) if part)
    return Variant(f"{outer.arm}+{inner.arm}", inner.messages, {**outer.sampling, **inner.sampling}, group)


def question_of(question: Question, variant: Variant) -> Question:
    """Return the question with the messages of a variant, for another arm to vary."""
    return question._replace(messages=variant.messages)
