"""How sure a model was of a response, from its distribution at each position. Nothing is drawn or asked; O(T).

- DeepConf (arXiv 2508.15260), from the k likeliest tokens: a token's confidence is the mean of their negated
  log-probabilities, large where one token has nearly all of the mass. A response's is the mean over all tokens, over
  the last `WINDOW`, over the lowest tenth of the sliding windows of `WINDOW` tokens, or the lowest window.
- Self-certainty (arXiv 2502.18581), from the whole distribution p over V tokens: its distance from uniform,
  KL(uniform || p) = -mean_v log p_v - log V >= 0 nats, averaged over the response's tokens. The k likeliest tokens
  alone give only a lower bound.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

WINDOW = 2048  # tokens
LOWEST = 0.1  # share of the windows


def deepconf_scores(top: Sequence[Sequence[tuple[str, float]]], window: int = WINDOW) -> Mapping[str, float]:
    """Return the scores "deepconf.mean", ".tail", ".bottom" and ".least" of a response; empty if no token is known.

    `top` (T, k) holds the likeliest tokens at each position and their log-probabilities in nats.
    """
    positions = [likeliest for likeliest in top if likeliest]
    if not positions:
        return {}
    token = np.array([-np.mean([logp for _, logp in likeliest]) for likeliest in positions])
    size = min(window, len(token))
    total = np.concatenate([[0.0], np.cumsum(token)])
    windows = np.sort((total[size:] - total[:-size]) / size)
    lowest = windows[: max(1, round(len(windows) * LOWEST))]
    return {
        "deepconf.mean": float(token.mean()),
        "deepconf.tail": float(token[-size:].mean()),
        "deepconf.bottom": float(lowest.mean()),
        "deepconf.least": float(windows[0]),
    }


def mean_certainty(certainty: Sequence[float]) -> float:
    """Return the mean of a response's token certainties (T,), in nats; nan without tokens."""
    return math.fsum(certainty) / len(certainty) if certainty else math.nan
