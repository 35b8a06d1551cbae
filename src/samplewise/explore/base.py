"""The contract between an engine and a policy, and the shapes they speak in.

At each step the engine hands over a `Step`: its rows, with the deep state that enters the head, the shallow state after
the first block where a policy asks for it, raw logits, and the law that it would draw from (temperature and filters
applied, log-probabilities). It gets back `Advice`s for some of the rows: another law to draw from with its own uniform,
or a token that is drawn already with its log-probability. Rows without advice are drawn as ever, bit for bit. After the
draw it hands over the tokens. It promises that each kept token was seen exactly once, and no other row ever.

Filters are in the law before a policy sees it, so they act on the reference law at its temperature, and both terms of
a mixture are divided by the temperature. A token outside the law (-inf) keeps probability exactly 0.

Rows of a group are laid out as (G, K), groups by samples in the order of their index, so that neither the batch's order
nor other groups in it change what a group does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplewise.errors import SetupError

Ints = NDArray[np.int64]
SMALL = 1024  # tokens of a vocabulary for which all cosines are kept
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of head(deep) against logits, relative; else 2e-2


class Step(NamedTuple):
    """What an engine hands over: N rows, in any order. Counters are on the host, where engines keep them."""

    group: Ints  # (N,) the number that `Explorer.open` gave, or -1: draws plainly
    sample: Ints  # (N,) which of its group's samples a row is
    position: Ints  # (N,) tokens drawn before this one
    temperature: Tensor  # (N,) above 0
    logits: Tensor  # (N, V) raw
    law: Tensor  # (N, V) log-probabilities, temperature and filters applied; -inf is cut
    deep: Tensor  # (N, d) what enters the head
    shallow: Tensor | None  # (N, d) after the first block; None where no policy asks for it
    filtered: bool = True  # whether a law may hold -inf


class Advice(NamedTuple):
    """What to do with some rows: draw from `law`, or take `tokens`."""

    rows: Tensor  # (n,) int64, different
    law: Tensor | None = None  # (n, V) float64 log-probabilities
    tokens: Tensor | None = None  # (n,) int64
    logq: Tensor | None = None  # (n,) float64 nats


class Layout:
    """Rows as (G, K): group by sample. `live` (G,) are the numbers of the groups that have rows, ascending."""

    def __init__(self, group: Ints, sample: Ints, device: torch.device) -> None:
        order = np.lexsort((sample, group))
        live, start, count = np.unique(group[order], return_index=True, return_counts=True)
        rank = np.arange(len(order)) - np.repeat(start, count)
        line = np.repeat(np.arange(len(live)), count)
        place = np.zeros((len(live), int(count.max())), dtype=np.int64)
        mask = np.zeros(place.shape, dtype=bool)
        place[:] = order[start][:, None]
        place[line, rank], mask[line, rank] = order, True
        self.live: Ints = live.astype(np.int64)
        self.group, self.sample = group, sample
        self.host = place
        self.full = bool(mask.all())
        self.straight = self.full and bool((place.ravel() == np.arange(place.size)).all())
        self.counts = torch.from_numpy(count.astype(np.float64)).to(device)  # (G,)
        self.place = torch.from_numpy(place).to(device)  # (G, K)
        self.mask = torch.from_numpy(mask).to(device)  # (G, K)
        self.rows = torch.from_numpy(order.astype(np.int64)).to(device)  # (N,) in the order of (group, sample)
        self._lines = torch.from_numpy(line * place.shape[1] + rank).to(device)  # (N,) of the flattened (G, K)
        self._back = torch.from_numpy(np.argsort(order, kind="stable")).to(device)

    def pad(self, rows: Tensor) -> Tensor:
        """(N, ...) as (G, K, ...). Where there is no row stands the group's first: mask it."""
        if self.straight:
            return rows.view(*self.place.shape, *rows.shape[1:])
        return rows[self.place]

    def flat(self, padded: Tensor) -> Tensor:
        """(G, K, ...) as (N, ...), in the order of the batch."""
        if self.straight:
            return padded.flatten(0, 1)
        return padded.flatten(0, 1)[self._lines][self._back]

    def zeroed(self, padded: Tensor) -> Tensor:
        """(G, K, d) with zeros where there is no row."""
        return padded if self.full else padded * self.mask[..., None]


