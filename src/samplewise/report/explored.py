"""Summarize how groups of diverse draws explored, from a trace or from a store.

A group's figures are kept with the draw that ended it. A stored run has no trace, so its questions are replayed on the
stored completions. No engine is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

from samplewise.core.errors import UsageError
from samplewise.core.types import Capability, Json
from samplewise.explore.controls import Reshape
from samplewise.recipe import recipe
from samplewise.report.data import ExplorationSummary
from samplewise.runs.replay import QuestionReplay, replay_question
from samplewise.samplers.infos import read_trace
from samplewise.store.database import Store
from samplewise.store.records import Record, Run

DEPENDENCE = "draws of one group are not independent: compare whole groups of one size"


def summarize_exploration(trace: Sequence[Json], line: str = "") -> ExplorationSummary | None:
    """Summarize the groups that ended in a trace, of one question or of several; None where there are none."""
    infos = read_trace(trace)
    groups = infos.groups
    if not groups:
        return None
    numbers = [group.numbers for group in groups]
    policy = groups[0].policy
    return ExplorationSummary(
        recipe=line,
        policy=policy,
        num_groups=len(groups),
        num_draws=sum(group.samples for group in groups),
        guided=_mean(n["guided"] / n["seen"] for n in numbers if n.get("seen") and "guided" in n),
        temperature=_mean_of(numbers, "effective_temperature"),
        divergence=_mean_of(numbers, "divergence_nats"),
        entropy_before=_mean_of(numbers, "entropy_before"),
        entropy_after=_mean_of(numbers, "entropy_after"),
        error_first=_mean_of(numbers, "error_first"),
        error_last=_mean_of(numbers, "error_last"),
        clipped=_mean_of(numbers, "clipped"),
        remembered=_mean_of(numbers, "remembered"),
        members=_mean_of(numbers, "members"),
        logp=_mean(value for value in infos.logp if value is not None),
        logq=_mean(value for value in infos.logq if value is not None),
        dependent=policy.partition("(")[0] != Reshape.word,
        problems=tuple(group.problem for group in groups if group.problem),
    )


def describe_exploration(summary: ExplorationSummary) -> list[str]:
    """Describe how groups explored in a line or two. Quantities that were not measured are left out."""
    s = summary
    number = f"{s.num_draws} draws" if s.num_groups == 1 else f"means of {s.num_groups} groups, {s.num_draws} draws"
    measured = [
        (s.guided, f"{s.guided:.0%} of the tokens guided"),
        (s.temperature, f"effective temperature {s.temperature:.2f}"),
        (s.entropy_after, f"entropy {s.entropy_before:.2f} -> {s.entropy_after:.2f} nats a token"),
        (s.divergence, f"KL {s.divergence:.3f} nats a token"),
        (s.error_first, f"prediction error {s.error_first:.2f} -> {s.error_last:.2f}"),
        (s.clipped, f"{s.clipped:.0%} of the updates clipped"),
        (s.remembered, f"{s.remembered:,.0f} draws remembered"),
        (s.members, _shared_answers(s)),
        (s.logp + s.logq, f"log-prob of a draw {s.logq:.1f} as drawn, {s.logp:.1f} under the model"),
    ]
    figures = "; ".join([number, *(text for value, text in measured if not math.isnan(value))])
    lines = [f"explores by {s.policy}: {figures}", *([DEPENDENCE] if s.dependent else [])]
    if s.problems:
        lines.append(f"{len(s.problems)} of {s.num_groups} groups failed: {s.problems[0]}")
    return lines


def _shared_answers(s: ExplorationSummary) -> str:
    if s.members == 0:
        return "NO draw reached the text after which the answer begins: all are plain draws"
    return f"{s.members:.1f} of the {s.num_draws / s.num_groups:g} draws of a group decoded one answer"


def explored_questions(store: Store, run: Run, question: str | None = None) -> Iterator[tuple[Record, QuestionReplay]]:
    """Replay the questions (or the one) of a stored run that explored, one at a time.

    Yields nothing where the run did not explore, or where its recipe names a part that is not known here. Cost: one
    look-up in the store for each step.
    """
    try:
        parsed = recipe(run.recipe)
    except UsageError:
        return
    if Capability.EXPLORE not in parsed.sampler.needs:
        return
    for record in store.records(run.id):
        if question in (None, record.problem.question.id):
            yield record, replay_question(parsed, store, run, record)


def _mean_of(numbers: Sequence[Mapping[str, float]], name: str) -> float:
    return _mean(group[name] for group in numbers if name in group)


def _mean(values: Iterable[float]) -> float:
    numbers = [value for value in values if not math.isnan(value)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
