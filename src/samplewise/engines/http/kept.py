"""The law that an endpoint draws from, out of the likeliest tokens that it lists. Pure.

With top-k, and the K likeliest tokens' log-probs at temperature 1 in the reply, the law drawn from is known exactly:

    log q = log p / temperature - log Z        Z = sum over the K likeliest of p ** (1 / temperature)

One token more than K is asked for, so that a tie at rank K shows: some endpoints keep one of the two there, others
both. As n tokens that likely need n p <= 1, all of them add at most p ** (1 / temperature - 1) to Z: where that is
nothing, the tie is let pass, elsewhere the draw is refused. A token below rank K tells of an endpoint that cuts not.
"""

from __future__ import annotations

import math

from samplewise.engines.http.profile import Profile
from samplewise.engines.http.wire import PLAIN, Top
from samplewise.types import Generate, Sampling

SLACK = 1e-6  # nats: what is let pass, of a tie, and of rounding in what is listed


def is_wanted(ask: Generate) -> bool:
    """Whether log q must be worked out: the law is not the model's own."""
    return "logq" in ask.want and ask.sampling != PLAIN


def num_top(ask: Generate) -> int:
    """How many likely tokens must be listed; 0 where log q is not worked out."""
    return ask.sampling.top_k + 1 if is_wanted(ask) else 0


def unsupported(ask: Generate, profile: Profile) -> str:
    """Why log q cannot be worked out, or ""."""
    if not is_wanted(ask):
        return ""
    most = (profile.top_logprobs or 0) - 1
    if profile.logprobs is not True or most < 1:
        return "give logq of a law that is not the model's own: it is not known to list the likeliest tokens"
    temperature, top_k, top_p, min_p = ask.sampling[:4]
    if temperature > 0 and top_p == 1 and min_p == 0 and 1 <= top_k <= most:
        return ""
    return f"give logq for {ask.sampling}: it takes a temperature above 0, top_k from 1 to {most}, and no other cut"


def logq(sampling: Sampling, logp: tuple[float, ...] | None, top: Top | None) -> tuple[float, ...]:
    """Log-probs (T,) nats under the law drawn from, of tokens with log-probs `logp` (T,) at temperature 1 and the
    likeliest ones at each place in `top`.

    Raises ValueError where a place lists too few tokens, where a token drawn is none of the K likeliest, and where a
    tie at rank K leaves open what was kept.
    """
    if logp is None or top is None or len(top) != len(logp):
        raise ValueError("it does not list the likeliest tokens at every place")
    return tuple(_logq(sampling, p, [value for _, value in place]) for p, place in zip(logp, top, strict=True))


def _logq(sampling: Sampling, logp: float, listed: list[float]) -> float:
    power, num = 1.0 / sampling.temperature, sampling.top_k
    if len(listed) <= num and math.fsum(map(math.exp, listed)) < 1 - SLACK:  # not the whole vocabulary either
        raise ValueError(f"it lists {len(listed)} likely tokens at a place where {num + 1} were asked for")
    kept, rest = listed[:num], listed[num : num + 1]
    if logp < kept[-1] - SLACK:
        raise ValueError(f"it drew a token that is none of the {num} likeliest: it does not keep to top_k")
    highest = kept[0] * power
    log_z = highest + math.log(math.fsum(math.exp(value * power - highest) for value in kept))
    tied = bool(rest) and rest[0] > kept[-1] - SLACK
    if tied and (power - 1) * rest[0] - log_z > math.log(SLACK):
        raise ValueError(f"two tokens tie at rank {num}, so the law drawn from is not known: set another top_k")
    return logp * power - log_z
