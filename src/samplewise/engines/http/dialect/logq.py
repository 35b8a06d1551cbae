"""Compute log q under top-k sampling from the likeliest tokens that an endpoint lists. Pure.

With top-k sampling, and the log-probs at temperature 1 of the K likeliest tokens in the reply, the distribution drawn
from is known exactly:

    log q = log p / temperature - log Z        Z = sum over the K likeliest of p ** (1 / temperature)

K + 1 tokens are asked for, so that a tie at rank K shows: some endpoints keep one of the tied tokens there, others
both. Since n tokens of probability p need n p <= 1, all of them together add at most p ** (1 / temperature - 1) to Z.
Where that is negligible the tie is accepted, elsewhere the draw is refused. A drawn token below rank K shows that the
endpoint does not apply top-k.
"""

from __future__ import annotations

import math

from samplewise.core.types import Generate, Sampling
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.dialect.replies import Top
from samplewise.engines.http.dialect.requests import PLAIN

SLACK = 1e-6  # nats: tolerance for a tie, and for rounding of the listed log-probs


def needs_logq(ask: Generate) -> bool:
    """Return whether log q must be computed: it is wanted, and the draw is not from the model's own distribution."""
    return "logq" in ask.want and ask.sampling != PLAIN


def num_top_needed(ask: Generate) -> int:
    """Return how many of the likeliest tokens must be listed; 0 if log q is not computed."""
    return ask.sampling.top_k + 1 if needs_logq(ask) else 0


def why_no_logq(ask: Generate, profile: Profile) -> str:
    """Return why log q cannot be computed, or ""."""
    if not needs_logq(ask):
        return ""
    max_k = (profile.top_logprobs or 0) - 1
    if profile.logprobs is not True or max_k < 1:
        return "give logq at this temperature or filter: it is not known to list the likeliest tokens"
    temperature, top_k, top_p, min_p = ask.sampling[:4]
    if temperature > 0 and top_p == 1 and min_p == 0 and 1 <= top_k <= max_k:
        return ""
    return f"give logq for {ask.sampling}: use a temperature above 0, top_k from 1 to {max_k}, and no other filter"


def compute_logq(sampling: Sampling, logp: tuple[float, ...] | None, top: Top | None) -> tuple[float, ...]:
    """Return log q (T,) in nats of tokens with log-probs `logp` (T,) at temperature 1.

    `top` lists the likeliest tokens per position. Raises ValueError if a position lists too few tokens, if a drawn
    token is not among the K likeliest, or if a tie at rank K leaves open which tokens were kept.
    """
    if logp is None or top is None or len(top) != len(logp):
        raise ValueError("it does not list the likeliest tokens at every position")
    return tuple(_logq(sampling, p, [value for _, value in listed]) for p, listed in zip(logp, top, strict=True))


def _logq(sampling: Sampling, logp: float, listed: list[float]) -> float:
    power, top_k = 1.0 / sampling.temperature, sampling.top_k
    if len(listed) <= top_k and math.fsum(map(math.exp, listed)) < 1 - SLACK:  # not the whole vocabulary either
        raise ValueError(f"it lists {len(listed)} likely tokens at a position where {top_k + 1} were asked for")
    kept, rest = listed[:top_k], listed[top_k : top_k + 1]
    if logp < kept[-1] - SLACK:
        raise ValueError(f"it drew a token that is not among the {top_k} likeliest: it does not apply top_k")
    highest = kept[0] * power
    log_z = highest + math.log(math.fsum(math.exp(value * power - highest) for value in kept))
    tied = bool(rest) and rest[0] > kept[-1] - SLACK
    if tied and (power - 1) * rest[0] - log_z > math.log(SLACK):
        raise ValueError(f"two tokens tie at rank {top_k}, so log q is not known: set another top_k")
    return logp * power - log_z
