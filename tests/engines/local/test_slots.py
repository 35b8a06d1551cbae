"""The buffers of keys and values: whatever sizes follow one another, rows that run keep what they hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from samplewise.core.types import Generate  # noqa: E402
from samplewise.engines.local import cache, local  # noqa: E402
from samplewise.engines.local.cache import Slots  # noqa: E402

LAYERS, HEADS, WIDTH = 3, 2, 4
sizes = st.tuples(st.sampled_from((1, 2, 7, 20)), st.sampled_from((1, 5, 30, 100, 300)), st.booleans())


def value(row: int, slot: int, layer: int) -> float:
    return row * 1000 + slot + layer / 8


def write(slots: Slots, first: int, num_rows: int, slot: int) -> list[Any]:
    """Write one token of each row at `slot`, and return what each layer's rows hold up to there."""
    slots.aim(first, torch.full((num_rows, 1), slot), slot + 1)
    held = []
    for layer in range(LAYERS):
        new = torch.tensor([value(first + i, slot, layer) for i in range(num_rows)])
        new = new.view(-1, 1, 1, 1).expand(num_rows, HEADS, 1, WIDTH)
        held.append(slots.write(layer, new, -new))
    return held


def check(slots: Slots, num_rows: int, num_slots: int) -> None:
    """Every slot of every row holds its own value, in every layer, head and half."""
    for layer, (keys, values) in enumerate(write(slots, 0, num_rows, num_slots)):
        wanted = torch.tensor([[value(row, slot, layer) for slot in range(num_slots + 1)] for row in range(num_rows)])
        assert torch.equal(keys, wanted.view(num_rows, 1, -1, 1).expand_as(keys))
        assert torch.equal(values, -keys)


@given(st.lists(sizes, min_size=1, max_size=8))
@settings(deadline=None)
def test_rows_keep_what_they_hold_through_any_sizes(steps: list[tuple[int, int, bool]]) -> None:
    """In turn: batches that begin anew, of any size after any other, and batches that grow while they run."""
    slots, live, held = Slots(), 0, 0
    for num_rows, num_slots, anew in steps:
        if anew:
            live = held = 0
        rows, most = max(num_rows, live), max(num_slots, held) + 1
        slots.reserve(rows, most, live)
        if not live:
            live = rows
            for slot in range(min(num_slots, 3)):
                write(slots, 0, live, slot)
                held = slot + 1
        check(slots, live, held)


def test_a_larger_batch_of_shorter_rows_may_follow() -> None:
    slots = Slots()
    slots.reserve(6, 210, 0)
    write(slots, 0, 6, 0)
    slots.reserve(16, 30, 0)
    for slot in range(3):
        write(slots, 0, 16, slot)
    check(slots, 16, 3)


@pytest.mark.parametrize("failing", range(2 * LAYERS))
def test_rows_outlive_a_growth_that_memory_cut_short(failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers differ in size then. Rows go on, in the room that they had, and the next growth succeeds."""
    slots = Slots()
    slots.reserve(3, 20, 0)
    for slot in range(4):
        write(slots, 0, 3, slot)
    calls, fitted = iter(range(100)), cache._fitted

    def out_of_memory(*given: Any) -> Any:
        if next(calls) == failing:
            raise RuntimeError("not enough memory")
        return fitted(*given)

    monkeypatch.setattr(cache, "_fitted", out_of_memory)
    with pytest.raises(RuntimeError):
        slots.reserve(8, 60, 3)
    monkeypatch.undo()
    check(slots, 3, 4)
    slots.reserve(8, 60, 3)
    check(slots, 3, 5)


def test_an_engine_takes_more_and_shorter_asks_after_few_long_ones(checkpoint: Any, kit: SimpleNamespace) -> None:
    """As a server does: each call finds the buffers that another one left."""
    long = [Generate(kit.question(i, 100), max_tokens=9, seed=i) for i in range(2)]
    short = [Generate(kit.question(7, 2), max_tokens=9, seed=i, want=("tokens",)) for i in range(24)]
    used, fresh = (local(checkpoint("llama"), device="cpu") for _ in range(2))
    assert all(completion.failure is None for completion in kit.answers(used, long))
    after = [kit.bare(completion) for completion in kit.answers(used, short)]
    assert after == [kit.bare(completion) for completion in kit.answers(fresh, short)]
    assert all(failure is None for *_, failure in after)
