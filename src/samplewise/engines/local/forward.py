"""The forward pass: token ids of many rows in, logits of their next tokens out. Knows no distribution, ask or seed.

Two implementations of one protocol. `Cached` reuses keys and values through the public forward of `transformers`
(`position_ids`, a 4D mask, a cache). `Recomputed` runs every row from its first token at every step: slow, but right
for any causal model. choose.py compares the first with a plain pass when a model is loaded, and falls back on the
second.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from samplewise.core.numerics import Ints

from .cache import Saved, Slots

BATCHED = "samplewise_batched"  # the name that our attention is registered under


class Forward(Protocol):
    """A forward pass over rows 0 ... R-1, each a sequence of tokens."""

    reuses: bool  # whether `save` and `load` have an effect
    num_forwarded: int  # tokens that went through the model, padding not counted

    @property
    def bytes_per_token(self) -> int:
        """Memory of a running row for each of its tokens."""
        ...

    def reserve(self, num_rows: int, num_tokens: int, live: int) -> None: ...

    def extend(self, first: int, held: Sequence[int], new: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Append `new[i]` to row `first + i`, which holds `held[i]` tokens. Return logits (N, keep, V) after the last
        `keep` tokens."""
        ...

    def decode(self, first: int, held: Ints, tokens: Tensor) -> Tensor:
        """Append one token a row, `tokens` (N,). Return logits (N, V)."""
        ...

    def copy(self, to: Tensor, source: Tensor, length: int) -> None: ...

    def save(self, row: int, length: int) -> Saved: ...

    def load(self, row: int, saved: Saved, length: int) -> None: ...

    def forget(self) -> None: ...


class Masks:
    """Make the `attention_mask` for queries at positions (N, Q): additive (N, 1, Q, T), or one for each kind of layer.

    A key at slot j is visible from position p if j <= p and j is within the layer's window.
    """

    def __init__(self, model: Any, by_kind: bool) -> None:
        config = model.config.get_text_config()
        kinds = sorted(set(getattr(config, "layer_types", None) or ()))
        self.reach = {  # kind -> (window, chunk)
            "full_attention": (None, None),
            "sliding_attention": (getattr(config, "sliding_window", None), None),
            "chunked_attention": (None, getattr(config, "attention_chunk_size", None)),
        }
        self.by_kind, self.kinds = by_kind, kinds
        if by_kind and (not kinds or any(kind not in self.reach for kind in kinds)):
            raise ValueError(f"no masks for layers of kinds {kinds}")
        self.one = "full_attention"
        if len(kinds) == 1 and kinds[0] in self.reach:
            self.one = kinds[0]
        elif not kinds:
            sliding, chunked = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
            self.one = "sliding_attention" if sliding else "chunked_attention" if chunked else "full_attention"
        self.dtype: torch.dtype = model.dtype

    def __call__(self, positions: Tensor, num_slots: int) -> Tensor | dict[str, Tensor]:
        slots = torch.arange(num_slots, device=positions.device)
        if self.by_kind:
            return {kind: self._mask(positions, slots, kind) for kind in self.kinds}
        return self._mask(positions, slots, self.one)

    def _mask(self, positions: Tensor, slots: Tensor, kind: str) -> Tensor:
        window, chunk = self.reach[kind]
        query = positions[:, None, :, None]  # (N, 1, Q, 1)
        seen = slots <= query
        if window is not None:
            seen &= slots > query - window
        if chunk is not None:
            seen &= slots // chunk == query // chunk
        return torch.where(seen, 0.0, torch.finfo(self.dtype).min).to(self.dtype)


def cache_argument(model: Any) -> str:
    """Return the name of the argument in which forward takes a cache: `past_key_values` before transformers 5.24."""
    parameters = inspect.signature(model.forward).parameters
    return "past_key_values" if "past_key_values" in parameters else "cache"


class Cached:
    """The forward pass over `Slots`."""

    reuses = True

    def __init__(self, model: Any, masks: Masks) -> None:
        self.model, self.masks, self.slots = model, masks, Slots()
        self.device = model.device
        self._cache_argument = cache_argument(model)
        self._narrow = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.num_forwarded = 0

    @property
    def bytes_per_token(self) -> int:
        return self.slots.bytes_per_token

    def reserve(self, num_rows: int, num_tokens: int, live: int) -> None:
        self.slots.reserve(num_rows, num_tokens + 1, live)  # one more: `extend` writes padding there

    def extend(self, first: int, held: Sequence[int], new: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        # Padded on the left, so that the last token of every row is in the last column. Padding is written to a slot
        # after every token, and no mask shows it.
        width = max(len(ids) for ids in new)
        end = max(h + len(ids) for h, ids in zip(held, new, strict=True))
        ids = np.zeros((len(new), width), dtype=np.int64)
        position = np.full((len(new), width), -1, dtype=np.int64)
        for i, (h, row) in enumerate(zip(held, new, strict=True)):
            ids[i, width - len(row) :] = row
            position[i, width - len(row) :] = np.arange(h, h + len(row))
        self.num_forwarded += int((position >= 0).sum())
        tokens, positions = (torch.from_numpy(x).to(self.device) for x in (ids, position))
        padded = bool((position < 0).any())
        self.slots.aim(first, torch.where(positions < 0, end, positions), end + padded)
        return self._run(tokens, positions.clamp(min=0), self.masks(positions, end + padded), keep)

    def decode(self, first: int, held: Ints, tokens: Tensor) -> Tensor:
        end = int(held.max()) + 1
        positions = torch.from_numpy(held).to(self.device)[:, None]
        self.num_forwarded += len(held)
        self.slots.aim(first, positions, end)
        return self._run(tokens[:, None], positions, self.masks(positions, end), 1)[:, 0]

    def _run(self, tokens: Tensor, positions: Tensor, mask: Any, keep: int) -> Tensor:
        num = tokens.shape[1]
        # By index, which copies: a number would leave a view of rows that lie apart, and in half precision torch then
        # copies the whole head for each row (272 MB each, for a vocabulary of 152,000).
        kept = torch.arange(num - keep, num, device=self.device) if keep < num else keep
        narrow = {"logits_to_keep": kept} if self._narrow else {}
        logits: Tensor = self.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=mask,
            use_cache=True,
            **{self._cache_argument: self.slots},
            **narrow,
        ).logits
        return logits[:, -keep:]

    def copy(self, to: Tensor, source: Tensor, length: int) -> None:
        self.slots.copy(to, source, length)

    def save(self, row: int, length: int) -> Saved:
        return self.slots.save(row, length)

    def load(self, row: int, saved: Saved, length: int) -> None:
        self.slots.load(row, saved, length)

    def forget(self) -> None:
        self.slots.forget()


