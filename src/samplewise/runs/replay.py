"""Replay a stored question: its variants, asks, completions and trace, from the run's seed and the store.

A record holds no trace, but every ask follows from the run's seed. So the recipe's vary stage and its sampler are
stepped again on the stored completions. No engine is called. Cost: one look-up in the store for each step. A stop rule
is folded over stored draws by `fold_rule`, in the order of the asks or in any other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from samplewise.core.types import Ask, Candidate, Completion, Generate, Json, Question, Stop, Usage
from samplewise.loop.keys import question_keys, run_key
from samplewise.recipe import Recipe
from samplewise.samplers.base import Variant
from samplewise.stop.base import StopRule
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.store.records import Record, Run

LOST = Completion("", "error")  # a draw that the store does not hold has failed, in the run as in the replay


class HelperReplay(NamedTuple):
    """The vary stage of a stored question, replayed. `replies` are those of the helpers, in the order of their asks."""

    variants: tuple[Variant, ...]
    asks: tuple[Ask, ...]
    replies: tuple[Completion, ...]


class QuestionReplay(NamedTuple):
    """A stored question, replayed. `asks` and `completions` (N,) are the sampler's, failed ones included."""

    question: str
    variants: tuple[Variant, ...]
    asks: tuple[Ask, ...]
    completions: tuple[Completion, ...]
    trace: tuple[Json, ...]

    def logq(self, record: Record) -> tuple[float, ...]:
        """Return log q (N,) in nats of the record's candidates; nan where it is unknown.

        It is unknown for all of them where the stored draws are not those of the record: some were lost, or a group
        was drawn again since.
        """
        drawn = [completion for completion in self.completions if completion.finish != "error"]
        if [completion.text for completion in drawn] != [c.text for c in record.pool.candidates]:
            return (math.nan,) * len(record.answers)
        return tuple(math.nan if c.logq is None else math.fsum(c.logq) for c in drawn)


def replay_variants(recipe: Recipe, store: Store, run: Run, record: Record) -> HelperReplay:
    """Replay the vary stage of a stored question. Cost: one look-up for each round of the helpers."""
    question = record.problem.question
    key = question_keys(run_key(run.seed), question.id).vary
    asks: list[Ask] = []
    replies: list[Completion] = []
    state, step = recipe.vary.step(key, recipe.vary.init(question), ())
    while step.asks:
        completions = stored_completions(store, run.engines, step.asks)
        asks += step.asks
        replies += completions
        state, step = recipe.vary.step(key, state, completions)
    return HelperReplay(recipe.vary.variants(state), tuple(asks), tuple(replies))


def replay_question(recipe: Recipe, store: Store, run: Run, record: Record) -> QuestionReplay:
    """Replay a stored question, vary stage and sampler. Cost: one look-up for each step.

    A sampler with a completion for each candidate is replayed as far as the record's candidates go. Chains and
    particles are replayed to the last step of which the store holds a completion and that leaves these candidates.
    """
    question, sampler = record.problem.question, recipe.sampler
    key = question_keys(run_key(run.seed), question.id).draw
    variants = replay_variants(recipe, store, run, record).variants
    texts = [candidate.text for candidate in record.pool.candidates]
    num = len(record.answers) + record.pool.num_failed
    state, step = sampler.step(key, sampler.init(variants), ())
    asks: list[Ask] = []
    completions: list[Completion] = []
    trace: list[Json] = []
    end = _Lengths(0, 0)
    while True:
        if step.info is not None:
            trace.append(step.info)
        is_known = any(completion is not LOST for completion in completions[end.asks :])
        if not sampler.stepwise or (is_known and [c.text for c in sampler.pool(state).candidates] == texts):
            end = _Lengths(len(completions), len(trace))
        if not step.asks or (len(completions) >= num and not sampler.stepwise):
            break
        arrived = stored_completions(store, run.engines, step.asks)
        asks += step.asks
        completions += arrived
        state, step = sampler.step(key, state, arrived)
    kept = tuple(asks[: end.asks]), tuple(completions[: end.asks]), tuple(trace[: end.trace])
    return QuestionReplay(question.id, variants, *kept)


class _Lengths(NamedTuple):
    """How far a replay has come."""

    asks: int
    trace: int


def stored_completions(store: Store, engines: Mapping[str, str], asks: Sequence[Ask]) -> tuple[Completion, ...]:
    """Return the stored completions of asks, `LOST` where there is none. `engines` are identities by name."""
    digests = [digest_of(engines.get(ask.engine if isinstance(ask, Generate) else "", ""), ask) for ask in asks]
    stored = store.draws(digests)
    return tuple(stored.get(digest, LOST) for digest in digests)


class Verdict(Protocol):
    """A stop rule's verdict after some draws, as a function of what was spent by then."""

    def __call__(self, spent: Usage, /) -> Stop | None: ...


def fold_rule(
    rule: StopRule[Any], question: Question, candidates: Iterable[Candidate], answers: Iterable[str | None]
) -> Iterator[Verdict]:
    """Fold a stop rule over stored draws. Yield its verdict after each, to be asked with what was spent by then."""
    state = rule.start(question)
    for candidate, answer in zip(candidates, answers, strict=True):
        state = rule.see(state, candidate, answer)
        yield partial(rule.verdict, state)
