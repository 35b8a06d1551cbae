"""The demo, small: the same code as the real one, on a few puzzles of the embedded model."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("transformers", reason="needs the extra [local]")

from samplewise.cli import demo as module
from samplewise.cli.demo import BASELINE, METHODS, show_methods
from samplewise.store.database import Store


def num_moves(store: Store) -> int:
    """Draws of chains that go on from a part of a response."""
    return sum("prefix" in ask or "forbid_first" in ask for _, ask, _ in store.all_draws())


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(record=True, width=160, file=io.StringIO())
    monkeypatch.setattr(module, "out", console)
    return console


def test_the_demo_compares_every_row_and_pays_once(tmp_path: Path, console: Console) -> None:
    first = show_methods(tmp_path, 5, 6, 0)
    with Store(tmp_path / "demo.db") as store:
        paid, moves = store.num_draws(), num_moves(store)
    again = show_methods(tmp_path, 5, 6, 0)
    with Store(tmp_path / "demo.db") as store:
        assert store.num_draws() == paid, "a second demo draws nothing"
    # Five pools and one greedy answer a puzzle. Rows that draw alike share; so do the ladder's direct draws, 0 and 5,
    # and the first of the permuted ones: of one puzzle, which has but three other orders, the fifth too.
    # Each puzzle's chain has a start, and its moves; its 16 weighted draws are their own.
    # Three groups a puzzle explore, of seven eighths of the draws.
    assert paid - moves == 5 * (5 * 6 + 1 - 3) - 1 + 5 * 17 + 5 * 3 * 5
    assert moves > 5
    assert first["demo"] == again["demo"]
    methods = first["demo"]["methods"]
    assert [m["name"] for m in methods] == [method.name for method in METHODS]
    drawn = [
        m for m in methods if not (m["name"].startswith("power") or "until" in m["recipe"] or "explore" in m["recipe"])
    ]
    assert all(m["tokens"] <= first["demo"]["tokens"] + 1e-9 for m in drawn), "what is whole costs what it did"
    assert all(m["draws"] >= 1 and m["accuracy"] is not None for m in methods)
    assert next(m for m in methods if m["name"] == BASELINE)["difference"] is None
    by_checker = {m["name"]: m for m in methods if m["name"].endswith("by checker")}
    assert all(m["accuracy"] == pytest.approx(m["coverage"]) for m in by_checker.values()), "the checker is exact"
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert "best by checker" in console.export_text()


def test_the_short_table_has_twelve_rows_and_draws_no_more_than_these_need(tmp_path: Path, console: Console) -> None:
    short = tuple(method for method in METHODS if method.short)
    figures = show_methods(tmp_path, 2, 4, 0, short)["demo"]
    assert [m["name"] for m in figures["methods"]] == [method.name for method in short]
    assert 10 <= len(short) <= 13
    assert "--full" not in figures["facts"]["command"]


def test_another_seed_draws_others(tmp_path: Path, console: Console) -> None:
    counts = []
    for seed in (0, 1):
        show_methods(tmp_path, 2, 2, seed)
        with Store(tmp_path / "demo.db") as store:
            counts.append(store.num_draws() - num_moves(store))
    assert counts[1] == 2 * counts[0]
