"""Lay out the large matrices of a model for the processor that multiplies by them.

A product of few rows with a matrix of many outputs (an MLP's way up, the head) is bound by how that matrix is read, and
oneDNN reads its own blocked layout 1.3 to 2 times as fast as rows: a step of 32 rows of a model of 0.5 billion weights
takes two thirds of the time. The values are the same numbers, added up in another order, so logits move by rounding;
choose.py compares the packed model with the model as it was loaded.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 8  # that the layout is made for; others use it as well
WIDER = 2  # outputs for each input, from which on the layout pays


class PackedLinear(nn.Module):
    """A linear layer (in, out) whose matrix is kept in the layout of oneDNN."""

    def __init__(self, layer: nn.Linear, tied: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self._rows = layer.weight if tied else None  # another module has it anyway
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), ROWS)

    @property
    def weight(self) -> Tensor:
        """The matrix (out, in); a copy, unless another module holds it too."""
        return self._packed.to_dense() if self._rows is None else self._rows

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out

    def unpacked(self) -> nn.Linear:
        """Return the layer as it was, to the bit."""
        layer = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        layer.weight = nn.Parameter(self.weight.detach(), requires_grad=False)
        layer.bias = self.bias
        return layer


def pack(model: Any) -> int:
    """Pack the layers of a model that gain by it, in place and one by one. Return how many.

    Nothing is packed on a GPU, in half precision, or where torch lacks the layout. Memory stays as it was, but for a
    head that shares its matrix with the embedding: that one is copied.
    """
    if model.device.type != "cpu" or model.dtype != torch.float32 or not _works():
        return 0
    looked_up = model.get_input_embeddings().weight
    num = 0
    for parent, name, layer in _children(model):
        if (
            type(layer) is nn.Linear and layer.out_features >= WIDER * layer.in_features
        ):  # others have their own forward
            setattr(parent, name, PackedLinear(layer, layer.weight is looked_up))
            num += 1
    return num


def unpack(model: Any) -> None:
    """Undo `pack`."""
    for parent, name, layer in _children(model):
        if isinstance(layer, PackedLinear):
            setattr(parent, name, layer.unpacked())


def is_packed(model: Any) -> bool:
    """Return whether `pack` has changed a model."""
    return any(isinstance(layer, PackedLinear) for layer in model.modules())


def _children(model: Any) -> list[tuple[nn.Module, str, nn.Module]]:
    return [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]


def _works() -> bool:
    """Return whether this torch has the layout, tried on one small product."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    with contextlib.suppress(Exception), torch.inference_mode():
        layer = nn.Linear(4, 8)
        layer.requires_grad_(False)
        x = torch.ones(2, 4)
        return bool(torch.allclose(PackedLinear(layer, False)(x), F.linear(x, layer.weight, layer.bias)))
    return False
