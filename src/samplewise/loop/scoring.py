"""Reads, verifies and judges candidates. Each candidate is read and verified once; judges may score all of them again.

What computes tokens is charged: a reward model's prompt tokens here, requests and tokens of one behind a server or of a
judge through the dispatcher. A candidate that the budget does not admit stays unscored (nan).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Mapping, Sequence

from samplewise.core.keys import Key
from samplewise.core.types import (
    BatchVerifier,
    Candidate,
    Pool,
    Question,
    Reader,
    RemoteVerifier,
    Usage,
    Verifier,
)
from samplewise.loop.dispatch import Dispatcher
from samplewise.loop.keys import QuestionKeys
from samplewise.loop.ledger import total
from samplewise.verify.base import Judge, Replies

_models = threading.Lock()


class Scorer:
    """The reader, the verifiers and the judges of one question."""

    def __init__(
        self,
        question: Question,
        verifiers: Mapping[str, Verifier | Judge],
        read: Reader,
        keys: QuestionKeys,
        dispatcher: Dispatcher,
        *,
        reads_at_once: bool = False,
    ) -> None:
        """Take what scores. `reads_at_once`: the reader takes no time, so that it is called in the event loop."""
        self._reads_at_once = reads_at_once
        self._question, self._verifiers, self._read = question, verifiers, read
        self._keys, self._dispatcher = keys, dispatcher
        self._raw: tuple[Candidate, ...] = ()
        self._scored: tuple[Candidate, ...] = ()
        self._answers: tuple[str | None, ...] = ()
        self.costs: dict[str, list[Usage]] = {}  # by verifier: of each candidate that was scored, in that order
        self.judge_costs: dict[str, Usage] = {}

    def is_costly(self, names: Collection[str]) -> bool:
        """Return whether scoring costs tokens: a reward model, or a judge among `names`."""
        return any(
            isinstance(verifier, BatchVerifier) or (isinstance(verifier, Judge) and verifier.asks and name in names)
            for name, verifier in self._verifiers.items()
        )

    @property
    def _judge_cost(self) -> Usage:
        """What was spent so far, judges' failed attempts included."""
        return total(self._dispatcher.judge_attempts.values(), self._dispatcher.ledger.spent)

    async def look(self, pool: Pool, names: Collection[str]) -> tuple[Pool, tuple[str | None, ...]]:
        """Return the pool with its scores, and its answers (N,). Judges are asked only if they are among `names`."""
        await self._score_new(pool.candidates)
        candidates = self._scored
        for name, judge in self._verifiers.items():
            if isinstance(judge, Judge) and name in names and candidates:
                key, before = self._keys.judge(name), self._judge_cost
                scores = await judge_pool(judge, key, self._question, candidates, self._answers, self._dispatcher)
                cost = self._judge_cost.minus(before)
                self.judge_costs[name] = self.judge_costs.get(name, Usage()).plus(cost)
                candidates = tuple(
                    _with_scores(candidate, {f"{name}{further}": values[i] for further, values in scores.items()})
                    for i, candidate in enumerate(candidates)
                )
        return pool._replace(candidates=candidates), self._answers

    async def _score_new(self, candidates: tuple[Candidate, ...]) -> None:
        """Read and verify the candidates from the first that differs from what was seen before."""
        num = min(len(self._raw), len(candidates))
        if candidates[:num] != self._raw[:num]:
            num = next(i for i in range(num) if candidates[i] != self._raw[i])
        new = candidates[num:]
        if not new and num == len(self._raw):
            return
        plain = {n: v for n, v in self._verifiers.items() if not isinstance(v, Judge | BatchVerifier)}
        examined = None
        if self._reads_at_once and not plain:
            examined = self._examine(plain, new)
        else:
            examined = await self._dispatcher.in_thread(self._examine, plain, new)
        answers, columns = examined or ((None,) * len(new), {name: [math.nan] * len(new) for name in plain})
        columns |= {n: await self._score(n, v, new) for n, v in self._verifiers.items() if isinstance(v, BatchVerifier)}
        scored = [_with_scores(c, {n: column[i] for n, column in columns.items()}) for i, c in enumerate(new)]
        self._raw = candidates
        self._scored = (*self._scored[:num], *scored)
        self._answers = (*self._answers[:num], *answers)

    def _examine(
        self, verifiers: Mapping[str, Verifier], candidates: Sequence[Candidate]
    ) -> tuple[tuple[str | None, ...], dict[str, list[float]]]:
        """Return the answers (N,) and every verifier's scores (N,). Both may take seconds: for a thread."""
        answers = tuple(None if c.is_unanswered else self._read(self._question, c.text) for c in candidates)
        scores = {name: [v(self._question, c).value for c in candidates] for name, v in verifiers.items()}
        return answers, scores

    async def _score(self, name: str, verify: BatchVerifier, candidates: Sequence[Candidate]) -> list[float]:
        """Return a batch verifier's scores (N,), and note what they cost.

        It does not read what ended while reasoning: nan, at no cost.
        """
        pairs = [(self._question, candidate) for candidate in candidates]
        indices = [index for index, candidate in enumerate(candidates) if not candidate.is_unanswered]
        pairs = [pairs[index] for index in indices]
        scores: list[float] = []
        costs: list[Usage] = []
        if pairs and isinstance(verify, RemoteVerifier):
            scores, costs = await self._dispatcher.score_remotely(verify, pairs)
        elif pairs:
            costs = [Usage(prompt_tokens=verify.tokens_of(*pair)) for pair in pairs]
            costs = costs[: await self._dispatcher.charge(costs)]
            scores = (
                await self._dispatcher.in_thread(_score_alone, verify, pairs[: len(costs)]) if costs else None
            ) or []
        noted = dict(zip(indices, costs, strict=False))
        self.costs.setdefault(name, []).extend(noted.get(i, Usage()) for i in range(len(candidates)))
        score = dict(zip(indices, scores, strict=False))
        return [score.get(index, math.nan) for index in range(len(candidates))]


def _score_alone(verify: BatchVerifier, pairs: Sequence[tuple[Question, Candidate]]) -> list[float]:
    """Score with a model that this process holds: one call at a time."""
    with _models:
        return verify.score_all(pairs)


def _with_scores(candidate: Candidate, scores: Mapping[str, float]) -> Candidate:
    return candidate._replace(scores={**candidate.scores, **scores})


async def judge_pool(
    judge: Judge,
    key: Key,
    question: Question,
    candidates: tuple[Candidate, ...],
    answers: tuple[str | None, ...],
    dispatcher: Dispatcher,
) -> dict[str, tuple[float, ...]]:
    """Return a judge's scores (N,) under "", and what it says further under ".further" (see `Judge.scores`).

    It is asked until it has replies enough or the budget ends. It may run programs, so it computes in a thread.
    """
    replies: Replies = ()
    while asks := judge.next_asks(key, question, candidates, answers, replies):
        completions = await dispatcher.ask_judge(asks)
        if completions is None:
            break
        replies = (*replies, completions)
    scores = await dispatcher.in_thread(judge.scores, key, question, candidates, answers, replies)
    return {"": (math.nan,) * len(candidates)} if scores is None else scores
