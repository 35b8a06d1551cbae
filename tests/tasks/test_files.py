"""Rows of published benchmarks: files in all their forms, damaged ones, and none at all."""

from __future__ import annotations

import gzip
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import BadInput, SetupError
from samplewise.core.types import Problem, Question
from samplewise.tasks.files import BenchmarkSource, field, find_data_file, problems, read_table, rows

ROWS = [{"a": 1, "b": "é"}, {"a": 2, "b": "x"}]
LINES = '{"a": 1, "b": "é"}\n\n{"a": 2, "b": "x"}\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(tmp_path))
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where it is not installed
    return tmp_path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", LINES.encode()),
        ("x.jsonl", b"\xef\xbb\xbf" + LINES.encode()),
        ("x.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("x.json.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("x.json", '[{"a": 1, "b": "é"},\n {"a": 2, "b": "x"}]'.encode()),
    ],
)
def test_the_forms_of_a_file(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    assert rows(BenchmarkSource("x", name)) == ROWS


def test_csv_gives_texts(folder: Path) -> None:
    (folder / "x.csv.gz").write_bytes(gzip.compress(b'a,b\n1,"2, 3"\n', mtime=0))
    assert rows(BenchmarkSource("x", "x.csv.gz")) == [{"a": "1", "b": "2, 3"}]


def test_the_folder_of_benchmarks_comes_first(folder: Path) -> None:
    assert find_data_file("x.jsonl") is None
    (folder / "x.jsonl").write_text('{"from": "above"}')
    assert find_data_file("x.jsonl") == folder / "x.jsonl"
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "x.jsonl").write_text('{"from": "benchmarks"}')
    assert rows(BenchmarkSource("x", "x.jsonl")) == [{"from": "benchmarks"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": \n', r"x\.jsonl:2: not JSON: Expecting value.*is the file complete"),
        ("x.jsonl", b'{"a": 1}\n[]\n', r"x\.jsonl:2: expected a JSON object, got '\[\]'"),
        ("x.jsonl", b'{"a": NaN}\n', r"x\.jsonl:1: not JSON: NaN is not a JSON number"),
        ("x.jsonl", b'{"a": 1}\n\xff\n', r"x\.jsonl:2: byte 1 is not UTF-8"),
        ("x.jsonl", b"\n\n", "holds no rows"),
        ("x.json", b'[{"a": 1}, 7]', r"item 2: expected a JSON object"),
        ("x.json", b'[{"a": 1},\n {"a": ]', r"x\.json:2: not JSON"),
        ("x.jsonl.gz", b"no gzip", "cannot be read: Not a gzipped file"),
        ("x.csv", b"a,b\n1\n", r"x\.csv:2: expected 2 columns"),
        ("x.csv", b"a,b\n1,2\n1,2,3\n", r"x\.csv:3: expected 2 columns"),
        ("x.csv", b"a,b,a,,\n1,2,3,,\n", r"x\.csv:1: two columns are called 'a'; one of them would be lost"),
        ("x.csv", b'a,b\n1,"2\n', r"x\.csv:2: not CSV: unexpected end of data"),
        ("x.parquet", b"PAR1", r"expected a \.jsonl, \.json or \.csv file"),
    ],
)
def test_a_damaged_file_says_where(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        rows(BenchmarkSource("x", name))


def test_a_truncated_file_says_how_far_it_went(folder: Path) -> None:
    whole = gzip.compress("".join(f'{{"a": {i}, "b": "{i * 7919 % 10007}"}}\n' for i in range(5000)).encode())
    (folder / "x.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"cannot be read after line \d{3,}: Compressed file ended"):
        rows(BenchmarkSource("x", "x.jsonl.gz"))
    (folder / "x.jsonl.gz").write_bytes(whole[:200] + b"\xff" * 20 + whole[220:])
    with pytest.raises(BadInput, match=r"x\.jsonl\.gz"):
        rows(BenchmarkSource("x", "x.jsonl.gz"))
    with pytest.raises(BadInput, match="there is no such file"):
        read_table(folder / "nowhere.jsonl")


def make(number: int, row: Mapping[str, Any]) -> Problem:
    return Problem(Question(f"x/{number}", ()), int(field(row, "answer", "target")))


def test_problems_of_rows(folder: Path) -> None:
    source = BenchmarkSource("x", "x.jsonl")
    (folder / "x.jsonl").write_text('{"answer": 1}\n{"target": 2}\n{"answer": null, "target": 0}\n{"other": 3}\n')
    assert [problem.reference for problem in problems(source, make, 3)] == [1, 2, 0]
    with pytest.raises(BadInput, match=r"x\.jsonl: row 4 has no field 'answer or target'"):
        problems(source, make)
    (folder / "x.jsonl").write_text('{"answer": "seven"}\n')
    with pytest.raises(BadInput, match=r"row 1 does not fit: invalid literal for int"):
        problems(source, make)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        problems(BenchmarkSource("x", "nowhere.jsonl"), make, 0)


def test_nowhere_says_which_file_goes_where_and_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError) as caught:
        rows(BenchmarkSource("x", "x.jsonl", "who/x"))
    assert str(caught.value) == (
        f"x is not here: put x.jsonl into {folder}/benchmarks, or pip install 'samplewise[eval]' to fetch who/x from "
        "the Hub"
    )
    monkeypatch.setenv("SAMPLEWISE_DATA", str(folder / "nowhere"))
    with pytest.raises(SetupError, match=r"put x\.jsonl into a folder that SAMPLEWISE_DATA names$"):
        rows(BenchmarkSource("x", "x.jsonl"))


def pretend(load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_the_hub_stands_in_for_a_missing_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*args: Any, **settings: Any) -> list[dict[str, Any]]:
        asked.append((args, settings))
        return ROWS

    pretend(load, monkeypatch)
    source = BenchmarkSource("x", "x.jsonl", "who/x", "main", "train")
    assert rows(source) == ROWS
    assert asked == [(("who/x", "main"), {"split": "train"})]
    (folder / "x.jsonl").write_text('{"a": 3}\n')
    assert rows(source) == [{"a": 3}]
    assert len(asked) == 1  # a file at hand is used without asking


def test_a_failing_hub_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach 'who/x'\nand much more")

    pretend(load, monkeypatch)
    with pytest.raises(SetupError, match=r"fetching who/x from the Hub failed: Couldn't reach 'who/x'$"):
        rows(BenchmarkSource("x", "x.jsonl", "who/x"))
