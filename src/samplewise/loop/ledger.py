"""The books of one question: what may be spent, what was spent and paid, what is reserved. Pure arithmetic, no I/O.

spent      cost of everything that the sampler, the judges and the verifiers used; stored draws count as fresh ones
paid       cost that this run caused: fresh draws, failed attempts, draws that came after the decision, and requests
           that were cut off after they were sent, at their worst case
reserved   the worst case of what is in flight, so that a budget is never exceeded
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from samplewise.core.types import Usage

TOLERANCE = 1e-12  # of a limit in money
UNLIMITED = (None,) * 5


class Budget(NamedTuple):
    """The most that may be spent on one question; None is no limit. Checked by worst case, before anything is sent."""

    requests: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    tokens: int | None = None  # prompt and completion together
    usd: float | None = None
    seconds: float | None = None  # wall clock, from the start of the question

    @property
    def amounts(self) -> tuple[float | None, ...]:
        """The limits other than seconds, in the order of `amounts_of`."""
        return self[:5]

    @property
    def is_limited(self) -> bool:
        """Whether anything but time is limited."""
        return self.amounts != UNLIMITED

    def admits(self, usage: Usage) -> bool:
        """Return whether this usage is within every limit but seconds."""
        pairs = zip(self.amounts, amounts_of(usage), strict=True)
        return all(cap is None or amount <= cap + TOLERANCE for cap, amount in pairs)

    def num_fitting(self, used: Usage, costs: Sequence[Usage]) -> int:
        """Return how many of the first costs fit on top of what is used."""
        if not self.is_limited:
            return len(costs)
        for num, cost in enumerate(costs):
            used = used.plus(cost)
            if not self.admits(used):
                return num
        return len(costs)

    def share(self, num: int, position: int) -> Budget:
        """Return the part of question `position` of `num`: an even split, the remainder to the first questions.

        Seconds are not split, since questions run side by side.
        """

        def part(cap: int | None) -> int | None:
            return None if cap is None else cap // num + (position < cap % num)

        counts = (part(self.requests), part(self.prompt_tokens), part(self.completion_tokens), part(self.tokens))
        return Budget(*counts, None if self.usd is None else self.usd / num, self.seconds)


def amounts_of(usage: Usage) -> tuple[float, ...]:
    """Return the amounts that a budget limits, in the order of its fields."""
    return (usage.requests, usage.prompt_tokens, usage.completion_tokens, usage.tokens, usage.usd)


def total(usages: Iterable[Usage], start: Usage = Usage()) -> Usage:
    """Return the sum of usages."""
    return functools.reduce(Usage.plus, usages, start)


class Reservation:
    """What one request in flight may cost at most. Identified by the object itself."""


class Ledger:
    """The books of one question. Others read `spent` and `paid`; only the ledger's methods change them."""

    def __init__(self, budget: Budget = Budget()) -> None:
        self.budget = budget
        self.spent = Usage()
        self.paid = Usage()
        self.lost = Usage()  # the part of `paid` that stands for requests that were cut off
        self._unused = Usage()  # not taken: failed attempts, draws after the decision, what was cut off
        self._granted = Usage()  # admitted by a shared budget, not sent yet
        self._reserved: dict[Reservation, Usage] = {}

    @property
    def dropped(self) -> Usage:
        """Return the cost of what is used by nothing: failed attempts, draws after the decision, what was cut off."""
        return self._unused

    def used(self) -> Usage:
        """Return what is gone plus what is reserved."""
        return total(self._reserved.values(), self.spent.plus(self._unused).plus(self._granted))

    def num_fitting(self, costs: Sequence[Usage]) -> int:
        """Return how many of the first costs fit into what is left."""
        return self.budget.num_fitting(self.used(), costs)

    def grant(self, usage: Usage) -> None:
        """Set aside what a shared budget has admitted, until it is reserved or withdrawn. Replaces an earlier grant."""
        self._granted = usage

    def reserve(self, costs: Sequence[Usage]) -> list[Reservation]:
        """Reserve the worst case of requests that are about to be sent. Uses up the grant."""
        reservations = [Reservation() for _ in costs]
        self.reserve_again(reservations, costs)
        self._granted = Usage()
        return reservations

    def reserve_again(self, reservations: Sequence[Reservation], costs: Sequence[Usage]) -> None:
        """Reserve for requests that are sent once more."""
        self._reserved.update(zip(reservations, costs, strict=True))

    def settle(self, reservation: Reservation, usage: Usage, *, is_fresh: bool) -> bool:
        """Replace a reservation by what the request cost. Return whether that is more than was reserved.

        A draw from the store is not fresh: nothing was paid.
        """
        reserved = self._reserved.pop(reservation, usage)
        self._unused = self._unused.plus(usage)
        if is_fresh:
            self.paid = self.paid.plus(usage)
        pairs = zip(amounts_of(usage), amounts_of(reserved), strict=True)
        return any(amount > most + TOLERANCE for amount, most in pairs)

    def release(self, reservations: Sequence[Reservation]) -> None:
        """Drop the reservations that were not settled: those requests were not sent."""
        for reservation in reservations:
            self._reserved.pop(reservation, None)

    def lose(self, reservation: Reservation) -> None:
        """Charge a request at its worst case: it was sent, and its reply will not come."""
        cost = self._reserved.pop(reservation, Usage())
        self.paid, self.lost, self._unused = self.paid.plus(cost), self.lost.plus(cost), self._unused.plus(cost)

    def take(self, usage: Usage) -> None:
        """Move a settled cost to `spent`: the sampler or a judge uses the completion now."""
        self.spent = self.spent.plus(usage)
        self._unused = self._unused.minus(usage)

    def charge(self, costs: Iterable[Usage]) -> None:
        """Count computation that no request of an engine caused, such as a reward model's. Uses up the grant."""
        self.spent = total(costs, self.spent)
        self._granted = Usage()

    def pay(self, usage: Usage, *, is_wasted: bool = False) -> None:
        """Count what was paid and is already in `spent`, or, if wasted, is part of no result."""
        self.paid = self.paid.plus(usage)
        if is_wasted:
            self._unused = self._unused.plus(usage)
