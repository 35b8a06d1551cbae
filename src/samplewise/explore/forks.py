"""Forks: rows with a choice, and with more entropy than most rows of their group so far.

A group's threshold is a quantile of the entropies it has met, kept as a histogram, so no group's threshold depends on
another's. Cost: the entropies of all rows, one pass over (N, V).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .base import Layout
from .learn import without

BINS, WIDEST = 1024, 12.0  # nats; the uniform distribution over 160,000 tokens has 12


class ForkThreshold:
    """The running entropy threshold of each group."""

    def __init__(self, share: float, device: torch.device) -> None:
        self.share = share
        self.counts = torch.zeros(0, BINS, device=device)

    def open(self) -> None:
        self.counts = torch.cat([self.counts, self.counts.new_zeros(1, BINS)])

    def close(self, index: int) -> None:
        self.counts = without(self.counts, index)

    def among(self, layout: Layout, entropy: Tensor) -> Tensor:
        """Return the rows (G, K) in the upper `share` of their group, this step included, that are not certain."""
        padded = layout.pad(entropy)
        bins = (padded * (BINS / WIDEST)).long().clamp(0, BINS - 1)
        live = torch.from_numpy(layout.live).to(entropy.device)
        counts_of_groups = self.counts[live].scatter_add_(1, bins, layout.mask.to(self.counts.dtype))
        self.counts[live] = counts_of_groups
        above = (
            counts_of_groups.flip(1).cumsum(1).flip(1) - counts_of_groups
        )  # rows in a higher bin: rows that tie act together
        keep = above.gather(1, bins) < self.share * counts_of_groups.sum(1, keepdim=True)
        return keep & layout.mask & (padded > 1e-3)
