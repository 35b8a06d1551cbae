"""Faults of a cached forward pass, to be put in one at a time: the check at loading must see each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from samplewise.engines.local import forward, llama

Fault = Callable[[pytest.MonkeyPatch], None]

_MASK = forward.Masks._mask
_RUNS = {kind: kind._run for kind in (forward.Cached, llama.Lean)}


def _hidden(changed: Callable[[Any, Any], Any]) -> Fault:
    """Hide the slots that `changed(positions, slots)` shows, beside those that are hidden."""

    def mask(self: Any, positions: Any, slots: Any, kind: str) -> Any:
        query = positions[:, None, :, None]
        hidden = changed(query, slots) & (query > 0)  # a row that sees nothing has no distribution
        return _MASK(self, positions, slots, kind).masked_fill(hidden, torch.finfo(self.dtype).min)

    return lambda patch: patch.setattr(forward.Masks, "_mask", mask)


def _windows(change: Callable[[int], int | None]) -> Fault:
    def mask(self: Any, positions: Any, slots: Any, kind: str) -> Any:
        real = self.reach[kind]
        self.reach[kind] = tuple(size and change(size) for size in real)
        try:
            return _MASK(self, positions, slots, kind)
        finally:
            self.reach[kind] = real

    return lambda patch: patch.setattr(forward.Masks, "_mask", mask)


def _ahead(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(forward.Masks, "_mask", lambda self, p, slots, kind: _MASK(self, p + 1, slots, kind))


def _stale(patch: pytest.MonkeyPatch) -> None:
    def shown(self: Any, positions: Any, slots: Any, kind: str) -> Any:
        return torch.zeros(*positions.shape, len(slots), dtype=self.dtype)[:, None]

    patch.setattr(forward.Masks, "_mask", shown)


def _positions(change: Callable[[Any], Any]) -> Fault:
    def fault(patch: pytest.MonkeyPatch) -> None:
        for kind, run in _RUNS.items():

            def changed(self: Any, tokens: Any, positions: Any, *rest: Any, run: Any = run) -> Any:
                return run(self, tokens, change(positions), *rest)

            patch.setattr(kind, "_run", changed)

    return fault


def _nothing(name: str) -> Fault:
    return lambda patch: patch.setattr(forward.Cached, name, lambda *given: None)


def _from_zero(positions: Any) -> Any:
    return positions - positions.amin(1, keepdim=True) if positions.shape[1] > 1 else positions


def _one_further(positions: Any) -> Any:
    return positions + 1 if positions.shape[1] == 1 else positions


def _swapped(patch: pytest.MonkeyPatch) -> None:
    """Give row 0 what row 1 holds where it is saved."""
    real = forward.Cached.save
    patch.setattr(forward.Cached, "save", lambda self, row, length: real(self, 1 - row, length))


FAULTS: dict[str, Fault] = {
    "a token does not see itself": _hidden(lambda query, slots: slots == query),
    "a token does not see the one before": _hidden(lambda query, slots: slots == query - 1),
    "the first token is not seen": _hidden(lambda query, slots: slots == 0),
    "the next slot is seen": _ahead,
    "every slot is seen": _stale,
    "windows one token too wide": _windows(lambda size: size + 1),
    "windows one token too narrow": _windows(lambda size: size - 1),
    "no windows": _windows(lambda size: None),
    "decoded one position too far": _positions(_one_further),
    "continued from position 0": _positions(_from_zero),
    "a copied row keeps its own keys": _nothing("copy"),
    "a loaded prefix is not written": _nothing("load"),
    "another row is saved": _swapped,
}
OF_WINDOWS = ("windows one token too wide", "windows one token too narrow", "no windows")
