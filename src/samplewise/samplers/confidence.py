"""How sure a model was of a response, from its law at each place. Nothing is drawn or asked; O(T).

- DeepConf (arXiv 2508.15260), from the k likeliest tokens: a token's confidence is the mean of their negated
  log-probabilities, large where one token has nearly all of the mass. A response's is the mean over tokens, over the
  last `WINDOW`, over the tenth of the sliding windows of `WINDOW` tokens that are lowest, or the lowest window.
- Self-certainty (arXiv 2502.18581), from the whole law p over V tokens: the distance of p from the uniform law,
  KL(uniform || p) = -mean_v log p_v - log V >= 0 nats, averaged over the response's tokens. Of k likeliest tokens alone
  only a bound from below is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

WINDOW = 2048  # tokens
LOWEST = 0.1  # of the windows


def confidences(top: Sequence[Sequence[tuple[str, float]]], window: int = WINDOW) -> Mapping[str, float]:
    """The four scores of a response of T tokens, by the names "deepconf.mean", ".tail", ".bottom" and ".least"; none
    where no token is known. Log-probabilities in nats."""
    known = [place for place in top if place]
    if not known:
        return {}
    token = np.array([-np.mean([logp for _, logp in place]) for place in known])
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


def self_certainty(certainty: Sequence[float]) -> float:
    """The mean of a response's token certainties (T,), nats; nan without tokens."""
    return math.fsum(certainty) / len(certainty) if certainty else math.nan


def certainty_bound(top: Sequence[float], vocabulary: int) -> float:
    """The least certainty (nats) of a law over `vocabulary` tokens whose likeliest have log-probabilities `top` (k,):
    what mass they leave is spread evenly over all others, which is as close to uniform as it can be. It is a bound,
    not the value. ValueError for more tokens than there are, or more mass than 1."""
    rest, missing = vocabulary - len(top), 1.0 - math.fsum(math.exp(logp) for logp in top)
    if not top or rest < 0 or missing < -1e-6:
        raise ValueError(f"top must be 1 to {vocabulary} log-probabilities of one law, got {list(top)!r}")
    if rest and missing <= 0:
        return math.inf  # the others have no mass at all
    others = rest * math.log(missing / rest) if rest else 0.0
    return -(math.fsum(top) + others) / vocabulary - math.log(vocabulary)