class Rows(NamedTuple):
    """A step as one policy sees it: its own rows alone, `layout` by the policy's own group numbers."""

    layout: Layout
    position: Ints
    temperature: Tensor
    logits: Tensor
    law: Tensor
    deep: Tensor
    shallow: Tensor | None
    filtered: bool


class Policy(Protocol):
    """All groups with the same settings. Group numbers are places in the order of opening; closing moves later ones."""

    def open(self, seed: int) -> None:
        """A group begins, as the last one."""
        ...

    def close(self, place: int) -> Mapping[str, float]:
        """A group ends: what it has to say of itself. Nothing of it is kept."""
        ...

    def warm(self, place: int, deep: Tensor, shallow: Tensor) -> None:
        """The states (T, d) of the group's prompt, before its first row."""
        ...

    def advise(self, rows: Rows) -> Advice | None:
        """What to do with some of the rows, numbered as in `rows`."""
        ...

    def took(self, tokens: Tensor) -> None:
        """The tokens (N,) that the rows of the last `advise` took."""
        ...


@dataclass(frozen=True, eq=False)
class Head:
    """A language model's head: logits = cap * tanh(scale * (W x + b) / cap), without the tanh where `cap` is 0."""

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
        """How the logits of a head without a cap move with a change of state: a bias cancels."""
        product = change.to(self.weight.dtype) @ self.weight.T
        return product * self.scale if self.scale != 1.0 else product

    def check(self, deep: Tensor, logits: Tensor) -> None:
        """SetupError unless head(deep) (N, V) is what the model itself gave: the taps hang where they should."""
        own = self(deep).float()
        apart = float((own - logits.float()).abs().max()) / max(1.0, float(logits.float().abs().max()))
        if not apart <= TOLERANCE.get(self.weight.dtype, 2e-2):
            raise SetupError(
                f"cannot explore with this model: its head applied to the deep states is {apart:.2g} away from its "
                "logits (a scale, cap or bias that is not known of); draw without explore"
            )

    # With c the mean row, cos(w_z - c, w_y - c) is (w_z.w_y - w_z.c - w_y.c + c.c) / (|w_z - c| |w_y - c|): with w.c
    # and the lengths at hand, no row has to be moved or scaled again.

    @cached_property
    def _along(self) -> Tensor:
        """(V + 1,) w.c of every row, then c.c."""
        centre = self.weight.float().mean(0)
        return torch.cat([self.weight @ centre.to(self.weight.dtype), (centre @ centre)[None].to(self.weight.dtype)])

    @cached_property
    def _lengths(self) -> Tensor:
        """(V,) |w - c|."""
        squares = torch.cat([rows.float().square().sum(-1) for rows in self.weight.chunk(32)])
        return (squares - 2 * self._along[:-1].float() + self._along[-1].float()).clamp(min=1e-12).sqrt()

    @cached_property
    def _table(self) -> Tensor:
        every = torch.arange(len(self.weight), device=self.weight.device)[None]
        return self._cosines(every, every)[0]

    def cosines(self, tokens: Tensor, others: Tensor) -> Tensor:
        """(Q, U, J) of the head rows of tokens (Q, U) and others (Q, J), from the mean row: synonyms are near 1.

        A small vocabulary has a table of all of them.
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


def entropies(law: Tensor) -> Tensor:
    """Entropies (...,) of log-probabilities (..., V), nats."""
    finite = law.clamp(min=-700.0)  # what is cut has no share, and 0 times -inf would be no number
    surprise: Tensor = torch.linalg.vecdot(finite.exp(), finite)
    return -surprise
