"""A leaner forward pass for small models of the Llama family on a CPU, over the same `Slots`.

A small model spends most of its time between the matrix products: in normalisations, rotations and residual sums, each
of which reads and writes every activation again. Here 20 operations a layer do what 45 do in the modular code, with the
same result up to rounding (choose.py compares it with a plain pass at every load):

- the weights of a normalisation, and the scale of attention, are multiplied into the matrices that follow;
- rows of the query and key matrices are reordered so that a rotation is one complex product, in place;
- gate and up are one product, and a residual sum is part of the product that it adds to.

The matrices are copies, so this is for models whose weights fit into memory twice.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .forward import Cached, Masks

MAX_BYTES = 1 << 29  # of weights that are copied
STATIC = ("default", "linear", "llama3", "yarn")  # rotations that depend on nothing but the position


class _Layer(NamedTuple):
    """Matrices (in, out)."""

    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    gate_up: Tensor
    down: Tensor


def fits(model: Any) -> bool:
    """Return whether this pass suits a model: its kind, size and device."""
    config = model.config
    return (
        type(model).__name__ == "LlamaForCausalLM"
        and type(model.model.layers[0].mlp.up_proj) is nn.Linear  # neither packed nor of 8-bit weights
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
        and (config.rope_parameters or {}).get("rope_type") in STATIC
        and sum(weight.numel() * 4 for weight in model.parameters()) <= MAX_BYTES
    )


class Lean(Cached):
    """The forward pass of `Cached`, in its own code."""

    def __init__(self, model: Any, masks: Masks) -> None:
        super().__init__(model, masks)
        config = model.config
        self._inner = model.model
        self._eps: float = config.rms_norm_eps
        self._heads: int = config.num_attention_heads
        self._shared: int = config.num_key_value_heads
        self._layers = [self._merged(layer) for layer in model.model.layers]
        self._width = self._layers[0].query.shape[1] // self._heads
        self.tapped, self.shallow = False, torch.zeros(0)  # whether to keep the first block's output (N, E), and that
        self._turns = torch.zeros(0, self._width // 2, dtype=torch.complex64)  # (P, D/2) rotation at each position

    def _merged(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        width = attention.head_dim
        # Halves of a head become pairs: (a0, b0), (a1, b1), ...
        pairs = torch.arange(width).view(2, -1).T.reshape(-1)
        before, between = layer.input_layernorm.weight, layer.post_attention_layernorm.weight

        def by_head(weight: Tensor) -> Tensor:
            return weight.view(-1, width, weight.shape[1])

        return _Layer(
            *(
                matrix.flatten(0, -2).T.contiguous()
                for matrix in (
                    by_head(attention.q_proj.weight)[:, pairs] * before * attention.scaling,
                    by_head(attention.k_proj.weight)[:, pairs] * before,
                    attention.v_proj.weight * before,
                    attention.o_proj.weight,
                    torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]) * between,
                    mlp.down_proj.weight,
                )
            )
        )

    def _run(self, tokens: Tensor, positions: Tensor, mask: Any, keep: int) -> Tensor:
        rows, num = tokens.shape
        turns = self._rotations(positions)  # (N * Q, 1, D/2)
        mask = mask[:, 0] if num == 1 else mask
        x = self._inner.embed_tokens(tokens).flatten(0, 1)  # (N * Q, E)
        for index, layer in enumerate(self._layers):
            y = self._scaled(x)
            query, key, value = (y @ matrix for matrix in (layer.query, layer.key, layer.value))
            for turned in (query, key):  # in place
                torch.view_as_complex(turned.view(rows * num, -1, self._width // 2, 2)).mul_(turns)
            new = (state.view(rows, num, self._shared, self._width).transpose(1, 2) for state in (key, value))
            keys, values = self.slots.write(index, *new)
            x.addmm_(self._attend(query, keys, values, mask), layer.output)
            gate, up = (self._scaled(x) @ layer.gate_up).chunk(2, dim=1)
            x.addmm_(F.silu(gate, inplace=True).mul_(up), layer.down)
            if self.tapped and index == 0:
                self.shallow = x.view(rows, num, -1)[:, -1].clone()  # later layers write over it
        last = x.view(rows, num, -1)[:, num - min(keep, num) :]
        logits: Tensor = self.model.lm_head(self._inner.norm(last))
        return logits

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Return attention outputs (N * Q, H * D) of queries (N * Q, H * D), keys and values (N, G, T, D)."""
        rows = keys.shape[0]
        num = query.shape[0] // rows
        if num == 1:
            flat = query.view(rows * self._shared, -1, self._width)
            scores = torch.bmm(flat, keys.flatten(0, 1).transpose(1, 2))
            scores.view(rows, self._heads, -1).add_(mask)
            return torch.bmm(scores.softmax(-1), values.flatten(0, 1)).view(rows, -1)
        many = query.view(rows, num, self._heads, self._width).transpose(1, 2)
        group = self._heads // self._shared
        if group > 1:
            keys, values = (t.repeat_interleave(group, dim=1) for t in (keys, values))
        out = F.scaled_dot_product_attention(many, keys, values, attn_mask=mask, scale=1.0)
        return out.transpose(1, 2).reshape(rows * num, -1)

    def _scaled(self, x: Tensor) -> Tensor:
        """Divide rows (N, E) by the root of their mean square."""
        mean: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        return x * mean.add_(self._eps).rsqrt_()

    def _rotations(self, positions: Tensor) -> Tensor:
        most = int(positions.max()) + 1
        if most > len(self._turns):
            positions_ahead = torch.arange(max(64, 2 * most))[None]
            cos, sin = self._inner.rotary_emb(torch.zeros(1), positions_ahead)
            half = self._width // 2
            self._turns = torch.complex(cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous())
        return self._turns[positions.flatten()][:, None]
