"""The contract between an engine and a token policy, and the shapes of its data.

At each step the engine hands over an `EngineStep`: its rows, with the deep state that enters the head, the shallow
state after the first block where a policy needs it, raw logits, and the log-probabilities that it would draw from
(temperature and filters applied). It gets back `Advice` for some rows: another distribution to draw from with the
engine's own uniform, or a token that is already drawn, with its log-probability. Rows without advice are drawn as
before, bit for bit. After the draw the engine hands over the tokens. It guarantees that each kept token was seen
exactly once, and no other row ever.

Filters are applied before a policy sees the distribution, so they act on the reference distribution at its
temperature, and both terms of a mixture are divided by the temperature. A filtered token (-inf) keeps probability 0.

The rows of groups are laid out as (G, K): groups by draws in the order of their index. So neither the order of the
batch nor other groups in it change what a group does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplewise.core.errors import SetupError
from samplewise.core.numerics import Ints

Flags = NDArray[np.bool_]
SMALL = 1024  # vocabulary size up to which all cosines are kept
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of head(deep) against logits, relative; else 2e-2


class EngineStep(NamedTuple):
    """What an engine hands over at a step: N rows, in any order. Counters are on the host, where engines keep them."""

    group: Ints  # (N,) the number that `Explorer.open` returned, or -1: draws plainly
    sample: Ints  # (N,) index of the draw within its group
    position: Ints  # (N,) tokens drawn before this one
    temperature: Tensor  # (N,) above 0
    logits: Tensor  # (N, V) raw
    log_probs: Tensor  # (N, V) temperature and filters applied, -inf is cut; float32 where V is large (softmax.py)
    deep: Tensor  # (N, d) what enters the head
    shallow: Tensor | None  # (N, d) after the first block; None where no policy asks for it
    filtered: bool = True  # whether `log_probs` may hold -inf
    uniforms: Tensor | None = None  # (N,) float64 in [0, 1): what the engine draws each row's token with
    met: Flags | None = None  # (N,) rows whose group has met (`ExploreSettings.meets_at`); None: none has


class Advice(NamedTuple):
    """What to do with some rows: draw from `log_probs`, or take `tokens`."""

    rows: Tensor  # (n,) int64, different
    log_probs: Tensor | None = None  # (n, V) float32 or float64 log-probabilities
    tokens: Tensor | None = None  # (n,) int64
    logq: Tensor | None = None  # (n,) float64 nats


class Layout:
    """Rows as (G, K), group by draw. `live` (G,) are the indices of the groups that have rows, ascending."""

    def __init__(self, group: Ints, sample: Ints, device: torch.device) -> None:
        order = np.lexsort((sample, group))
        live, start, count = np.unique(group[order], return_index=True, return_counts=True)
        rank = np.arange(len(order)) - np.repeat(start, count)
        line = np.repeat(np.arange(len(live)), count)
        padded = np.zeros((len(live), int(count.max())), dtype=np.int64)
        mask = np.zeros(padded.shape, dtype=bool)
        padded[:] = order[start][:, None]
        padded[line, rank], mask[line, rank] = order, True
        self.live: Ints = live.astype(np.int64)
        self.group, self.sample = group, sample
        self.host = padded
        self.full = bool(mask.all())
        self.straight = self.full and bool((padded.ravel() == np.arange(padded.size)).all())
        self.counts = torch.from_numpy(count.astype(np.float64)).to(device)  # (G,)
        self.padded_rows = torch.from_numpy(padded).to(device)  # (G, K)
        self.mask = torch.from_numpy(mask).to(device)  # (G, K)
        self.rows = torch.from_numpy(order.astype(np.int64)).to(device)  # (N,) in the order of (group, sample)
        self._flat_index = torch.from_numpy(line * padded.shape[1] + rank).to(device)  # (N,) of the flattened (G, K)
        self._restore = torch.from_numpy(np.argsort(order, kind="stable")).to(device)

    def pad(self, rows: Tensor) -> Tensor:
        """Lay out (N, ...) as (G, K, ...). Where there is no row, the group's first is repeated: mask it."""
        if self.straight:
            return rows.view(*self.padded_rows.shape, *rows.shape[1:])
        return rows[self.padded_rows]

    def flat(self, padded: Tensor) -> Tensor:
        """Return (G, K, ...) as (N, ...), in the order of the batch."""
        if self.straight:
            return padded.flatten(0, 1)
        return padded.flatten(0, 1)[self._flat_index][self._restore]

    def zeroed(self, padded: Tensor) -> Tensor:
        """Return (G, K, d) with zeros where there is no row."""
        return padded if self.full else padded * self.mask[..., None]


