"""The softmax of rows of logits over a large vocabulary, kept as the masses of blocks of tokens.

One pass over the vocabulary: a block's mass is the sum of exp((logit - peak) / divisor), where the peak is the row's
largest logit. A token is drawn by the inverse distribution function, first among blocks, then among the tokens of the
one block, whose logits are read again in float64. So no (N, V) tensor of probabilities is made.

Up to `EXACT` tokens, and for float64 logits, all of it is float64. A larger vocabulary has its exponentials and the
sums of its blocks in float32, which takes half the time, and all else in float64. An exponential is rounded in
proportion to the nats between its token and the peak. The mean of these nats is at most the entropy H, at temperature 1
each counts once, else three times. So a log-probability is within (H + 8) 2^-24 nats at temperature 1, 1.2e-6 for any
distribution over 150,000 tokens, and within (3 H + 8) 2^-24 at another one. A uniform picks the token of exact
arithmetic unless it is closer than half of that to the token's edge.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

WIDTH = 128  # tokens of a block
EXACT = 4096  # vocabulary size up to which all is float64
CACHE_BYTES = 1 << 22  # of rows worked on at once on a CPU: they should stay in its cache
SCRATCH_BYTES = 1 << 28  # the same on other devices, where few large operations are quickest


def row_parts(num: int, row_bytes: int, device: torch.device) -> Iterator[slice]:
    """Split `num` rows, each of which needs `row_bytes` of scratch memory, into parts to be worked on one by one."""
    size = max(1, (CACHE_BYTES if device.type == "cpu" else SCRATCH_BYTES) // row_bytes)
    for start in range(0, num, size):
        yield slice(start, min(num, start + size))


class Softmax:
    """The distributions softmax(logits / divisor) of N rows. A row without any mass, or with a nan, has nan for all."""

    def __init__(
        self, logits: Tensor, pick: Tensor | None = None, divisor: Tensor | None = None, peak: Tensor | None = None
    ) -> None:
        """Take `logits` (M, V), of which row n reads `pick[n]`, or n. `divisor` (N,) is float64 and above 0. `peak`
        (N, 1) may be given where it is known."""
        self.logits, self.pick, self.vocab = logits, pick, logits.shape[-1]
        self.dtype = torch.float64 if logits.dtype == torch.float64 or self.vocab <= EXACT else torch.float32
        if peak is None:
            peak = logits.amax(-1, keepdim=True)
            peak = peak if pick is None else peak[pick]
        self.peak = peak
        self.divisor = None if divisor is None else divisor[:, None]

    def __len__(self) -> int:
        return len(self.peak)

    def lines(self, part: slice | Tensor) -> Tensor:
        """Return the logits of some rows: a view of them, or a copy where rows are picked."""
        return self.logits[part if self.pick is None else self.pick[part]]

    def read(self, ids: Tensor) -> Tensor:
        """Return the logits (N, C) of tokens (N, C), in float64."""
        if self.pick is None:
            return self.logits.gather(1, ids).double()
        return self.logits[self.pick[:, None], ids].double()

    def scaled(self, logits: Tensor) -> Tensor:
        """Return (logits - peak) / divisor of float64 logits (N, C): the log of a mass."""
        apart = logits - self.peak.double()
        return apart if self.divisor is None else apart / self.divisor

    @cached_property
    def masses(self) -> Tensor:
        """The masses (N, B) of blocks, float64."""
        num_blocks = -(-self.vocab // WIDTH)
        peak, divisor = self.peak.to(self.dtype), self._divisor
        scratch = peak.new_zeros(0)
        sums = []
        for part in self.parts():
            num = part.stop - part.start
            if len(scratch) < num:
                scratch = peak.new_zeros(num, num_blocks * WIDTH)  # what is beyond the vocabulary stays 0
            mass = scratch[:num, : self.vocab]
            torch.sub(self.lines(part), peak[part], out=mass)
            if divisor is not None:
                mass.div_(divisor[part])
            mass.exp_()
            sums.append(scratch[:num].view(num, num_blocks, WIDTH).sum(-1).double())
        return torch.cat(sums)

    @cached_property
    def total(self) -> Tensor:
        """The mass (N,) of all tokens, relative to that of the likeliest."""
        return self.masses.sum(-1)

    def parts(self) -> Iterator[slice]:
        """Split the rows so that a few tensors of a part's logits fit into the scratch memory."""
        return row_parts(len(self), 2 * self.dtype.itemsize * self.vocab, self.logits.device)

    def log_probs(self, ids: Tensor) -> Tensor:
        """Return the log-probabilities (N, C) of tokens (N, C), float64 nats."""
        return self.scaled(self.read(ids)) - self.total.log()[:, None]

    def dense(self) -> Tensor:
        """Return all log-probabilities (N, V), float32 or float64."""
        log_probs = self.peak.new_empty(len(self), self.vocab, dtype=self.dtype)
        peak, divisor, log_total = self.peak.to(self.dtype), self._divisor, self.total.log()[:, None].to(self.dtype)
        for part in self.parts():
            torch.sub(self.lines(part), peak[part], out=log_probs[part])
            if divisor is not None:
                log_probs[part].div_(divisor[part])
            log_probs[part].sub_(log_total[part])
        return log_probs

    def draw(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens (N,) whose intervals hold the uniforms (N,), and the uniforms' places within them."""
        block, inside = pick_by_mass(self.masses, uniforms)
        ids = block[:, None] * WIDTH + torch.arange(WIDTH, device=block.device)
        mass = self.scaled(self.read(ids.clamp(max=self.vocab - 1))).exp().masked_fill(ids >= self.vocab, 0.0)
        index, inside = pick_by_mass(mass, inside)
        return ids.gather(1, index[:, None])[:, 0].clamp(max=self.vocab - 1), inside

    @property
    def _divisor(self) -> Tensor | None:
        if self.divisor is None:
            return None
        return self.divisor.to(self.dtype).clamp(min=torch.finfo(self.dtype).tiny)  # 0 / 0 is not 0


def pick_by_mass(mass: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return which columns (N,) of masses (N, C) the uniforms (N,) in [0, 1) pick, and their places within them.

    A column without mass is never picked, unless the row has none at all.
    """
    upto = mass.cumsum(-1)
    total = upto[:, -1:]
    # Below the total, so that the search cannot run past the last column that has mass.
    goal = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    index = torch.searchsorted(upto, goal, right=True).clamp_(max=mass.shape[1] - 1)
    size = mass.gather(1, index)
    inside = (goal - (upto.gather(1, index) - size)) / size
    return index[:, 0], inside[:, 0].clamp(0.0, 1.0 - 2.0**-53)
