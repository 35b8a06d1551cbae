"""Several ideas in one request, each with the probability that the helper states for it.

Models that are asked for a range of suggestions give a more diverse one than when they are asked again and again.

Source: verbalized sampling, arXiv 2510.01171, here with ideas instead of responses. The probabilities are labels and
not weights: draws take the ideas in turn. Cost: one request, and one more if ideas are missing.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Generate, Question
from samplewise.vary.base import Arm, ArmResult, HelperTexts
from samplewise.vary.checks import leaks, repeats
from samplewise.vary.domains import checked_domain, chosen_domain
from samplewise.vary.helpers import (
    NEEDS,
    ROUNDS,
    Helper,
    bulleted,
    family_id,
    fill_template,
    helper_ask,
    other_engines,
    padded_variants,
    pick_helper,
)
from samplewise.vary.pools.requests import IDEA, OTHER, TUTORS, VERBALIZED
from samplewise.vary.reading import Item, json_items, list_items
from samplewise.vary.slots import body_of, inserted


class VerbalizedIdeas(NamedTuple):
    """The ideas read so far, and how many were refused."""

    ideas: tuple[str, ...] = ()
    leaks: int = 0
    repeats: int = 0
    repeated_last: int = 0  # in the last reply


def verbalized(
    num: int = 5,
    *,
    tail: float | None = None,
    helper: Helper = "",
    domain: str = "auto",
    max_tokens: int | None = None,
) -> Arm:
    """Vary by different ideas out of one request, each with a stated probability; ids are `verbalized.single/1` and so
    on.

    `tail` asks for unusual ideas: those with a stated probability of `tail` or more are left out. The default
    `max_tokens` is 120 for each idea. An idea that gives the result away, or is like another, is requested once more.
    """
    check_count("num", num)
    if tail is not None and not 0.0 < tail < 1.0:
        raise ValueError(f"tail must be a probability between 0 and 1, got {tail}")
    checked_domain(domain)
    size = 120 * num if max_tokens is None else check_count("max_tokens", max_tokens)
    family = family_id("verbalized" if tail is None else "verbalized.tail", helper)

    def follow(replies: HelperTexts) -> VerbalizedIdeas:
        collected = VerbalizedIdeas()
        for turn, (reply,) in enumerate(replies[:ROUNDS]):
            listed = json_items(reply or "")
            if not listed and turn == ROUNDS - 1:  # accept plain lines only if the second reply has no JSON either
                unread = [text for (text,) in reversed(replies[:ROUNDS]) if text and not json_items(text)]
                listed = next((items for text in unread if (items := list_items(text))), ())
            wanted = [item.text for item in listed if tail is None or not _is_likely(item, tail)]
            fair = [text for text in wanted if not leaks(text)]
            again = repeats(fair, collected.ideas)
            new = [text for text, twice in zip(fair, again, strict=True) if not twice]
            collected = VerbalizedIdeas(
                (*collected.ideas, *new)[:num],
                collected.leaks + len(wanted) - len(fair),
                collected.repeats + sum(again),
                sum(again),
            )
        return collected

    def next_asks(key: Key, question: Question, replies: HelperTexts) -> tuple[Generate, ...]:
        collected = follow(replies)
        missing = num - len(collected.ideas)
        if not missing or len(replies) >= ROUNDS or (replies and replies[-1] == (None,)):
            return ()
        template = VERBALIZED[0 if tail is None else 1]
        if collected.ideas:
            template = template.replace("\n\nProblem:", f"\n\n{OTHER}\n\nProblem:")
        text = fill_template(
            template,
            tutor=TUTORS[chosen_domain(domain, question)],
            num=missing,
            tail=tail or "",
            shown=bulleted(collected.ideas),
            question=body_of(question),
        )
        return (helper_ask(pick_helper(helper, key.fold("thinker")), text, key.fold(len(replies)), size),)

    def make(key: Key, question: Question, replies: HelperTexts) -> ArmResult:
        collected = follow(replies)
        over = not next_asks(key, question, replies)
        num_variants = max(len(collected.ideas), num - (collected.repeated_last if over else 0))
        prompts = [inserted(question, fill_template(IDEA, text=text)) for text in collected.ideas]
        return ArmResult(
            padded_variants(family, question, prompts, num_variants),
            num_variants - len(prompts),
            collected.leaks,
            0,
            collected.repeats,
        )

    return Arm(family, make, next_asks, NEEDS, other_engines(helper))


def _is_likely(item: Item, tail: float) -> bool:
    return not math.isnan(item.probability) and item.probability >= tail
