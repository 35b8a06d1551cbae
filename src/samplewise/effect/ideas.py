"""Ideas that gave the answer away, found afterwards: the answer of an idea's own draws stands in its text.

A thinker's idea is refused at once where it states a result (`samplewise.vary.checks`); one that words it otherwise
passes, and all draws that share it then count as one. Which texts a run's arms had is found by playing its arms again
on the thinkers' replies in the store: nothing is asked. An idea of which the question itself has the answer (a number
among its numbers) tells nothing and is not counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.errors import UsageError
from samplewise.keys import Key
from samplewise.recipe import recipe
from samplewise.samplers.base import Variant
from samplewise.store import Run, Store, ask_json, digest_of
from samplewise.types import Ask, Completion, Question
from samplewise.vary.checks import gives_away
from samplewise.vary.slots import wording


class LeakyArm(NamedTuple):
    """Of one arm: ideas with readable draws, those that hold their draws' answer, and how many draws those have."""

    arm: str
    num_ideas: int
    num_leaks: int
    num_draws: int


def find_leaks(store: Store, run: Run) -> tuple[LeakyArm, ...]:
    """The arms of a stored run whose texts came from a thinker, and how many of these hold the answer that most of
    their own draws gave. Arms without a thinker are not listed, and none where the recipe's line does not name all of
    its parts, as with an arm of the user's own. A reply that the store does not hold has failed, in the run as here."""
    try:
        mix = recipe(run.recipe).vary
    except UsageError:
        return ()
    replies: dict[str, Completion] | None = None
    found: dict[str, Counter[str]] = {}
    for record in store.records(run.id):
        question = record.problem.question
        key = Key(run.seed).fold("run").fold("question", question.id).fold("vary")  # as run.py has it
        state, step = mix.step(key, mix.init(question), ())
        if not step.asks:
            return ()
        if replies is None and run.engine.startswith("crew("):
            replies = {text: reply for name, text, reply in store.all_draws() if name in run.engine}
        while step.asks:
            state, step = mix.step(key, state, _heard(store, run, step.asks, replies))
        for variant in {each.arm: each for each in mix.variants(state)}.values():  # of a share's pattern each once
            answers = zip(record.pool.candidates, record.answers, strict=True)
            drawn = [answer for candidate, answer in answers if candidate.arm == variant.arm]
            answer = _usual(drawn)
            if variant.group and answer is not None:
                leaks = gives_away(_added(question, variant), answer, wording(question))
                count = found.setdefault(variant.arm, Counter())
                count.update(ideas=1, leaks=int(leaks), draws=len(drawn) if leaks else 0)
    return tuple(LeakyArm(arm, n["ideas"], n["leaks"], n["draws"]) for arm, n in sorted(found.items()))


def _heard(
    store: Store, run: Run, asks: Sequence[Ask], replies: dict[str, Completion] | None
) -> tuple[Completion, ...]:
    """The stored replies to thinkers' asks: under the run's own engine, or of a crew under a member's."""
    lost = Completion("", "error")
    if replies is not None:
        return tuple(replies.get(ask_json(ask), lost) for ask in asks)
    digests = [digest_of(run.engine, ask) for ask in asks]
    kept = store.draws(digests)
    return tuple(kept.get(digest, lost) for digest in digests)


def _usual(answers: Sequence[str | None]) -> str | None:
    """The most frequent readable answer, None where there is none or two are as frequent."""
    ranked = Counter(answer for answer in answers if answer is not None).most_common(2)
    alone = len(ranked) == 1 or (len(ranked) == 2 and ranked[0][1] > ranked[1][1])
    return ranked[0][0] if alone else None


def _added(question: Question, variant: Variant) -> str:
    """What an arm put into the prompt; all of it where it rewrote the question."""
    return wording(question._replace(messages=variant.messages)).replace(wording(question), " ")
