"""How groups explored, for people: out of a trace, or out of a store, where a run's draws are played again.

What a group says of itself is kept with the draw that ended it. A run's record has no trace, but its asks follow from
its seed; so its machines are played once more on the stored completions, and nothing is asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from samplewise.errors import UsageError
from samplewise.explore.settings import Reshape
from samplewise.keys import Key
from samplewise.recipe import Recipe, recipe
from samplewise.report.data import Explored
from samplewise.store import Record, Run, Store, ask_json, digest_of
from samplewise.types import Ask, Capability, Completion, Json

DEPENDENCE = "samples of one group are not independent: compare whole groups of one size"
LOST = Completion("", "error")  # a draw that the store does not hold has failed, in the run as here


class Played(NamedTuple):
    """A stored question's draws, played again: what they said for people, and how likely they were as drawn."""

    question: str
    trace: tuple[Json, ...]
    logq: tuple[float, ...]  # (N,) nats, of the record's candidates; nan where unknown


def summary(trace: Sequence[Json], line: str = "") -> Explored | None:
    """The groups that ended in a trace, of one question or of several; None where there are none."""
    infos = [info for info in trace if isinstance(info, Mapping) and "explored" in info]
    groups = [group for info in infos for group in info["explored"]]
    if not groups:
        return None
    numbers = [group["numbers"] for group in groups]
    policy = str(groups[0]["policy"])
    return Explored(
        recipe=line,
        policy=policy,
        num_groups=len(groups),
        num_samples=sum(group["samples"] for group in groups),
        guided=_mean(n["guided"] / n["seen"] for n in numbers if n.get("seen") and "guided" in n),
        temperature=_mean(_of(numbers, "effective_temperature")),
        divergence=_mean(_of(numbers, "divergence_nats")),
        entropy_before=_mean(_of(numbers, "entropy_before")),
        entropy_after=_mean(_of(numbers, "entropy_after")),
        error_first=_mean(_of(numbers, "error_first")),
        error_last=_mean(_of(numbers, "error_last")),
        clipped=_mean(_of(numbers, "clipped")),
        remembered=_mean(_of(numbers, "remembered")),
        logp=_mean(value for info in infos for value in info["logp"] if value is not None),
        logq=_mean(value for info in infos for value in info["logq"] if value is not None),
        dependent=policy.partition("(")[0] != Reshape.word,
        problems=tuple(group["problem"] for group in groups if group["problem"]),
    )


def in_words(told: Explored) -> list[str]:
    """A line or two about the groups; what was not measured is not spoken of."""
    many = told.num_groups > 1
    number = f"means of {told.num_groups} groups, {told.num_samples} samples" if many else f"{told.num_samples} samples"
    found = [
        (told.guided, f"{told.guided:.0%} of the tokens guided"),
        (told.temperature, f"effective temperature {told.temperature:.2f}"),
        (told.entropy_after, f"entropy {told.entropy_before:.2f} -> {told.entropy_after:.2f} nats a token"),
        (told.divergence, f"KL {told.divergence:.3f} nats a token"),
        (told.error_first, f"prediction error {told.error_first:.2f} -> {told.error_last:.2f}"),
        (told.clipped, f"{told.clipped:.0%} of the updates clipped"),
        (told.remembered, f"{told.remembered:,.0f} draws remembered"),
        (told.logp + told.logq, f"log-prob of a sample {told.logq:.1f} as drawn, {told.logp:.1f} under the model"),
    ]
    said = "; ".join([number, *(words for value, words in found if not math.isnan(value))])
    lines = [f"explores by {told.policy}: {said}", *([DEPENDENCE] if told.dependent else [])]
    if told.problems:
        lines.append(f"{len(told.problems)} of {told.num_groups} groups went wrong: {told.problems[0]}")
    return lines


def played(store: Store, run: Run, question: str | None = None) -> Iterator[Played]:
    """The questions (or the one) of a stored run that explored, one at a time; none where it did not, or where its
    recipe names a part that is not known here. Cost: one look-up for each step of its machines."""
    try:
        made = recipe(run.recipe)
    except UsageError:
        return
    if Capability.EXPLORE not in made.sampler.needs:
        return
    kept = _Kept(store, run)
    for record in store.records(run.id):
        if question in (None, record.problem.question.id):
            yield _played(kept, made, record)


def _played(kept: _Kept, made: Recipe, record: Record) -> Played:
    question = record.problem.question
    key = Key(kept.run.seed).fold("run").fold("question", question.id)  # as run.py has it
    state, step = made.vary.step(key.fold("vary"), made.vary.init(question), ())
    while step.asks:
        state, step = made.vary.step(key.fold("vary"), state, kept.completions(step.asks))
    own, variants = key.fold("draw"), made.vary.variants(state)
    state, step = made.sampler.step(own, made.sampler.init(variants), ())
    trace: list[Json] = []
    drawn: list[Completion] = []
    num = len(record.answers) + record.pool.num_failed
    while step.asks and len(drawn) < num:
        completions = kept.completions(step.asks)
        drawn += completions
        state, step = made.sampler.step(own, state, completions)
        if step.info is not None:
            trace.append(step.info)
    there = [completion for completion in drawn if completion.finish != "error"]
    logq = tuple(math.nan if c.logq is None else math.fsum(c.logq) for c in there)
    if [c.text for c in there] != [c.text for c in record.pool.candidates]:  # some were lost, or drawn again since
        logq = (math.nan,) * len(record.answers)
    return Played(question.id, tuple(trace), logq)


class _Kept:
    """The stored completions of a run: under its own engine, or of a crew under a member's."""

    def __init__(self, store: Store, run: Run) -> None:
        self.store, self.run = store, run
        self._replies: dict[str, Completion] | None = None
        if run.engine.startswith("crew("):
            self._replies = {text: reply for name, text, reply in store.all_draws() if name in run.engine}

    def completions(self, asks: Sequence[Ask]) -> tuple[Completion, ...]:
        if self._replies is not None:
            return tuple(self._replies.get(ask_json(ask), LOST) for ask in asks)
        digests = [digest_of(self.run.engine, ask) for ask in asks]
        kept = self.store.draws(digests)
        return tuple(kept.get(digest, LOST) for digest in digests)


def _of(numbers: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [each[name] for each in numbers if name in each]


def _mean(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