class PolicyStep(NamedTuple):
    """A step as one policy sees it: its own rows, in a `layout` by the policy's own group indices."""

    layout: Layout
    position: Ints
    temperature: Tensor
    logits: Tensor
    log_probs: Tensor
    deep: Tensor
    shallow: Tensor | None
    filtered: bool
    uniforms: Tensor | None = None
    met: Flags | None = None


class TokenPolicy:
    """All groups with the same settings. A group's index is its place in the order of opening; closing a group moves
    the later ones down by one."""

    def open(self, seed: int) -> None:
        """Begin a group, as the last one."""
        raise NotImplementedError

    def close(self, index: int) -> Mapping[str, float]:
        """End a group and forget it. Return its numbers for people, by name."""
        raise NotImplementedError

    def warm(self, index: int, deep: Tensor, shallow: Tensor) -> None:
        """See the states (T, d) of the group's prompt, before its first row. Most policies ignore them."""

    def advise(self, rows: PolicyStep) -> Advice | None:
        """Return what to do with some of the rows, numbered as in `rows`."""
        raise NotImplementedError

    def took(self, tokens: Tensor) -> None:
        """See the tokens (N,) that the rows of the last `advise` took."""

    def problem(self, numbers: Mapping[str, float]) -> str:
        """Return what went wrong with a group that closed with these numbers; "" for nothing."""
        return ""


@dataclass(frozen=True, eq=False)
class Head:
    """The head of a language model: logits = cap * tanh(scale * (W x + b) / cap), without the tanh where `cap` is 0."""

    weight: Tensor  # (V, d)
    bias: Tensor | None = None  # (V,)
    scale: float = 1.0
    cap: float = 0.0

    def __call__(self, states: Tensor) -> Tensor:
        logits = self.moved(states)
        if self.bias is not None:
            logits = logits + self.scale * self.bias
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits

    def moved(self, change: Tensor) -> Tensor:
        """Return how the logits of a head without a cap change with a state: a bias cancels."""
        product = change.to(self.weight.dtype) @ self.weight.T
        return product * self.scale if self.scale != 1.0 else product

    def check(self, deep: Tensor, logits: Tensor) -> None:
        """Raise SetupError unless head(deep) (N, V) is close to the model's own logits."""
        predicted = self(deep).float()
        gap = float((predicted - logits.float()).abs().max()) / max(1.0, float(logits.float().abs().max()))
        if not gap <= TOLERANCE.get(self.weight.dtype, 2e-2):
            raise SetupError(
                f"cannot explore with this model: its head applied to the deep states is {gap:.2g} away from its "
                "logits (an unknown scale, cap or bias); draw without explore"
            )

    # With c the mean row of the head, cos(w_z - c, w_y - c) is (w_z.w_y - w_z.c - w_y.c + c.c) / (|w_z - c| |w_y - c|):
    # with w.c and the lengths stored, no row has to be moved or scaled again.

    @cached_property
    def _along(self) -> Tensor:
        """w.c of every row, then c.c: (V + 1,)."""
        centre = self.weight.float().mean(0)
        return torch.cat([self.weight @ centre.to(self.weight.dtype), (centre @ centre)[None].to(self.weight.dtype)])

    @cached_property
    def _lengths(self) -> Tensor:
        """|w - c| of every row: (V,)."""
        squares = torch.cat([rows.float().square().sum(-1) for rows in self.weight.chunk(32)])
        return (squares - 2 * self._along[:-1].float() + self._along[-1].float()).clamp(min=1e-12).sqrt()

    @cached_property
    def _table(self) -> Tensor:
        every = torch.arange(len(self.weight), device=self.weight.device)[None]
        return self._cosines(every, every)[0]

    def cosines(self, tokens: Tensor, others: Tensor) -> Tensor:
        """Return cosines (Q, U, J) between the head rows of tokens (Q, U) and others (Q, J), each less the mean row.

        Synonyms are near 1. A small vocabulary has a table of all pairs.
        """
        if len(self.weight) <= SMALL:
            return self._table[tokens[:, :, None], others[:, None, :]]
        return self._cosines(tokens, others)

    def _cosines(self, tokens: Tensor, others: Tensor) -> Tensor:
        products = torch.bmm(self.weight[tokens], self.weight[others].transpose(1, 2)).float()
        along = self._along.float()
        apart = products - along[tokens][:, :, None] - along[others][:, None, :] + along[-1]
        lengths = self._lengths[tokens][:, :, None] * self._lengths[others][:, None, :]
        cosines: Tensor = apart / lengths
        return cosines


def entropies(log_probs: Tensor) -> Tensor:
    """Return entropies (...,) of log-probabilities (..., V), nats."""
    finite = log_probs.clamp(min=-700.0)  # a filtered token adds nothing, and 0 times -inf would be nan
    surprise: Tensor = torch.linalg.vecdot(finite.exp(), finite)
    return -surprise
