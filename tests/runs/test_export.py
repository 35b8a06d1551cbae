"""An exported run is read back by the programs that it is for, with every value in its place."""

from __future__ import annotations

import asyncio
import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from samplewise.core.errors import MissingExtra, UsageError
from samplewise.core.types import Candidate, Message, Pool, Problem, Question, Selection, Stop, Usage
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.runs import export as export_module
from samplewise.runs.export import export_run, format_of, inspect_log
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.records import Record, Run
from samplewise.tasks.jsonl import jsonl

TEXTS = ("=1+1", "half \ud83d of a pair\x1b[31m", "ünï")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """One question with three hard draws: reasoning, half a surrogate pair, and values that are not known."""
    kept = Store(tmp_path / "s.db")
    facts = {"engine": {"name": "served"}}
    kept.start_run(Run("r", "repeat(3) | vote", "mine", "engine", 5, facts, 1_700_000_000.0, None))
    question = Question("q,1", (Message("developer", "be brief"), Message("user", "1+1?")))
    candidates = (
        Candidate(TEXTS[0], "stop", "direct", 0.0, 9, -1.5, {"reward": 0.25}, 'a "b",\nc'),
        Candidate(TEXTS[1], "length", "role", -0.5, 4, math.nan, {"reward": math.nan}),
        Candidate(TEXTS[2]),
    )
    record = Record(
        Problem(question, {"tests": "x"}), 0, Pool(candidates, 1), ("2", None, "ünï"), (1.0, 0.0, math.nan),
        Usage(4, 10, 13, usd=0.5), Stop("finished"),
    )  # fmt: skip
    kept.save("r", record, "vote", Selection("2", 0), 1.0)
    kept.save_selection("r", "q,1", "first", Selection("ünï", 2), math.nan)
    kept.end_run("r")
    yield kept
    kept.close()


def the_run(store: Store) -> Run:
    return store.runs()[-1]


EXPECTED = [
    {"run": "r", "question": "q,1", "draw": 0, "arm": "direct", "text": "=1+1", "reasoning": 'a "b",\nc'}
    | {"answer": "2", "grade": 1.0, "chosen": True, "finish": "stop", "tokens": 9, "logp": -1.5, "log_weight": 0.0}
    | {"score_reward": 0.25},
    {"run": "r", "question": "q,1", "draw": 1, "arm": "role", "text": "half \\ud83d of a pair\x1b[31m"}
    | {"reasoning": None, "answer": None, "grade": 0.0, "chosen": False, "finish": "length", "tokens": 4}
    | {"logp": None, "log_weight": -0.5, "score_reward": None},
    {"run": "r", "question": "q,1", "draw": 2, "arm": "direct", "text": "ünï", "reasoning": None, "answer": "ünï"}
    | {"grade": None, "chosen": False, "finish": "stop", "tokens": 0, "logp": None, "log_weight": 0.0}
    | {"score_reward": None},
]


