"""The distribution a token is drawn from, and the draw, for many rows at once: pure functions of tensors.

The distribution is that of engines/distribution.py, row by row, each row with its own sampling; a test compares the
two. Its precision is that of explore/softmax.py. Cost: a pass over the vocabulary for log-probabilities at temperature
1, and a second one where rows have another temperature. Rows with a filter also sort their likeliest tokens. Every
filter keeps the first tokens of that order, so the rest is sorted only where a filter keeps all that were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from samplewise.core.types import Sampling
from samplewise.explore.base import Advice
from samplewise.explore.softmax import Softmax, pick_by_mass, row_parts

# Logits and log-probabilities (N, V) of all rows -> advice for some of them.
Advise = Callable[[Tensor, Tensor], Sequence[Advice]]

FIRST = 128  # tokens that are sorted at first, on a CPU
MORE = 16  # times as many are sorted next
SORT_BYTES = 32  # for each token that is sorted


class Filters(NamedTuple):
    """The sampling of N rows. The flags say what at least one row needs; the rest is skipped."""

    temperature: Tensor  # (N,) 0: greedy
    top_k: Tensor  # (N,) 0: off
    top_p: Tensor  # (N,)
    min_p: Tensor  # (N,)
    tempered: bool = True  # the mass of all tokens at a temperature that is not 1
    filtered: bool = True  # top-k, top-p, min-p or greedy

    @classmethod
    def of(cls, kinds: Iterable[Sampling], temperature: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Filters:
        """Set the flags by what at least one of `kinds` needs."""
        some = list(kinds)
        return cls(
            temperature,
            top_k,
            top_p,
            min_p,
            # Top-k and min-p need no mass but that of the tokens they keep.
            tempered=any(kind.temperature not in (0, 1) and (kind.top_p < 1 or not _filters(kind)) for kind in some),
            filtered=any(map(_filters, some)),
        )

    def rows(self, index: Tensor) -> Filters:
        return self._replace(
            temperature=self.temperature[index],
            top_k=self.top_k[index],
            top_p=self.top_p[index],
            min_p=self.min_p[index],
        )

    @property
    def divisor(self) -> Tensor:
        return torch.where(self.greedy, 1.0, self.temperature)

    @property
    def greedy(self) -> Tensor:
        return self.temperature == 0

    @property
    def active(self) -> Tensor:
        """The rows (N,) that do not draw from the whole vocabulary."""
        return self.greedy | (self.top_k > 0) | (self.top_p < 1) | (self.min_p > 0)


def _filters(kind: Sampling) -> bool:
    return kind.temperature == 0 or kind.top_k > 0 or kind.top_p < 1 or kind.min_p > 0


class TokenDraws(NamedTuple):
    tokens: Tensor  # (N,) int64
    logp: Tensor  # (N,) float64, under the model at temperature 1
    logq: Tensor  # (N,) float64, under the distribution drawn from, before any ban
    stuck: Tensor  # (N,) bool: nothing was left to draw
    statistics: Tensor  # (N, 1 + E) float64: certainty, and log Z at each exponent; (N, 0) where they are not wanted


def draw(
    logits: Tensor,
    filters: Filters,
    uniforms: Tensor,
    pick: Tensor | None = None,
    banned: Tensor | None = None,
    exponents: Tensor | None = None,
    advise: Advise | None = None,
) -> TokenDraws:
    """Draw one token for each of N rows.

    `logits` (M, V); row n reads `logits[pick[n]]`, or `logits[n]`. `uniforms` (N,) in [0, 1). `banned` (N,) is a token
    that is not drawn, or -1; it leaves `logq` as it was (engines/toy.py). `statistics` are wanted at `exponents`
    (N, E), each of which costs another pass over the vocabulary. `advise` is called once, about all rows. Rows without
    advice draw as they would without it.
    """
    plain = Softmax(logits, pick)
    tempered = Softmax(logits, pick, filters.divisor, plain.peak) if filters.tempered else plain
    log_probs = tempered.dense() if advise else None
    tokens, stuck = _drawn(tempered, uniforms, banned)
    logq = tempered.log_probs(tokens[:, None])[:, 0]
    for rows, ids, kept in _kept(tempered, filters) if filters.filtered else ():
        active = filters.active[rows]
        picked, none = _drawn_of(ids, kept, uniforms[rows], None if banned is None else banned[rows])
        tokens[rows] = torch.where(active, ids.gather(1, picked)[:, 0], tokens[rows])
        logq[rows] = torch.where(active, kept.gather(1, picked)[:, 0], logq[rows])
        stuck[rows] = torch.where(active, none, stuck[rows])
        if log_probs is not None:
            cut = log_probs.new_full((len(rows), plain.vocab), -math.inf).scatter_(1, ids, kept.to(log_probs.dtype))
            log_probs[rows] = torch.where(active[:, None], cut, log_probs[rows])
    if advise and log_probs is not None:
        for advice in advise(plain.lines(slice(0, len(plain))), log_probs):
            rows = advice.rows
            if advice.log_probs is not None:
                guided = Softmax(advice.log_probs)
                tokens[rows], stuck[rows] = _drawn(guided, uniforms[rows], None if banned is None else banned[rows])
                logq[rows] = guided.log_probs(tokens[rows][:, None])[:, 0]
            else:
                assert advice.tokens is not None
                assert advice.logq is not None
                tokens[rows], logq[rows] = advice.tokens, advice.logq
    statistics = logq.new_zeros(len(plain), 0) if exponents is None else token_statistics(plain, exponents)
    return TokenDraws(tokens, plain.log_probs(tokens[:, None])[:, 0], logq, stuck, statistics)


def token_statistics(plain: Softmax, exponents: Tensor) -> Tensor:
    """Return certainty and log Z (N, 1 + E) at exponents (N, E): as in distribution.py."""
    log_total = plain.total.log()
    mean = torch.cat([plain.lines(part).double().mean(-1) for part in plain.parts()])
    columns = [log_total + plain.peak[:, 0].double() - mean - math.log(plain.vocab)]
    for exponent in exponents.unbind(1):
        power = Softmax(plain.logits, plain.pick, 1 / exponent, plain.peak)
        columns.append(power.total.log() - exponent * log_total)
    return torch.stack(columns, dim=1)


def _drawn(softmax: Softmax, uniforms: Tensor, banned: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a token (N,) for each row, and where (N,) there is none."""
    if banned is None:
        return softmax.draw(uniforms)[0], ~(softmax.total > 0)
    tokens, stuck = [], []
    for part in softmax.parts():  # with peaks of their own: a ban may leave nothing but unlikely tokens
        divisor = None if softmax.divisor is None else softmax.divisor[part, 0]
        allowed = Softmax(_without(softmax.lines(part), banned[part]), None, divisor)
        tokens.append(allowed.draw(uniforms[part])[0])
        stuck.append(~(allowed.total > 0))
    return torch.cat(tokens), torch.cat(stuck)


