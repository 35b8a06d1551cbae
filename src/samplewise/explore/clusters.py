"""Contexts that are alike: keys of rows, clusters of rows, and the candidate tokens that a cluster shares.

A row's key is its deep state, through a fixed random projection where `width` says so, less the running mean of its
group where asked for (head states of real models point much the same way), at length 1. Rows of a group whose keys have
a cosine of at least some value are one cluster, and so are theirs in turn. Only rows with a choice take part: a row
whose law is all but certain has nothing to share.

What a cluster does depends on keys and on laws, which follow from the past alone, and on random numbers counted by
sample and position; so the order of rows in a batch changes nothing, nor do other groups.

Cost: keys (N, d) x (d, width) and cosines (G, K, K); the rest is for clustered rows only.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import counters
from .base import Head, Ints, Layout
from .counters import Words
from .learn import without

CERTAIN = 0.999  # probability of its likeliest token, from which a row has no choice
TRACE = 1e-4  # probability below which a token is no candidate anywhere in a step


class Keys:
    """The keys of rows, and each group's running mean."""

    def __init__(self, head: Head, width: int, centre: bool) -> None:
        dim, device = head.weight.shape[1], head.weight.device
        self.centre, self.projection = centre, None
        if 0 < width < dim:
            generator = torch.Generator()
            generator.manual_seed(width)  # the same projection for every group
            self.projection = (torch.randn(dim, width, generator=generator) / width**0.5).to(device)
        self.dim = dim if self.projection is None else width
        self.sums = torch.zeros(0, self.dim + 1, device=device)  # of keys, and how many

    def open(self) -> None:
        self.sums = torch.cat([self.sums, self.sums.new_zeros(1, self.dim + 1)])

    def close(self, place: int) -> None:
        self.sums = without(self.sums, place)

    def raw(self, layout: Layout, deep: Tensor) -> Tensor:
        """Keys (G, K, r) as they are remembered."""
        states = deep.float()
        return layout.pad(states if self.projection is None else states @ self.projection)

    def unit(self, live: Tensor, raw: Tensor) -> Tensor:
        """Keys (G, ., r) at length 1, from the group's mean over the steps before."""
        if self.centre:
            sums = self.sums[live]
            raw = raw - (sums[:, :-1] / sums[:, -1:].clamp(min=1.0))[:, None]
        return torch.nn.functional.normalize(raw, dim=-1)

    def add(self, layout: Layout, live: Tensor, raw: Tensor) -> None:
        if self.centre:
            more = torch.cat([layout.zeroed(raw).sum(1), layout.counts[:, None].float()], dim=1)
            self.sums[live] = self.sums[live] + more


class Clusters(NamedTuple):
    """Q clusters of at most M rows, in an order of visit that is drawn anew at each step."""

    rows: Tensor  # (Q, M) numbers of the batch; where there is none stands the cluster's first
    mask: Tensor  # (Q, M)
    line: Tensor  # (Q,) the line of the layout that the cluster's group is on
    column: Tensor  # (Q, M) the columns of its rows there
    leader: Ints  # (Q,) on the host: the row with the lowest sample index


def forks(layout: Layout, law: Tensor) -> Tensor:
    """Rows (G, K) that have a choice."""
    return layout.pad(law.amax(-1)).exp().lt(CERTAIN) & layout.mask


def reached(near: Tensor) -> Tensor:
    """Who is reached over neighbours of neighbours: (G, K, K), from the neighbours (G, K, K), which is symmetric."""
    reach, hops = near.float(), 1
    while hops < near.shape[-1] - 1:
        reach, hops = torch.bmm(reach, reach).clamp_(max=1.0), 2 * hops
    return reach > 0


def clusters(layout: Layout, near: Tensor, taking: Tensor, order: Words, least: int) -> Clusters | None:
    """The clusters of rows `taking` part (G, K) that have at least `least` rows, None if there are none.

    `near` (G, K, K) says who is like whom; `order` (N,) are the bits that rows of a cluster are visited by.
    """
    near = near & taking[:, :, None] & taking[:, None, :]
    first = reached(near).float().argmax(-1).masked_fill(~taking, -1).cpu().numpy()  # (G, K), the one wait for a device
    lines, columns = np.nonzero(first >= 0)
    if len(lines) == 0:
        return None
    name = lines * first.shape[1] + first[lines, columns]
    _, where, count = np.unique(name, return_inverse=True, return_counts=True)
    big = count[where] >= least
    if not big.any():
        return None
    lines, columns, name = lines[big], columns[big], name[big]
    rows = layout.host[lines, columns]
    _, first_of, where, count = np.unique(name, return_index=True, return_inverse=True, return_counts=True)
    visit = np.lexsort((order[rows], where))
    rank = np.arange(len(visit)) - np.repeat(np.cumsum(count) - count, count)
    shape = (len(count), int(count.max()))
    mask, table = np.zeros(shape, dtype=bool), np.zeros((2, *shape), dtype=np.int64)
    table[0], table[1] = rows[first_of][:, None], columns[first_of][:, None]
    mask[where[visit], rank] = True
    table[0][where[visit], rank], table[1][where[visit], rank] = rows[visit], columns[visit]
    device = near.device
    return Clusters(
        rows=torch.from_numpy(table[0]).to(device),
        mask=torch.from_numpy(mask).to(device),
        line=torch.from_numpy(lines[first_of]).to(device),
        column=torch.from_numpy(table[1]).to(device),
        leader=rows[first_of].astype(np.int64),
    )


