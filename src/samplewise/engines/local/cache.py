"""Keys and values: those of the running rows, and saved ones of prompts and responses that may be continued.

`Slots` is what a `transformers` model sees as its cache. The token at position p of a row is at slot p of that row in
every layer, so rows of any length share a buffer, a row is copied as it is, and a mask follows from positions.
`Prefixes` keeps keys and values by their token ids, within a bound on bytes; the least recently used leave first.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache

STEP = 16  # slots
Saved = tuple[tuple[Tensor, ...], ...]  # per layer, keys and values (H, T, D) of one row


class Slots(Cache):
    """The keys and values of all rows: per layer buffers (R, H, C, D), grown when needed.

    `aim` sets the rows and slots that the next forward pass writes; `update` writes there and returns what these rows
    hold so far, as a view.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.bytes_per_token = 0  # of one row, over all layers; known after the first pass
        self.forget()

    def forget(self) -> None:
        """Free every buffer."""
        self._layers: list[tuple[Tensor, ...]] = []
        self._num_rows = self._num_slots = self._first = self._end = self._upto = 0
        self._slots = torch.empty(0, 0, dtype=torch.int64)  # (N, Q)
        self._index: dict[tuple[int, int], Tensor] = {}  # (H, C) -> flat indices (N * H * Q,) into R * H * C

    def reserve(self, num_rows: int, num_slots: int, live: int) -> None:
        """Make room for `num_rows` of `num_slots` tokens; keep the first `live` rows.

        Rows are packed closely, because memory is read in order. So room grows in small steps. When no row is live, the
        size is chosen anew: what earlier rows came to need, if that is in proportion.
        """
        rows, slots = max(num_rows, self._num_rows), self._num_slots
        if not live:
            slots = _rounded(max(num_slots, min(slots, 2 * num_slots + 4 * STEP)))
        elif num_slots > slots:
            slots = _rounded(max(num_slots, slots * 9 // 8))
        if (rows, slots) == (self._num_rows, self._num_slots):
            return
        for i, buffers in enumerate(self._layers):  # layer by layer, so that one layer at most exists twice
            self._layers[i] = tuple(_fitted(buffer, rows, slots, live) for buffer in buffers)
        self._num_rows, self._num_slots = rows, slots  # last: where memory ran out, the next call tries again

    def aim(self, first: int, slots: Tensor, upto: int) -> None:
        """Make the next pass write rows from `first` on at `slots` (N, Q), and see the slots below `upto`."""
        self._first, self._end, self._upto = first, first + slots.shape[0], upto
        self._slots, self._index = slots, {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        return self.write(layer_idx, key_states, value_states)

    def write(self, layer: int, *states: Tensor) -> tuple[Tensor, ...]:
        """Write new states (N, H, Q, D) of a layer. Return all that its rows hold (N, H, T, D)."""
        while len(self._layers) <= layer:
            self._layers.append(
                tuple(new.new_zeros(self._num_rows, new.shape[1], self._num_slots, new.shape[3]) for new in states)
            )
            sizes = (t.shape[1] * t.shape[3] * t.element_size() for buffers in self._layers for t in buffers)
            self.bytes_per_token = sum(sizes)
        return tuple(self._write(buffer, new) for buffer, new in zip(self._layers[layer], states, strict=True))

    def _write(self, buffer: Tensor, new: Tensor) -> Tensor:
        _, num_heads, num_slots, _ = buffer.shape  # layers differ where growing them was cut short
        index = self._index.get((num_heads, num_slots))
        if index is None:
            heads = torch.arange(self._first * num_heads, self._end * num_heads, device=new.device)
            flat = heads.view(-1, num_heads, 1) * num_slots + self._slots[:, None]  # (N, H, Q)
            index = self._index[num_heads, num_slots] = flat.reshape(-1)
        buffer.view(-1, buffer.shape[-1]).index_copy_(0, index, new.reshape(-1, new.shape[-1]))
        return buffer[self._first : self._end, :, : self._upto]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._upto

    def copy(self, to: Tensor, source: Tensor, length: int) -> None:
        """Copy the first `length` tokens of rows `source` (N,) to rows `to` (N,). All are read before any is written,
        so rows can change places."""
        for buffers in self._layers:
            for buffer in buffers:
                part = buffer[:, :, :length]
                part.index_copy_(0, to, part.index_select(0, source))

    def save(self, row: int, length: int) -> Saved:
        return tuple(tuple(buffer[row, :, :length].clone() for buffer in buffers) for buffers in self._layers)

    def load(self, row: int, saved: Saved, length: int) -> None:
        for buffers, held in zip(self._layers, saved, strict=True):
            for buffer, new in zip(buffers, held, strict=True):
                buffer[row, :, :length] = new[:, :length]


def _fitted(old: Tensor, rows: int, slots: int, live: int) -> Tensor:
    """Return a buffer (rows, H, slots, D) that keeps the first `live` rows of another one."""
    if (old.shape[0], old.shape[2]) == (rows, slots):
        return old
    shape = (rows, old.shape[1], slots, old.shape[3])
    if not live and math.prod(shape) <= old.untyped_storage().nbytes() // old.element_size():
        return old.as_strided(shape, torch.empty(shape, device="meta").stride(), 0)
    new, kept = old.new_empty(shape), min(slots, old.shape[2])
    new[:live, :, :kept] = old[:live, :, :kept]
    new[:live, :, kept:] = 0.0  # a mask hides unwritten slots, but cannot hide a nan
    new[live:] = 0.0
    return new


def _rounded(num_slots: int) -> int:
    return -(-num_slots // STEP) * STEP


class Match(NamedTuple):
    """The saved entry that shares the longest prefix with some token ids."""

    length: int  # of the common prefix
    saved: Saved | None


class _Entry(NamedTuple):
    ids: tuple[int, ...]
    saved: Saved
    num_bytes: int


class Prefixes:
    """Saved keys and values, found by the longest prefix that they share with some token ids.

    Every prefix of every entry is indexed by a running hash, so a look-up costs one pass over the ids.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # by the hash of all ids, oldest use first
        self._owner: dict[int, int] = {}  # hash of a prefix -> hash of an entry that begins with it, or did
        self._count: dict[int, int] = {}  # hash of a prefix -> number of entries that begin with it

    def __len__(self) -> int:
        return len(self._entries)

    def longest(self, ids: Sequence[int]) -> Match:
        """Return the entry that shares the longest prefix with `ids`."""
        hashes = _hashes(ids)
        for length in range(len(ids), 0, -1):
            if hashes[length - 1] in self._count:
                owner = self._owner[hashes[length - 1]]
                if owner not in self._entries:
                    owner = self._inherit(hashes, tuple(ids[:length]))
                entry = self._entries.get(owner)
                if entry is not None and entry.ids[:length] == tuple(ids[:length]):
                    self._entries.move_to_end(owner)
                    return Match(length, entry.saved)
        return Match(0, None)

    def _inherit(self, hashes: Sequence[int], ids: tuple[int, ...]) -> int:
        """Find another entry that begins with `ids`, where the indexed one has left. Return its hash, or 0."""
        for heir in reversed(self._entries):
            if self._entries[heir].ids[: len(ids)] == ids:
                self._owner.update(dict.fromkeys(hashes[: len(ids)], heir))
                return heir
        return 0

    def put(self, ids: Sequence[int], saved: Saved) -> None:
        """Save the keys and values of `ids`. Evict the least recently used entries beyond the bound."""
        hashes = _hashes(ids)
        num_bytes = sum(t.numel() * t.element_size() for held in saved for t in held)
        if not hashes or hashes[-1] in self._entries or num_bytes > self.max_bytes:
            return
        self._entries[hashes[-1]] = _Entry(tuple(ids), saved, num_bytes)
        self.num_bytes += num_bytes
        self._owner.update(dict.fromkeys(hashes, hashes[-1]))
        for prefix in hashes:
            self._count[prefix] = self._count.get(prefix, 0) + 1
        while self.num_bytes > self.max_bytes:
            _, entry = self._entries.popitem(last=False)
            self.num_bytes -= entry.num_bytes
            for prefix in _hashes(entry.ids):
                self._count[prefix] -= 1
                if not self._count[prefix]:
                    del self._count[prefix], self._owner[prefix]

    def clear(self) -> None:
        for table in (self._entries, self._owner, self._count):
            table.clear()
        self.num_bytes = 0


def _hashes(ids: Sequence[int]) -> list[int]:
    """Return a hash of every prefix, the shortest first."""
    hashes, last = [], 0
    for token in ids:
        last = hash((last, token))
        hashes.append(last)
    return hashes
