"""Which contexts go through the model together: of similar length, each once, and only what is not saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from samplewise.core.types import Generate, Likelihood

from .cache import Prefixes, Saved
from .prepared import PreparedAsk

PREFILL_TOKENS = 4096  # go through the model at once, padding included
LOGIT_BYTES = 1 << 28  # of logits held at once


class PrefillGroup(NamedTuple):
    """A context, the jobs that begin with it, and how much of it is saved."""

    ids: tuple[int, ...]
    jobs: list[PreparedAsk]
    num_saved: int
    saved: Saved | None

    @property
    def num_new(self) -> int:
        return len(self.ids) - self.num_saved

    @property
    def is_ready(self) -> bool:
        """Whether only its last token must go through the model, for one row, as for a row that already runs."""
        one = len(self.jobs) == 1 and isinstance(self.jobs[0].ask, Generate)
        return one and self.num_new == 1 and self.num_saved > 0


def prefill_batches(
    jobs: Sequence[PreparedAsk], num_context: Sequence[int], prefixes: Prefixes, vocab_size: int
) -> list[list[PrefillGroup]]:
    """Return the contexts in batches of similar length and bounded size, each batch all ready or all not.

    The logits after token `num_context` - 1 of a job are wanted, so that token goes through the model even if saved.
    """
    sharing: dict[tuple[int, ...], list[PreparedAsk]] = {}
    groups = []
    for job, upto in zip(jobs, num_context, strict=True):
        if job.ids in sharing and isinstance(job.ask, Generate):
            sharing[job.ids].append(job)
        else:
            match = prefixes.longest(job.ids[: upto - 1])
            groups.append(PrefillGroup(job.ids, [job], match.length, match.saved))
            sharing[job.ids] = groups[-1].jobs
    batches: list[list[PrefillGroup]] = []
    for group in sorted(groups, key=lambda group: (group.num_new, not group.is_ready)):
        batch = batches[-1] if batches else []
        ask = group.jobs[0].ask
        num_logits = len(ask.completion) if isinstance(ask, Likelihood) else 1
        share = max(4 * vocab_size * num_logits / LOGIT_BYTES, group.num_new / PREFILL_TOKENS)
        fits = (len(batch) + 1) * share <= 1
        if batch and fits and group.is_ready == batch[0].is_ready and group.num_new <= 2 * batch[0].num_new + 16:
            batch.append(group)
        else:
            batches.append([group])
    return batches
