"""What a recipe costs at k draws: the one home of that figure, for tables, curves, pages, plans and effects.

A stored run tells what its own recipe costs with fewer draws, because draws are paid for in the order of their asks:
`with_draws(k)` pays the helpers, the first k asks, and the verifiers and judges on their candidates. So a bill at k is
what running that line in an empty store costs, to the token. Records of the first versions kept only a sum; their parts
come from a replay on the stored draws, or, where the store does not hold those, from an even share, which says so.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from samplewise.core.bill import TokenSplit, bill_json, read_tokens
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints
from samplewise.core.types import Ask, BatchVerifier, Completion, Generate, Json, RemoteVerifier, Usage, Verifier
from samplewise.loop.keys import question_keys, run_key
from samplewise.recipe import Recipe, recipe
from samplewise.runs.replay import LOST, replay_question, replay_variants, stored_completions
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.store.records import Record, Run
from samplewise.verify.base import Judge, Replies

JudgeTokens = Callable[[Sequence[int]], float]  # of judging the candidates at these indices; nan where unknown


class CostParts(NamedTuple):
    """Tokens by where they arise."""

    helpers: float  # before the first draw
    draws: float
    verifiers: float  # judges included
    dropped: float  # sent ahead of a stop and not used

    @property
    def total(self) -> float:
        """The sum of all parts."""
        return self.helpers + self.draws + self.verifiers + self.dropped


class QuestionBill(NamedTuple):
    """One question's tokens with a recipe: A asks of the sampler, N candidates.

    A run whose draws cannot be taken in part has one ask, for all of them.
    """

    question: str
    helpers: float
    draws: tuple[float, ...]  # (A,) of each ask, in order
    asks: tuple[int, ...]  # (N,) the ask that gave each candidate
    scoring: tuple[float, ...]  # (N,) verifiers other than judges, on each candidate
    judging: JudgeTokens
    dropped: float

    def at(self, num_draws: int) -> CostParts:
        """Return the cost with the first `num_draws` asks; with as many as there were, the cost as it was."""
        if num_draws >= len(self.draws):
            everything = math.fsum(self.scoring) + self.judging(range(len(self.asks)))
            return CostParts(self.helpers, math.fsum(self.draws), everything, self.dropped)
        num = bisect_left(self.asks, num_draws)  # candidates of the first asks
        verifying = math.fsum(self.scoring[:num]) + self.judging(range(num))
        return CostParts(self.helpers, math.fsum(self.draws[:num_draws]), verifying, 0.0)

    def along(self, ks: Ints) -> Floats:
        """Return the tokens (K,) at each k of `ks`: the totals of `at`, in one pass over the draws."""
        sizes = np.minimum(ks, len(self.draws))
        nums = np.searchsorted(np.array(self.asks, dtype=np.int64), sizes)
        tokens = self.helpers + _running(self.draws)[sizes] + _running(self.scoring)[nums]
        tokens += [self.judging(range(num)) for num in nums.tolist()]
        along: Floats = tokens + np.where(ks >= len(self.draws), self.dropped, 0.0)
        return along

    @property
    def per_draw(self) -> float:
        """Mean tokens of a draw, verifiers included and helpers not; nan without a draw."""
        whole = self.at(len(self.draws))
        return (whole.draws + whole.verifiers) / len(self.draws) if self.draws else math.nan

    @property
    def by_candidate(self) -> tuple[float, ...]:
        """Tokens (N,) of each candidate: its ask, the failed ones before it, its verifiers; judges left out.

        In the order of the asks, these add up to what a stop after any candidate has paid for.
        """
        starts = (0, *(ask + 1 for ask in self.asks[:-1]))[: len(self.asks)]  # none where every ask failed
        return tuple(
            math.fsum(self.draws[start : ask + 1]) + scoring
            for start, ask, scoring in zip(starts, self.asks, self.scoring, strict=True)
        )

    def asks_for(self, num: int) -> int:
        """Return how many asks the first `num` candidates took, failed ones before them included; all for all."""
        return self.asks[num - 1] + 1 if 0 < num < len(self.asks) else len(self.draws)

    @property
    def num_failed(self) -> int:
        """The asks that gave no candidate."""
        return len(self.draws) - len(set(self.asks))

    @property
    def rest(self) -> float:
        """Tokens of the failed asks after the last candidate."""
        return math.fsum(self.draws[self.asks[-1] + 1 :]) if self.asks else math.fsum(self.draws)


def _running(tokens: Sequence[float]) -> Floats:
    """Return the sums (N + 1,) of the first 0 to N numbers (N,)."""
    return np.concatenate([[0.0], np.cumsum(tokens)])


class RunBill(NamedTuple):
    """The bills of a run's P questions with one recipe. `note` says what of it is not known, "" where all is."""

    questions: tuple[QuestionBill, ...]
    note: str = ""

    @property
    def most(self) -> int:
        """The most asks of a question."""
        return max((len(bill.draws) for bill in self.questions), default=0)

    def at(self, num_draws: int) -> Floats:
        """Return each question's tokens (P,) with `num_draws` draws, nan where unknown.

        Beyond what was drawn a question stands with what it has.
        """
        return np.array([bill.at(num_draws).total for bill in self.questions], dtype=np.float64)

    def along(self, ks: Ints) -> Floats:
        """Return the mean tokens (K,) over questions at each k of `ks`, nan where unknown."""
        if not self.questions:
            return np.full(len(ks), math.nan)
        mean: Floats = sum((bill.along(ks) for bill in self.questions), np.zeros(len(ks))) / len(self.questions)
        return mean

    def whole(self) -> Floats:
        """Return each question's tokens (P,) as the run was."""
        return self.at(self.most)

    def beyond(self, num_draws: int) -> Floats:
        """Forecast each question's tokens (P,) with more draws than it has, at its mean cost of a draw."""
        return np.array([bill.helpers + num_draws * bill.per_draw for bill in self.questions], dtype=np.float64)

    def parts(self, num_draws: int) -> CostParts:
        """Return the mean over questions with `num_draws` draws, in parts."""
        if not self.questions:
            return CostParts(*(math.nan,) * 4)
        return CostParts(*np.mean([bill.at(num_draws) for bill in self.questions], axis=0).tolist())


