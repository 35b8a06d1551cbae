"""Ideas: a thinker suggests an approach for this very question, and the solver reads it before the question.

Source: random idea injection, arXiv 2502.11027. Cost: one request of at most 120 tokens for each idea, and one more for
each that gives the result away or repeats another.
"""

from __future__ import annotations

from samplewise.keys import Key
from samplewise.types import Message, Question
from samplewise.vary.base import Arm
from samplewise.vary.domains import checked_domain, chosen_domain
from samplewise.vary.pools.requests import IDEA, IDEAS, OTHER, TUTORS
from samplewise.vary.reading import one
from samplewise.vary.slots import body_of, inserted
from samplewise.vary.thinker import Drafts, Thinker, bulleted, family_id, filled, turns


def idea(num: int = 4, *, thinker: Thinker = "", domain: str = "auto", max_tokens: int = 120) -> Arm:
    """Ideas of a thinker for this very question, one variant each: an approach, without steps or a result.

    `thinker` "" is the solver itself; of several names each idea draws one. With more draws than variants, draws share
    an idea; ids are `idea.single/1` and so on. An idea that gives the result away is refused.
    """
    checked_domain(domain)

    def request(key: Key, question: Question, place: int, shown: tuple[str, ...]) -> str:
        template = IDEAS[turns(key, len(IDEAS), place)]
        if shown:
            template = template.replace("\n\nProblem:", f" {OTHER}\n\nProblem:")
        tutor = TUTORS[chosen_domain(domain, question)]
        return filled(template, tutor=tutor, shown=bulleted(shown), question=body_of(question))

    def placed(question: Question, text: str) -> tuple[Message, ...]:
        return inserted(question, filled(IDEA, text=text))

    return Drafts(family_id("idea", thinker), num, thinker, request, one, placed, max_tokens=max_tokens).arm()
