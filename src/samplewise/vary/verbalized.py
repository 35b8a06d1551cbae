"""Several ideas in one request, each with the probability that the thinker gives it: models that are asked for a
spread of suggestions give a wider one than by being asked again and again.

Source: verbalized sampling, arXiv 2510.01171, here with ideas in the place of responses. The probabilities are labels
and no weights: draws take the ideas in turn. Cost: one request, and one more if ideas are missing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from samplewise.keys import Key
from samplewise.samplers.repeat import count
from samplewise.types import Generate, Question
from samplewise.vary.base import Arm, Heard, Made
from samplewise.vary.checks import leaks, repeats
from samplewise.vary.domains import checked_domain, chosen_domain
from samplewise.vary.pools.requests import IDEA, OTHER, TUTORS, VERBALIZED
from samplewise.vary.reading import Item, items, lines
from samplewise.vary.slots import body_of, inserted
from samplewise.vary.thinker import (
    NEEDS,
    ROUNDS,
    Thinker,
    asked,
    bulleted,
    drawn,
    family_id,
    filled,
    others,
    told_or_plain,
)


class Found(NamedTuple):
    ideas: tuple[str, ...] = ()
    leaks: int = 0
    repeats: int = 0
    repeated_last: int = 0  # in the last reply


def verbalized(
    num: int = 5,
    *,
    tail: float | None = None,
    thinker: Thinker = "",
    domain: str = "auto",
    max_tokens: int | None = None,
) -> Arm:
    """Different ideas out of one request, each with a stated probability; ids are `verbalized.single/1` and so on.

    `tail` asks for unusual ones: those with a stated probability of `tail` or more are left out. `max_tokens` is 120
    for each idea unless given. An idea that gives the result away, or is like another, is asked for once more.
    """
    count("num", num)
    if tail is not None and not 0.0 < tail < 1.0:
        raise ValueError(f"tail must be a probability between 0 and 1, got {tail}")
    checked_domain(domain)
    size = 120 * num if max_tokens is None else count("max_tokens", max_tokens)
    family = family_id("verbalized" if tail is None else "verbalized.tail", thinker)

    def follow(heard: Heard) -> Found:
        found = Found()
        for turn, (reply,) in enumerate(heard[:ROUNDS]):
            listed = items(reply or "")
            if not listed and turn == ROUNDS - 1:  # plain lines only where JSON had its second chance
                unread = [text for (text,) in reversed(heard[:ROUNDS]) if text and not items(text)]
                listed = next((each for text in unread if (each := lines(text))), ())
            wanted = [item.text for item in listed if tail is None or not _is_likely(item, tail)]
            fair = [text for text in wanted if not leaks(text)]
            again = repeats(fair, found.ideas)
            new = [text for text, twice in zip(fair, again, strict=True) if not twice]
            found = Found(
                (*found.ideas, *new)[:num],
                found.leaks + len(wanted) - len(fair),
                found.repeats + sum(again),
                sum(again),
            )
        return found

    def inquire(key: Key, question: Question, heard: Heard) -> tuple[Generate, ...]:
        found = follow(heard)
        missing = num - len(found.ideas)
        if not missing or len(heard) >= ROUNDS or (heard and heard[-1] == (None,)):
            return ()
        template = VERBALIZED[0 if tail is None else 1]
        if found.ideas:
            template = template.replace("\n\nProblem:", f"\n\n{OTHER}\n\nProblem:")
        text = filled(
            template,
            tutor=TUTORS[chosen_domain(domain, question)],
            num=missing,
            tail=tail or "",
            shown=bulleted(found.ideas),
            question=body_of(question),
        )
        return (asked(drawn(thinker, key.fold("thinker")), text, key.fold(len(heard)), size),)

    def make(key: Key, question: Question, heard: Heard) -> Made:
        found = follow(heard)
        over = not inquire(key, question, heard)
        given = max(len(found.ideas), num - (found.repeated_last if over else 0))
        told = [inserted(question, filled(IDEA, text=text)) for text in found.ideas]
        variants = [
            told_or_plain(family, place, question, told[place] if place < len(told) else None) for place in range(given)
        ]
        return Made(tuple(variants), given - len(told), found.leaks, 0, found.repeats)

    return Arm(family, make, inquire, NEEDS, others(thinker))


def _is_likely(item: Item, tail: float) -> bool:
    return not math.isnan(item.probability) and item.probability >= tail
