"""Plans out of observations: a helper lists observations about the question, then writes a plan from one or two of
them.

Each variant follows another plan.

Source: the first layer of PlanSearch, arXiv 2409.03733. Six observations have 6 + 15 subsets of one or two, of which
`num` are drawn. Left out: the second layer, critique and pseudocode. Cost: one request for the observations (one more
if none can be read), one for each plan, and one more for each plan that is refused.
"""

from __future__ import annotations

from itertools import combinations

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Generate, Message, Question
from samplewise.vary.base import Arm, ArmResult, HelperTexts
from samplewise.vary.checks import leaks
from samplewise.vary.domains import checked_domain, chosen_domain
from samplewise.vary.helpers import (
    NEEDS,
    Drafts,
    Helper,
    bulleted,
    family_id,
    fill_template,
    helper_ask,
    other_engines,
    pick_helper,
)
from samplewise.vary.pools.requests import OTHER, PLAN, PLANS, TUTORS
from samplewise.vary.reading import json_items, list_items, single_text
from samplewise.vary.slots import body_of, inserted

ATTEMPTS = 2  # at observations


def plan_search(
    num: int = 8, *, observations: int = 6, helper: Helper = "", domain: str = "auto", max_tokens: int = 160
) -> Arm:
    """Vary by plans that a helper writes from one or two observations; ids are `plan.single/1` and so on.

    Of n observations there are n + n (n - 1) / 2 subsets. If these are fewer than `num`, there are fewer plans.
    """
    check_count("num", num)
    check_count("max_tokens", max_tokens)
    check_count("observations", observations)
    checked_domain(domain)
    family = family_id("plan", helper)

    def read_observations(replies: HelperTexts) -> tuple[tuple[str, ...], int, bool]:
        """Return the observations, the rounds that they took, and whether to ask for them (again)."""
        for turn, (reply,) in enumerate(replies[:ATTEMPTS]):
            listed = json_items(reply or "") or list_items(reply or "")
            fair = tuple(item.text for item in listed if not leaks(item.text))[:observations]
            if fair or reply is None:
                return fair, turn + 1, False
        return (), min(len(replies), ATTEMPTS), len(replies) < ATTEMPTS

    def plans(key: Key, observed: tuple[str, ...]) -> Drafts:
        subsets = [subset for size in (1, 2) for subset in combinations(observed, size)]
        order = key.fold("subsets").generator().permutation(len(subsets)).tolist()
        chosen = [subsets[index] for index in order[:num]]

        def request(key: Key, question: Question, index: int, shown: tuple[str, ...]) -> str:
            template = PLANS[1]
            if shown:
                template = template.replace("\n\nProblem:", f" {OTHER.replace('shown', 'others')}\n\nProblem:")
            return fill_template(
                template,
                tutor=TUTORS[chosen_domain(domain, question)],
                shown=bulleted(chosen[index]),
                others=bulleted(shown),
                question=body_of(question),
            )

        size = len(chosen) or num
        dead = frozenset() if chosen else frozenset(range(num))
        return Drafts(family, size, helper, request, single_text, _placed, max_tokens=max_tokens, dead=dead)

    def next_asks(key: Key, question: Question, replies: HelperTexts) -> tuple[Generate, ...]:
        observed, rounds, asking = read_observations(replies)
        if not asking:
            return plans(key, observed).next_asks(key, question, replies[rounds:])
        text = fill_template(
            PLANS[0], tutor=TUTORS[chosen_domain(domain, question)], num=observations, question=body_of(question)
        )
        request_key = key.fold("observations")
        return (
            helper_ask(pick_helper(helper, request_key), text, request_key.fold(len(replies)), 40 * observations + 40),
        )

    def make(key: Key, question: Question, replies: HelperTexts) -> ArmResult:
        observed, rounds, _ = read_observations(replies)
        return plans(key, observed).make(key, question, replies[rounds:])

    return Arm(family, make, next_asks, NEEDS, other_engines(helper))


def _placed(question: Question, text: str) -> tuple[Message, ...]:
    return inserted(question, fill_template(PLAN, text=text))