class Shared(NamedTuple):
    """What the rows of a cluster choose among: its likeliest tokens, and the rest of the vocabulary as one bucket."""

    tokens: Tensor  # (Q, U)
    mass: Tensor  # (Q, M, U + 1) float64 of each row's law, the rest last; sums to 1

    @property
    def rest(self) -> int:
        """The number that stands for the rest."""
        return self.tokens.shape[1]


def shared(law: Tensor, found: Clusters, most: int) -> Shared:
    """The cluster's candidates: the likeliest of any of its rows, as many as matter and at most `most`."""
    best = law[found.rows[:, 0]] if found.rows.shape[1] == 1 else law[found.rows].amax(1)
    top = best.topk(min(most, law.shape[-1]), dim=-1)
    num = max(1, int((top.values.exp() > TRACE).sum(-1).amax()))
    tokens = top.indices[:, :num]
    mass = law[found.rows[:, :, None], tokens[:, None, :]].exp()
    return Shared(tokens, torch.cat([mass, (1 - mass.sum(-1, keepdim=True)).clamp(min=0.0)], dim=-1))


def similarity(head: Head, tokens: Tensor, others: Tensor) -> Tensor:
    """How far tokens (Q, U) and others (Q, J) count as synonyms: 0 up to a cosine of one half, then up to 1."""
    return head.cosines(tokens, others).sub_(0.5).mul_(2.0).clamp_(min=0.0)


def chain(head: Head, found: Shared) -> Tensor:
    """Orders (Q, U) of the candidates: from the likeliest, always on to the most similar one that is left.

    A cosine of head rows says what is similar. U steps over all clusters at once, on the host, where a step of so
    little work costs least.
    """
    cosine = head.cosines(found.tokens, found.tokens).cpu().numpy()
    lines = np.arange(len(cosine))
    order = np.zeros(cosine.shape[:2], dtype=np.int64)
    order[:, 0] = found.mass[..., :-1].sum(1).argmax(-1).cpu().numpy()
    taken = np.zeros(cosine.shape[:2], dtype=cosine.dtype)
    for step in range(1, found.rest):
        at = order[:, step - 1]
        taken[lines, at] = -9.0  # cannot be gone to any more
        (cosine[lines, at] + taken).argmax(-1, out=order[:, step])
    return torch.from_numpy(order).to(found.tokens.device)


def drawn_within(mass: Tensor, uniforms: Tensor) -> Tensor:
    """Which bucket (...,) each uniform picks by mass (..., U + 1), which needs no sum of 1."""
    upto = mass.cumsum(-1)
    return (upto[..., :-1] <= uniforms[..., None] * upto[..., -1:]).sum(-1)


def drawn_outside(law: Tensor, excluded: Tensor, uniforms: Tensor) -> Tensor:
    """Tokens (n,) of laws (n, V) without the tokens `excluded` (n, U)."""
    upto = law.exp().scatter(1, excluded, 0.0).cumsum(-1)
    goal = torch.minimum(uniforms[:, None] * upto[:, -1:], torch.nextafter(upto[:, -1:], torch.zeros(1).to(upto)))
    return torch.searchsorted(upto, goal, right=True)[:, 0].clamp_(max=law.shape[-1] - 1)


def outside(
    law: Tensor, found: Clusters, choice: Shared, picked: Tensor, seeds: Words, at: tuple[Ints, Ints]
) -> Tensor:
    """The tokens (Q, M) of `picked` candidates, with the rest drawn by each row's own law. Few rows pick the rest."""
    tokens = choice.tokens.gather(1, picked.clamp(max=choice.rest - 1))
    beyond = ((picked == choice.rest) & found.mask).nonzero()
    if len(beyond):
        rows = found.rows[beyond[:, 0], beyond[:, 1]]
        host = rows.cpu().numpy()
        own = counters.uniforms(seeds[host], counters.REST, at[0][host], at[1][host])
        drawn = drawn_outside(law[rows], choice.tokens[beyond[:, 0]], torch.from_numpy(own).to(law.device))
        tokens[beyond[:, 0], beyond[:, 1]] = drawn
    return tokens
