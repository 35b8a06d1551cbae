"""Draw what is missing: into a store under the user's cache folder, and from there into the recorded pools.

A question whose pool is recorded is not drawn again, so the recorded pools are also what a run goes on from on another
machine. Within a chunk the store holds every draw that came.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.about import cpu
from bench.real.benchmarks import BENCHMARKS, SEED, Benchmark, chunks, load
from bench.real.methods import METHODS, Method
from bench.real.pools import FOLDER, JOINT, Pools, Row, Sitting, joint_name, read_pools, write_pools
from samplewise.cli.progress import Bar
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.loop.ledger import Budget
from samplewise.recipe import Recipe, recipe
from samplewise.report.explored import summarize_exploration
from samplewise.runs.bills import QuestionBill, bill_run
from samplewise.runs.redecide import rejudge, rescore
from samplewise.runs.replay import replay_question
from samplewise.runs.run import run_task
from samplewise.samplers.infos import Trace, read_trace
from samplewise.store.database import Store
from samplewise.store.records import Record, Run
from samplewise.tasks.base import Task
from samplewise.verify.base import Judge

CODE_SCORES = ("public_tests", "outputs")
ROWS = 480  # draws of a chunk, which is drawn at once and then recorded
SMALLEST = 15  # problems of a chunk
GROUP_FIGURES = ("temperature", "divergence", "entropy_before", "entropy_after", "error_first", "error_last", "clipped")


def missing(
    benchmark: Benchmark, methods: tuple[Method, ...], task: Task, folder: Path = FOLDER
) -> Iterator[tuple[Method, Task]]:
    """Yield the chunks of a task that have questions without a recorded pool, method by method."""
    for method in methods:
        if benchmark.name not in method.benchmarks:
            continue
        rows = read_pools(benchmark.name, folder).rows
        for chunk in chunks(task, max(SMALLEST, min(len(task.problems), ROWS // method.draws))):
            if any((method.name, problem.question.id) not in rows for problem in chunk.problems):
                yield method, chunk


def draw(
    benchmark: Benchmark,
    method: Method,
    chunk: Task,
    engine: Any,
    store: Store,
    until: float,
    folder: Path = FOLDER,
) -> bool:
    """Draw one chunk, and record it if it was finished by `until` (monotonic seconds). Return whether it was."""
    line = line_of(method, benchmark)
    started, worked = time.monotonic(), time.process_time()

    async def run() -> Any:
        cancel = asyncio.Event()
        timer = asyncio.get_running_loop().call_later(max(0.0, until - started), cancel.set)
        with Bar(f"{benchmark.name}, {method.name}") as bar:
            try:
                return await run_task(
                    chunk,
                    line,
                    engine,
                    store,
                    seed=method.seed,
                    on_event=bar,
                    cancel=cancel,
                    concurrency=len(chunk.problems),
                )
            finally:
                timer.cancel()

    summary = asyncio.run(run())
    store.note(
        summary.run,
        "sitting",
        [time.monotonic() - started, time.process_time() - worked, summary.paid.completion_tokens],
    )
    if summary.cancelled:
        return False
    record(benchmark, method, store, summary.run, describe(engine), folder)
    return True


def describe(engine: Any) -> str:
    """Return an engine's name, the precision of its weights where they are here, and the processor."""
    checkpoint = getattr(engine, "checkpoint", None)
    return ", ".join([engine.name, *([checkpoint.dtype] if checkpoint else []), cpu()])


def record(benchmark: Benchmark, method: Method, store: Store, run_id: str, engine: str, folder: Path = FOLDER) -> None:
    """Write a finished run's draws into the recorded pools."""
    pools = read_pools(benchmark.name, folder)
    run = next(run for run in store.runs() if run.id == run_id)
    new = rows_of(benchmark, method, store, run)
    notes = [data for _, kind, data in store.events(run_id) if kind == "sitting"]
    seconds, processor_s, tokens = (sum(values) for values in zip(*notes, strict=True))
    sitting = Sitting(method.name, len(new), round(seconds, 1), round(processor_s, 1), tokens, engine)
    write_pools(benchmark.name, Pools({**pools.rows, **new}, (*pools.sittings, sitting)), folder)


def record_again(store: Store, folder: Path = FOLDER) -> None:
    """Write the rows of all finished runs in a store anew, with the scores and figures of today.

    What programs of a question's arms do is numbered across the arms, as far as this store has them.
    """
    for benchmark in BENCHMARKS.values():
        pools = read_pools(benchmark.name, folder)
        rows, arms = dict(pools.rows), []
        task = load(benchmark).name
        lines = {(line_of(method, benchmark).line, method.seed): method for method in METHODS}
        for run in store.runs():
            method = lines.get((run.recipe, run.seed))
            if run.task == task and run.ended is not None and method is not None:
                rows |= rows_of(benchmark, method, store, run)
                arms += [(method, run)] if method.part == "vary" else []
        if benchmark.is_code:
            together = joint_name(method.name for method, _ in arms)
            for key, values in joint_outputs(store, arms).items():
                rows[key] = rows[key]._replace(scores={**rows[key].scores, together: values})
        if rows:
            write_pools(benchmark.name, pools._replace(rows=rows), folder)


