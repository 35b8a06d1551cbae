"""Why a stored run stopped, recomputed: its stop rule over the stored draws again, offline, by whoever pays for them.

The recipe's line says which rule, the stored pool in the order of its asks what it saw, with the scores and answers of
then. A stop is as it should be when the rule, at the end of the pool, gives the same reason and evidence, and before it
did not want to stop: a run that draws more than its rule asks for is found out as one that stops early is. Costs no
draw; one fold over each pool.

What is not recomputed: answers and scores (the text is there for whoever doubts them), and verdicts before the end of a
sampler that hands over whole steps, or of a rule that listens to judges, as their earlier pools were not kept.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, get_args

from samplewise.recipe import recipe
from samplewise.stop.base import Reason, StopRule, of_dependent
from samplewise.store import Record, Run, Store
from samplewise.types import Json, Stop, Usage
from samplewise.verify.base import Judge

OUR_OWN = ("order",)  # what the loop adds to a rule's evidence


class Checked(NamedTuple):
    """A question's stop, and what is wrong with it in words; "" where nothing is."""

    question: str
    stop: Stop
    difference: str


def recheck(store: Store, run: Run) -> list[Checked]:
    """Every stop of a stored run, in the order of the task. Raises UsageError where its recipe cannot be read any
    more."""
    made = recipe(run.recipe)
    judged = made.stop is not None and any(isinstance(made.verifiers[name], Judge) for name in made.stop.verifiers)
    return [
        Checked(
            record.problem.question.id, record.stop, _difference(record, made.stop, made.sampler.exchangeable, judged)
        )
        for record in store.records(run.id)
    ]


def _difference(record: Record, rule: StopRule[Any] | None, single: bool, judged: bool) -> str:
    stop = record.stop
    by_rule = stop.reason in get_args(Reason)
    if rule is None:
        return f"stopped by {stop.evidence.get('rule', 'a rule')}, and the recipe has none" if by_rule else ""
    order = stop.evidence.get("order", "asks" if single else "steps")
    state = rule.start(record.problem.question)
    last = len(record.answers)
    for num, (candidate, answer) in enumerate(zip(record.pool.candidates, record.answers, strict=True), start=1):
        state = rule.see(state, candidate, answer)
        if num < last and order == "asks" and not judged and (early := _surely(rule, state, record.spent)) is not None:
            return f"went on to {last} draws, and {rule.name} says {early.reason} after {num}"
    again = rule.verdict(state, record.spent) if last else None
    again = again if single or again is None else of_dependent(again)
    if again is None:
        return f"stopped: {stop.reason}, and {rule.name} does not say so after {last} draws" if by_rule else ""
    if not by_rule:
        return f"ended: {stop.reason}, and {rule.name} says {again.reason} after {last} draws"
    if again.reason != stop.reason:
        return f"stopped: {stop.reason}, and {rule.name} says {again.reason} after {last} draws"
    stored, found = _plain(stop.evidence), _plain(again.evidence)
    if changed := sorted(name for name in stored | found if stored.get(name) != found.get(name)):
        name = changed[0]
        return f"the evidence says {name}={stored.get(name)}, and it is {found.get(name)}"
    return ""


def _surely(rule: StopRule[Any], state: Any, spent: Usage) -> Stop | None:
    """The verdict where it does not depend on what had been spent by then, which was not kept."""
    return rule.verdict(state, Usage()) and rule.verdict(state, spent)


def _plain(evidence: Any) -> dict[str, Json]:
    """Evidence as it comes out of a store, each value as its text, so that equal ones are equal, nan too."""
    return {name: json.dumps(value, sort_keys=True) for name, value in evidence.items() if name not in OUR_OWN}
