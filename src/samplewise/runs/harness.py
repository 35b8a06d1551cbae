"""Write a stored run as other harnesses log theirs: an Inspect `.eval` log, and the samples of lm-evaluation-harness.

An `.eval` file is a zip: `header.json` is the log without its samples, `samples/ID_epoch_N.json` one sample each, and
`summaries.json` what Inspect's viewer lists. Both are read back by `samplewise.recorded`.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from samplewise.core.errors import UsageError
from samplewise.core.types import Json
from samplewise.store.records import Record

SHOWN = 1000  # characters of a text in a summary
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every member: the same run is the same file


def write_eval(log: Mapping[str, Any], path: Path) -> int:
    """Write an Inspect log (see `inspect_log`) as an `.eval` file; return the number of samples. Raises UsageError."""
    header = {name: value for name, value in log.items() if name != "samples"}
    start = {"version": log["version"], "eval": log["eval"], "plan": log["plan"]}
    samples = log["samples"]
    members: list[tuple[str, Json]] = [("_journal/start.json", start)]
    members += [(f"samples/{_name(sample['id'])}_epoch_{sample['epoch']}.json", sample) for sample in samples]
    members += [("summaries.json", [_summary(sample) for sample in samples]), ("header.json", header)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for name, value in members:
                text = json.dumps(value, ensure_ascii=False, allow_nan=False)
                file.writestr(zipfile.ZipInfo(name, EPOCH), text, zipfile.ZIP_DEFLATED)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    return len(samples)


def _name(question: str) -> str:
    """Return a question's id as a part of a member's name, that of no other."""
    if question.isascii() and all(letter.isalnum() or letter in "._- " for letter in question) and len(question) < 100:
        return question
    return hashlib.blake2b(question.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _summary(sample: Mapping[str, Any]) -> dict[str, Json]:
    last = sample["input"][-1]["content"] if sample["input"] else ""
    return {
        "id": sample["id"],
        "epoch": sample["epoch"],
        "input": last[:SHOWN],
        "target": sample["target"][:SHOWN],
        "scores": {
            name: {**score, "answer": None if score["answer"] is None else score["answer"][:SHOWN]}
            for name, score in sample["scores"].items()
        },
        "metadata": sample["metadata"],
        "completed": True,
        "message_count": len(sample["messages"]),
    }


def lm_eval_rows(records: Iterator[Record], metric: str = "grade") -> Iterator[dict[str, Json]]:
    """Yield a row for each question, as lm-evaluation-harness logs it: all draws under `resps`, one request each.

    `metric` is the mean grade of the draws, None where none is known. The document holds the question's id, its
    messages, and answer, grade and tokens of each draw.
    """
    for number, record in enumerate(records):
        question, reference = record.problem.question, record.problem.reference
        messages = [{"role": message.role, "content": message.content} for message in question.messages]
        prompt = messages[0]["content"] if len(messages) == 1 else json.dumps(messages, ensure_ascii=False)
        target = reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False)
        texts = [candidate.text for candidate in record.pool.candidates]
        grades = [None if math.isnan(grade) else grade for grade in record.grades]
        known = [grade for grade in grades if grade is not None]
        tokens = [candidate.num_tokens for candidate in record.pool.candidates]
        each = {"answers": list(record.answers), "grades": grades, "completion_tokens": tokens}
        row: dict[str, Json] = {
            "doc_id": number,
            "doc": {"id": question.id, "messages": messages, **each},
            "target": "" if reference is None else target,
            "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
            "resps": [texts],
            "filtered_resps": texts,
            "filter": "none",
            "metrics": [metric] if known else [],
            "doc_hash": _digest(messages),
            "prompt_hash": _digest(prompt),
            "target_hash": _digest(target),
        }
        yield {**row, metric: math.fsum(known) / len(known) if known else None}


def _digest(value: Json) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode(errors="surrogatepass")).hexdigest()
