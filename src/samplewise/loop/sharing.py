"""One budget that the questions of a run share: the next draw goes where the largest gain per cost is expected.

Questions meet at barriers: once every question in progress waits for its turn, and nothing is in flight, turns are
granted. So what was drawn decides who draws next, never the order of arrival, and a resumed run ends as an
uninterrupted one. What precedes a question's competition (helpers, its first draws) and verdicts on what was drawn have
the first turn, in the order of the questions. After that turns go by

    merit = expected gain of the next draw / expected cost of a draw of this question

ties to the earlier question. The stop rule gives the expected gain. The expected cost is the mean over this question's
draws, shrunk toward the run's mean with the weight of `PSEUDO_DRAWS` draws, since response lengths differ by question.

If the gain falls with every draw and costs are equal, this greedy order is optimal, by exchange: of two draws the one
with the smaller gain can always wait. A barrier grants as many turns as the engine takes at once, but to at most one of
`SHARE` waiting questions, since granting everybody a turn chooses nothing.

The budget is never exceeded: what is granted counts at its worst case.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from samplewise.core.types import Usage
from samplewise.loop.ledger import Budget, Ledger, amounts_of, total

PSEUDO_DRAWS = 2.0  # weight of the run's mean cost against a question's own draws
SHARE = 4  # a barrier grants turns to at most one of this many waiting questions


class Account(Protocol):
    """What the shared budget reads of a question in progress."""

    @property
    def ledger(self) -> Ledger: ...

    @property
    def num_draws(self) -> int: ...

    @property
    def helper_cost(self) -> Usage:
        """The part of what was spent that came before the first draw."""
        ...


class Turn(NamedTuple):
    """A question that waits for its turn: the worst cases of what it would send, and the gain expected of it."""

    number: int
    account: Account
    costs: Sequence[Usage]
    expected_gain: float
    whole: bool
    granted: asyncio.Future[int]


class SharedBudget:
    """A budget for the questions of these ids, of which up to `wave` get a turn at a time.

    Every question must `join`, and call `leave` when it is over, however it ends.
    """

    def __init__(
        self, budget: Budget, questions: Sequence[str], *, wave: int, cancel: asyncio.Event | None = None
    ) -> None:
        self._budget, self._wave, self._cancel = budget, wave, cancel
        self._number = {question: number for number, question in enumerate(questions)}
        self._num_in_progress = len(questions)
        self._accounts: dict[str, Account] = {}
        self._waiting: list[Turn] = []

    def join(self, question_id: str, account: Account) -> None:
        """Take the account of a question that begins."""
        self._accounts[question_id] = account

    def leave(self) -> None:
        """Note that a question is over."""
        self._num_in_progress -= 1
        self._meet()

    def num_fitting(self, question_id: str, costs: Sequence[Usage]) -> int:
        """Return how many of the first costs fit on top of what all questions use."""
        return self._budget.num_fitting(self._used(), costs)

    async def grant(self, question_id: str, costs: Sequence[Usage], expected_gain: float, whole: bool) -> int:
        """Wait for a turn. Return how many of the first costs may be spent, 0 when none ever will."""
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        account = self._accounts[question_id]
        self._waiting.append(Turn(self._number[question_id], account, costs, expected_gain, whole, granted))
        self._meet()
        return await granted

    def _used(self) -> Usage:
        return total(account.ledger.used() for account in self._accounts.values())

    def _meet(self) -> None:
        """Grant turns if every question in progress waits for one."""
        if len(self._waiting) < self._num_in_progress or not self._waiting:
            return
        waiting, self._waiting = sorted(self._waiting, key=lambda turn: turn.number), []
        used = self._used()
        is_cancelled = self._cancel is not None and self._cancel.is_set()
        # What is used only grows, so what does not fit now never will.
        fits = {turn.number: not is_cancelled and self._num_fitting(turn, used) > 0 for turn in waiting}
        competing = [turn for turn in waiting if fits[turn.number]]
        answers = [(turn, 0) for turn in waiting if not fits[turn.number]]
        for turn in [turn for turn in competing if turn.expected_gain == math.inf] or self._best(competing):
            num = self._num_fitting(turn, used)
            if num == 0:  # it waits for what is in flight, and nobody overtakes it
                break
            granted = total(turn.costs[:num])
            turn.account.ledger.grant(granted)
            used = used.plus(granted)
            answers.append((turn, num))
        answered = {turn.number for turn, _ in answers}
        self._waiting = [turn for turn in competing if turn.number not in answered]
        for turn, num in answers:
            if not turn.granted.done():  # else its question was cancelled
                turn.granted.set_result(num)

    def _num_fitting(self, turn: Turn, used: Usage) -> int:
        num = self._budget.num_fitting(used, turn.costs)
        return 0 if turn.whole and num < len(turn.costs) else num

    def _best(self, waiting: Sequence[Turn]) -> list[Turn]:
        """Return the turns of the largest merit, as many as a barrier grants."""
        num_draws = sum(account.num_draws for account in self._accounts.values())
        cost = sum(self._draw_cost(account) for account in self._accounts.values())
        mean = cost / num_draws if num_draws else math.nan

        def merit(turn: Turn) -> float:
            cost = self._draw_cost(turn.account) + PSEUDO_DRAWS * mean
            expected_cost = cost / (turn.account.num_draws + PSEUDO_DRAWS)
            value = turn.expected_gain / expected_cost if expected_cost > 0 else turn.expected_gain
            return -math.inf if math.isnan(value) else value

        num = max(1, min(self._wave, len(waiting) // SHARE))
        return sorted(waiting, key=lambda turn: (-merit(turn), turn.number))[:num]

    def _draw_cost(self, account: Account) -> float:
        """Return what a question's draws cost, as a fraction of the budget."""
        return self._fraction(account.ledger.spent) - self._fraction(account.helper_cost)

    def _fraction(self, usage: Usage) -> float:
        """Return a cost as a fraction of the limit that it comes closest to."""
        pairs = zip(amounts_of(usage), self._budget.amounts, strict=True)
        return max((amount / cap for amount, cap in pairs if cap), default=0.0)
