"""Similar contexts: keys of rows, clusters of rows, and the candidate tokens that a cluster shares.

A row's key is its deep state, optionally through a fixed random projection to `width` dimensions and less the running
mean of its group (head states of real models point in much the same direction), scaled to length 1. Rows of a group
whose keys have a cosine of at least some value are in one cluster, transitively. Only rows with a choice take part: a
row whose distribution is almost certain has nothing to share.

What a cluster does depends on keys and distributions, which follow from the past alone, and on random numbers
counted by draw and position. So neither the order of rows in a batch nor other groups change anything.

Cost: keys (N, d) x (d, width) and cosines (G, K, K); the rest is for clustered rows only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samplewise.core.numerics import Ints

from . import counters
from .base import Head, Layout
from .counters import Bits
from .learn import without
from .softmax import Softmax

CERTAIN = 0.999  # a row whose likeliest token has this probability has no choice
TRACE = 1e-4  # probability below which a token is no candidate anywhere in a step


class Keys:
    """Compute the keys of rows, and keep each group's running mean."""

    def __init__(self, head: Head, width: int, centre: bool) -> None:
        dim, device = head.weight.shape[1], head.weight.device
        self.centre, self.projection = centre, None
        if 0 < width < dim:
            generator = torch.Generator()
            generator.manual_seed(width)  # the same projection for every group
            self.projection = (torch.randn(dim, width, generator=generator) / width**0.5).to(device)
        self.dim = dim if self.projection is None else width
        self.sums = torch.zeros(0, self.dim + 1, device=device)  # sum of keys, and their number

    def open(self) -> None:
        self.sums = torch.cat([self.sums, self.sums.new_zeros(1, self.dim + 1)])

    def close(self, index: int) -> None:
        self.sums = without(self.sums, index)

    def raw(self, layout: Layout, deep: Tensor) -> Tensor:
        """Return keys (G, K, r) as they are remembered."""
        states = deep.float()
        return layout.pad(states if self.projection is None else states @ self.projection)

    def unit(self, live: Tensor, raw: Tensor) -> Tensor:
        """Return keys (G, ., r) less the group's mean over earlier steps, at length 1."""
        if self.centre:
            sums = self.sums[live]
            raw = raw - (sums[:, :-1] / sums[:, -1:].clamp(min=1.0))[:, None]
        return torch.nn.functional.normalize(raw, dim=-1)

    def add(self, layout: Layout, live: Tensor, raw: Tensor) -> None:
        if self.centre:
            more = torch.cat([layout.zeroed(raw).sum(1), layout.counts[:, None].float()], dim=1)
            self.sums[live] = self.sums[live] + more


class Clusters(NamedTuple):
    """Q clusters of at most M rows, each in an order of visit that is drawn anew at each step."""

    rows: Tensor  # (Q, M) rows of the batch; gaps repeat the cluster's first
    mask: Tensor  # (Q, M)
    line: Tensor  # (Q,) the row of the layout that holds the cluster's group
    column: Tensor  # (Q, M) the columns of its rows there
    leader: Ints  # (Q,) on the host: the row with the lowest sample index


def forks(layout: Layout, log_probs: Tensor) -> Tensor:
    """Return the rows (G, K) that have a choice."""
    return layout.pad(log_probs.amax(-1)).double().exp().lt(CERTAIN) & layout.mask


def reached(near: Tensor) -> Tensor:
    """Return the transitive closure (G, K, K) of a symmetric relation `near` (G, K, K)."""
    reach, hops = near.float(), 1
    while hops < near.shape[-1] - 1:
        reach, hops = torch.bmm(reach, reach).clamp_(max=1.0), 2 * hops
    return reach > 0


def find_clusters(layout: Layout, near: Tensor, taking: Tensor, order: Bits, least: int) -> Clusters | None:
    """Return the clusters of rows `taking` part (G, K) that have at least `least` rows; None if there are none.

    `near` (G, K, K) says which contexts are similar; rows of a cluster are visited in the order of `order` (N,).
    """
    near = near & taking[:, :, None] & taking[:, None, :]
    first = (
        reached(near).float().argmax(-1).masked_fill(~taking, -1).cpu().numpy()
    )  # (G, K); the only wait for the device
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


class ClusterCandidates(NamedTuple):
    """What the rows of a cluster choose among: its likeliest tokens, and the rest of the vocabulary as one bucket."""

    tokens: Tensor  # (Q, U)
    mass: Tensor  # (Q, M, U + 1) float64 probabilities of each row, the rest last; sums to 1

    @property
    def rest(self) -> int:
        """The index that stands for the rest."""
        return self.tokens.shape[1]