def test_json_lines_hold_every_value(store: Store, tmp_path: Path) -> None:
    assert export_run(store, the_run(store), tmp_path / "a" / "d.jsonl", "jsonl") == 3
    rows = [json.loads(line) for line in (tmp_path / "a" / "d.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == EXPECTED


def test_csv_holds_every_value(store: Store, tmp_path: Path) -> None:
    export_run(store, the_run(store), tmp_path / "d.csv", "csv")
    with (tmp_path / "d.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: as_csv(v) for name, v in row.items()} for row in EXPECTED]


def as_csv(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("group", [2, 3, 10_000])
def test_parquet_holds_every_value(store: Store, tmp_path: Path, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the rows are written in parts."""
    pyarrow_parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra [export]")
    monkeypatch.setattr(export_module, "ROW_GROUP", group)
    assert export_run(store, the_run(store), tmp_path / "a" / "d.parquet", "parquet") == 3
    file = pyarrow_parquet.ParquetFile(tmp_path / "a" / "d.parquet")
    assert file.read().to_pylist() == EXPECTED
    assert file.num_row_groups == math.ceil(3 / group)
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert (types["chosen"], types["draw"], types["grade"], types["text"]) == ("bool", "int64", "double", "string")


def test_decisions_have_a_row_for_each_selector(store: Store, tmp_path: Path) -> None:
    assert export_run(store, the_run(store), tmp_path / "d.jsonl", "jsonl", "decisions") == 2
    first, vote = (json.loads(line) for line in (tmp_path / "d.jsonl").read_text(encoding="utf-8").splitlines())
    shared = {"run": "r", "question": "q,1", "reference": '{"tests": "x"}', "draws": 3, "failed": 1}
    shared |= {"stop": "finished", "tokens": 23, "usd": 0.5}
    shared["messages"] = '[{"role": "developer", "content": "be brief"}, {"role": "user", "content": "1+1?"}]'
    assert vote == shared | {"selector": "vote", "answer": "2", "draw": 0, "grade": 1.0}
    assert first == shared | {"selector": "first", "answer": "ünï", "draw": 2, "grade": None}


def test_inspect_reads_the_log(store: Store, tmp_path: Path) -> None:
    inspect_log_api = pytest.importorskip("inspect_ai.log", reason="Inspect is no part of samplewise")
    export_run(store, the_run(store), tmp_path / "log.json", "inspect")
    log = inspect_log_api.read_eval_log(str(tmp_path / "log.json"))
    assert (log.status, log.eval.task, log.eval.model, log.eval.config.epochs) == ("success", "mine", "served", 3)
    first, cut, _ = log.samples
    assert (first.id, first.epoch, first.target) == ("q,1", 1, '{"tests": "x"}')
    assert [message.role for message in first.messages] == ["system", "user", "assistant"]
    assert first.output.completion == "=1+1"
    assert first.output.choices[0].message.content[0].reasoning == 'a "b",\nc'
    assert (first.scores["grade"].value, first.scores["grade"].answer, first.scores["reward"].value) == (1.0, "2", 0.25)
    assert (cut.output.stop_reason, cut.scores["grade"].value, "reward" in cut.scores) == ("max_tokens", 0.0, False)
    assert log.results.scores[0].metrics["mean"].value == 0.5


def test_an_inspect_log_has_what_its_format_needs(store: Store) -> None:
    """Also where Inspect is not installed: the fields that its log of version 2 cannot be read without."""
    log = inspect_log(store, the_run(store))
    assert {"created", "task", "dataset", "model", "config"} <= log["eval"].keys()
    assert log["eval"]["dataset"]["sample_ids"] == ["q,1"]
    assert log["eval"]["created"] == "2023-11-14T22:13:20+00:00"
    for sample in log["samples"]:
        assert {"id", "epoch", "input", "target"} <= sample.keys()
        assert "usage" not in sample["output"], "this record does not know the prompts' tokens, and that is not 0"
        assert {"system", "user"} == {message["role"] for message in sample["input"]}
    assert "grade" not in log["samples"][2]["scores"], "an unknown grade is left out, not 0"
    json.dumps(log, allow_nan=False)


def test_a_real_run_is_exported_whole(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"question": "say a", "answer": "a"}\n{"question": "say b"}\n')
    with Store(tmp_path / "s.db") as store:
        line = recipe("vary(ladder(0.5)) | repeat(5, max_tokens=3) | best(logp)")
        asyncio.run(run_task(jsonl(tmp_path / "f.jsonl"), line, Toy(3), store))
        assert export_run(store, the_run(store), tmp_path / "d.jsonl", "jsonl") == 10
        rows = [json.loads(text) for text in (tmp_path / "d.jsonl").read_text().splitlines()]
        records = list(store.records(the_run(store).id))
        pools = [record.pool.candidates for record in records]
        samples = inspect_log(store, the_run(store))["samples"]
        for record in records:
            assert record.bill is not None
        paid = [usage for record in records if record.bill for usage in record.bill.draws]
    assert [sample["output"]["usage"] for sample in samples] == [
        {"input_tokens": u.prompt_tokens, "output_tokens": u.completion_tokens, "total_tokens": u.tokens} for u in paid
    ]
    assert min(usage.prompt_tokens for usage in paid) > 0
    assert [row["text"] for row in rows] == [c.text.strip() for pool in pools for c in pool]
    assert [row["score_logp"] for row in rows] == [c.scores["logp"] for pool in pools for c in pool]
    assert {row["question"]: sum(r["chosen"] for r in rows if r["question"] == row["question"]) for row in rows} == {
        "1": 1,
        "2": 1,
    }


def test_an_ask_that_brought_no_draw_is_nobodys_usage(tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"question": "say a", "answer": "a"}\n')
    with Store(tmp_path / "s.db") as store:
        asyncio.run(run_task(jsonl(tmp_path / "f.jsonl"), recipe("repeat(3, max_tokens=3) | first"), Toy(3), store))
        (record,) = store.records(the_run(store).id)
        assert record.bill is not None
        paid = record.bill.draws
        bill = record.bill._replace(draws=(paid[0], Usage(1, 99, 99), *paid[1:]), failed=(1,))
        store.save(the_run(store).id, record._replace(bill=bill), "first", Selection(None, None, ()), 0.0)
        samples = inspect_log(store, the_run(store))["samples"]
    assert [sample["output"]["usage"]["total_tokens"] for sample in samples] == [usage.tokens for usage in paid]


def test_what_cannot_be_written_is_one_line(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("csv", "inspect", "eval", "lm_eval"):
        with pytest.raises(UsageError, match="cannot write"):
            export_run(store, the_run(store), tmp_path, form)  # type: ignore[arg-type]
    with pytest.raises(
        UsageError, match=r"give --format csv, jsonl, parquet, inspect, eval, lm_eval, or a file that ends in \.csv"
    ):
        format_of(Path("d.xlsx"), None)
    assert format_of(Path("d.json"), None) == "inspect"
    assert format_of(Path("d"), "parquet") == "parquet"
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match=r"pip install 'samplewise\[export\]'"):
        export_run(store, the_run(store), tmp_path / "d.parquet", "parquet")
