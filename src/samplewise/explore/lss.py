"""Latent stratified sampling: remember which tokens the group took in similar contexts, and draw to even it out.

For a row with key k and distribution p (temperature and filters applied), over the group's draws (k_j, z_j) so far:

    w_j  = exp(-(1 - k . k_j) / sigma)            similarity of contexts            N = sum_j w_j
    n(z) = sum_j w_j S(z, z_j)                    what the group took here          S: synonyms share counts
    m(z) = N sum_z' S(z, z') p(z')                what it should have taken
    p'(z) in proportion to p(z) clip(((m + c) / (n + c))^strength, e^-limit, e^limit), then (1 - safe) p' + safe p

Where the states of a model all point in much the same direction, unrelated contexts look similar. So sigma is at most
what the settings say, and small enough that the median of a group's earlier draws, nearly all of them at other
positions, weighs `background`.

This stratifies and does not flatten: branches that were taken too often go down, those taken too seldom go up, towards
the model's own proportions. A token with little p and no likely synonym has m and n near 0 and keeps its odds: junk is
not promoted.

Rows of a step are visited one after another in a random order, each seeing what those before it drew. Without that
(`lag`), rows in lockstep never meet a context that the memory has. So the policy draws its own tokens. Only candidates
change; the rest of the vocabulary is one more bucket with factor 1. Only rows with a choice are remembered, and a row
acts only where some other draw's context is near.

Cost: keys (N, d) x (d, r); cosines (G, K, K) and (G, K, memory); for acting rows the candidates' directions (Q, U, d),
and one short loop over the rows of a cluster, all clusters at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from samplewise.core.numerics import Floats, Ints

from . import counters
from .base import Advice, Head, Layout, PolicyStep, TokenPolicy
from .clusters import (
    ClusterCandidates,
    Clusters,
    Keys,
    cluster_candidates,
    drawn_within,
    find_clusters,
    forks,
    outside,
    similarity,
)
from .learn import without
from .settings import Lss

NEAR = 0.01  # a weight w from which a context counts as near
FIRST = 64  # draws that a memory has room for at first
NEAREST = 64  # draws that a cluster looks up in the memory
LEAST = 1e-4  # sigma, below which only equal contexts would count
SAMPLED = 64  # draws in memory that the median distance is taken over, a step


class LssPolicy(TokenPolicy):
    """Serve all groups of one `Lss`."""

    def __init__(self, settings: Lss, head: Head) -> None:
        self.settings, self.head = settings, head
        self.keys = Keys(head, settings.width, settings.centre)
        self.seeds = np.zeros(0, dtype=np.uint64)
        self.held = np.zeros(0, dtype=np.int64)  # draws of a group that its memory ever got
        self.tally = np.zeros((0, 3))  # rows seen, rows that acted, log(q / p) of their draws in nats
        self.apart = np.zeros((0, 2))  # sum over steps of the median 1 - cosine to earlier draws, and how many steps
        device = head.weight.device
        self.memory = torch.zeros(0, min(FIRST, settings.memory), self.keys.dim, device=device)  # raw keys, a ring
        self.taken = torch.zeros(0, self.memory.shape[1], dtype=torch.int64, device=device)
        self._last: tuple[Layout, Tensor, Tensor] | None = None

    def open(self, seed: int) -> None:
        self.keys.open()
        self.seeds = np.append(self.seeds, np.uint64(seed))
        self.held = np.append(self.held, 0)
        self.tally = np.concatenate([self.tally, np.zeros((1, 3))])
        self.apart = np.concatenate([self.apart, np.zeros((1, 2))])
        self.memory = torch.cat([self.memory, self.memory.new_zeros(1, *self.memory.shape[1:])])
        self.taken = torch.cat([self.taken, self.taken.new_zeros(1, self.taken.shape[1])])

    def close(self, index: int) -> Mapping[str, float]:
        seen, guided, gained = self.tally[index].tolist()
        remembered = float(min(self.held[index], self.settings.memory))
        self.keys.close(index)
        self.seeds, self.held = np.delete(self.seeds, index), np.delete(self.held, index)
        sigma = float(self._sigma(np.array([index]))[0])
        self.tally, self.apart = (np.delete(each, index, axis=0) for each in (self.tally, self.apart))
        self.memory, self.taken = without(self.memory, index), without(self.taken, index)
        self._last = None
        numbers = {"seen": seen, "guided": guided, "remembered": remembered, "sigma": sigma}
        return {**numbers, "divergence_nats": gained / seen} if seen else numbers  # KL(q || p)

    # ------------------------------------------------------------------------------------------------------- a step

    def advise(self, rows: PolicyStep) -> Advice | None:
        settings, layout, log_probs = self.settings, rows.layout, rows.log_probs
        self.tally[layout.live, 0] += layout.counts.cpu().numpy()
        if settings.strength == 0:
            return None
        taking = forks(layout, log_probs)
        live = torch.from_numpy(layout.live).to(log_probs.device)
        raw = self.keys.raw(layout, rows.deep)
        self._last = (layout, raw, taking)
        if not bool(taking.any()):
            return None
        unit = self.keys.unit(live, raw)
        past, sigma = self._past(layout, live, unit)  # (G, K, memory) w
        siblings = torch.exp((torch.bmm(unit, unit.transpose(1, 2)) - 1) / sigma)  # (G, K, K) w
        siblings = siblings * (taking[:, :, None] & taking[:, None, :])
        siblings.diagonal(dim1=1, dim2=2).zero_()
        acting = taking & ((past.sum(-1) > NEAR) | (siblings.sum(-1) > NEAR) & (not settings.lag))
        if not bool(acting.any()):
            return None
        near = (siblings > NEAR) if not settings.lag else torch.zeros_like(siblings, dtype=torch.bool)
        near = near | torch.eye(near.shape[1], dtype=torch.bool, device=near.device)
        seeds, at = self.seeds[layout.group], (layout.sample, rows.position)
        clusters = find_clusters(layout, near, acting, counters.random_bits(seeds, counters.ORDER, *at), least=1)
        assert clusters is not None, "acting rows are in clusters"
        choice = cluster_candidates(log_probs, clusters, settings.candidates, rows.filtered)
        uniform = torch.from_numpy(counters.uniforms(seeds, counters.DRAW, *at)).to(log_probs.device)[clusters.rows]
        picked, logq = self._drawn(layout, clusters, choice, siblings, past, uniform)
        tokens = outside(log_probs, clusters, choice, picked, seeds, at)
        plain = choice.mass[..., -1].clamp(min=1e-300).log()
        beyond = log_probs[clusters.rows, tokens].double() - plain  # of a token, given that it is the rest
        logq = torch.where(picked == choice.rest, logq + beyond, logq)
        act, taken, logq = clusters.rows[clusters.mask], tokens[clusters.mask], logq[clusters.mask]
        gained = (logq - log_probs[act, taken].double()).cpu().numpy()
        whose = layout.group[act.cpu().numpy()]
        self.tally[:, 1] += np.bincount(whose, minlength=len(self.tally))
        self.tally[:, 2] += np.bincount(whose, weights=gained, minlength=len(self.tally))
        return Advice(act, tokens=taken, logq=logq)

    def _past(self, layout: Layout, live: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (G, K, J) of the draws in memory, and sigma (G, 1, 1)."""
        held = np.minimum(self.held[layout.live], self.settings.memory)
        upto = int(held.max())
        memory = self.memory[:, :upto] if len(live) == len(self.memory) else self.memory[live, :upto]
        apart = 1 - torch.bmm(unit, self.keys.unit(live, memory).transpose(1, 2))
        there = (torch.arange(upto) < torch.from_numpy(held)[:, None]).to(unit.device)[:, None]
        if upto and self.settings.background:
            few = slice(None, None, -(-upto // SAMPLED))
            some = torch.where(there[..., few] & layout.mask[..., None], apart[..., few], torch.nan)
            middle = some.flatten(1).nanmedian(dim=1).values.double().cpu().numpy()
            known = np.isfinite(middle)
            self.apart[layout.live[known]] += np.stack([middle[known], np.ones(int(known.sum()))], axis=1)
        sigma = torch.from_numpy(self._sigma(layout.live)).to(unit.device, unit.dtype)[:, None, None]
        return torch.exp(-apart / sigma) * there, sigma

    def _sigma(self, indices: Ints) -> Floats:
        """Return sigma (G,) of groups, by the distances that they have seen."""
        total, steps = self.apart[indices].T
        most = np.full(len(indices), self.settings.sigma)
        if not self.settings.background:
            return most
        middle = np.divide(total, steps, out=np.full(len(indices), np.inf), where=steps > 0)
        sigma: Floats = np.clip(middle / -math.log(self.settings.background), LEAST, most)
        return sigma

    def _drawn(
        self,
        layout: Layout,
        clusters: Clusters,
        choice: ClusterCandidates,
        siblings: Tensor,
        past: Tensor,
        uniform: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return what each row picks (Q, M) among the candidates, U for the rest, and log-probabilities (Q, M)."""
        settings, (num, most) = self.settings, clusters.mask.shape
        alike = similarity(self.head, choice.tokens, choice.tokens)  # (Q, U, U) S
        expected = (choice.mass[..., :-1].float() @ alike).double()  # (Q, M, U), of one draw here
        line = clusters.line[:, None]
        counts = torch.zeros_like(expected)  # n
        weight = counts.new_zeros(num, most)  # N
        if past.shape[-1]:
            weights = past[line, clusters.column]  # (Q, M, J)
            top = weights.amax(1).topk(min(NEAREST, weights.shape[-1]), dim=-1).indices  # (Q, J)
            weights = weights.gather(2, top[:, None].expand(-1, most, -1))
            live = torch.from_numpy(layout.live).to(top.device)
            others = self.taken[live[clusters.line][:, None], top]
            counts = (weights @ similarity(self.head, choice.tokens, others).transpose(1, 2)).double()
            weight = weights.double().sum(-1)
        if settings.lag or most == 1:
            mass = self._moved(choice.mass, expected, counts, weight)
            picked = drawn_within(mass, uniform)
            return picked, _log_picked(mass, picked)
        pairs = siblings[
            line[..., None], clusters.column[:, :, None], clusters.column[:, None, :]
        ].double()  # (Q, M, M)
        pairs = pairs * clusters.mask[:, :, None]  # a gap without a row draws nothing that counts
        columns = (
            torch.nn.functional.pad(alike, (0, 1)).transpose(1, 2).double()
        )  # (Q, U + 1, U): the rest has no synonyms
        each, everyone, logs = torch.arange(num, device=alike.device), [], []
        for turn in range(most):
            mass = self._moved(choice.mass[:, turn], expected[:, turn], counts[:, turn], weight[:, turn])
            picked = drawn_within(mass, uniform[:, turn])
            everyone.append(picked)
            logs.append(_log_picked(mass, picked))
            counts.addcmul_(pairs[:, turn, :, None], columns[each, picked][:, None])
            weight += pairs[:, turn]
        return torch.stack(everyone, dim=1), torch.stack(logs, dim=1)

    def _moved(self, mass: Tensor, expected: Tensor, counts: Tensor, weight: Tensor) -> Tensor:
        """Return the masses (..., U + 1) that are drawn from, up to a factor; the rest keeps its settings."""
        settings = self.settings
        more = torch.log((weight[..., None] * expected + settings.count) / (counts + settings.count)).mul_(
            settings.strength
        )
        moved = mass * torch.nn.functional.pad(more.clamp_(-settings.limit, settings.limit), (0, 1)).exp_()
        return (
            (1 - settings.safe) * moved / moved.sum(-1, keepdim=True) + settings.safe * mass if settings.safe else moved
        )

    def _grow(self, num: int) -> None:
        """Make room for `num` draws of a group, up to the limit at which the ring closes."""
        size = self.memory.shape[1]
        if num > size < self.settings.memory:
            more = min(self.settings.memory, max(num, 2 * size)) - size
            self.memory = torch.nn.functional.pad(self.memory, (0, 0, 0, more))
            self.taken = torch.nn.functional.pad(self.taken, (0, more))

    def took(self, tokens: Tensor) -> None:
        if self._last is None:
            return
        (layout, raw, taking), self._last = self._last, None
        live = torch.from_numpy(layout.live).to(raw.device)
        self.keys.add(layout, live, raw)
        host = taking.cpu().numpy()
        rank, counts = host.cumsum(1) - 1, host.sum(1)
        line, column = np.nonzero(host & (rank >= (counts - self.settings.memory)[:, None]))  # the last that fit
        if len(line) == 0:
            return
        self._grow(int((self.held[layout.live] + counts).max()))
        index = layout.live[line]
        slot = self.held[index] + rank[line, column]
        slots, indices = (torch.from_numpy(each).to(raw.device) for each in (slot % self.settings.memory, index))
        lines, columns = (torch.from_numpy(each).to(raw.device) for each in (line, column))
        self.memory[indices, slots] = raw[lines, columns]
        self.taken[indices, slots] = layout.pad(tokens)[lines, columns]
        self.held[layout.live] += counts


def _log_picked(mass: Tensor, picked: Tensor) -> Tensor:
    """Return the log-probabilities (...,) of what was picked."""
    return torch.log(mass.gather(-1, picked[..., None])[..., 0] / mass.sum(-1))