def _drawn_of(ids: Tensor, log_probs: Tensor, uniforms: Tensor, banned: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return which column (n, 1) of tokens (n, C) each row draws, and where (n,) there is none."""
    order = ids.argsort(-1)
    mass = log_probs.exp()
    if banned is not None:
        mass = mass.masked_fill(ids == banned[:, None], 0.0)
    mass = mass.gather(1, order)
    return order.gather(1, pick_by_mass(mass, uniforms)[0][:, None]), ~(mass.sum(-1) > 0)


def _kept(softmax: Softmax, filters: Filters) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield rows (n,), their likeliest tokens (n, C), and the log-probabilities (n, C) float64 that these are drawn
    with: -inf where a filter cuts. Each row that has a filter is in one part.

    On a CPU, few tokens are sorted at first. Elsewhere all are, and for all rows: who needs it the device alone knows.
    """
    device, vocab = softmax.logits.device, softmax.vocab
    is_host = _on_host(device)
    rows = torch.arange(len(softmax), device=device)
    rows, size = (rows[filters.active], min(FIRST, vocab)) if is_host else (rows, vocab)
    while len(rows):
        later = []
        for part in row_parts(len(rows), 4 * vocab + SORT_BYTES * size, device):
            some = rows[part]
            mine = filters.rows(some)
            values, ids = _likeliest(softmax.lines(some), size)
            log_mass = (values.double() - softmax.peak[some].double()) / mine.divisor[:, None]
            passes = _passes(log_mass, mine, softmax.total[some])
            if size < vocab:
                # Tokens as likely as the last one here may be missing, and of these the lowest ids come first.
                whole = passes[:, 0] & ~(passes & (values == values[:, -1:])).any(-1)
                later.append(some[~whole])
                some, ids, log_mass, passes = (column[whole] for column in (some, ids, log_mass, passes))
            if is_host:
                widest = int(passes.sum(-1).max()) if len(some) else 0
                ids, log_mass, passes = (column[:, : max(1, widest)] for column in (ids, log_mass, passes))
            yield some, ids, torch.log_softmax(log_mass.masked_fill(~passes, -math.inf), dim=-1)
        if size == vocab:
            return
        rows, size = torch.cat(later), min(vocab, MORE * size)


def _on_host(device: torch.device) -> bool:
    """Return whether the values of a tensor can be looked at without waiting."""
    return device.type == "cpu"


def _likeliest(lines: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the `size` largest logits (n, C) and their tokens, in descending order, ties by the lowest id. Which of
    those that tie with the last are among them is open."""
    if size == lines.shape[1]:
        return lines.sort(dim=-1, descending=True, stable=True)
    values, ids = lines.topk(size, dim=-1, sorted=False)
    ids, order = ids.sort(dim=-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    return values, ids.gather(1, order)


def _passes(log_mass: Tensor, filters: Filters, total: Tensor) -> Tensor:
    """Return which tokens (n, C), in descending order, all filters keep: the first of them. Each filter looks at the
    unfiltered distribution, whose mass is `total` (n,)."""
    mass = log_mass.exp()
    before = mass.cumsum(-1) - mass  # of the likelier tokens: the token that crosses top_p is kept
    rank = torch.arange(log_mass.shape[1], device=log_mass.device)
    passes = log_mass > -math.inf
    passes &= rank < torch.where(filters.top_k > 0, filters.top_k, len(rank)).masked_fill(filters.greedy, 1)[:, None]
    passes &= before < torch.where(filters.top_p < 1, filters.top_p * total, math.inf)[:, None]
    passes &= log_mass >= filters.min_p.log()[:, None]
    return passes


def _without(logits: Tensor, banned: Tensor) -> Tensor:
    index = banned.clamp(min=0)[:, None]
    kept = logits.gather(1, index).masked_fill((banned >= 0)[:, None], -math.inf)
    return logits.scatter(1, index, kept)
