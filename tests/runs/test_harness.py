"""A run as the logs of other harnesses, and back: every draw, grade, reference and count where it was.

Where Inspect and lm-evaluation-harness are installed (.venv-clients), they read the files themselves.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import BadInput
from samplewise.core.types import Message
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.recorded import load_recording
from samplewise.recorded.base import Recording
from samplewise.runs.export import export_run, format_of
from samplewise.runs.harness import EPOCH
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.records import Record
from samplewise.tasks.jsonl import jsonl

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / ".venv-clients" / "bin" / "python"
DATE = "2026-11-30T12-00-00.000000"
ROWS = [
    {"id": "a", "question": "say a", "answer": "a"},
    {"id": "b/2", "question": "say b", "answer": ["b", "bb"]},
    {"id": "c", "question": "say c"},
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A folder with one run of three questions in every format, and its records."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with Store(folder / "s.db") as store:
        asyncio.run(run_task(jsonl(folder / "q.jsonl"), recipe("repeat(4, max_tokens=3) | best(logp)"), Toy(), store))
        run = store.runs()[-1]
        for name, num in (("log.json", 12), ("log.eval", 12), ("again.eval", 12)):
            assert export_run(store, run, folder / name, format_of(folder / name, None)) == num
        assert export_run(store, run, folder / "samples.jsonl", "lm_eval") == 3
        assert export_run(store, run, folder / "lm" / f"samples_mine_{DATE}.jsonl", "lm_eval") == 3
        records = list(store.records(run.id))
    return folder, records


def texts(recording: Recording) -> list[list[str]]:
    return [[draw.completion.text for draw in draws] for draws in recording.draws]


@pytest.mark.parametrize("name", ["log.json", "log.eval"])
def test_an_inspect_log_comes_back_whole(name: str, exported: tuple[Path, list[Record]]) -> None:
    folder, records = exported
    read = load_recording(str(folder / name))
    assert [problem.question.id for problem in read.problems] == ["a", "b/2", "c"]
    assert [problem.question.messages for problem in read.problems] == [
        (Message("user", row["question"]),) for row in ROWS
    ]
    assert [problem.reference for problem in read.problems] == ["a", '["b", "bb"]', None]
    assert texts(read) == [[c.text for c in record.pool.candidates] for record in records]
    for draws, record in zip(read.draws, records, strict=True):
        assert record.bill is not None
        for draw, grade, usage, candidate in zip(
            draws, record.grades, record.bill.draws, record.pool.candidates, strict=True
        ):
            assert draw.grade == grade or (math.isnan(draw.grade) and math.isnan(grade))
            assert draw.completion.usage[:3] == usage[:3]
            assert draw.completion.finish == candidate.finish
            assert draw.scores == {"logp": candidate.scores["logp"]}


def test_a_verifiers_score_is_no_grade_where_nothing_was_graded(tmp_path: Path) -> None:
    """A run without references has no grade; its reward, which lies in [0, 1] as grades do, is none either."""
    log = {"version": 2, "eval": {"task": "t", "metadata": {"recipe": "repeat(1) | best(reward)"}}}
    (tmp_path / "log.json").write_text(json.dumps({**log, "samples": [sample(scores={"reward": {"value": 0.5}})]}))
    ((draw,),) = load_recording(str(tmp_path / "log.json")).draws
    assert math.isnan(draw.grade)
    assert draw.scores == {"reward": 0.5}


def test_lm_eval_samples_come_back_whole(exported: tuple[Path, list[Record]]) -> None:
    folder, records = exported
    read = load_recording(str(folder / "samples.jsonl"))
    assert texts(read) == [[c.text for c in record.pool.candidates] for record in records]
    assert [problem.question.messages[0].content for problem in read.problems] == ["say a", "say b", "say c"]
    for draws, record in zip(read.draws, records, strict=True):
        assert [str(draw.grade) for draw in draws] == [str(grade) for grade in record.grades]
        drawn = [candidate.num_tokens for candidate in record.pool.candidates]
        assert [draw.completion.usage.completion_tokens for draw in draws] == drawn, "not by length of text"
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    known = [[grade for grade in record.grades if not math.isnan(grade)] for record in records]
    assert [row["grade"] for row in rows] == [sum(g) / len(g) if g else None for g in known]
    assert [row["metrics"] for row in rows] == [["grade"], ["grade"], []], "an unknown mean is null, not 0"
    assert [row["doc"]["id"] for row in rows] == ["a", "b/2", "c"]
    assert len({row["prompt_hash"] for row in rows}) == 3


CHAT = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2?"}]
LOGGED = {
    "doc_id": 0,
    "doc": {"question": "2+2?"},
    "target": "4",
    "arguments": {"gen_args_0": {"arg_0": [json.dumps(CHAT)], "arg_1": {"until": []}}},
    "resps": [["it is 4"]],
    "filtered_resps": ["4"],
    "metrics": ["exact_match", "length"],
    "exact_match": 1.0,
    "length": 7,
}


def test_a_chat_that_lm_eval_logged_comes_back_as_its_messages(tmp_path: Path) -> None:
    """It is one text in a list there; as such it was taken for no prompt at all, and the file could not be read."""
    others = {"doc_id": 1, "exact_match": 7.0}, {"doc_id": 2, "resps": [["4", "5"]]}, {"doc_id": 3, "metrics": []}
    rows = [LOGGED, *({**LOGGED, **other} for other in others)]
    (tmp_path / "samples_x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load_recording(str(tmp_path / "samples_x.jsonl"))
    assert [problem.question.messages for problem in read.problems] == [tuple(Message(**m) for m in CHAT)] * 4
    assert [[str(draw.grade) for draw in draws] for draws in read.draws] == [["1.0"], ["nan"], ["nan"] * 2, ["nan"]]
    (tmp_path / "samples_x.jsonl").write_text(json.dumps({**LOGGED, "arguments": {"a": {"arg_0": ["{"]}}}))
    with pytest.raises(BadInput, match=r"samples_x\.jsonl:1"):
        load_recording(str(tmp_path / "samples_x.jsonl"))


def test_the_same_run_is_the_same_file(exported: tuple[Path, list[Record]]) -> None:
    folder, _ = exported
    assert (folder / "log.eval").read_bytes() == (folder / "again.eval").read_bytes()
    with zipfile.ZipFile(folder / "log.eval") as file:
        names = file.namelist()
        listed = [(each["id"], each["epoch"]) for each in json.loads(file.read("summaries.json"))]
    assert listed == [(question, epoch) for question in ("a", "b/2", "c") for epoch in (1, 2, 3, 4)]
    assert {member.date_time for member in file.infolist()} == {EPOCH}, "no hour of writing"
    assert len(set(names)) == len(names) == 12 + 3
    assert "samples/a_epoch_1.json" in names
    assert not [name for name in names if "b/2" in name], "an id that is no file's name"


# --- logs of others ---------------------------------------------------------------------------------------------------


def sample(**changes: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "4"}
    return {
        "id": 7,
        "epoch": 1,
        "input": "2+2?",
        "target": "4",
        "output": {"choices": [{"message": message, "stop_reason": "stop"}]},
        "scores": {"match": {"value": "C"}},
    } | changes


def logged(folder: Path, *samples: dict[str, Any]) -> Recording:
    path = folder / "other.json"
    path.write_text(json.dumps({"version": 2, "status": "success", "eval": {"task": "sums"}, "samples": samples}))
    return load_recording(str(path))


def test_inspects_own_shapes(tmp_path: Path) -> None:
    parts = [{"type": "reasoning", "reasoning": "two and two"}, {"type": "text", "text": "attachment://x"}]
    output = {"choices": [{"message": {"content": parts}, "stop_reason": "max_tokens"}], "usage": {"output_tokens": 9}}
    read = logged(
        tmp_path,
        sample(
            epoch=2, output=output, attachments={"x": "it is 4"}, scores={"a": {"value": "?"}, "match": {"value": "P"}}
        ),
        sample(input=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "2+2?"}]),
        sample(id=8, scores={"match": {"value": "I"}, "length": {"value": 3}}),
        sample(id=9, error={"message": "timeout"}),
        sample(id=10, output={}),
        sample(id=11, scores={"length": {"value": 0}, "x": {"value": {"a": 1}}}),
    )
    assert read.name == "sums"
    assert [len(draws) for draws in read.draws] == [2, 1, 0, 0, 1], "errors are no draws"
    first, second = read.draws[0]
    assert (first.completion.text, first.grade) == ("4", 1.0)
    assert (second.completion.text, second.completion.reasoning) == ("it is 4", "two and two")
    assert (second.completion.finish, second.completion.usage.completion_tokens) == ("length", 9)
    assert second.grade == 0.5
    assert (read.draws[1][0].grade, read.draws[1][0].scores) == (0.0, {"length": 3.0})
    assert math.isnan(read.draws[4][0].grade), "what is no grade elsewhere is none where it happens to look like one"
    ours = logged(tmp_path, sample(scores={"match": {"value": 1}, "grade": {"value": False}}), sample(id=8))
    assert ours.draws[0][0].grade == 0.0
    assert math.isnan(ours.draws[1][0].grade)
    assert math.isnan(logged(tmp_path, sample(scores={"logp": {"value": -3.5}})).draws[0][0].grade)


def test_tokens_of_a_cache_are_a_part_of_the_prompt(tmp_path: Path) -> None:
    """Inspect counts them apart. They were left out, and a prompt that was cached cost next to nothing."""
    usage = {"input_tokens": 3, "input_tokens_cache_read": 50, "input_tokens_cache_write": None, "output_tokens": 4}
    read = logged(tmp_path, sample(output={**sample()["output"], "usage": usage}))
    assert read.draws[0][0].completion.usage[1:3] == (53, 4)


@pytest.mark.skipif(importlib.util.find_spec("zipfile_zstd") is not None, reason="zstd can be read here")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python itself reads zstd")
def test_a_log_packed_with_zstd_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.json", "{}")
    data = path.read_bytes()  # the method's number stands in the member's head, and in the list at the end
    for head, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        start = data.index(head) + offset
        data = data[:start] + (93).to_bytes(2, "little") + data[start + 2 :]
    path.write_bytes(data)
    with pytest.raises(
        BadInput, match=r"packed with zstd.*pip install zipfile-zstd, or convert it: inspect log convert"
    ):
        load_recording(str(path))


@pytest.mark.parametrize("text", ["{}", '{"version": 2, "eval": {}, "samples": [{}]}', '{"version": 2, "eval": {}}'])
def test_a_damaged_log_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.json", text)
    with pytest.raises(BadInput, match=r"log\.eval: (cannot be read as a log of Inspect|holds no recorded draws)"):
        load_recording(str(path))
    path.write_text(text)
    with pytest.raises(BadInput, match="cannot be read as a log of Inspect"):
        load_recording(str(path))


READ = """
import json, sys
from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries
log = read_eval_log(sys.argv[1])
print(json.dumps([
    log.status, log.eval.config.epochs, [[s.id, s.epoch, s.output.completion] for s in log.samples],
    [s.scores["grade"].value for s in log.samples if "grade" in s.scores],
    len(read_eval_log_sample_summaries(sys.argv[1])),
]))
"""


@pytest.mark.clients
@pytest.mark.skipif(not CLIENT.exists(), reason="needs .venv-clients: make test-clients installs it")
@pytest.mark.parametrize("name", ["log.json", "log.eval"])
def test_inspect_itself_reads_it(name: str, exported: tuple[Path, list[Record]]) -> None:
    folder, records = exported
    done = subprocess.run(
        [str(CLIENT), "-c", READ, str(folder / name)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    status, epochs, samples, grades, num = json.loads(done.stdout.splitlines()[-1])
    assert (status, epochs, num) == ("success", 4, 12)
    assert sorted(samples) == sorted(
        [record.problem.question.id, index + 1, candidate.text]
        for record in records
        for index, candidate in enumerate(record.pool.candidates)
    )
    assert sorted(grades) == sorted(g for record in records for g in record.grades if not math.isnan(g))


READ_SAMPLES = """
import json, os, sys
os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
from pathlib import Path
from datasets import load_dataset
from lm_eval.loggers.trackio_logger import _sample_to_trace
from lm_eval.utils import get_file_datetime, get_file_task_name, get_latest_filename, get_sample_results_filenames
folder = Path(sys.argv[1])
path = get_latest_filename(get_sample_results_filenames([str(each) for each in (folder / "lm").iterdir()]))
class Module:
    Trace = staticmethod(dict)