def bill_run(store: Store, run: Run, line: Recipe) -> RunBill:
    """Bill `line`, which draws as the stored run did and may choose by another selector. Draws and asks nothing.

    Verifiers that the run did not pay for cost what they would have: a reward model by its own count, a judge by its
    stored replies. Cost: a pass over the run's bills, where they say it all; else one over its records, and a look-up
    for each judged pool.
    """
    parsed = recipe(run.recipe)
    if store.has_bills(run.id) and not any(isinstance(v, Judge | BatchVerifier) for v in line.verifiers.values()):
        return RunBill(
            tuple(
                _bill(store, run, line, None, question, num, _of_bill(parsed, read_tokens(bill), num), (), 0)
                for question, num, bill in store.bills(run.id)
            )
        )
    events = store.events(run.id)
    leftovers = {data[0]: data[2:] for _, kind, data in events if kind == "stopped"}
    judged = [data for _, kind, data in events if kind == "judged"]
    records = list(store.records(run.id))
    bills, is_known = [], True
    for record in records:
        parts = _parts(store, run, parsed, record, leftovers.get(record.problem.question.id, ()))
        is_known = is_known and parts.is_known
        question, num = record.problem.question.id, len(record.answers)
        bills.append(_bill(store, run, line, record, question, num, parts, judged, len(records)))
    note = (
        ""
        if is_known
        else f"the store does not hold every request of {parsed.draw_line}: what its helpers cost is not known, and "
        "each draw is billed an even share of it"
    )
    return RunBill(tuple(bills), note)


# --- the parts of what was spent --------------------------------------------------------------------------------------


def _parts(store: Store, run: Run, parsed: Recipe, record: Record, leftover: Sequence[Json]) -> TokenSplit:
    if record.bill is None:
        replies = replay_variants(parsed, store, run, record).replies
        if any(reply is LOST for reply in replies):
            return _shared_evenly(parsed, record, math.nan)
        helpers = math.fsum(_tokens(reply.usage for reply in replies))
        return _replayed(store, run, parsed, record, leftover, helpers) or _shared_evenly(parsed, record, helpers)
    return _of_bill(parsed, read_tokens(bill_json(record.bill)), len(record.answers))


