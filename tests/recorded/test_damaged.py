"""A recording with a damaged row is refused in one line that names the row, never by a traceback."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import BadInput, UnknownName
from samplewise.core.types import Message
from samplewise.recorded import load_recording
from samplewise.recorded.inspect_logs import read_log
from samplewise.recorded.load import _of_folder

GOOD: list[dict[str, Any]] = [
    {"prompt": "a", "answer": "1", "samples": ["x", "y"], "scores": [1.0, [0.5, 2.0]], "completion_tokens": [3, 4]},
    {"id": "a", "prompt": "a", "generation": "x", "score": 0.5, "correct": True, "num_generated_tokens": 4},
    {"doc_id": 1, "arguments": {"gen_args_0": {"arg_0": "a"}}, "resps": [["x", "y"]], "target": "1"},
    {"custom_id": "a", "prompt": "a", "response": {"body": {"choices": [{"message": {"content": "x"}}]}}},
    {"messages": [{"role": "user", "content": "a"}], "draws": [{"text": "x", "score": 1}]},
]
WRONG: tuple[Any, ...] = (
    None,
    True,
    3,
    -1,
    10**400,
    1e300,
    "",
    "x",
    [],
    [[]],
    [None],
    ["x"],
    {},
    {"a": None},
    [3],
    [{}],
)


def damaged(row: Any) -> list[Any]:
    """Return the row with each of its values, at any depth, replaced by each wrong one."""
    if isinstance(row, dict):
        return [{**row, name: new} for name, value in row.items() for new in (*WRONG, *damaged(value))]
    if isinstance(row, list):
        return [[*row[:i], new, *row[i + 1 :]] for i, value in enumerate(row) for new in (*WRONG, *damaged(value))]
    return []


def refusal(path: Path | str) -> str | None:
    """Return why a file is refused, None if it is not. Any other exception is a fault."""
    try:
        load_recording(str(path))
    except BadInput as error:
        return str(error)
    return None


@pytest.mark.parametrize("row", GOOD, ids=lambda row: next(iter(row)))
def test_a_damaged_row_is_one_line(tmp_path: Path, row: dict[str, Any]) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps(row))
    assert load_recording(str(path)).draws[0]
    num_refused = 0
    for bad in damaged(row):
        path.write_text(json.dumps(row) + "\n" + json.dumps(bad))
        message = refusal(path)
        if message is not None:
            num_refused += 1
            assert message.startswith(f"{path}:"), message
            assert "\n" not in message
    assert num_refused > 10


@pytest.mark.parametrize("name", ["a" * 300, "x/" * 3000, "a\0b"])
def test_a_name_that_no_file_can_have_names_no_recording(name: str) -> None:
    with pytest.raises(UnknownName):
        load_recording(name)


FOLDER_ROWS: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {
    "math_qwen_rm_8x": [
        (
            "math_cot_100_with_rm_scores.jsonl",
            [
                {"idx": 0, "system": "s", "question": "q", "level": "Level 1", "gt": "1"}
                | {"code": ["x", "y"], "score": [True, False], "pred_score": [[1.5], [0.5, 2]]}
            ],
        )
    ],
    "humaneval_codegen16b_100x": [
        (
            "HumanEval_codegen16B_temp0.8_topp0.95_num100_max300_code_solution.jsonl",
            [{"prompt": "def f():", "samples": ["x", "y"]}],
        ),
        ("../../benchmarks/HumanEval.jsonl", [{"task_id": "HumanEval/0", "entry_point": "f", "test": "t"}]),
    ],
    "game24_gpt4_100x": [
        (
            "gpt-4_0.7_naive_cot_sample_100_start900_end1000.json",
            [
                {"idx": 0, "ys": ["x", "y"], "infos": [{"r": 0}, {"r": 1}]}
                | {"usage_so_far": {"prompt_tokens": 10, "completion_tokens": 20}}
            ],
        ),
    ],
    "cruxeval_codellama7b_10x": [
        ("cruxeval.jsonl", [{"code": "c", "input": "i", "output": "o", "id": "sample_0"}]),
        (
            "sample_scored_codellama-7b_temp0.2_input.json",
            [{"raw_generations": {"sample_0": ["x"]}, "raw_scored_generations": {"sample_0": [True]}}],
        ),
    ],
    "otis_aime_8x": [
        (
            "otis_mock_aime_runs.jsonl",
            [
                {"run": "r", "model": "m", "problem": "p", "gold": "1"}
                | {"answers": ["1", None], "correct": [1, None], "output_tokens": [3, 4]}
            ],
        )
    ],
    "mmlu_pro_28_models": [
        ("sample_280_questions.jsonl", [{"question_id": 1, "question": "q", "options": ["a", "b"]}]),
    ],
    "aqua_codex_30x": [
        ("aqua_sc_codex.jsonl", [{"question": "q", "options": ["A)1"], "answer": "A", "generated": ["x"]}])
    ],
    "noveltybench_gemini": [
        (
            "gemini-1.5-pro_nb-curated_scores.jsonl",
            [{"id": "a", "prompt": "p", "generations": ["x"], "partition": [0], "generation_scores": [10]}],
        )
    ],
}


def write_rows(path: Path, rows: list[Any]) -> None:
    """Write rows as a folder has them: gzipped, a list in a .json file; one object there if the file is one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.startswith("sample_scored"):
        text = json.dumps(rows[0])
    else:
        text = json.dumps(rows) if path.suffix == ".json" else "\n".join(map(json.dumps, rows))
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode()))


