"""Concepts, one after another: a thinker names what the question can be solved with, then something else, until it
knows no more. Each variant is told to use its concept and no other.

Source: guided sampling, arXiv 2510.03777. Cost: one short request after another, at most `num`, and one more for each
that gives the result away. They cannot run side by side, since each is shown what was named before.
"""

from __future__ import annotations

from typing import NamedTuple

from samplewise.keys import Key
from samplewise.samplers.repeat import count
from samplewise.types import Generate, Question
from samplewise.vary.base import Arm, Heard, Made
from samplewise.vary.checks import leaks, repeats
from samplewise.vary.domains import checked_domain, chosen_domain
from samplewise.vary.pools.requests import CONCEPT, CONCEPTS, TUTORS
from samplewise.vary.reading import is_none, one
from samplewise.vary.slots import body_of, inserted
from samplewise.vary.thinker import NEEDS, Thinker, asked, bulleted, drawn, family_id, filled, others, told_or_plain


class Named(NamedTuple):
    """What was named so far, and whether no more will come: none is left, one came twice, or a request failed."""

    concepts: tuple[str, ...] = ()
    over: bool = False
    failed: bool = False
    leaks: int = 0
    repeats: int = 0


def concept(num: int = 5, *, thinker: Thinker = "", domain: str = "auto", max_tokens: int = 100) -> Arm:
    """Concepts that the question can be solved with, named one after another until there is none; each variant is told
    to use one of them and no other. At most `num`, perhaps fewer; ids are `concept.single/1` and so on."""
    count("num", num)
    count("max_tokens", max_tokens)
    checked_domain(domain)
    family = family_id("concept", thinker)

    def follow(heard: Heard) -> Named:
        named = Named()
        refused = 0  # in a row
        for (reply,) in heard:
            text = one(reply) if reply is not None else ""
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

    def inquire(key: Key, question: Question, heard: Heard) -> tuple[Generate, ...]:
        named = follow(heard)
        if named.over:
            return ()
        text = filled(
            CONCEPTS[1 if named.concepts else 0],
            tutor=TUTORS[chosen_domain(domain, question)],
            shown=bulleted(named.concepts),
            question=body_of(question),
        )
        return (asked(drawn(thinker, key.fold("thinker")), text, key.fold(len(heard)), max_tokens),)

    def make(key: Key, question: Question, heard: Heard) -> Made:
        named = follow(heard)
        # a thinker that knows no more leaves fewer variants; one that failed leaves the question in their place
        given = num if named.failed or not named.over else max(1, len(named.concepts))
        told = [inserted(question, filled(CONCEPT, text=text)) for text in named.concepts]
        variants = [
            told_or_plain(family, place, question, told[place] if place < len(told) else None) for place in range(given)
        ]
        return Made(tuple(variants), given - len(told), named.leaks, 0, named.repeats)

    return Arm(family, make, inquire, NEEDS, others(thinker))