rows = load_dataset("json", data_files=path, split="train", cache_dir=str(folder / "cache"))
traces = [_sample_to_trace(Module, row, "mine", "generate_until") for row in rows]
print(json.dumps([get_file_task_name(Path(path).name), get_file_datetime(path), list(rows), traces]))
"""


@pytest.mark.clients
@pytest.mark.skipif(not CLIENT.exists(), reason="needs .venv-clients: make test-clients installs it")
def test_lm_eval_itself_reads_its_samples(exported: tuple[Path, list[Record]]) -> None:
    """With what it finds, loads and shows the samples of its own runs by; the Hub loads them with `datasets` too."""
    folder, records = exported
    done = subprocess.run(
        [str(CLIENT), "-c", READ_SAMPLES, str(folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    task, date, rows, traces = json.loads(done.stdout.splitlines()[-1])
    assert (task, date) == ("mine", DATE)
    assert [row["resps"] for row in rows] == [[[c.text for c in record.pool.candidates]] for record in records]
    assert [row["arguments"]["gen_args_0"]["arg_0"] for row in rows] == ["say a", "say b", "say c"]
    assert [row["grade"] is None for row in rows] == [False, False, True]
    for trace, record in zip(traces, records, strict=True):
        assert trace["messages"][1]["content"] == record.pool.candidates[0].text
        assert ("grade" in trace["metadata"]) == (record.problem.question.id != "c")
