"""Clustered stratified sampling: rows of a group in like contexts share one stratified draw.

In each step a cluster of m rows gets u_i = (perm(i) + U) / m, with one U and one permutation, both fresh. Each row
reads its u_i off its own distribution function, over an order of tokens common to the cluster, in which like tokens
are neighbours. Who is in the cluster follows from the past, u_i is uniform and independent of it; so every sample
keeps exactly its plain law: log-probabilities and importance weights are the plain ones, and no expected score of a
single sample can change. What changes is that siblings at one fork take different branches. No learner, no memory, no
loop over rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from . import counters
from .base import Advice, Head, Rows
from .clusters import Clusters, Keys, Shared, chain, clusters, drawn_outside, drawn_within, forks, outside, shared
from .settings import Css


class CssPolicy:
    """Groups of one `Css`."""

    def __init__(self, settings: Css, head: Head) -> None:
        self.settings, self.head = settings, head
        self.keys = Keys(head, settings.width, settings.centre)
        self.seeds = np.zeros(0, dtype=np.uint64)
        self.tally = np.zeros((0, 2))  # rows seen, rows in clusters

    def open(self, seed: int) -> None:
        self.keys.open()
        self.seeds = np.append(self.seeds, np.uint64(seed))
        self.tally = np.concatenate([self.tally, np.zeros((1, 2))])

    def close(self, place: int) -> Mapping[str, float]:
        seen, guided = self.tally[place].tolist()
        self.keys.close(place)
        self.seeds = np.delete(self.seeds, place)
        self.tally = np.delete(self.tally, place, axis=0)
        return {"seen": seen, "guided": guided}

    def warm(self, place: int, deep: Tensor, shallow: Tensor) -> None:
        return None

    def took(self, tokens: Tensor) -> None:
        return None

    def advise(self, rows: Rows) -> Advice | None:
        layout, law = rows.layout, rows.law.double()
        self.tally[layout.live, 0] += layout.counts.cpu().numpy()
        taking = forks(layout, law)
        if layout.place.shape[1] < 2 or not bool((taking.sum(1) > 1).any()):
            return None
        live = torch.from_numpy(layout.live).to(law.device)
        raw = self.keys.raw(layout, rows.deep)
        unit = self.keys.unit(live, raw)
        self.keys.add(layout, live, raw)
        near = torch.bmm(unit, unit.transpose(1, 2)) >= self.settings.min_cosine
        seeds, at = self.seeds[layout.group], (layout.sample, rows.position)
        found = clusters(layout, near, taking, counters.words(seeds, counters.ORDER, *at), least=2)
        if found is None:
            return None
        picked, tokens = self._drawn(rows, law, found)
        self.tally[:, 1] += np.bincount(layout.group[picked.cpu().numpy()], minlength=len(self.tally))
        return Advice(picked, tokens=tokens, logq=law[picked, tokens])

    def _drawn(self, rows: Rows, law: Tensor, found: Clusters) -> tuple[Tensor, Tensor]:
        """The rows in clusters (n,) and their tokens (n,)."""
        seeds, at = self.seeds[rows.layout.group], (rows.layout.sample, rows.position)
        lead = found.leader
        one = counters.uniforms(seeds[lead], counters.SHARED, at[0][lead], at[1][lead])
        strata = torch.arange(found.rows.shape[1], device=law.device)  # rows stand in an order drawn at random already
        uniform = (strata + torch.from_numpy(one).to(law.device)[:, None]) / found.mask.sum(1, keepdim=True)
        uniform = uniform.clamp(max=1.0 - 2.0**-53)  # where there is no row
        if self.settings.order == "vocabulary":
            picked = found.rows[found.mask]
            none = torch.zeros(len(picked), 0, dtype=torch.int64, device=law.device)
            return picked, drawn_outside(law[picked], none, uniform[found.mask])
        choice = shared(law, found, self.settings.candidates)
        order = chain(self.head, choice)
        places = torch.nn.functional.pad(order, (0, 1), value=choice.rest)  # the rest stays last
        mass = choice.mass.gather(2, places[:, None].expand(-1, found.rows.shape[1], -1))
        ordered = Shared(choice.tokens.gather(1, order), mass)
        tokens = outside(law, found, ordered, drawn_within(mass, uniform), seeds, at)
        return found.rows[found.mask], tokens[found.mask]
