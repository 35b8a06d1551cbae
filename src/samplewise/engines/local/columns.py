"""The state of the running rows, as named columns over a few buffers.

Values of one type share a buffer (R, columns), so rows join, move and leave in one operation each. `Reals` and `Wholes`
name the columns: of Python numbers they are a row to write, of tensors they are views (N,) of the buffer, and writing
to a view writes to the buffer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samplewise.core.numerics import Ints

from .sample import TokenDraws

BLOCK = 64  # uniforms of a row that are drawn ahead
NUM_LOGGED = 3  # token, logp and logq are logged for every draw, in this order; statistics follow

T = TypeVar("T", float, Tensor)
N = TypeVar("N", int, Tensor)


class Reals(NamedTuple, Generic[T]):
    """The float64 columns."""

    temperature: T
    top_p: T
    min_p: T
    alpha: T  # of the rejection bound; 0 where a row has none
    bound: T  # give up below this; -inf where a row has none
    log_ratio: T  # running sum of alpha * logp - logq
    power: T  # 1 / temperature where the running sum can only fall, else nan


class Wholes(NamedTuple, Generic[N]):
    """The int64 columns."""

    token: N  # drawn last, still to go through the model
    top_k: N
    stop_set: N  # row of the table of tokens that can complete a stop string
    banned: N  # a token that is not drawn first, or -1


class Columns:
    """The columns of R rows. The first rows are in use, the others are room."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        # On the host, so that no step waits for the device to learn a length. (R,) each.
        self.num_cached = np.zeros(0, dtype=np.int64)  # tokens that went through the model
        self.num_drawn = np.zeros(0, dtype=np.int64)  # the last of them is still to go through
        self.limit = np.zeros(0, dtype=np.int64)  # tokens to draw at most
        # On the device.
        self._reals = torch.zeros(0, len(Reals._fields), dtype=torch.float64, device=device)
        self._wholes = torch.zeros(0, len(Wholes._fields), dtype=torch.int64, device=device)
        self.uniforms = torch.zeros(0, BLOCK, dtype=torch.float64, device=device)
        self.log = torch.zeros(0, NUM_LOGGED, 0, dtype=torch.float64, device=device)  # (R, 3 + statistics, T)
        self.exponents = torch.ones(0, 0, dtype=torch.float64, device=device)  # (R, E)
        self.codes = torch.zeros(0, dtype=torch.uint8, device=device)  # what the last draw says of its row

    def __len__(self) -> int:
        return len(self.limit)

    def reals(self, part: slice | Tensor) -> Reals[Tensor]:
        """Return the columns of some rows: views where `part` is a slice, else copies."""
        return Reals(*self._reals[part].unbind(1))

    def wholes(self, part: slice | Tensor) -> Wholes[Tensor]:
        return Wholes(*self._wholes[part].unbind(1))

    def write(self, first: int, reals: Sequence[Reals[float]], wholes: Sequence[Wholes[int]]) -> None:
        """Write the rows from `first` on."""
        end = first + len(reals)
        self._reals[first:end] = torch.tensor(reals, dtype=torch.float64).to(self.device)
        self._wholes[first:end] = torch.tensor(wholes, dtype=torch.int64).to(self.device)

    def set_log_ratio(self, rows: Tensor, values: Tensor) -> None:
        """Set the running sums of `rows` (N,)."""
        self._reals[rows, Reals._fields.index("log_ratio")] = values

    def log_draws(self, rows: Tensor, longest: int, position: Tensor, drawn: TokenDraws) -> None:
        """Log the draws of `rows` (N,) at `position` (N,), each below `longest`."""
        if longest > self.log.shape[2]:
            more = self.log.new_zeros(*self.log.shape[:2], max(32, longest - self.log.shape[2], longest // 2))
            self.log = torch.cat([self.log, more], dim=2)
        logged = (drawn.tokens, drawn.logp, drawn.logq)
        columns = torch.cat([*(value.double()[:, None] for value in logged), drawn.statistics], dim=1)
        self.log[rows, : columns.shape[1], position] = columns

    def grow(self, num_rows: int, max_rows: int) -> None:
        """Make room for `num_rows` rows, doubling up to `max_rows`."""
        old = len(self)
        if num_rows <= old:
            return
        more = min(max_rows, max(num_rows, 2 * old)) - old
        self.num_cached, self.num_drawn, self.limit = (
            np.concatenate([column, np.zeros(more, dtype=np.int64)])
            for column in (self.num_cached, self.num_drawn, self.limit)
        )
        self._reals, self._wholes, self.uniforms, self.log, self.codes = (
            torch.cat([buffer, buffer.new_zeros(more, *buffer.shape[1:])])
            for buffer in (self._reals, self._wholes, self.uniforms, self.log, self.codes)
        )
        self.exponents = torch.cat([self.exponents, self.exponents.new_ones(more, self.exponents.shape[1])])

    def widen(self, num_statistics: int) -> None:
        """Make room for the statistics of a token: certainty, and log Z at each exponent."""
        if (more := NUM_LOGGED + num_statistics - self.log.shape[1]) > 0:
            self.log = F.pad(self.log, (0, 0, 0, more))
        if (more := num_statistics - 1 - self.exponents.shape[1]) > 0:
            self.exponents = F.pad(self.exponents, (0, more), value=1.0)

    def move(self, to: Tensor, source: Tensor, holes: Sequence[int], movers: Sequence[int]) -> None:
        """Copy rows `movers` over `holes`; `source` and `to` are the same on the device."""
        for column in (self.num_cached, self.num_drawn, self.limit):
            column[holes] = column[movers]
        for buffer in (self._reals, self._wholes, self.uniforms, self.log, self.exponents):
            buffer[to] = buffer[source]


def as_positions(counts: Ints, device: torch.device) -> Tensor:
    """Copy host counts (N,) to the device: the host writes over its own while the device still reads."""
    return torch.from_numpy(counts.copy()).to(device)