@pytest.mark.parametrize("folder", FOLDER_ROWS)
def test_a_damaged_row_of_a_published_folder_is_one_line(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(tmp_path))
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/game24_24.csv").write_text("Puzzles\n4 6 7 8\n")
    home = tmp_path / "recorded" / folder
    home.mkdir(parents=True)
    if folder == "mmlu_pro_28_models":
        (home / "preds.csv.gz").write_bytes(gzip.compress(b"question_id,category,n_options,answer,m\n1,c,2,A,B\n"))
    for file, rows in FOLDER_ROWS[folder]:
        write_rows(home / file, rows)
    part = "/r" if folder == "otis_aime_8x" else ""
    _of_folder.cache_clear()
    assert load_recording(folder + part).draws[0]
    num_refused = 0
    for file, rows in FOLDER_ROWS[folder]:
        for row in rows:
            without = [{other: row[other] for other in row if other != name} for name in row]
            for bad in (*without, *damaged(row)):
                write_rows(home / file, [bad])
                _of_folder.cache_clear()
                message = refusal(folder + part)
                if message is not None:
                    num_refused += 1
                    named = (": row ", "expected a JSON object", "holds no rows", "is empty", "names no run")
                    assert any(words in message for words in named), message
                    assert "\n" not in message
        write_rows(home / file, rows)
        _of_folder.cache_clear()
    assert num_refused > 40


def test_a_message_of_inspect_without_text_is_an_empty_one(tmp_path: Path) -> None:
    """A picture alone, as a question or as an output, had made the whole log unreadable."""
    picture = [{"type": "image", "image": "data:image/png;base64,AAAA"}]
    both = [{"type": "reasoning", "reasoning": "so"}, {"type": "text", "text": "4"}]
    sample = {"id": "a", "epoch": 1, "input": [{"role": "user", "content": picture}], "target": "4", "scores": {}}
    outputs = [{"choices": [{"message": {"content": content}, "stop_reason": "stop"}]} for content in (both, picture)]
    samples = [{**sample, "epoch": 1 + i, "output": output} for i, output in enumerate(outputs)]
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"version": 2, "eval": {"task": "mine"}, "samples": samples}))
    recording = read_log(path)
    ((first, second),) = recording.draws
    assert recording.problems[0].question.messages == (Message("user", ""),)
    assert (first.completion.text, first.completion.reasoning) == ("4", "so")
    assert second.completion.text == ""
