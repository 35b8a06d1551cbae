"""A record: one complete response with the log-probabilities it was drawn with.

A record ends with a stop token within its horizon of T tokens, or has T tokens exactly. Anything shorter that has not
ended is no response but a part of one, and has no place among the states of a chain: it cannot be made here. (Where the
model's context ends before T tokens, every response ends there, and that is the horizon.)

Numbers are those of the time of drawing. Nothing is ever scored again: a second computation rounds differently, and a
ratio of numbers from two of them is a ratio of neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.types import Candidate, Completion, Sampling

WANT = ("tokens", "logp", "logq")


class Record(NamedTuple):
    """A response of L tokens. Row e of `logq` is under the law of the run's e-th temperature."""

    tokens: tuple[int, ...]  # (L,) a stop token counted
    logp: tuple[float, ...]  # (L,) nats, under the model at temperature 1
    logq: tuple[tuple[float, ...], ...]  # (E, L) nats, under the law drawn from, at each temperature in use
    text: str
    ended: bool  # with a stop token, or with a stop string


class Part(NamedTuple):
    """What a completion adds to a prefix, as a record's columns."""

    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    logq: tuple[tuple[float, ...], ...]


def part_of(completion: Completion, temperatures: Sequence[float]) -> Part | None:
    """The columns of a completion, or None where it failed or lacks a number: nothing can be decided with it.

    With one temperature the engine's own `logq` is taken, which knows of every cut of the law. With several, row e is
    logp / tau_e - log Z(1 / tau_e), from `logz` at the exponents 1 / tau_e: the law must not be cut then.
    """
    tokens, logp = completion.tokens, completion.logp
    if completion.finish == "error" or tokens is None or logp is None:
        return None
    rows: tuple[tuple[float, ...], ...]
    if len(temperatures) == 1:
        rows = () if completion.logq is None else (completion.logq,)
    else:
        logz = completion.logz or ()
        rows = tuple(
            tuple(lp / tau - each[e] for lp, each in zip(logp, logz, strict=len(logz) > 0))
            for e, tau in enumerate(temperatures)
        )
    sizes = {len(tokens), len(logp), *map(len, rows)}
    if not rows or len(sizes) > 1 or any(math.isnan(value) for row in (logp, *rows) for value in row):
        return None
    return Part(tokens, logp, rows)


def spliced(record: Record | None, place: int, completion: Completion, part: Part, most: int) -> Record:
    """The record that begins as the first one up to `place` (0-based) and goes on as the part does.

    The completion was asked for at most `most` tokens more. Raises ValueError where it is no complete record.
    """
    if completion.finish not in ("stop", "length") or len(part.tokens) > most:
        raise ValueError(f"no complete response: {len(part.tokens)} of at most {most} tokens, {completion.finish!r}")
    tokens, logp, logq = ((), (), ((),) * len(part.logq)) if record is None else record[:3]
    return Record(
        tokens[:place] + part.tokens,
        logp[:place] + part.logp,
        tuple(old[:place] + new for old, new in zip(logq, part.logq, strict=True)),
        completion.text,
        completion.finish == "stop",
    )


def gains(logp: Sequence[float], logq: Sequence[float], alpha: float) -> list[float]:
    """g_t = alpha * logp_t - logq_t (nats), what a token adds to the log of p^alpha / q. With an infinite alpha, which
    stands for climbing, logp_t itself."""
    if alpha == math.inf:
        return list(logp)
    return [alpha * p - q for p, q in zip(logp, logq, strict=True)]


def falls(alpha: float, sampling: Sampling) -> bool:
    """Whether p^alpha / q is at most 1 at every token, whatever is cut: 1 <= 1 / temperature <= alpha. (One part in
    10^9 is forgiven, for 1 / (1 / alpha) need not be alpha.)"""
    if sampling.temperature <= 0.0 or alpha == math.inf:
        return False
    power = 1.0 / sampling.temperature
    return 1.0 - 1e-9 <= power <= alpha * (1.0 + 1e-9)


def candidate_of(record: Record, arm: str, log_weight: float = 0.0) -> Candidate:
    return Candidate(
        text=record.text,
        finish="stop" if record.ended else "length",
        arm=arm,
        log_weight=log_weight,
        num_tokens=len(record.tokens),
        logp_sum=math.fsum(record.logp),
    )
