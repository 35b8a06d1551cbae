"""Which contexts go through the model together: of like length, each once, and only what is not at hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from samplewise.types import Generate, Likelihood

from .cache import Prefixes, Saved
from .jobs import Job

PREFILL_TOKENS = 4096  # that go through the model at once, padding counted
LOGIT_BYTES = 1 << 28  # of logits that are held at once


class Plan(NamedTuple):
    """A context, the jobs that begin from it, and how much of it is at hand."""

    ids: tuple[int, ...]
    jobs: list[Job]
    held: int
    saved: Saved | None

    @property
    def num_new(self) -> int:
        return len(self.ids) - self.held

    @property
    def is_ready(self) -> bool:
        """Whether only its last token is to go through the model, for one row: that is what a row at work does too."""
        return self.num_new == 1 and self.held > 0 and len(self.jobs) == 1 and isinstance(self.jobs[0].ask, Generate)


def parts(jobs: Sequence[Job], known: Sequence[int], prefixes: Prefixes, vocab_size: int) -> list[list[Plan]]:
    """Contexts in groups that go through the model at once: of like length, not too many, and ready or not. The logits
    after position `known` - 1 are wanted, so that token runs whatever is at hand."""
    sharing: dict[tuple[int, ...], list[Job]] = {}
    plans = []
    for job, upto in zip(jobs, known, strict=True):
        if job.ids in sharing and isinstance(job.ask, Generate):
            sharing[job.ids].append(job)
        else:
            match = prefixes.longest(job.ids[: upto - 1])
            plans.append(Plan(job.ids, [job], match.length, match.saved))
            sharing[job.ids] = plans[-1].jobs
    grouped: list[list[Plan]] = []
    line = 4 * vocab_size
    for plan in sorted(plans, key=lambda plan: (plan.num_new, not plan.is_ready)):
        part = grouped[-1] if grouped else []
        scored = plan.jobs[0].ask
        kept = len(scored.completion) if isinstance(scored, Likelihood) else 1
        fits = (len(part) + 1) * max(line * kept / LOGIT_BYTES, plan.num_new / PREFILL_TOKENS) <= 1
        if part and fits and plan.is_ready == part[0].is_ready and plan.num_new <= 2 * part[0].num_new + 16:
            part.append(plan)
        else:
            grouped.append([plan])
    return grouped
