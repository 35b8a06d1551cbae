"""Multiply by matrices of 8-bit integers: for a user who asks for `dtype="int8"`, on processors that gain by it.

Each output's weights are rounded to 255 steps, and each row of activations to 127, so what is drawn from is another
distribution than the checkpoint's: a smaller, close model. It is one model all the same: a row is scaled by itself and
products of integers are exact, so a draw does not depend on what else is in the batch. `dtype` is part of the engine's
identity. The head and the embedding stay as they are, as errors there are errors of the log-probabilities themselves.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from samplewise.core.errors import SetupError

STEPS = 127  # from 0 to the largest weight of an output


class Int8Linear(nn.Module):
    """A linear layer (in, out) of 8-bit weights, each output with a scale of its own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach()
        scales = weight.abs().amax(1).clamp(min=torch.finfo(weight.dtype).tiny) / STEPS
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings(action="ignore"):  # torch announces that its 8-bit kernels move elsewhere
            rounded = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
            self._packed = torch.ops.quantized.linear_prepack(rounded, None)
        self.bias = layer.bias
        self._ends = torch.zeros(1, layer.in_features)  # see forward
        self._ends[0, :2] = torch.tensor([1.0, -1.0])

    def forward(self, x: Tensor) -> Tensor:
        """Multiply rows (..., in), each scaled to [-1, 1] by itself.

        torch takes one scale for all rows, from the smallest to the largest value. A row that holds both ends makes
        that scale the same whatever the others are.
        """
        rows = x.reshape(-1, self.in_features)
        largest = rows.abs().amax(1, keepdim=True).clamp_(min=torch.finfo(x.dtype).tiny)
        scaled = torch.cat([rows / largest, self._ends])
        out: Tensor = torch.ops.quantized.linear_dynamic(scaled, self._packed, True)[:-1] * largest
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features)


def is_emulated(model: Any) -> bool:
    """Return whether a model is in half precision on a processor without instructions for it."""
    if model.device.type != "cpu" or model.dtype not in (torch.bfloat16, torch.float16):
        return False
    kind = "bf16" if model.dtype == torch.bfloat16 else "fp16"
    test = getattr(torch.ops.mkldnn, f"_is_mkldnn_{kind}_supported", None)
    return test is not None and not test()


def quantize(model: Any, name: str) -> None:
    """Replace the linear layers of a float32 model, but its head, in place. Raises SetupError where nothing gains."""
    capability = torch.backends.cpu.get_cpu_capability()
    if model.device.type != "cpu" or not ("AVX2" in capability or "AVX512" in capability):
        raise SetupError(
            f'{name} cannot run with dtype="int8" on {model.device.type} ({capability}): it needs a processor with'
            " AVX2; leave dtype out"
        )
    head = model.get_output_embeddings()
    layers = [(parent, key, layer) for parent in model.modules() for key, layer in parent.named_children()]
    for parent, key, layer in layers:
        if type(layer) is nn.Linear and layer is not head and layer.in_features > 1:
            try:
                setattr(parent, key, Int8Linear(layer))
            except (AttributeError, NotImplementedError) as error:
                raise SetupError(
                    f'torch {torch.__version__} has no kernels for dtype="int8"; leave dtype out'
                ) from error
