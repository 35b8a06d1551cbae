"""Shards, merging and upkeep on the command line."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest
from tests.support.commands import Call, Done, caller

from samplewise.cli.store import in_units

LINE = "repeat(4, max_tokens=3) | vote"
NUM = 6


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    rows = ({"id": f"q{i}", "question": f"say {i}", "answer": "a"} for i in range(NUM))
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return caller(monkeypatch, capsys)


def draw(call: Call, store: str, *options: str) -> Done:
    return call("run", "mine.jsonl", "--engine", "toy", "-r", LINE, "--store", store, *options)


def test_shards_are_drawn_merged_and_reported(call: Call, tmp_path: Path) -> None:
    whole = draw(call, "whole.db", "--json").json
    parts = [draw(call, f"{i}.db", "--shard", f"{i}/2", "--json") for i in range(2)]
    for i, done in enumerate(parts):
        assert done.code == 0
        assert done.json["shard"] == f"{i}/2"
        assert done.json["run"] == whole["run"]
        assert (done.json["task_questions"], done.json["complete"]) == (NUM, True)
        assert 0 < done.json["done"] == done.json["questions"] == done.json["stops"]["finished"] < NUM
        assert f"run {whole['run']}, shard {i}/2: " in done.out
        assert f"all figures are of this shard, a part of {NUM} questions" in done.out
    assert sum(done.json["done"] for done in parts) == NUM
    assert "shard" not in whole
    partial = f"run {whole['run']} is partial: {parts[0].json['done']} of {NUM} questions, shard 0/2"
    for words in (["show"], ["passk"], ["recheck"], ["export", "-o", "d.csv"]):
        done = call(*words, "--store", "0.db")
        assert done.code == 0
        assert partial in " ".join(done.out.split())
        assert "all figures are of that part" in " ".join(done.out.split())
        assert "partial" not in call(*words, "--store", "whole.db").out
    assert partial in " ".join(call("list", "run", "--store", "0.db").out.split())
    refused = call("report", "--store", "0.db")
    assert refused.code == 3
    assert f"holds no finished run; {partial}; draw the others" in refused.err
    merged = call("merge", "0.db", "1.db", "-o", "all.db", "--json")
    assert merged.code == 0
    assert merged.json["rows"] | {"events": 0} == {"draws": 4 * NUM, "runs": 1, "pools": NUM, "scores": NUM} | {
        "selections": NUM, "events": 0,
    }  # fmt: skip
    assert f"{NUM} of {NUM}" in merged.out
    again = draw(call, "all.db", "--json").json
    assert again | {"paid": whole["paid"]} == whole
    assert again["paid"]["requests"] == 0


def test_a_partial_run_is_left_out_of_comparisons_and_named(call: Call) -> None:
    draw(call, "s.db", "--seed", "1")
    draw(call, "s.db", "--shard", "0/2")
    done = call("report", "--store", "s.db")
    assert done.code == 0
    assert "left out: run" in done.out


def test_wrong_shards_are_one_line(call: Call) -> None:
    for words, message in (
        (["--shard", "2/2"], "shards count from 0: of 2 there are 0 to 1, got 2/2"),
        (["--shard", "half"], "a shard is i/m, such as 0/4 for the first of four, got 'half'"),
        (["--shard", "0/2", "--spread", "gain", "--budget-tokens", "99"], "which shards cannot: leave out one of them"),
    ):
        done = draw(call, "s.db", *words)
        assert done.code == 2
        assert message in done.err
        assert len(done.err.splitlines()) == 1


def test_a_conflict_ends_with_an_exit_code(call: Call, tmp_path: Path) -> None:
    draw(call, "a.db")
    (tmp_path / "b.db").write_bytes((tmp_path / "a.db").read_bytes())
    with contextlib.closing(sqlite3.connect("b.db")) as db, db:
        db.execute("UPDATE draws SET text='other' WHERE digest=(SELECT min(digest) FROM draws)")
    done = call("merge", "a.db", "b.db", "-o", "all.db")
    assert done.code == 3
    assert "1 draws of b.db differ: " in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "all.db").exists()
    done = call("merge", "a.db", "b.db", "-o", "all.db", "--on-conflict", "first", "--json")
    assert done.code == 0
    assert "kept what came first: 1 draws of b.db differ" in done.out
    assert [conflict["num"] for conflict in done.json["conflicts"]] == [1]
    for words, message in (
        (["a.db", "-o", "x.db", "--on-conflict", "last"], "on-conflict"),
        (["a.db"], "give the store to write"),
        (["a.db", "-o", "a.db"], "is an input"),
    ):
        assert (done := call("merge", *words)).code == 2
        assert message in done.err


def test_a_store_is_looked_after(call: Call) -> None:
    draw(call, "s.db")
    done = call("store", "check", "s.db", "--json")
    assert (done.code, done.json["ok"], done.json["draws"]) == (0, True, 4 * NUM)
    done = call("store", "stats", "s.db", "--json")
    assert done.json["tables"]["draws"]["rows"] == 4 * NUM
    (run,) = done.json["runs"]
    assert run in done.out
    assert call("store", "vacuum", "s.db", "--json").json["after"] > 0
    with contextlib.closing(sqlite3.connect("s.db")) as db, db:
        db.execute("UPDATE draws SET ask='{}'")
    done = call("store", "check", "s.db", "--json")
    assert (done.code, done.json["ok"]) == (1, False)
    assert f"wrong: {4 * NUM} draws whose digest is not that of their ask" in done.out
    missing = call("store", "check", "gone.db")
    assert (missing.code, missing.err) == (3, "samplewise: no store at gone.db\n")


def test_bytes_have_three_digits_and_a_unit() -> None:
    shown = [in_units(num) for num in (0, 999, 1_000, 12_345, 999_600, 5e9, 2e15)]
    assert shown == ["0 B", "999 B", "1 kB", "12.3 kB", "1 MB", "5 GB", "2e+03 TB"]