def _of_bill(parsed: Recipe, bill: TokenSplit, num: int) -> TokenSplit:
    """Return a stored bill of `num` candidates, its draws as one where they cannot be told apart."""
    # each candidate has an ask of its own, so that the draws can be taken in part
    has_own_asks = parsed.sampler.exchangeable and len(bill.draws) - len(bill.failed) == num
    return bill if has_own_asks else bill._replace(draws=(math.fsum(bill.draws),), failed=())


def _tokens(usages: Iterable[Usage]) -> tuple[float, ...]:
    return tuple(float(usage.tokens) for usage in usages)


def _replayed(
    store: Store, run: Run, parsed: Recipe, record: Record, leftover: Sequence[Json], helpers: float
) -> TokenSplit | None:
    """Return the parts of a record that kept a sum alone, None where the store's draws do not add up to it."""
    own = {name: _own_cost(store, run, name, verify, record) for name, verify in parsed.verifiers.items()}
    verifiers = {name: cost for name, cost in own.items() if isinstance(cost, tuple)}
    judges = {name: cost for name, cost in own.items() if isinstance(cost, float)}
    rest = record.spent.tokens - helpers - math.fsum(judges.values()) - math.fsum(map(math.fsum, verifiers.values()))
    draws: tuple[float, ...] = (rest,)
    failed: tuple[int, ...] = ()
    dropped = 0.0
    if parsed.sampler.exchangeable:
        num = len(record.answers) + record.pool.num_failed
        completions = replay_question(parsed, store, run, record).completions
        asked, ahead = completions[:num], completions[num:]
        draws = _tokens(completion.usage for completion in asked)
        failed = tuple(index for index, completion in enumerate(asked) if completion.finish == "error")
        texts = [completion.text for completion in asked if completion.finish != "error"]
        if texts != [c.text for c in record.pool.candidates] or math.fsum(draws) != rest:
            return None
        if leftover:
            overshoot, _, at_most = leftover
            arrived = [completion.usage for completion in ahead if completion is not LOST][:overshoot]
            dropped = math.fsum((*_tokens(arrived), Usage(*at_most).tokens))
    elif math.isnan(rest) or rest < 0:
        return None
    return TokenSplit(helpers, draws, failed, verifiers, judges, dropped)


def _own_cost(
    store: Store, run: Run, name: str, verify: Verifier | Judge, record: Record
) -> float | tuple[float, ...] | None:
    """Return what a verifier of the run's own recipe cost: a judge in all, a reward model for each candidate."""
    if isinstance(verify, Judge):
        return _judge_tokens(store, run.engines, verify, _judge_key(run, record, name), record)(
            range(len(record.answers))
        )
    if isinstance(verify, BatchVerifier) and not isinstance(verify, RemoteVerifier):
        return _scoring(verify, record)
    return None


def _shared_evenly(parsed: Recipe, record: Record, helpers: float) -> TokenSplit:
    """Return what each candidate drew, and with it an even share of all else that was spent. `helpers` may be nan."""
    is_known = not math.isnan(helpers)
    fixed = helpers if is_known else 0.0
    own = [float(candidate.num_tokens) for candidate in record.pool.candidates]
    draws: tuple[float, ...] = (record.spent.tokens - fixed,)
    if own and parsed.sampler.exchangeable:
        share = (record.spent.tokens - fixed - math.fsum(own)) / len(own)
        draws = tuple(tokens + share for tokens in own)
    shared: dict[str, tuple[float, ...]] = dict.fromkeys(parsed.verifiers, ())  # what they cost is in the share
    return TokenSplit(fixed, draws, (), shared, {}, 0.0, is_known)


# --- a line's own verifiers -------------------------------------------------------------------------------------------


