"""One budget that the questions of a run share: the next draw goes to the question where it is worth most.

Questions meet at barriers: when every question that is still going waits for its turn, and nothing is on its way, the
turns are dealt out. So it is what was drawn that decides who draws next, never the order in which things arrived, and a
run that was cut off ends as an uninterrupted one. Whatever comes before a question's first draws (thinkers, the first
few draws of each) and the verdict on what was drawn has the first turn, in the order of the questions; then

    merit = worth of the next draw / expected cost of a draw of this question

decides, ties to the earlier question. The worth is the stop rule's. The expected cost is the mean of this question's
draws, shrunk to the mean of the run by `PSEUDO_DRAWS` draws, as the length of its responses is a question's own.

Where the worth falls with every draw and costs are equal this greedy order is the best there is, by exchange: of two
draws the one that is worth less can always wait. A barrier deals out as many turns as the engine takes at once, but at
most to a quarter of the questions, since whoever gives everybody a turn has not chosen.

It is never passed: what is dealt out counts as the most that it can cost.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.purse import Budget, Purse
from samplewise.types import Usage

PSEUDO_DRAWS = 2.0  # the weight of the run's mean cost against a question's own draws
SHARE = 4  # a barrier deals turns to at most one in so many of those who wait


class Turn(NamedTuple):
    """A question that waits for its turn: the worst cases of what it would send, and what that is worth."""

    number: int
    purse: Purse
    costs: Sequence[Usage]
    worth: float
    whole: bool
    granted: asyncio.Future[int]


class Pot:
    """A budget for the questions of these ids, of which up to `wave` get a turn at a time.

    Every question needs a purse of its own that has joined (see `run`), and `ended()` when it is over, however it ends.
    """

    def __init__(
        self, budget: Budget, questions: Sequence[str], *, wave: int, cancel: asyncio.Event | None = None
    ) -> None:
        self._budget, self._wave, self._cancel = budget, wave, cancel
        self._number = {question: number for number, question in enumerate(questions)}
        self._going = len(questions)
        self._purses: list[Purse] = []
        self._waiting: list[Turn] = []

    def join(self, purse: Purse) -> None:
        self._purses.append(purse)

    def ended(self) -> None:
        """A question is over."""
        self._going -= 1
        self._meet()

    def admits(self, purse: Purse, used: Usage) -> bool:
        """Whether this purse may come to have used so much."""
        others = (each.used() for each in self._purses if each is not purse)
        return self._budget.admits(functools.reduce(Usage.plus, others, used))

    async def grant(self, purse: Purse, costs: Sequence[Usage], worth: float, whole: bool) -> int:
        """Wait for a turn. Gives how many of the first costs may be spent, 0 when none ever will."""
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(Turn(self._number[purse.question_id], purse, costs, worth, whole, granted))
        self._meet()
        return await granted

    def _meet(self) -> None:
        if len(self._waiting) < self._going or not self._waiting:
            return
        waiting, self._waiting = sorted(self._waiting, key=lambda turn: turn.number), []
        used = functools.reduce(Usage.plus, (purse.used() for purse in self._purses), Usage())
        over = self._cancel is not None and self._cancel.is_set()
        # What is used only grows, so what does not fit now never will.
        lost = [turn for turn in waiting if over or not self._fitting(turn, used)]
        left = [turn for turn in waiting if not over and self._fitting(turn, used)]
        first = [turn for turn in left if turn.worth == math.inf]
        chosen = first or self._best(left)
        answers = [(turn, 0) for turn in lost]
        for turn in chosen:
            num = self._fitting(turn, used)
            if num == 0:  # it waits for what is on its way, and nobody overtakes it
                break
            turn.purse.held = functools.reduce(Usage.plus, turn.costs[:num], Usage())
            used = used.plus(turn.purse.held)
            answers.append((turn, num))
        turned = {turn.number for turn, _ in answers}
        self._waiting = [turn for turn in left if turn.number not in turned]
        for turn, num in answers:
            if not turn.granted.done():  # else its question was cancelled
                turn.granted.set_result(num)

    def _fitting(self, turn: Turn, used: Usage) -> int:
        for num, cost in enumerate(turn.costs):
            used = used.plus(cost)
            if not self._budget.admits(used):
                return 0 if turn.whole else num
        return len(turn.costs)

    def _best(self, waiting: Sequence[Turn]) -> list[Turn]:
        drawn = [(self._part(purse.spent) - self._part(purse.thought), purse.num_draws) for purse in self._purses]
        draws = sum(num for _, num in drawn)
        mean = sum(cost for cost, _ in drawn) / draws if draws else math.nan

        def merit(turn: Turn) -> float:
            own = self._part(turn.purse.spent) - self._part(turn.purse.thought)
            cost = (own + PSEUDO_DRAWS * mean) / (turn.purse.num_draws + PSEUDO_DRAWS)
            worth = turn.worth / cost if cost > 0 else turn.worth
            return -math.inf if math.isnan(worth) else worth

        num = max(1, min(self._wave, len(waiting) // SHARE))
        return sorted(waiting, key=lambda turn: (-merit(turn), turn.number))[:num]

    def _part(self, usage: Usage) -> float:
        """What a cost is of the budget: the part of the limit that it comes closest to."""
        used = (usage.requests, usage.prompt_tokens, usage.completion_tokens, usage.tokens, usage.usd)
        return max((amount / cap for amount, cap in zip(used, self._budget[:5], strict=True) if cap), default=0.0)
