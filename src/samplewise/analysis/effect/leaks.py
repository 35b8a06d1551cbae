"""Find ideas that gave the answer away: the answer of an idea's own draws stands in its text.

A helper's idea is refused at once where it states a result (`samplewise.vary.checks`). One that words it otherwise
passes, and all draws that share it then count as one. The texts of a run's arms are found by replaying its vary stage
on the helpers' stored replies; no engine is called. An idea is not counted where the question itself holds the answer,
such as a number among its numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.core.errors import UsageError
from samplewise.core.types import Question
from samplewise.recipe import recipe
from samplewise.runs.replay import replay_variants
from samplewise.samplers.base import Variant
from samplewise.store.database import Store
from samplewise.store.records import Run
from samplewise.vary.checks import gives_away
from samplewise.vary.slots import wording


class LeakyArm(NamedTuple):
    """One arm's ideas with readable draws, those that hold their draws' answer, and the number of draws of those."""

    arm: str
    num_ideas: int
    num_leaks: int
    num_draws: int


def find_leaks(store: Store, run: Run) -> tuple[LeakyArm, ...]:
    """Count, for each arm with a helper's text, the ideas that hold the answer most of their own draws gave.

    Returns nothing for a run without helpers, or with a part that the recipe line does not name, such as an arm of the
    user's own. A reply that the store does not hold counts as failed.
    """
    try:
        parsed = recipe(run.recipe)
    except UsageError:
        return ()
    counts: dict[str, Counter[str]] = {}
    for record in store.records(run.id):
        question = record.problem.question
        helpers = replay_variants(parsed, store, run, record)
        if not helpers.asks:
            return ()
        by_arm = {variant.arm: variant for variant in helpers.variants}  # an allocation repeats variants
        for variant in by_arm.values():
            answers = zip(record.pool.candidates, record.answers, strict=True)
            own_answers = [answer for candidate, answer in answers if candidate.arm == variant.arm]
            answer = _most_frequent(own_answers)
            if variant.group and answer is not None:
                leaks = gives_away(_added_text(question, variant), answer, wording(question))
                count = counts.setdefault(variant.arm, Counter())
                count.update(ideas=1, leaks=int(leaks), draws=len(own_answers) if leaks else 0)
    return tuple(LeakyArm(arm, n["ideas"], n["leaks"], n["draws"]) for arm, n in sorted(counts.items()))


def _most_frequent(answers: Sequence[str | None]) -> str | None:
    """Return the most frequent readable answer, None where there is none or two tie."""
    ranked = Counter(answer for answer in answers if answer is not None).most_common(2)
    alone = len(ranked) == 1 or (len(ranked) == 2 and ranked[0][1] > ranked[1][1])
    return ranked[0][0] if alone else None


def _added_text(question: Question, variant: Variant) -> str:
    """Return what an arm put into the prompt; all of it where it rewrote the question."""
    return wording(question._replace(messages=variant.messages)).replace(wording(question), " ")