def _bill(
    store: Store,
    run: Run,
    line: Recipe,
    record: Record | None,
    question: str,
    num: int,
    parts: TokenSplit,
    judged: Sequence[Sequence[Json]],
    num_questions: int,
) -> QuestionBill:
    """Bill a question of `num` candidates. Only judges and reward models need its record."""
    failed = frozenset(parts.failed)
    asks = tuple(range(len(parts.draws)))
    if failed:
        asks = tuple(index for index in asks if index not in failed)
    if len(asks) != num:  # one ask for all of the draws
        asks = (0,) * num
    scoring = [0.0] * num
    lump = 0.0  # scored more often than once a candidate: known as a whole
    judges: list[JudgeTokens] = []
    for name, verify in line.verifiers.items():
        stored = parts.verifiers.get(name)
        if stored is not None and len(stored) > num:
            lump += math.fsum(stored)
        elif stored is not None:  # what a budget did not admit was not scored
            scoring = [a + b for a, b in zip(scoring, (*stored, *(0.0,) * (num - len(stored))), strict=True)]
        elif record is None:
            continue
        elif isinstance(verify, Judge):
            judges.append(_judging(store, run, name, verify, record, parts, judged, num_questions))
        elif isinstance(verify, BatchVerifier):
            scoring = [a + b for a, b in zip(scoring, _scoring(verify, record), strict=True)]

    def judging(indices: Sequence[int]) -> float:
        known = lump if len(indices) == num or not lump else math.nan
        return known + math.fsum(tokens(indices) for tokens in judges)

    return QuestionBill(question, parts.helpers, parts.draws, asks, tuple(scoring), judging, parts.dropped)


def _scoring(verify: BatchVerifier, record: Record) -> tuple[float, ...]:
    question = record.problem.question
    return tuple(
        0.0 if candidate.is_unanswered else float(verify.tokens_of(question, candidate))
        for candidate in record.pool.candidates
    )


def _judging(
    store: Store,
    run: Run,
    name: str,
    judge: Judge,
    record: Record,
    parts: TokenSplit,
    judged: Sequence[Sequence[Json]],
    num_questions: int,
) -> JudgeTokens:
    """Return what judging some of the candidates costs: by the stored replies where they are those of the run."""
    num = len(record.answers)
    calls = [call for call in judged if name in call[0]]
    members = dict(calls[-1][2]) if calls and len(calls[-1]) > 2 else run.engines
    replay = _judge_tokens(store, members, judge, _judge_key(run, record, name), record)
    whole = replay(range(num))
    known = parts.judges.get(name)
    if known is None and math.isnan(whole) and calls:  # what judging the run cost, shared over its questions
        known = math.fsum(Usage(*call[1]).tokens for call in calls) / num_questions
    if known is None or known == whole:
        return replay
    return lambda indices: known if len(indices) == num else math.nan


def _judge_key(run: Run, record: Record, name: str) -> Key:
    return question_keys(run_key(run.seed), record.problem.question.id).judge(name)


def _judge_tokens(store: Store, members: Mapping[str, str], judge: Judge, key: Key, record: Record) -> JudgeTokens:
    """Return a replay of a judge on some candidates: its tokens, nan where the store lacks a reply."""
    question = record.problem.question
    attempts = {} if record.bill is None else record.bill.attempts
    stored: dict[Ask, Completion] = {}

    def tokens(indices: Sequence[int]) -> float:
        candidates = tuple(record.pool.candidates[index] for index in indices)
        answers = tuple(record.answers[index] for index in indices)
        replies: Replies = ()
        paid: dict[Ask, float] = {}  # an ask that is repeated is sent once
        while candidates and (asks := judge.next_asks(key, question, candidates, answers, replies)):
            unknown = [ask for ask in asks if ask not in stored]
            stored.update(zip(unknown, stored_completions(store, members, unknown), strict=True))
            if any(stored[ask] is LOST for ask in asks):
                return math.nan
            replies = (*replies, tuple(stored[ask] for ask in asks))
            for ask in asks:
                identity = members.get(ask.engine if isinstance(ask, Generate) else "", "")
                again = attempts.get(digest_of(identity, ask).hex(), Usage()) if attempts else Usage()
                paid[ask] = float(stored[ask].usage.tokens + again.tokens)
        return math.fsum(paid.values())

    return tokens
