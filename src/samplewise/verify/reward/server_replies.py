"""Parse the replies of a scoring server: a score per response, or the reason why there is none. Pure.

A reply is believed only if it has exactly as many entries as were asked for, each index once. Then each entry stands
for itself: one finite number is a score, anything else is nan with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from samplewise.core.types import Json, Score

Route = Literal["pooling", "classify", "score"]
Aggregate = Literal["last", "min", "product"]
TOLERANCE = 0.02  # how far the two probabilities of a step may sum from 1: servers compute in half precision

_AGGREGATES: Mapping[Aggregate, Callable[[Sequence[float]], float]] = {
    "last": lambda steps: steps[-1],
    "min": min,
    "product": math.prod,
}


def parse_scores(body: Json, route: Route, num: int, aggregate: Aggregate | None = None) -> list[Score]:
    """Return the scores of `num` responses, in the order in which they were sent.

    Raises ValueError if the reply as a whole cannot be believed.
    """
    entries = body.get("data") if isinstance(body, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("the reply is not a list of scores")
    if len(entries) != num:
        raise ValueError(f"the reply has {len(entries)} scores for {num} responses")
    indices = [entry.get("index", position) for position, entry in enumerate(entries)]
    if any(type(index) is not int for index in indices) or sorted(indices) != list(range(num)):
        raise ValueError(f"the reply numbers {num} scores {', '.join(map(repr, indices[:8]))}")
    by_index = dict(zip(indices, entries, strict=True))
    return [_score(by_index[index], route, aggregate) for index in range(num)]


def _score(entry: Mapping[str, Json], route: Route, aggregate: Aggregate | None) -> Score:
    if route == "score":
        return _number(entry.get("score"))
    raw = entry.get("probs" if route == "classify" else "data")
    if not isinstance(raw, list) or not raw:
        return Score(math.nan, "the server gave no numbers")
    if aggregate is not None:
        return _process_score(raw, aggregate)
    if route == "pooling" and all(isinstance(row, list) for row in raw):
        raw = raw[-1]  # a model that scores every token: the last one stands for the response
    if len(raw) != 1:
        return Score(math.nan, f"the server gave {len(raw)} numbers for a response; an outcome reward model gives one")
    return _number(raw[0])


def _process_score(rows: Sequence[Json], aggregate: Aggregate) -> Score:
    """Return a score from the steps' rows (S, 1) or (S, 2): P(right), or P(wrong) and P(right)."""
    steps = []
    for row in rows:
        if not isinstance(row, list) or len(row) not in (1, 2):
            return Score(math.nan, "the server gave no probability for each step; is it a process reward model?")
        numbers = [_number(value).value for value in row]
        if not all(0 <= number <= 1 for number in numbers) or (len(row) == 2 and abs(sum(numbers) - 1) > TOLERANCE):
            return Score(math.nan, f"a step's numbers are not probabilities: {', '.join(map(repr, row))}")
        steps.append(numbers[-1])
    return Score(float(_AGGREGATES[aggregate](steps)))


def _number(value: Json) -> Score:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return Score(math.nan, f"the server gave {value!r:.40} for a score")
    return Score(float(value))
