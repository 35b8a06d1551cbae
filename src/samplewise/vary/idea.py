"""Ideas: a helper suggests an approach for this very question, and the solver reads it before the question.

Source: random idea injection, arXiv 2502.11027. Cost: one request of at most 120 tokens for each idea, and one more for
each idea that gives the result away or repeats another.
"""

from __future__ import annotations

from samplewise.core.keys import Key
from samplewise.core.types import Message, Question
from samplewise.vary.base import Arm
from samplewise.vary.domains import checked_domain, chosen_domain
from samplewise.vary.helpers import Drafts, Helper, bulleted, family_id, fill_template, template_index
from samplewise.vary.pools.requests import IDEA, IDEAS, OTHER, TUTORS
from samplewise.vary.reading import single_text
from samplewise.vary.slots import body_of, inserted


def idea(num: int = 4, *, helper: Helper = "", domain: str = "auto", max_tokens: int = 120) -> Arm:
    """Vary by a helper's ideas for this very question, one variant each: an approach, without steps or a result.

    `helper` "" is the solver itself. Of several names, each idea draws one. If there are more draws than variants,
    draws share an idea. Ids are `idea.single/1` and so on. An idea that gives the result away is refused.
    """
    checked_domain(domain)

    def request(key: Key, question: Question, index: int, shown: tuple[str, ...]) -> str:
        template = IDEAS[template_index(key, len(IDEAS), index)]
        if shown:
            template = template.replace("\n\nProblem:", f" {OTHER}\n\nProblem:")
        tutor = TUTORS[chosen_domain(domain, question)]
        return fill_template(template, tutor=tutor, shown=bulleted(shown), question=body_of(question))

    def placed(question: Question, text: str) -> tuple[Message, ...]:
        return inserted(question, fill_template(IDEA, text=text))

    return Drafts(family_id("idea", helper), num, helper, request, single_text, placed, max_tokens=max_tokens).arm()
