"""What a question cost, by where the cost arose: helpers before the first draw, each draw, verifiers, what was dropped.

A run at fewer draws pays the same helpers and fewer draws, so only a bill in parts tells what it would have cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from samplewise.core.types import Json, Usage


class CostSplit(NamedTuple):
    """The cost of one question in parts. `total` is what the question pays for in a store of its own.

    Failed attempts count with the request that was sent again in the end.
    """

    helpers: Usage = Usage()  # ideas, rephrasings: before the first draw, however many draws follow
    draws: tuple[Usage, ...] = ()  # (A,) of each ask of the sampler, in the order of the asks
    failed: tuple[int, ...] = ()  # indices in `draws` of the asks that brought no candidate
    verifiers: Mapping[str, tuple[Usage, ...]] = {}  # by name: of each candidate that was scored, in that order
    judges: Mapping[str, Usage] = {}  # by name: of all that was asked about the pool
    attempts: Mapping[str, Usage] = {}  # the part of it that failed and was sent again, by the request's digest
    dropped: Usage = Usage()  # sent ahead of a stop and used by nothing; at its worst case where it was cancelled

    @property
    def total(self) -> Usage:
        """The sum of all parts."""
        total = self.helpers.plus(self.dropped)
        for usages in (self.draws, self.judges.values(), *self.verifiers.values()):
            for usage in usages:
                total = total.plus(usage)
        return total


def bill_json(bill: CostSplit) -> Json:
    """Return a bill as plain data. Costs of many draws are columns, and a column of equal numbers is one number."""
    verifiers = {name: _packed(usages) for name, usages in bill.verifiers.items()}
    return [
        bill.helpers,
        _packed(bill.draws),
        bill.failed,
        verifiers,
        dict(bill.judges),
        dict(bill.attempts),
        bill.dropped,
    ]


def read_bill(data: Json) -> CostSplit:
    """Return the bill that `bill_json` wrote. Raises ValueError, TypeError or KeyError for other data."""
    helpers, draws, failed, verifiers, judges, attempts, dropped = data
    return CostSplit(
        helpers=Usage(*helpers),
        draws=_unpacked(draws),
        failed=tuple(failed),
        verifiers={name: _unpacked(usages) for name, usages in verifiers.items()},
        judges={name: Usage(*usage) for name, usage in judges.items()},
        attempts={digest: Usage(*usage) for digest, usage in attempts.items()},
        dropped=Usage(*dropped),
    )


class TokenSplit(NamedTuple):
    """A bill in tokens, prompt and completion together: what comparisons need, read without making a `Usage` a draw."""

    helpers: float
    draws: tuple[float, ...]
    failed: tuple[int, ...]
    verifiers: Mapping[str, tuple[float, ...]]
    judges: Mapping[str, float]
    dropped: float
    is_known: bool = True  # False where a store keeps too little: `draws` then hold an even share of all else


def read_tokens(data: Json) -> TokenSplit:
    """Return the tokens of the bill that `bill_json` wrote. Raises as `read_bill`."""
    helpers, draws, failed, verifiers, judges, _, dropped = data
    return TokenSplit(
        float(Usage(*helpers).tokens),
        _tokens(draws),
        tuple(failed),
        {name: _tokens(usages) for name, usages in verifiers.items()},
        {name: float(Usage(*usage).tokens) for name, usage in judges.items()},
        float(Usage(*dropped).tokens),
    )


def _packed(usages: Sequence[Usage]) -> Json:
    columns = [list(column) for column in zip(*usages, strict=True)]
    return [len(usages), [column[0] if column.count(column[0]) == len(column) else column for column in columns]]


def _columns(packed: Json) -> list[list[float]]:
    num, columns = packed
    full = [column if isinstance(column, list) else [column] * num for column in columns]
    if any(len(column) != num for column in full):
        raise ValueError("a bill whose columns differ in length")
    return full


def _unpacked(packed: Json) -> tuple[Usage, ...]:
    return tuple(map(Usage._make, zip(*_columns(packed), strict=True)))


def _tokens(packed: Json) -> tuple[float, ...]:
    columns = dict(zip(Usage._fields, _columns(packed), strict=False))
    if not columns:
        return ()
    pairs = zip(columns["prompt_tokens"], columns["completion_tokens"], strict=True)
    return tuple([float(prompt + completion) for prompt, completion in pairs])
