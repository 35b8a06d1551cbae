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
from collections.abc import Sequence

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


def is_whole(listed: Sequence[float]) -> bool:
    """Return whether the listed log-probs are those of the whole vocabulary."""
    return math.fsum(map(math.exp, listed)) >= 1 - SLACK


def why_no_drafts(profile: Profile) -> str:
    """Return what an endpoint lacks for drafts that are rejected early or must not begin with a token, or "".

    Such a draft takes several requests, see `engines/http/drafts.py`.
    """
    needed = {
        "token_ids_out": "give token ids",
        "token_ids_in": "take a prompt as token ids",
        "tokenize": "tokenize a prompt",
        "detokenize": "give the text of token ids",
        "logprobs": "give log-probs",
        "raw_logprobs": "give the model's own log-probs at any temperature",
        "top_ids": "list the likeliest tokens by their ids",
        "forces_token": "force a token, which shows if it ends a response",
    }
    if missing := next((what for name, what in needed.items() if getattr(profile, name) is not True), ""):
        return missing
    if profile.temperature is False or "top_k" in profile.refused:
        return "set temperature and top_k"
    return "" if (profile.top_logprobs or 0) > 1 else "list the likeliest tokens"


def compute_logq(sampling: Sampling, logp: tuple[float, ...] | None, top: Top | None) -> tuple[float, ...]:
    """Return log q (T,) in nats of tokens with log-probs `logp` (T,) at temperature 1.

    `top` lists the likeliest tokens per position. Raises ValueError if a position lists too few tokens, if a drawn
    token is not among the K likeliest, or if a tie at rank K leaves open which tokens were kept.
    """
    if logp is None or top is None or len(top) != len(logp):
        raise ValueError("it does not list the likeliest tokens at every position")
    return tuple(_logq(sampling, p, [value for _, value in listed]) for p, listed in zip(logp, top, strict=True))


def _logq(sampling: Sampling, logp: float, listed: list[float]) -> float:
    log_z = log_normalizer(sampling, listed)
    if logp < listed[: sampling.top_k][-1] - SLACK:
        raise ValueError(f"it drew a token that is not among the {sampling.top_k} likeliest: it does not apply top_k")
    return logp / sampling.temperature - log_z


def log_normalizer(sampling: Sampling, listed: Sequence[float]) -> float:
    """Return log Z (nats): the log of the sum of p ** (1 / temperature) over the K likeliest tokens.

    `listed` holds the log-probs of the K + 1 likeliest, or of the whole vocabulary, in descending order. Raises
    ValueError if it has too few, or if a tie at rank K leaves open which tokens are kept.
    """
    power, top_k = 1.0 / sampling.temperature, sampling.top_k
    if len(listed) <= top_k and not is_whole(listed):
        raise ValueError(f"it lists {len(listed)} likely tokens at a position where {top_k + 1} were asked for")
    kept, rest = listed[:top_k], listed[top_k : top_k + 1]
    highest = kept[0] * power
    log_z = highest + math.log(math.fsum(math.exp(value * power - highest) for value in kept))
    tied = bool(rest) and rest[0] > kept[-1] - SLACK
    if tied and (power - 1) * rest[0] - log_z > math.log(SLACK):
        raise ValueError(f"two tokens tie at rank {top_k}, so log q is not known: set another top_k")
    return log_z