def joint_outputs(store: Store, runs: Sequence[tuple[Method, Run]]) -> dict[tuple[str, str], tuple[float | None, ...]]:
    """Return what the programs of several runs do, by method and question: equal numbers do the same in all of them."""
    judge: Judge = build("verifier", "outputs")
    drawn: dict[str, list[tuple[str, Record]]] = {}
    for method, run in runs:
        for kept in store.records(run.id):
            drawn.setdefault(kept.problem.question.id, []).append((method.name, kept))
    found = {}
    for question, records in drawn.items():
        asked = records[0][1].problem.question
        if judge.unfit is not None and judge.unfit(asked):
            continue
        candidates = tuple(candidate for _, kept in records for candidate in kept.pool.candidates)
        answers = tuple(answer for _, kept in records for answer in kept.answers)
        values = iter(judge.rate(Key(SEED).fold("real", JOINT), asked, candidates, answers, ()))
        for name, kept in records:
            found[name, question] = tuple(_known(next(values)) for _ in kept.answers)
    return found


def rows_of(benchmark: Benchmark, method: Method, store: Store, run: Run) -> dict[tuple[str, str], Row]:
    """Return a finished run's rows; its programs are scored first, as far as they are not."""
    if benchmark.is_code:
        rescore(store, run.id, {"public_tests": build("verifier", "public_tests")})
        if method.part == "plain":
            nobody = build("engine", "toy")  # `outputs` runs programs and asks no model
            asyncio.run(rejudge(store, run, {"outputs": build("verifier", "outputs")}, nobody, Budget()))
    figures = measured(store, run) if method.part in ("power", "explore") else {}
    bill = bill_run(store, run, recipe(run.recipe))
    return {
        (method.name, kept.problem.question.id): as_row(method, benchmark, kept, billed, figures)
        for kept, billed in zip(store.records(run.id), bill.questions, strict=True)
    }


def line_of(method: Method, benchmark: Benchmark) -> Recipe:
    """Return a method's recipe on a benchmark."""
    return recipe(f"{method.line.format(top=benchmark.max_tokens)} | first")


def as_row(
    method: Method,
    benchmark: Benchmark,
    kept: Record,
    billed: QuestionBill,
    figures: Mapping[str, Mapping[str, float]],
) -> Row:
    """Return a question's record as a row. A program's answer is the name of its syntax tree."""
    candidates, question = kept.pool.candidates, kept.problem.question.id
    arms = tuple(candidate.arm for candidate in candidates)
    log_weights = tuple(round(candidate.log_weight, 4) for candidate in candidates)
    shape = shape_of if benchmark.is_code else _short
    scores = {name: tuple(_known(c.scores.get(name, math.nan)) for c in candidates) for name in CODE_SCORES}
    return Row(
        method=method.name,
        question=question,
        answers=tuple(None if answer is None else shape(answer) for answer in kept.answers),
        grades=kept.grades,
        tokens=tuple(candidate.num_tokens for candidate in candidates),
        costs=tuple(round(cost, 1) for cost in billed.by_candidate),
        logps=tuple(_known(candidate.logp_sum) for candidate in candidates),
        helpers=billed.helpers,
        rest=billed.rest,
        arms=arms if set(arms) != {"direct"} else (),
        log_weights=log_weights if any(log_weights) else (),
        scores={name: values for name, values in scores.items() if any(value is not None for value in values)},
        figures={**figures.get(question, {}), **_helped(kept)},
    )


def _helped(kept: Record) -> dict[str, float]:
    """Return the tokens that helpers wrote, which take time; what they read is in the row's `helpers` too."""
    written = 0 if kept.bill is None else kept.bill.helpers.completion_tokens
    return {"helper_tokens": float(written)} if written else {}


def shape_of(program: str) -> str:
    """Return a name that equal syntax trees share, whatever their variables, comments and docstrings are called."""
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return name_of(program)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and len(body) > 1 and _is_text(body[0]):
            del body[0]
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.setdefault(node.id, f"n{len(names)}")
        elif isinstance(node, ast.arg):
            node.arg = names.setdefault(node.arg, f"n{len(names)}")
    return name_of(ast.dump(tree))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def name_of(text: str) -> str:
    """Return eight hex digits that name a text."""
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=4).hexdigest()


def measured(store: Store, run: Run) -> dict[str, dict[str, float]]:
    """Return what a sampler or a policy measured of itself on each question: acceptance, weights, groups."""
    line = recipe(run.recipe)
    found = {}
    for kept in store.records(run.id):
        trace = replay_question(line, store, run, kept).trace
        values = {**sampler_figures(read_trace(trace))}
        summary = summarize_exploration(trace)
        if summary is not None:
            values |= {name: getattr(summary, name) for name in GROUP_FIGURES}
        found[kept.problem.question.id] = {n: round(v, 4) for n, v in values.items() if not math.isnan(v)}
    return found


def sampler_figures(trace: Trace) -> dict[str, float]:
    """Return acceptance of moves that change something, of swaps; effective samples and log Z (nats) of weights."""
    moves = [move for move in trace.moves if move.differed]
    found: dict[str, float] = {}
    if moves:
        found["acceptance"] = sum(move.outcome == "accepted" for move in moves) / len(moves)
    if trace.moves:
        found["changed"] = sum(move.outcome == "accepted" for move in trace.moves) / len(trace.moves)
    if trace.swaps:
        found["swapped"] = sum(swap.swapped for swap in trace.swaps) / len(trace.swaps)
    if trace.blocks:
        found["ess"] = min(block.ess for block in trace.blocks)
        log_z = [block.kept_log_z for block in trace.blocks if block.kept_log_z is not None]
        found["log_z"] = log_z[-1] if log_z else math.nan
    return found


def _short(answer: str) -> str:
    return answer if len(answer) <= 24 else name_of(answer)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.6g}")


def cache_folder() -> Path:
    """Return the folder that draws are kept in."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "samplewise" / "bench-real"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
