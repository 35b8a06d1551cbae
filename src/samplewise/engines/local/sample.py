"""The law a token is drawn from, and the draw, for many rows at once: pure functions of tensors.

The law is that of engines/law.py, row by row, with every row's own sampling; a test holds the two against each other.
Everything is float64, so that the sum over a vocabulary of 150,000 words does not eat the tail: `logq` is the
log-probability of the draw to about 1e-15, given the logits. Cost: one softmax per row, and one sort for rows that cut
by rank or by mass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from samplewise.explore.base import Advice
from samplewise.types import Sampling

# Logits and laws (N, V) of all rows to what to do with some of them.
Advise = Callable[[Tensor, Tensor], Sequence[Advice]]

SCRATCH_BYTES = 1 << 28  # float64 laws held at once
LAWS = 5  # of a row that are held together


class Filters(NamedTuple):
    """The sampling of N rows. The flags say what at least one row needs, so that the rest is skipped."""

    temperature: Tensor  # (N,) 0: greedy
    top_k: Tensor  # (N,) 0: off
    top_p: Tensor  # (N,)
    min_p: Tensor  # (N,)
    tempered: bool = True
    greedy: bool = True
    ranked: bool = True  # top-k or top-p
    cut: bool = True  # min-p

    @classmethod
    def of(cls, kinds: Iterable[Sampling], temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Filters:
        """The columns, and what at least one of `kinds` needs."""
        some = list(kinds)
        return cls(
            temperature,
            top_k,
            top_p,
            min_p,
            tempered=any(kind.temperature != 1 for kind in some),
            greedy=any(kind.temperature == 0 for kind in some),
            ranked=any(kind.top_k > 0 or kind.top_p < 1 for kind in some),
            cut=any(kind.min_p > 0 for kind in some),
        )

    def rows(self, part: slice) -> Filters:
        return self._replace(
            temperature=self.temperature[part],
            top_k=self.top_k[part],
            top_p=self.top_p[part],
            min_p=self.min_p[part],
        )


class Drawn(NamedTuple):
    tokens: Tensor  # (N,) int64
    logp: Tensor  # (N,) float64, under the model at temperature 1
    logq: Tensor  # (N,) float64, under the law drawn from, before any ban
    stuck: Tensor  # (N,) bool: nothing was left to draw
    marks: Tensor  # (N, 1 + E) float64: certainty, and log Z at each exponent; (N, 0) where they are not wanted


def draw(
    logits: Tensor,
    filters: Filters,
    uniforms: Tensor,
    pick: Tensor | None = None,
    banned: Tensor | None = None,
    exponents: Tensor | None = None,
    advise: Advise | None = None,
) -> Drawn:
    """One token for each of N rows.

    `logits` (M, V); row n reads line `pick[n]`, or line n. `uniforms` (N,) in [0, 1). `banned` (N,) is a token that is
    not drawn, or -1; it leaves `logq` as it was (engines/toy.py). `exponents` (N, E): what `marks` are wanted at, for
    the price of another pass over the vocabulary each. `advise` is asked once, about all rows, as those that explore
    must not be looked at in parts: the others draw as they would without it.
    """
    num = len(uniforms)
    size = num if advise else max(1, SCRATCH_BYTES // (8 * LAWS * logits.shape[-1]))
    parts = []
    for start in range(0, num, size):
        part = slice(start, min(num, start + size))
        lines = logits[part] if pick is None else logits.index_select(0, pick[part])
        logp = log_probs(lines)
        law = log_law(logp, filters.rows(part))
        given: list[Advice] = []
        for advice in advise(lines, law) if advise else ():
            if advice.law is None:
                given.append(advice)
            else:  # not in place: the law may be the very tensor that holds the log-probabilities
                law = law.index_copy(0, advice.rows, advice.law)
        allowed = law if banned is None else _without(law, banned[part])
        tokens, stuck = draw_tokens(allowed, uniforms[part])
        logq = law.gather(1, tokens[:, None])[:, 0]
        for advice in given:
            assert advice.tokens is not None
            assert advice.logq is not None
            tokens = tokens.index_copy(0, advice.rows, advice.tokens)
            logq = logq.index_copy(0, advice.rows, advice.logq)
        index = tokens[:, None]
        noted = logp.new_zeros(len(logp), 0) if exponents is None else marks(logp, exponents[part])
        parts.append(Drawn(tokens, logp.gather(1, index)[:, 0], logq, stuck, noted))
    return parts[0] if len(parts) == 1 else Drawn(*(torch.cat(column) for column in zip(*parts, strict=True)))


def marks(logp: Tensor, exponents: Tensor) -> Tensor:
    """Certainty and log Z (N, 1 + E), as in engines/law.py, of log-probabilities (N, V) and exponents (N, E)."""
    columns = [-logp.mean(-1) - math.log(logp.shape[-1])]
    columns += [torch.logsumexp(logp * exponents[:, i : i + 1], dim=-1) for i in range(exponents.shape[1])]
    return torch.stack(columns, dim=1)


def log_probs(logits: Tensor) -> Tensor:
    """Log-probabilities (..., V) at temperature 1, float64, nats."""
    return torch.log_softmax(logits, dim=-1, dtype=torch.float64)


def log_law(logp: Tensor, filters: Filters) -> Tensor:
    """Log-probabilities (N, V) that tokens are drawn from; -inf where they are cut."""
    law = logp
    if filters.tempered:
        heat = torch.where(filters.temperature > 0, filters.temperature, 1.0)
        law = torch.log_softmax(logp / heat[:, None], dim=-1)
    if filters.ranked or filters.cut:
        keep = torch.isfinite(law)
        if filters.cut:
            keep &= law >= law.amax(-1, keepdim=True) + filters.min_p.log()[:, None]
        if filters.ranked:
            rows = ((filters.top_k > 0) | (filters.top_p < 1)).nonzero()[:, 0]
            keep[rows] &= _ranked(law[rows], filters.top_k[rows], filters.top_p[rows])
        law = torch.log_softmax(law.masked_fill(~keep, -math.inf), dim=-1)
    if filters.greedy:
        best = torch.full_like(law, -math.inf).scatter_(1, logp.argmax(-1, keepdim=True), 0.0)
        law = torch.where((filters.temperature == 0)[:, None], best, law)
    return law


def draw_tokens(law: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens (N,) that `uniforms` pick by the inverse of each distribution function; true where none can be."""
    upto = law.exp().cumsum_(-1)
    total = upto[:, -1:]
    # Below the total, so that the search cannot run past the last token that has mass.
    goal = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(upto, goal, right=True)[:, 0]
    return tokens.clamp_(max=law.shape[-1] - 1), ~(total[:, 0] > 0)


def _ranked(law: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Where (N, V) top-k and top-p keep a token; each looks at the law before any cut."""
    ordered, order = law.sort(dim=-1, descending=True, stable=True)  # ties to the lowest id
    mass = ordered.exp()
    before = mass.cumsum(-1) - mass  # of the likelier tokens: the token that crosses top_p is kept
    ranks = torch.arange(law.shape[-1], device=law.device)
    keep = ranks < torch.where(top_k > 0, top_k, law.shape[-1])[:, None]
    keep &= before < torch.where(top_p < 1, top_p, math.inf)[:, None]
    return torch.zeros_like(keep).scatter_(1, order, keep)


def _without(law: Tensor, banned: Tensor) -> Tensor:
    some = banned >= 0
    index = banned.clamp(min=0)[:, None]
    kept = law.gather(1, index).masked_fill(some[:, None], -math.inf)
    return law.scatter(1, index, kept)
