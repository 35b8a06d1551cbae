"""A complete response with the log-probabilities it was drawn with: the state of a chain.

A response ends with a stop token within its horizon of T tokens, or has exactly T tokens. Anything shorter that has not
ended is only part of a response, is no state of a chain, and is refused here. (Where the model's context ends before T
tokens, every response ends there, and that is the horizon.)

Log-probabilities are those returned when the tokens were drawn. Nothing is scored again: a second computation rounds
differently, and a ratio of numbers from two computations is the ratio of neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.core.types import Candidate, Completion

WANT = ("tokens", "logp", "logq")


class DrawnResponse(NamedTuple):
    """A response of L tokens. Row e of `logq` is under the proposal at the run's e-th temperature."""

    tokens: tuple[int, ...]  # (L,) including a stop token
    logp: tuple[float, ...]  # (L,) nats, under the model at temperature 1
    logq: tuple[tuple[float, ...], ...]  # (E, L) nats, under the proposal at each temperature in use
    text: str
    ended: bool  # with a stop token, or with a stop string
    reasoning: str = ""


class Continuation(NamedTuple):
    """What a completion adds to a prefix, in the columns of a `DrawnResponse`."""

    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    logq: tuple[tuple[float, ...], ...]


def continuation_of(completion: Completion, temperatures: Sequence[float]) -> Continuation | None:
    """Return the columns of a completion, or None if it failed or lacks a number that a decision needs.

    With one temperature the engine's own `logq` is used, which accounts for every filter. With several, row e is
    logp / tau_e - log Z(1 / tau_e), from `logz` at the exponents 1 / tau_e; filters must be off then.
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
            tuple(lp / tau - token_logz[e] for lp, token_logz in zip(logp, logz, strict=len(logz) > 0))
            for e, tau in enumerate(temperatures)
        )
    sizes = {len(tokens), len(logp), *map(len, rows)}
    if not rows or len(sizes) > 1 or any(math.isnan(value) for row in (logp, *rows) for value in row):
        return None
    return Continuation(tokens, logp, rows)


def splice(
    prefix_of: DrawnResponse | None, position: int, completion: Completion, continuation: Continuation, max_new: int
) -> DrawnResponse:
    """Return the response that shares its first `position` tokens with `prefix_of` and continues as the completion.

    The completion was asked for at most `max_new` tokens. Raise ValueError if the result is no complete response.
    """
    num_new = len(continuation.tokens)
    if completion.finish not in ("stop", "length") or num_new > max_new:
        raise ValueError(f"no complete response: {num_new} of at most {max_new} tokens, {completion.finish!r}")
    tokens, logp, logq = ((), (), ((),) * len(continuation.logq)) if prefix_of is None else prefix_of[:3]
    return DrawnResponse(
        tokens[:position] + continuation.tokens,
        logp[:position] + continuation.logp,
        tuple(old[:position] + new for old, new in zip(logq, continuation.logq, strict=True)),
        completion.text,
        completion.finish == "stop",
        completion.reasoning,
    )


def log_ratio_terms(logp: Sequence[float], logq: Sequence[float], alpha: float) -> list[float]:
    """Return g_t = alpha * logp_t - logq_t (nats), each token's term in log(p^alpha / q).

    With an infinite alpha, which stands for climbing, return logp_t itself.
    """
    if alpha == math.inf:
        return list(logp)
    return [alpha * p - q for p, q in zip(logp, logq, strict=True)]


def response_candidate(response: DrawnResponse, arm: str, log_weight: float = 0.0) -> Candidate:
    """Return a response as a candidate of the pool."""
    return Candidate(
        text=response.text,
        finish="stop" if response.ended else "length",
        arm=arm,
        log_weight=log_weight,
        num_tokens=len(response.tokens),
        logp_sum=math.fsum(response.logp),
        reasoning=response.reasoning,
    )