class Recomputed:
    """The forward pass without cached keys and values: all tokens of a row at every step."""

    reuses = False

    def __init__(self, model: Any) -> None:
        self.model, self.device = model, model.device
        self._narrow = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.num_forwarded = 0
        text = model.config.get_text_config()
        self.bytes_per_token = 64 * text.hidden_size + (0 if self._narrow else 4 * text.vocab_size)  # roughly
        self.forget()

    def forget(self) -> None:
        self._ids = torch.zeros(0, 0, dtype=torch.int64, device=self.device)  # (R, C)

    def reserve(self, num_rows: int, num_tokens: int, live: int) -> None:
        old = self._ids
        if num_rows > old.shape[0] or num_tokens > old.shape[1]:
            self._ids = old.new_zeros(max(num_rows, old.shape[0]), max(num_tokens, old.shape[1]))
            self._ids[:live, : old.shape[1]] = old[:live]

    def extend(self, first: int, held: Sequence[int], new: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        ends = np.array([h + len(ids) for h, ids in zip(held, new, strict=True)], dtype=np.int64)
        for i, (h, ids) in enumerate(zip(held, new, strict=True)):
            self._ids[first + i, h : h + len(ids)] = torch.tensor(ids, dtype=torch.int64, device=self.device)
        return self._run(first, ends, keep)

    def decode(self, first: int, held: Ints, tokens: Tensor) -> Tensor:
        rows = torch.arange(first, first + len(held), device=self.device)
        self._ids[rows, torch.from_numpy(held).to(self.device)] = tokens
        return self._run(first, held + 1, 1)[:, 0]

    def _run(self, first: int, ends: Ints, keep: int) -> Tensor:
        # Padded on the right, where a causal model does not look, and without a mask.
        self.num_forwarded += int(ends.sum())
        last = ends[:, None] - np.arange(keep, 0, -1)  # (N, keep) positions whose logits are wanted
        wanted = np.unique(last.clip(0))
        narrow = {"logits_to_keep": torch.from_numpy(wanted).to(self.device)} if self._narrow else {}
        ids = self._ids[first : first + len(ends), : int(ends.max())]
        logits: Tensor = self.model(input_ids=ids, use_cache=False, **narrow).logits
        column = np.searchsorted(wanted, last.clip(0)) if self._narrow else last.clip(0)
        rows = torch.arange(len(ends), device=self.device)[:, None]
        return logits[rows, torch.from_numpy(column).to(self.device)]

    def copy(self, to: Tensor, source: Tensor, length: int) -> None:
        self._ids[to, :length] = self._ids[source, :length]

    def save(self, row: int, length: int) -> Saved:
        return ()

    def load(self, row: int, saved: Saved, length: int) -> None:
        return None


def batched_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute attention of one query a row as two batched products over the keys and values in place.

    On a CPU the set-up of torch's fused kernel, per row and head, costs more than the work of a short row. Every other
    case goes to the stock attention.
    """
    rows, num_heads, num_queries, width = query.shape
    shared = key.shape[1]
    plain = num_queries == 1 and query.dtype == torch.float32
    if (
        not plain
        or attention_mask is None
        or attention_mask.shape[1] != 1
        or any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias"))
    ):
        out = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return out[0], None
    group = num_heads // shared
    flat = query.reshape(rows * shared, group, width)
    scores = torch.bmm(flat, key.flatten(0, 1).transpose(1, 2)).view(rows, num_heads, -1)
    scores.mul_(width**-0.5 if scaling is None else scaling).add_(attention_mask[:, 0])
    weights = scores.softmax(-1).view(rows * shared, group, -1)
    return torch.bmm(weights, value.flatten(0, 1)).view(rows, 1, num_heads, -1), None


def register_attention() -> None:
    """Make `batched_attention` known to transformers under the name `BATCHED`."""
    AttentionInterface.register(BATCHED, batched_attention)
    AttentionMaskInterface.register(BATCHED, sdpa_mask)
