"""Plain draws from a distribution of another shape: the policy of `Reshape`.

`heat` multiplies the temperature. `sigmas` keeps the logits within that many standard deviations of the highest
(top-n-sigma). `entropy` keeps the likeliest tokens as long as the distribution over them has at most that share of the
whole distribution's entropy (top-H). The draws are independent of one another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from samplewise.explore.base import Advice, Head, PolicyStep, TokenPolicy, entropies

from . import Reshape


class ReshapePolicy(TokenPolicy):
    """Serve all groups of one `Reshape`. The only state is how many rows each group has had."""

    def __init__(self, settings: Reshape, head: Head) -> None:
        self.settings = settings
        self.seen: list[int] = []

    def open(self, seed: int) -> None:
        self.seen.append(0)

    def close(self, index: int) -> Mapping[str, float]:
        return {"seen": float(self.seen.pop(index))}

    def advise(self, rows: PolicyStep) -> Advice | None:
        for index, count in zip(rows.layout.live, rows.layout.counts.tolist(), strict=True):
            self.seen[index] += int(count)
        settings = self.settings
        if settings == Reshape():
            return None
        log_probs, logits = rows.log_probs, rows.logits.double()
        if settings.sigmas:
            low = logits.amax(-1, keepdim=True) - settings.sigmas * logits.std(-1, keepdim=True, correction=0)
            log_probs = log_probs.masked_fill(logits < low, -math.inf)
        if settings.entropy:
            log_probs = log_probs.masked_fill(~likeliest(log_probs, settings.entropy), -math.inf)
        if settings.heat != 1.0:
            log_probs = log_probs / settings.heat
        every = torch.arange(len(log_probs), device=log_probs.device)
        return Advice(every, log_probs=torch.log_softmax(log_probs, dim=-1))


def likeliest(log_probs: Tensor, share: float) -> Tensor:
    """Mark the likeliest tokens (N, V) whose own entropy stays within `share` of the whole distribution's."""
    ordered, order = log_probs.sort(dim=-1, descending=True, stable=True)
    mass = ordered.exp()
    cumulative = mass.cumsum(-1)
    entropy = cumulative.log() + torch.special.entr(mass).cumsum(-1) / cumulative  # of the first k tokens alone
    keep = (entropy <= share * entropies(log_probs)[:, None]).cumprod(-1).bool()
    keep[:, 0] = True
    return torch.zeros_like(keep).scatter_(1, order, keep)
