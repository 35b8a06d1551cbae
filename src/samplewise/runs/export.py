"""Write a stored run for other programs: as a table of its draws or of its decisions, or as the log of a harness.

Nothing is drawn, and nothing leaves the computer. What is unknown is empty (CSV), null (JSON lines, Parquet) or left
out (Inspect), never 0.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal, get_args

from samplewise.core.errors import MissingExtra, UsageError
from samplewise.core.files import refuse_database
from samplewise.core.types import Json
from samplewise.recipe import recipe
from samplewise.runs.harness import lm_eval_rows, write_eval
from samplewise.store.database import Store
from samplewise.store.records import Record, Run

Format = Literal["csv", "jsonl", "parquet", "inspect", "eval", "lm_eval"]
Table = Literal["draws", "decisions"]
SUFFIXES: Mapping[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".parquet": "parquet",
    ".json": "inspect",
    ".eval": "eval",
}
ROW_GROUP = 10_000  # rows of a Parquet file that are in memory at once
SCORE = "score_"  # before a verifier's name, in a column's name

# The columns and their types; the columns of the scores follow those of the draws.
DRAWS: Mapping[str, type] = {
    "run": str,
    "question": str,
    "draw": int,
    "arm": str,
    "text": str,
    "reasoning": str,
    "answer": str,
    "grade": float,
    "chosen": bool,
    "finish": str,
    "tokens": int,
    "logp": float,
    "log_weight": float,
}
DECISIONS: Mapping[str, type] = {
    "run": str,
    "question": str,
    "messages": str,
    "reference": str,
    "selector": str,
    "answer": str,
    "draw": int,
    "grade": float,
    "draws": int,
    "failed": int,
    "stop": str,
    "tokens": int,
    "usd": float,
}
STOP_REASONS = {"stop": "stop", "length": "max_tokens"}  # finish -> Inspect's word
INSPECT_ROLES = {"developer": "system"}


def export_run(store: Store, run: Run, path: Path, form: Format, table: Table = "draws") -> int:
    """Write a stored run to `path`; return the number of rows, or of samples.

    Raises UsageError where the file cannot be written or is a store, MissingExtra for Parquet without pyarrow.
    """
    refuse_database(path)
    num = 0
    if form in ("inspect", "eval"):
        log = _utf8(inspect_log(store, run))
        if form == "eval":
            return write_eval(log, path)
        with _written(path) as file:
            json.dump(log, file, ensure_ascii=False, allow_nan=False)
        return len(log["samples"])
    if form == "lm_eval":
        with _written(path) as file:
            for row in lm_eval_rows(store.records(run.id)):
                num += 1
                file.write(json.dumps(_utf8(row), ensure_ascii=False, allow_nan=False) + "\n")
        return num
    columns = columns_of_decisions() if table == "decisions" else columns_of_draws(store, run)
    rows = decision_rows(store, run) if table == "decisions" else draw_rows(store, run)
    if form == "parquet":
        return _write_parquet(path, columns, rows)
    with _written(path) as file:
        writer = csv.DictWriter(file, list(columns), lineterminator="\n") if form == "csv" else None
        if writer is not None:
            writer.writeheader()
        for row in rows:
            num += 1
            full = {name: _utf8(row.get(name)) for name in columns}
            if writer is not None:  # "true", as every reader of CSV takes it; Python would write "True"
                writer.writerow({n: str(v).lower() if isinstance(v, bool) else v for n, v in full.items()})
            else:
                file.write(json.dumps(full, ensure_ascii=False, allow_nan=False) + "\n")
    return num


def format_of(path: Path, form: str | None) -> Format:
    """Return the format that is named, else that of the file's name. Raises UsageError."""
    if form is None:
        form = SUFFIXES.get(path.suffix)
    if form not in get_args(Format):
        raise UsageError(f"give --format {', '.join(get_args(Format))}, or a file that ends in {', '.join(SUFFIXES)}")
    return form  # type: ignore[return-value]  # is one of them


def columns_of_draws(store: Store, run: Run) -> dict[str, type]:
    """Return the columns of the table of draws: `DRAWS`, then one for each verifier that has scored."""
    return {**DRAWS, **{f"{SCORE}{name}": float for name in sorted(store.scorers(run.id))}}


def columns_of_decisions() -> dict[str, type]:
    """Return the columns of the table of decisions."""
    return dict(DECISIONS)


def draw_rows(store: Store, run: Run) -> Iterator[dict[str, Json]]:
    """Yield a row for each draw, by question and in the order of the asks. Unknown values are None."""
    selector = _selector_of(run)
    for record in store.records(run.id):
        question = record.problem.question.id
        chosen = {row.position for row in store.decisions(run.id, question) if row.selector == selector}
        for index, candidate in enumerate(record.pool.candidates):
            yield {
                "run": run.id,
                "question": question,
                "draw": index,
                "arm": candidate.arm,
                "text": candidate.text,
                "reasoning": candidate.reasoning or None,
                "answer": record.answers[index],
                "grade": _known(record.grades[index]),
                "chosen": index in chosen,
                "finish": candidate.finish,
                "tokens": candidate.num_tokens,
                "logp": _known(candidate.logp_sum),
                "log_weight": _known(candidate.log_weight),
                **{f"{SCORE}{name}": _known(score) for name, score in candidate.scores.items()},
            }


