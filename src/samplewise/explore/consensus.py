"""Consensus: the draws of a group reason apart, and then decode one answer together (arXiv 2605.28142).

Let z_i be what draw i said up to the cue, p the distribution that rows are drawn from (temperature and filters
applied), and y the answer's tokens so far. From where the N draws of a group have met, all of them take the same token,
drawn from

    q(v | y)  in proportion to  (sum_i w_i p(v | x, z_i, y))^gamma
    w_i       in proportion to  p(y | x, z_i), at first 1/N

At gamma 1 the answer as a whole has the distribution sum_i p(. | x, z_i) / N: that of one trace picked at random, and
an answer drawn from it. Above 1 each token is sharpened in its turn, which favors answers that many traces lead to.
That is not the gamma-th power of the distribution of whole answers, as a temperature is not power sampling.

Before they meet, and for a draw that is not among them, the policy does nothing. When rows wait and when they meet is
the engine's part (`ExploreSettings.meets_at`); a row that has ended, or has too few tokens left, is no member. So the
mixture is over the traces that come to the cue in time.

Randomness: the uniform of the member of the lowest index, at its own position. With one member and gamma 1 there is no
advice at all, and the engine draws what it would without the policy. Cost: for each token of the answer a pass over the
members' log-probabilities (m, V), and no request more.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .base import Advice, Head, PolicyStep, TokenPolicy
from .settings import Consensus
from .softmax import Softmax


class _Group:
    """What is known of a group: its members, and the log-probability (m,) of the answer so far under each."""

    __slots__ = ("log_weights", "num_members", "samples", "seen", "shared")

    def __init__(self) -> None:
        self.samples: list[int] = []  # ascending
        self.log_weights = torch.zeros(0, dtype=torch.float64)
        self.num_members = self.seen = self.shared = 0

    def keep(self, samples: list[int], device: torch.device) -> Tensor:
        """Return the log-weights (m,) of the members that are still here. The first call says who they are."""
        if not self.num_members:
            self.samples, self.num_members = samples, len(samples)
            self.log_weights = torch.zeros(len(samples), dtype=torch.float64, device=device)
        elif samples != self.samples:  # somebody has left before the others
            kept = [self.samples.index(sample) for sample in samples]
            self.samples, self.log_weights = samples, self.log_weights[kept]
        return self.log_weights


class ConsensusPolicy(TokenPolicy):
    """Serve all groups of one `Consensus`."""

    def __init__(self, settings: Consensus, head: Head) -> None:
        self.gamma = float(settings.gamma)
        self.groups: list[_Group] = []

    def open(self, seed: int) -> None:
        self.groups.append(_Group())

    def close(self, index: int) -> Mapping[str, float]:
        """Return `seen` and `guided` (rows), `members` (draws that met), and `effective_members`: 1 / sum w^2 over the
        members at the end, nan where nobody met."""
        group = self.groups.pop(index)
        weights = group.log_weights.softmax(0)
        effective = float(1 / weights.square().sum()) if len(weights) else float("nan")
        return {
            "seen": float(group.seen),
            "guided": float(group.shared),
            "members": float(group.num_members),
            "effective_members": effective,
        }

    def advise(self, rows: PolicyStep) -> Advice | None:
        layout, met = rows.layout, rows.met
        for index, count in zip(layout.live.tolist(), layout.counts.tolist(), strict=True):
            self.groups[index].seen += int(count)
        if met is None or not met.any():
            return None
        if rows.uniforms is None:
            raise ValueError("consensus draws with the engine's uniforms, and this engine hands over none")
        members, tokens, logq = [], [], []
        for index in np.unique(layout.group[met]).tolist():
            host = np.flatnonzero(met & (layout.group == index))
            host = host[np.argsort(layout.sample[host])]
            group, some = self.groups[index], torch.from_numpy(host).to(rows.log_probs.device)
            log_weights = group.keep(layout.sample[host].tolist(), rows.log_probs.device)
            log_probs = rows.log_probs[some]
            group.shared += len(host)
            if len(host) == 1 and self.gamma == 1.0:
                continue  # the engine's own draw, to the bit
            answer = Softmax(mixture(log_probs, log_weights, self.gamma)[None])
            token = answer.draw(rows.uniforms[some[:1]])[0]
            group.log_weights = log_weights + log_probs[:, token[0]].double()
            members.append(some)
            tokens.append(token.expand(len(some)))
            logq.append(answer.log_probs(token[:, None])[0].expand(len(some)))
        if not members:
            return None
        return Advice(torch.cat(members), tokens=torch.cat(tokens), logq=torch.cat(logq))


def mixture(log_probs: Tensor, log_weights: Tensor, gamma: float) -> Tensor:
    """Return gamma log sum_i w_i p_i (V,), up to a constant, of log-probabilities (m, V) and unnormalized log-weights
    (m,), nats. Equation of arXiv 2605.28142 for one token of the answer."""
    weights = log_weights - log_weights.logsumexp(0)
    return gamma * (log_probs + weights.to(log_probs.dtype)[:, None]).logsumexp(0)
