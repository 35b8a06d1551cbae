"""The Latent Distiller: a small network that predicts the deep state from the shallow one, one for each group at once.

Two gated residual blocks (arXiv 2604.24927): x <- x + O(silu(G x) * U x), G and U: d -> width, O: width -> d, no
biases. The residual passes the shallow state on, so an untrained distiller is a contrast with an early layer, not a
constant.

Weights of S groups are one buffer (S, P) in float32, whatever the model's type, and every product is batched over
groups. The backward pass is written out, so it runs inside inference mode and keeps nothing alive; a test compares
it with autograd. P = 6 d width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

BLOCKS = 2


class Block(NamedTuple):
    """Views of one block's weights; x W, not W x."""

    up: Tensor  # (S, d, 2 width): gate and value side by side
    down: Tensor  # (S, width, d)


class Tape(NamedTuple):
    """What the backward pass needs of one block, (S, K, .) each."""

    x: Tensor
    gate: Tensor
    value: Tensor


class Shape(NamedTuple):
    """The sizes of a distiller."""

    dim: int
    width: int

    @property
    def num_weights(self) -> int:
        return BLOCKS * 3 * self.dim * self.width

    def blocks(self, weights: Tensor) -> tuple[Block, ...]:
        """Return the blocks as views of a buffer (S, P)."""
        blocks, offset = [], 0
        for _ in range(BLOCKS):
            up = weights[:, offset : offset + 2 * self.dim * self.width].view(-1, self.dim, 2 * self.width)
            offset += 2 * self.dim * self.width
            down = weights[:, offset : offset + self.width * self.dim].view(-1, self.width, self.dim)
            offset += self.width * self.dim
            blocks.append(Block(up, down))
        return tuple(blocks)

    def fresh(self, seed: int, device: torch.device) -> Tensor:
        """Return random weights (1, P): uniform within 1 / sqrt(inputs), as torch initializes linear layers."""
        generator = torch.Generator()
        generator.manual_seed(seed)
        weights = torch.rand(1, self.num_weights, generator=generator) * 2 - 1
        for block in self.blocks(weights):
            block.up.mul_(self.dim**-0.5)
            block.down.mul_(self.width**-0.5)
        return weights.to(device)


def forward(shape: Shape, weights: Tensor, x: Tensor) -> tuple[Tensor, tuple[Tape, ...]]:
    """Return predictions (S, K, d) from x (S, K, d), and their tape."""
    tapes = []
    for block in shape.blocks(weights):
        gate, value = torch.bmm(x, block.up).chunk(2, dim=-1)
        tapes.append(Tape(x, gate, value))
        x = torch.baddbmm(x, torch.nn.functional.silu(gate) * value, block.down)
    return x, tuple(tapes)


def backward(shape: Shape, weights: Tensor, tapes: tuple[Tape, ...], change: Tensor) -> Tensor:
    """Return gradients (S, P), given those of the predictions (S, K, d), which must be zero where there is no row."""
    gradients = torch.empty_like(weights)
    pairs = list(zip(shape.blocks(weights), shape.blocks(gradients), tapes, strict=True))
    for number, (block, gradient, (x, gate, value)) in reversed(list(enumerate(pairs))):
        bend = torch.sigmoid(gate)
        active = gate * bend  # silu
        torch.bmm((active * value).transpose(1, 2), change, out=gradient.down)
        inner = torch.bmm(change, block.down.transpose(1, 2))
        both = torch.cat([inner * value * (bend + active * (1 - bend)), inner * active], dim=-1)
        torch.bmm(x.transpose(1, 2), both, out=gradient.up)
        if number:
            change = torch.baddbmm(change, both, block.up.transpose(1, 2))
    return gradients
