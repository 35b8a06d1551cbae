"""Clustered stratified sampling: rows of a group in similar contexts share one stratified draw.

In each step a cluster of m rows gets u_i = (perm(i) + U) / m, with one fresh U and one fresh permutation. Each row
reads its u_i off its own distribution function, over an order of tokens that the cluster shares, in which similar
tokens are neighbors. Cluster membership follows from the past, and u_i is uniform and independent of it. So every draw
on its own has exactly its plain distribution: log-probabilities and importance weights are the plain ones, and no
expected score of a single draw can change. What changes is that draws at the same fork take different branches. There
is no learner, no memory and no loop over rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from . import counters
from .base import Advice, Head, PolicyStep, TokenPolicy
from .clusters import (
    ClusterCandidates,
    Clusters,
    Keys,
    chain,
    cluster_candidates,
    drawn_outside,
    drawn_within,
    find_clusters,
    forks,
    outside,
)
from .settings import Css


class CssPolicy(TokenPolicy):
    """Serve all groups of one `Css`."""

    def __init__(self, settings: Css, head: Head) -> None:
        self.settings, self.head = settings, head
        self.keys = Keys(head, settings.width, settings.centre)
        self.seeds = np.zeros(0, dtype=np.uint64)
        self.tally = np.zeros((0, 2))  # rows seen, rows in clusters

    def open(self, seed: int) -> None:
        self.keys.open()
        self.seeds = np.append(self.seeds, np.uint64(seed))
        self.tally = np.concatenate([self.tally, np.zeros((1, 2))])

    def close(self, index: int) -> Mapping[str, float]:
        seen, guided = self.tally[index].tolist()
        self.keys.close(index)
        self.seeds = np.delete(self.seeds, index)
        self.tally = np.delete(self.tally, index, axis=0)
        return {"seen": seen, "guided": guided}

    def advise(self, rows: PolicyStep) -> Advice | None:
        layout, log_probs = rows.layout, rows.log_probs
        self.tally[layout.live, 0] += layout.counts.cpu().numpy()
        taking = forks(layout, log_probs)
        if layout.padded_rows.shape[1] < 2 or not bool((taking.sum(1) > 1).any()):
            return None
        live = torch.from_numpy(layout.live).to(log_probs.device)
        raw = self.keys.raw(layout, rows.deep)
        unit = self.keys.unit(live, raw)
        self.keys.add(layout, live, raw)
        near = torch.bmm(unit, unit.transpose(1, 2)) >= self.settings.min_cosine
        seeds, at = self.seeds[layout.group], (layout.sample, rows.position)
        clusters = find_clusters(layout, near, taking, counters.random_bits(seeds, counters.ORDER, *at), least=2)
        if clusters is None:
            return None
        picked, tokens = self._drawn(rows, log_probs, clusters)
        self.tally[:, 1] += np.bincount(layout.group[picked.cpu().numpy()], minlength=len(self.tally))
        return Advice(picked, tokens=tokens, logq=log_probs[picked, tokens].double())

    def _drawn(self, rows: PolicyStep, log_probs: Tensor, clusters: Clusters) -> tuple[Tensor, Tensor]:
        """Return the rows in clusters (n,) and their tokens (n,)."""
        seeds, at = self.seeds[rows.layout.group], (rows.layout.sample, rows.position)
        lead = clusters.leader
        one = counters.uniforms(seeds[lead], counters.SHARED, at[0][lead], at[1][lead])
        strata = torch.arange(clusters.rows.shape[1], device=log_probs.device)
        uniform = (strata + torch.from_numpy(one).to(log_probs.device)[:, None]) / clusters.mask.sum(1, keepdim=True)
        uniform = uniform.clamp(max=1.0 - 2.0**-53)  # where there is no row
        if self.settings.order == "vocabulary":
            picked = clusters.rows[clusters.mask]
            none = torch.zeros(len(picked), 0, dtype=torch.int64, device=log_probs.device)
            return picked, drawn_outside(log_probs[picked], none, uniform[clusters.mask])
        choice = cluster_candidates(log_probs, clusters, self.settings.candidates, rows.filtered)
        order = chain(self.head, choice)
        indices = torch.nn.functional.pad(order, (0, 1), value=choice.rest)  # the rest stays last
        mass = choice.mass.gather(2, indices[:, None].expand(-1, clusters.rows.shape[1], -1))
        ordered = ClusterCandidates(choice.tokens.gather(1, order), mass)
        tokens = outside(log_probs, clusters, ordered, drawn_within(mass, uniform), seeds, at)
        return clusters.rows[clusters.mask], tokens[clusters.mask]
