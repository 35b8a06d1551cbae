"""Recheck why a stored run stopped: fold its stop rule over the stored draws again. Draws nothing.

The recipe's line names the rule; the stored pool, in the order of its asks, holds what the rule saw, with the scores
and answers of then. A stop holds if the rule gives the same reason and evidence at the end of the pool and did not want
to stop earlier. So a run that drew more than its rule asks for is found, like one that stopped too early. Cost: one
fold over each pool.

Not recomputed: answers and scores; and verdicts before the end of the pool where a sampler hands over whole steps or a
rule uses judges, because the pools of that time were not kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple, get_args

from samplewise.core.types import Json, Stop, Usage
from samplewise.recipe import Recipe, recipe
from samplewise.runs.replay import fold_rule
from samplewise.stop.base import Reason, as_drawn
from samplewise.store.database import Store
from samplewise.store.records import Record, Run
from samplewise.verify.base import Judge

ADDED_BY_THE_LOOP = ("order",)  # to a rule's evidence


class CheckedStop(NamedTuple):
    """A question's stop, and how it differs from the recomputed one; "" where it does not."""

    question: str
    stop: Stop
    difference: str


def recheck_run(store: Store, run: Run) -> list[CheckedStop]:
    """Recheck every stop of a stored run, in the order of the task.

    Raises UsageError where its recipe names a part that is not known here.
    """
    parsed = recipe(run.recipe)
    return [
        CheckedStop(record.problem.question.id, record.stop, _difference(record, parsed))
        for record in store.records(run.id)
    ]


def _difference(record: Record, parsed: Recipe) -> str:
    stop, rule = record.stop, parsed.stop
    by_rule = stop.reason in get_args(Reason)
    if rule is None:
        return f"stopped by {stop.evidence.get('rule', 'a rule')}, and the recipe has none" if by_rule else ""
    num = len(record.answers)
    verdicts = list(fold_rule(rule, record.problem.question, record.pool.candidates, record.answers))
    single = parsed.sampler.exchangeable
    judged = any(isinstance(parsed.verifiers[name], Judge) for name in rule.verifiers)
    if stop.evidence.get("order", "asks" if single else "steps") == "asks" and not judged:
        for draws, verdict in enumerate(verdicts[:-1], start=1):
            # What had been spent by then was not kept: a verdict counts where both extremes of it agree.
            if verdict(Usage()) is not None and (early := verdict(record.spent)) is not None:
                return f"went on to {num} draws, and {rule.name} says {early.reason} after {draws}"
    again = verdicts[-1](record.spent) if verdicts else None
    if again is not None:
        arms = len({candidate.arm for candidate in record.pool.candidates})
        again = as_drawn(again, arms=arms, independent=parsed.sampler.independent)
    if again is None:
        return f"stopped: {stop.reason}, and {rule.name} does not say so after {num} draws" if by_rule else ""
    if again.reason != stop.reason:
        return (
            f"{'stopped' if by_rule else 'ended'}: {stop.reason}, and {rule.name} says {again.reason} after {num} draws"
        )
    return _evidence_difference(stop, again)


def _evidence_difference(stop: Stop, again: Stop) -> str:
    stored, recomputed = _as_texts(stop.evidence), _as_texts(again.evidence)
    changed = sorted(name for name in stored | recomputed if stored.get(name) != recomputed.get(name))
    if not changed:
        return ""
    return f"the evidence says {changed[0]}={stored.get(changed[0])}, and it is {recomputed.get(changed[0])}"


def _as_texts(evidence: Mapping[str, Json]) -> dict[str, str]:
    """Return evidence as it comes out of a store, each value as its text, so that nan equals nan."""
    return {
        name: json.dumps(value, sort_keys=True) for name, value in evidence.items() if name not in ADDED_BY_THE_LOOP
    }
