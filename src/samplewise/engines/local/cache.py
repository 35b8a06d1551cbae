"""Keys and values: of the rows that run, and of prompts and responses worth continuing.

`Slots` is what a `transformers` model sees as its cache. The token at position p of a row is at slot p of that row in
every layer, so rows of any length stand side by side, a row is copied as it is, and a mask follows from positions.
`Prefixes` keeps keys and values by their token ids, the longest unused out first, within a bound on bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Cache

Saved = tuple[tuple[Tensor, Tensor], ...]  # per layer, keys and values (H, T, D) of one row


class Slots(Cache):
    """The keys and values of all rows: per layer two buffers (R, H, C, D), grown when needed.

    `aim` says which rows and slots the next forward pass writes; `update` then writes there and hands back what these
    rows hold so far, as a view.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.bytes_per_token = 0  # of one row, over all layers; known after the first pass
        self.forget()

    def forget(self) -> None:
        """Frees every buffer."""
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._num_rows = self._num_slots = self._first = self._end = self._upto = 0
        self._slots = torch.empty(0, 0, dtype=torch.int64)  # (N, Q)
        self._index: dict[int, Tensor] = {}  # number of heads -> places (N * H * Q,) among R * H * C

    def reserve(self, num_rows: int, num_slots: int, live: int) -> None:
        """Room for `num_rows` of `num_slots` tokens; the first `live` rows are kept."""
        if num_rows <= self._num_rows and num_slots <= self._num_slots:
            return
        self._num_rows = max(num_rows, self._num_rows)
        if num_slots > self._num_slots:
            self._num_slots = -(-max(num_slots, self._num_slots * 5 // 4) // 32) * 32
        for i, (keys, values) in enumerate(self._pairs):  # layer by layer, so that one layer at most exists twice
            self._pairs[i] = (self._grown(keys, live), self._grown(values, live))

    def _grown(self, old: Tensor, live: int) -> Tensor:
        new = old.new_zeros(self._num_rows, old.shape[1], self._num_slots, old.shape[3])
        new[:live, :, : old.shape[2]] = old[:live]
        return new

    def aim(self, first: int, slots: Tensor, upto: int) -> None:
        """The next pass writes rows `first` ... at `slots` (N, Q), and sees the slots below `upto`."""
        self._first, self._end, self._upto = first, first + slots.shape[0], upto
        self._slots, self._index = slots, {}

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        while len(self._pairs) <= layer_idx:
            shape = (self._num_rows, key_states.shape[1], self._num_slots)
            keys, values = (new.new_zeros(*shape, new.shape[-1]) for new in (key_states, value_states))
            self._pairs.append((keys, values))
            sizes = (t.shape[1] * t.shape[3] * t.element_size() for pair in self._pairs for t in pair)
            self.bytes_per_token = sum(sizes)
        keys, values = self._pairs[layer_idx]
        return self._write(keys, key_states), self._write(values, value_states)

    def _write(self, buffer: Tensor, new: Tensor) -> Tensor:
        num_heads = buffer.shape[1]
        index = self._index.get(num_heads)
        if index is None:
            lines = torch.arange(self._first * num_heads, self._end * num_heads, device=new.device)
            places = lines.view(-1, num_heads, 1) * self._num_slots + self._slots[:, None]  # (N, H, Q)
            index = self._index[num_heads] = places.reshape(-1)
        buffer.view(-1, buffer.shape[-1]).index_copy_(0, index, new.reshape(-1, new.shape[-1]))
        return buffer[self._first : self._end, :, : self._upto]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._upto

    def copy(self, to: Tensor, source: Tensor, length: int) -> None:
        """The first `length` tokens of rows `source` (N,) into rows `to` (N,); no row is in both."""
        for pair in self._pairs:
            for buffer in pair:
                part = buffer[:, :, :length]
                part.index_copy_(0, to, part.index_select(0, source))

    def save(self, row: int, length: int) -> Saved:
        return tuple((keys[row, :, :length].clone(), values[row, :, :length].clone()) for keys, values in self._pairs)

    def load(self, row: int, saved: Saved, length: int) -> None:
        for pair, held in zip(self._pairs, saved, strict=True):
            for buffer, new in zip(pair, held, strict=True):
                buffer[row, :, :length] = new[:, :length]


class Match(NamedTuple):
    length: int  # of the common prefix
    saved: Saved | None


class _Entry(NamedTuple):
    ids: tuple[int, ...]
    saved: Saved
    num_bytes: int


class Prefixes:
    """Saved keys and values, found by the longest prefix that they share with some token ids.

    Every prefix of every entry is known by a running hash, so a look-up costs one pass over the ids.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()  # by the hash of all ids, oldest use first
        self._owner: dict[int, int] = {}  # hash of a prefix -> hash of an entry that begins so

    def __len__(self) -> int:
        return len(self._entries)

    def longest(self, ids: Sequence[int]) -> Match:
        """The entry that shares the longest prefix with `ids`."""
        hashes = _hashes(ids)
        for length in range(len(ids), 0, -1):
            owner = self._owner.get(hashes[length - 1])
            entry = None if owner is None else self._entries.get(owner)
            if owner is not None and entry is not None and entry.ids[:length] == tuple(ids[:length]):
                self._entries.move_to_end(owner)
                return Match(length, entry.saved)
        return Match(0, None)

    def put(self, ids: Sequence[int], saved: Saved) -> None:
        """Keeps the keys and values of `ids`. What exceeds the bound leaves, the longest unused first."""
        hashes = _hashes(ids)
        num_bytes = sum(t.numel() * t.element_size() for pair in saved for t in pair)
        if not hashes or hashes[-1] in self._entries or num_bytes > self.max_bytes:
            return
        self._entries[hashes[-1]] = _Entry(tuple(ids), saved, num_bytes)
        self.num_bytes += num_bytes
        self._owner.update(dict.fromkeys(hashes, hashes[-1]))
        while self.num_bytes > self.max_bytes:
            gone, entry = self._entries.popitem(last=False)
            self.num_bytes -= entry.num_bytes
            for prefix in _hashes(entry.ids):
                if self._owner.get(prefix) == gone:
                    del self._owner[prefix]

    def clear(self) -> None:
        self._entries.clear()
        self._owner.clear()
        self.num_bytes = 0


def _hashes(ids: Sequence[int]) -> list[int]:
    """A hash of every prefix, the shortest first."""
    hashes, last = [], 0
    for token in ids:
        last = hash((last, token))
        hashes.append(last)
    return hashes
