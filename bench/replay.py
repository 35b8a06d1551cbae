"""Recorded draws of real models through the whole system: replay engine, loop, store, readers, graders, measures.

Each collection is asked as a user would ask it (`recorded` task, `replay` engine, `repeat(N) | vote`), its answers are
read and graded by our own code, and the figures stand beside those that its authors published and, draw by draw, beside
their verdicts. Every program (HumanEval, CRUXEval) runs in the sandbox against the official tests.

`--only` takes one or more of humaneval, math_qwen, cruxeval, game24_gpt4.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.about import about, rounded
from samplewise.cli.progress import Bar
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.registry import build
from samplewise.measure import mean_interval, pass_at
from samplewise.recipe import parse_choice, recipe
from samplewise.recorded import load_recording as load_recording
from samplewise.runs.arrays import load_outcomes
from samplewise.runs.redecide import accuracy_at, rescore
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.tasks.recorded import recorded_task

SEED = 0
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
PUBLISHED = {  # what their authors print
    "humaneval": {"pass@10": 0.503, "pass@100": 0.737},
    "math_qwen": {"pass@1": 0.91, "majority@8": 0.93, "reward@8": 0.94, "coverage": 0.96},
    "cruxeval input": {"pass@1": 0.3595, "pass@5": 0.4499},
    "cruxeval output": {"pass@1": 0.3421, "pass@5": 0.4029},
    "game24_gpt4": {"pass@1": 0.0403, "any@100": 0.49},
}
SHOWN = 12  # disagreements in the terminal; the JSON object has them all


class Replayed(NamedTuple):
    """A recording after its run. `grades` (P, N) are ours, `theirs` (P, N) its authors' (nan: none), both in the order
    of the draws."""

    store: Store
    run: str
    grades: Floats
    theirs: Floats
    seconds: float
    num_distinct: int  # different answers, each graded once


def replayed(name: str, num: int, folder: Path, stop: tuple[str, ...] = ()) -> Replayed:
    """Run `repeat(num) | vote` on a recording and look up what its authors said of each draw."""
    task, engine = recorded_task(name), build("engine", f"replay({name!r}, seed={SEED})")
    line = recipe(f"repeat({num}, stop={stop!r}) | vote")
    store = Store(folder / f"{name.replace('/', '-')}.db")
    started = time.monotonic()
    with Bar(name) as bar:
        summary = asyncio.run(run_task(task, line, engine, store, seed=SEED, on_event=bar))
    seconds = time.monotonic() - started
    outcomes = load_outcomes(store, summary.run)
    recording = load_recording(name)
    said = {
        problem.question.id: [engine.one_of(problem.question.messages, i).grade for i in range(num)]
        for problem in recording.problems
    }
    theirs = np.array([said[question] for question in outcomes.questions])
    distinct = sum(len({a for a in row.answers if a is not None}) for row in store.outcomes(summary.run))
    return Replayed(store, summary.run, outcomes.graded.grades, theirs, seconds, distinct)


def disagreements(found: Replayed) -> list[dict[str, Any]]:
    """Every draw on which we and the authors differ, once for each text."""
    listed: dict[tuple[str, str], dict[str, Any]] = {}
    for row, record in enumerate(found.store.records(found.run)):
        for column, candidate in enumerate(record.pool.candidates):
            ours, theirs = float(found.grades[row, column]), float(found.theirs[row, column])
            if not math.isnan(theirs) and not (math.isnan(ours) and math.isnan(theirs)) and ours != theirs:
                question = record.problem.question.id
                entry = {"question": question, "ours": None if math.isnan(ours) else ours, "theirs": theirs, "draws": 0}
                entry |= {
                    "answer": (record.answers[column] or "")[:200],
                    "reference": str(record.problem.reference)[:200],
                }
                listed.setdefault((question, candidate.text), entry)["draws"] += 1
    return list(listed.values())


def humaneval(folder: Path) -> dict[str, Any]:
    found = replayed("humaneval_codegen16b_100x", 100, folder, STOPS)
    at = pass_at(found.grades, [1, 10, 100]).mean(axis=1)
    return {
        "pass@1": at[0],
        "pass@10": at[1],
        "pass@100": at[2],
        "correct": int(np.nansum(found.grades)),
        "programs": int(found.grades.size),
        "programs_run": found.num_distinct,
        "ungraded": int(np.isnan(found.grades).sum()),
        "programs_per_s": found.num_distinct / found.seconds,
    }


def math_qwen(folder: Path) -> dict[str, Any]:
    name = "math_qwen_rm_8x"
    found = replayed(name, 8, folder)
    figures: dict[str, Any] = {"pass@1": np.nanmean(found.grades), "coverage": np.nanmax(found.grades, axis=1).mean()}
    for key, selector in (("majority@8", "vote"), ("reward@8", f"best(recorded({name!r}))")):
        _, chosen, verifiers = parse_choice(selector)
        rescore(found.store, found.run, verifiers)
        outcomes = load_outcomes(found.store, found.run, scores=chosen.verifiers)
        grades = accuracy_at(found.store, outcomes, chosen, np.array([8]), Key(SEED))[0]
        interval = mean_interval(grades)
        figures |= {key: interval.value, f"{key}_low": interval.low, f"{key}_high": interval.high}
    return {**figures, "disagreements": disagreements(found)}


def cruxeval(folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for part in ("input", "output"):
        found = replayed(f"cruxeval_codellama7b_10x/{part}", 10, folder)
        at = pass_at(found.grades, [1, 5]).mean(axis=1)
        figures[part] = {"pass@1": at[0], "pass@5": at[1], "programs_run": found.num_distinct}
        figures[part] |= {"recorded_pass@1": found.theirs.mean(), "disagreements": disagreements(found)}
    return figures


def game24_gpt4(folder: Path) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for part in ("cot", "direct"):
        found = replayed(f"game24_gpt4_100x/{part}", 100, folder)
        each = {"pass@1": found.grades.mean(), "any@100": found.grades.max(axis=1).mean()}
        each |= {"recorded_pass@1": found.theirs.mean(), "recorded_any@100": found.theirs.max(axis=1).mean()}
        figures |= each if part == "cot" else {part: each}
        figures.setdefault("disagreements", []).extend(disagreements(found))
    return figures


PARTS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "humaneval": humaneval,
    "math_qwen": math_qwen,
    "cruxeval": cruxeval,
    "game24_gpt4": game24_gpt4,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    started = time.monotonic()
    figures: dict[str, Any] = dict.fromkeys(PARTS)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            figures[name] = PARTS[name](Path(folder))
    table = Table("collection", "figure", "ours", "published", box=None)
    for name, published in PUBLISHED.items():
        part, _, inner = name.partition(" ")
        own = (figures[part] or {}) if not inner else (figures[part] or {}).get(inner, {})
        for figure, value in published.items() if own else ():
            table.add_row(name, figure, f"{own[figure]:.4f}", f"{value:.4f}")
    console = Console(width=120)
    console.print(table)
    for name, own in figures.items():
        nested = [own or {}, *(each for each in (own or {}).values() if isinstance(each, dict))]
        listed = [entry for each in nested for entry in each.get("disagreements", ())]
        if any("disagreements" in each for each in nested):
            console.print(f"{name}: {sum(entry['draws'] for entry in listed)} draws on which we and the authors differ")
        for entry in listed[:SHOWN]:
            console.print(f"  {entry}", markup=False, highlight=False)
    print(json.dumps({**about("replay", SEED, started), **rounded(figures)}))


if __name__ == "__main__":
    main()
