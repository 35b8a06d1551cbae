"""Concepts: a helper names what the question can be solved with, one concept after another, until it has no more.

Each variant tells the solver to use its concept and no other.

Source: guided sampling, arXiv 2510.03777. Cost: up to `num` short requests in sequence, because each shows the concepts
named before, and one more for each that gives the result away.
"""

from __future__ import annotations

from typing import NamedTuple

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Generate, Question
from samplewise.vary.base import Arm, ArmResult, HelperTexts
from samplewise.vary.checks import leaks, repeats
from samplewise.vary.domains import checked_domain, chosen_domain
from samplewise.vary.helpers import (
    NEEDS,
    Helper,
    bulleted,
    family_id,
    fill_template,
    helper_ask,
    other_engines,
    padded_variants,
    pick_helper,
)
from samplewise.vary.pools.requests import CONCEPT, CONCEPTS, TUTORS
from samplewise.vary.reading import is_none, single_text
from samplewise.vary.slots import body_of, inserted


class NamedConcepts(NamedTuple):
    """The concepts so far. `over` if no more will come: none is left, one was named twice, or a request failed."""

    concepts: tuple[str, ...] = ()
    over: bool = False
    failed: bool = False
    leaks: int = 0
    repeats: int = 0


def concept(num: int = 5, *, helper: Helper = "", domain: str = "auto", max_tokens: int = 100) -> Arm:
    """Vary by concepts that the question can be solved with, named one after another; ids are `concept.single/1` and so
    on.

    Each variant tells the solver to use one of them and no other. At most `num` variants, fewer if the helper runs out.
    """
    check_count("num", num)
    check_count("max_tokens", max_tokens)
    checked_domain(domain)
    family = family_id("concept", helper)

    def follow(replies: HelperTexts) -> NamedConcepts:
        named = NamedConcepts()
        refused = 0  # in a row
        for (reply,) in replies:
            text = single_text(reply) if reply is not None else ""
            if reply is None:
                named = named._replace(over=True, failed=True)
            elif text and is_none(text):
                named = named._replace(over=True)
            elif not text or leaks(text):
                refused += 1
                named = named._replace(leaks=named.leaks + bool(text), over=refused > 1, failed=refused > 1)
            elif repeats([text], named.concepts)[0]:
                named = named._replace(over=True, repeats=1)
            else:
                refused = 0
                named = named._replace(concepts=(*named.concepts, text))
        return named._replace(over=named.over or len(named.concepts) >= num)

    def next_asks(key: Key, question: Question, replies: HelperTexts) -> tuple[Generate, ...]:
        named = follow(replies)
        if named.over:
            return ()
        text = fill_template(
            CONCEPTS[1 if named.concepts else 0],
            tutor=TUTORS[chosen_domain(domain, question)],
            shown=bulleted(named.concepts),
            question=body_of(question),
        )
        return (helper_ask(pick_helper(helper, key.fold("thinker")), text, key.fold(len(replies)), max_tokens),)

    def make(key: Key, question: Question, replies: HelperTexts) -> ArmResult:
        named = follow(replies)
        # a helper without further concepts leaves fewer variants; a failed request leaves the question instead
        num_variants = num if named.failed or not named.over else max(1, len(named.concepts))
        prompts = [inserted(question, fill_template(CONCEPT, text=text)) for text in named.concepts]
        variants = padded_variants(family, question, prompts, num_variants)
        return ArmResult(variants, num_variants - len(prompts), named.leaks, 0, named.repeats)

    return Arm(family, make, next_asks, NEEDS, other_engines(helper))
