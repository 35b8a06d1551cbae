"""Plans out of observations: a thinker first says what it notices about the question, then makes a plan out of one or
two of its observations; each variant follows another plan.

Source: PlanSearch, arXiv 2409.03733, its first layer alone: six observations have 6 + 15 subsets of one or two, of
which `num` are drawn. Left out: the second layer, critique and pseudocode. Cost: one request for the observations (one
more if none can be read), one for each plan, and one more for each plan that is refused.
"""

from __future__ import annotations

from itertools import combinations

from samplewise.keys import Key
from samplewise.samplers.repeat import count
from samplewise.types import Generate, Message, Question
from samplewise.vary.base import Arm, Heard, Made
from samplewise.vary.checks import leaks
from samplewise.vary.domains import checked_domain, chosen_domain
from samplewise.vary.pools.requests import OTHER, PLAN, PLANS, TUTORS
from samplewise.vary.reading import items, lines, one
from samplewise.vary.slots import body_of, inserted
from samplewise.vary.thinker import NEEDS, Drafts, Thinker, asked, bulleted, drawn, family_id, filled, others

ATTEMPTS = 2  # at observations


def plan(
    num: int = 8, *, observations: int = 6, thinker: Thinker = "", domain: str = "auto", max_tokens: int = 160
) -> Arm:
    """Plans, each made by a thinker out of one or two observations about the question; ids are `plan.single/1` and so
    on.

    Fewer subsets than `num` give fewer plans: there are n + n (n - 1) / 2 of n observations.
    """
    count("num", num)
    count("max_tokens", max_tokens)
    count("observations", observations)
    checked_domain(domain)
    family = family_id("plan", thinker)

    def noticed(heard: Heard) -> tuple[tuple[str, ...], int, bool]:
        """The observations, the rounds that they took, and whether to ask for them (again)."""
        for turn, (reply,) in enumerate(heard[:ATTEMPTS]):
            listed = items(reply or "") or lines(reply or "")
            fair = tuple(item.text for item in listed if not leaks(item.text))[:observations]
            if fair or reply is None:
                return fair, turn + 1, False
        return (), min(len(heard), ATTEMPTS), len(heard) < ATTEMPTS

    def plans(key: Key, seen: tuple[str, ...]) -> Drafts:
        subsets = [subset for size in (1, 2) for subset in combinations(seen, size)]
        order = key.fold("subsets").generator().permutation(len(subsets)).tolist()
        chosen = [subsets[place] for place in order[:num]]

        def request(key: Key, question: Question, place: int, shown: tuple[str, ...]) -> str:
            template = PLANS[1]
            if shown:
                template = template.replace("\n\nProblem:", f" {OTHER.replace('shown', 'others')}\n\nProblem:")
            return filled(
                template,
                tutor=TUTORS[chosen_domain(domain, question)],
                shown=bulleted(chosen[place]),
                others=bulleted(shown),
                question=body_of(question),
            )

        size = len(chosen) or num
        dead = frozenset() if chosen else frozenset(range(num))
        return Drafts(family, size, thinker, request, one, _placed, max_tokens=max_tokens, dead=dead)

    def inquire(key: Key, question: Question, heard: Heard) -> tuple[Generate, ...]:
        seen, rounds, asking = noticed(heard)
        if not asking:
            return plans(key, seen).inquire(key, question, heard[rounds:])
        text = filled(
            PLANS[0], tutor=TUTORS[chosen_domain(domain, question)], num=observations, question=body_of(question)
        )
        own = key.fold("observations")
        return (asked(drawn(thinker, own), text, own.fold(len(heard)), 40 * observations + 40),)

    def make(key: Key, question: Question, heard: Heard) -> Made:
        seen, rounds, _ = noticed(heard)
        return plans(key, seen).make(key, question, heard[rounds:])

    return Arm(family, make, inquire, NEEDS, others(thinker))


def _placed(question: Question, text: str) -> tuple[Message, ...]:
    return inserted(question, filled(PLAN, text=text))