def decision_rows(store: Store, run: Run) -> Iterator[dict[str, Json]]:
    """Yield a row for each question and each selector that has chosen on its pool."""
    for record in store.records(run.id):
        question, reference = record.problem.question, record.problem.reference
        messages = [{"role": message.role, "content": message.content} for message in question.messages]
        for decision in store.decisions(run.id, question.id):
            yield {
                "run": run.id,
                "question": question.id,
                "messages": json.dumps(messages, ensure_ascii=False),
                "reference": reference if reference is None else _as_text(reference),
                "selector": decision.selector,
                "answer": decision.answer,
                "draw": decision.position,
                "grade": _known(decision.grade),
                "draws": len(record.answers),
                "failed": record.pool.num_failed,
                "stop": record.stop.reason,
                "tokens": record.spent.tokens,
                "usd": _known(record.spent.usd),
            }


def inspect_log(store: Store, run: Run) -> dict[str, Any]:
    """Return the run as an Inspect log (version 2): a sample for each draw, its epoch the draw's index from 1."""
    selector = _selector_of(run)
    chosen = {row.question: row.position for row in store.selections(run.id) if row.selector == selector}
    records = list(store.records(run.id))
    engine = run.engine_name
    started = datetime.fromtimestamp(run.started, UTC).isoformat(timespec="seconds")
    ended = started if run.ended is None else datetime.fromtimestamp(run.ended, UTC).isoformat(timespec="seconds")
    samples = [
        _sample(record, index, engine, chosen.get(record.problem.question.id) == index)
        for record in records
        for index in range(len(record.answers))
    ]
    known = [grade for record in records for grade in record.grades if not math.isnan(grade)]
    mean = {"mean": {"name": "mean", "value": math.fsum(known) / len(known), "params": {}}} if known else {}
    return {
        "version": 2,
        "status": "success" if run.ended is not None else "cancelled",
        "eval": {
            "run_id": run.id,
            "created": started,
            "task": run.task,
            "task_id": run.id,
            "task_version": 0,
            "dataset": {
                "name": run.task,
                "samples": len(records),
                "sample_ids": [record.problem.question.id for record in records],
            },
            "model": engine,
            "model_args": {},
            "task_args": {},
            "config": {"epochs": max((len(record.answers) for record in records), default=0)},
            "metadata": {"recipe": run.recipe, "seed": run.seed, "manifest": run.manifest},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {
            "total_samples": len(samples),
            "completed_samples": len(samples),
            "scores": [{"name": "grade", "scorer": "grade", "params": {}, "metrics": mean}] if known else [],
        },
        "stats": {"started_at": started, "completed_at": ended, "model_usage": {}},
        "samples": samples,
    }


def _sample(record: Record, index: int, engine: str, chosen: bool) -> dict[str, Any]:
    candidate, answer, grade = record.pool.candidates[index], record.answers[index], record.grades[index]
    question, reference = record.problem.question, record.problem.reference
    content: Any = candidate.text
    if candidate.reasoning:
        content = [{"type": "reasoning", "reasoning": candidate.reasoning}, {"type": "text", "text": candidate.text}]
    asked = [
        {"role": INSPECT_ROLES.get(message.role, message.role), "content": message.content}
        for message in question.messages
    ]
    reply_message = {"role": "assistant", "content": content, "source": "generate"}
    values = {"grade": grade, **candidate.scores}
    return {
        "id": question.id,
        "epoch": index + 1,
        "input": asked,
        "target": "" if reference is None else _as_text(reference),
        "messages": [*asked, reply_message],
        "output": {
            "model": engine,
            "choices": [{"message": reply_message, "stop_reason": STOP_REASONS.get(candidate.finish, "unknown")}],
            **_usage(record, index),
        },
        "scores": {
            name: {"value": value, "answer": answer} for name, value in values.items() if _known(value) is not None
        },
        "metadata": {"arm": candidate.arm, "chosen": chosen, "stop": record.stop.reason},
    }


def _usage(record: Record, index: int) -> dict[str, Json]:
    """Return what a draw cost, as Inspect has it; nothing where the record does not know the prompt's tokens."""
    bill = record.bill
    asks = [] if bill is None else [usage for ask, usage in enumerate(bill.draws) if ask not in bill.failed]
    if len(asks) != len(record.answers):
        return {}
    usage = asks[index]
    tokens = {"input_tokens": usage.prompt_tokens - usage.cached_tokens, "output_tokens": usage.completion_tokens}
    cached = {"input_tokens_cache_read": usage.cached_tokens} if usage.cached_tokens else {}
    return {"usage": {**tokens, "total_tokens": usage.tokens, **cached}}


def _selector_of(run: Run) -> str:
    """Return the run's own selector."""
    return str(recipe(run.recipe).stages.selector)


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _as_text(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@contextmanager
def _written(path: Path) -> Iterator[IO[str]]:
    """Open a file to write text."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def _write_parquet(path: Path, columns: Mapping[str, type], rows: Iterable[Mapping[str, Json]]) -> int:
    try:
        import pyarrow  # type: ignore[import-not-found, import-untyped, unused-ignore]
        import pyarrow.parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise MissingExtra("--format parquet", "export") from None
    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    num, waiting = 0, iter(rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pyarrow.parquet.ParquetWriter(path, schema) as writer:
            while some := list(itertools.islice(waiting, ROW_GROUP)):
                plain = [{name: _utf8(row.get(name)) for name in columns} for row in some]
                writer.write_table(pyarrow.Table.from_pylist(plain, schema=schema))
                num += len(some)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    return num


def _utf8(value: Json) -> Json:
    """Return a value with halves of surrogate pairs, which UTF-8 does not have, spelled out."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_utf8(name): _utf8(item) for name, item in value.items()}
    return [_utf8(item) for item in value] if isinstance(value, list | tuple) else value