def cluster_candidates(log_probs: Tensor, clusters: Clusters, most: int, filtered: bool) -> ClusterCandidates:
    """Return the candidates of each cluster: the likeliest of any of its rows, at most `most`."""
    values, indices = _likeliest_of_any(log_probs, clusters.rows, min(most, log_probs.shape[-1]))
    num = max(1, int((values.exp() > TRACE).sum(-1).amax()))
    tokens = indices[:, :num]
    mass = log_probs[clusters.rows[:, :, None], tokens[:, None, :]].double().exp()
    if filtered:  # there may be no other token at all, and a difference to 1 would leave it some mass by rounding
        others = log_probs[clusters.rows].scatter(2, tokens[:, None].expand(-1, clusters.rows.shape[1], -1), -math.inf)
        softmax = Softmax(others.flatten(0, 1))
        rest = (softmax.total * softmax.peak[:, 0].double().exp()).nan_to_num(0.0).view(clusters.rows.shape)
    else:
        rest = (1 - mass.sum(-1)).clamp(min=0.0)
    return ClusterCandidates(tokens, torch.cat([mass, rest[..., None]], dim=-1))


def _likeliest_of_any(log_probs: Tensor, rows: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Return the largest log-probabilities (Q, U) that any of the rows (Q, M) gives to a token, and these tokens."""
    if rows.shape[1] == 1:
        values, tokens = log_probs[rows[:, 0]].topk(num, dim=-1)
        return values, tokens
    top = log_probs.topk(num, dim=-1)  # no other token of a row can be among them
    values, order = top.values[rows].flatten(1).sort(dim=-1, descending=True, stable=True)
    tokens = top.indices[rows].flatten(1).gather(1, order)
    tokens, order = tokens.sort(dim=-1, stable=True)
    values = values.gather(1, order)
    values[:, 1:].masked_fill_(tokens[:, 1:] == tokens[:, :-1], -math.inf)  # each token once, with its largest
    values, order = values.sort(dim=-1, descending=True, stable=True)
    return values[:, :num], tokens.gather(1, order[:, :num])


def similarity(head: Head, tokens: Tensor, others: Tensor) -> Tensor:
    """Return how far tokens (Q, U) and others (Q, J) count as synonyms: 0 up to a cosine of 0.5, then rising to 1."""
    return head.cosines(tokens, others).sub_(0.5).mul_(2.0).clamp_(min=0.0)


def chain(head: Head, candidates: ClusterCandidates) -> Tensor:
    """Return orders (Q, U) of the candidates: from the likeliest, always on to the most similar one that is left.

    Similarity is the cosine of head rows. U steps over all clusters at once, on the host, where such small steps are
    cheapest.
    """
    cosine = head.cosines(candidates.tokens, candidates.tokens).cpu().numpy()
    rows = np.arange(len(cosine))
    order = np.zeros(cosine.shape[:2], dtype=np.int64)
    order[:, 0] = candidates.mass[..., :-1].sum(1).argmax(-1).cpu().numpy()
    taken = np.zeros(cosine.shape[:2], dtype=cosine.dtype)
    for step in range(1, candidates.rest):
        last = order[:, step - 1]
        taken[rows, last] = -9.0  # not again
        (cosine[rows, last] + taken).argmax(-1, out=order[:, step])
    return torch.from_numpy(order).to(candidates.tokens.device)


def drawn_within(mass: Tensor, uniforms: Tensor) -> Tensor:
    """Return which bucket (...,) each uniform picks by mass (..., U + 1), which need not sum to 1."""
    upto = mass.cumsum(-1)
    return (upto[..., :-1] <= uniforms[..., None] * upto[..., -1:]).sum(-1)


def drawn_outside(log_probs: Tensor, excluded: Tensor, uniforms: Tensor) -> Tensor:
    """Draw tokens (n,) from distributions (n, V) without the tokens `excluded` (n, U)."""
    return Softmax(log_probs.scatter(1, excluded, -math.inf)).draw(uniforms)[0]


def outside(
    log_probs: Tensor, clusters: Clusters, choice: ClusterCandidates, picked: Tensor, seeds: Bits, at: tuple[Ints, Ints]
) -> Tensor:
    """Return the tokens (Q, M) of `picked` candidates; where a row picked the rest, draw from its own distribution."""
    tokens = choice.tokens.gather(1, picked.clamp(max=choice.rest - 1))
    beyond = ((picked == choice.rest) & clusters.mask).nonzero()
    if len(beyond):
        rows = clusters.rows[beyond[:, 0], beyond[:, 1]]
        host = rows.cpu().numpy()
        own = counters.uniforms(seeds[host], counters.REST, at[0][host], at[1][host])
        drawn = drawn_outside(log_probs[rows], choice.tokens[beyond[:, 0]], torch.from_numpy(own).to(log_probs.device))
        tokens[beyond[:, 0], beyond[:, 1]] = drawn
    return tokens
