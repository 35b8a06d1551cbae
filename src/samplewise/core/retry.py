"""When to send a failed request again: exponential back-off. Pure; whoever waits does so itself."""

from __future__ import annotations

import math

MAX_RETRIES = 4  # of a failed request whose failure is retryable
BACKOFF_S = 0.25  # before the first retry


def backoff_s(retry: int, *, longest_s: float = math.inf) -> float:
    """Return the seconds to wait before retry number `retry`, from 0: `BACKOFF_S`, doubled with each further one."""
    return float(min(BACKOFF_S * 2.0 ** min(retry, 30), longest_s))
