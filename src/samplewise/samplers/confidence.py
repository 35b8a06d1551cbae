"""How sure a model was of a response, from the likeliest tokens at each place (DeepConf, arXiv 2508.15260).

A token's confidence is the mean of its k likeliest tokens' negated log-probabilities: large where one token has nearly
all of the mass. A response's is the mean over tokens, over the last `WINDOW`, over the tenth of the sliding windows of
`WINDOW` tokens that are lowest, or the lowest window. Nothing is drawn or asked; O(T).
"""

from __future__ import annotations

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
