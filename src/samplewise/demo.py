"""The main job, shown: held-out puzzles, the embedded model, every method at equal tokens.

Each row is a way to draw and a way to choose. Rows that draw alike share their draws, so the whole table costs five
pools of independent draws, three that explore, two power samplers and one greedy answer per puzzle. Later parts add
their rows to `ROWS`.
"""

from __future__ import annotations

import asyncio
import platform
import time
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from samplewise import __version__
from samplewise.errors import UsageError
from samplewise.evaluate import redecide, run_task
from samplewise.progress import Bar
from samplewise.recipe import recipe
from samplewise.report.build import Entry, build
from samplewise.report.html import html
from samplewise.report.json import as_json
from samplewise.report.terminal import print_report
from samplewise.spec import build as make
from samplewise.store import Run, Store
from samplewise.types import Json


class Row(NamedTuple):
    """A method: its name, how it draws, how it chooses. {n} stands for the number of draws, {group} for that of a group
    that explores, which is scored as a whole and must fit into the common budget."""

    name: str
    draws: str
    selector: str


ROWS = (
    Row("direct, one draw", "repeat({n})", "first"),
    Row("greedy", "repeat(1, temperature=0)", "first"),
    Row("temperature 0.6, one draw", "repeat({n}, temperature=0.6)", "first"),
    Row("temperature 0.25, one draw", "repeat({n}, temperature=0.25)", "first"),
    Row("power sampling, one trace", "power(4, 20, cuts='entropy')", "first"),
    Row("power by 16 weighted draws, one trace", "sir(16, 4)", "first"),
    Row("direct, majority vote", "repeat({n})", "vote"),
    Row("temperature 0.6, majority vote", "repeat({n}, temperature=0.6)", "vote"),
    Row("temperature 0.25, majority vote", "repeat({n}, temperature=0.25)", "vote"),
    Row("temperature ladder, majority vote", "vary(ladder) | repeat({n})", "vote"),
    Row("direct, best by log-probability", "repeat({n})", "best(likelihood)"),
    Row("direct, best by reward model", "repeat({n})", "best(reward)"),
    Row("direct, votes weighted by reward model", "repeat({n})", "weighted(reward)"),
    Row("direct, best by checker", "repeat({n})", "best(puzzle)"),
    Row("direct, majority vote until settled", "repeat({n}) | until(asc(0.95))", "vote"),
    Row(
        "direct, by reward model until sure", "repeat({n}) | until(optscale(0.95, reward, target=0.95))", "best(reward)"
    ),
    Row("direct, by checker until one passes", "repeat({n}) | until(passed(puzzle))", "best(puzzle)"),
    Row("temperature 0.6, best by checker", "repeat({n}, temperature=0.6)", "best(puzzle)"),
    Row("temperature ladder, best by checker", "vary(ladder) | repeat({n})", "best(puzzle)"),
    Row("clustered draws (css), majority vote", "repeat({group}, temperature=0.85, explore=css)", "vote"),
    Row("clustered draws (css), best by checker", "repeat({group}, temperature=0.85, explore=css)", "best(puzzle)"),
    Row("latent stratified draws (lss), majority vote", "repeat({group}, temperature=0.85, explore=lss)", "vote"),
    Row(
        "latent stratified draws (lss), best by checker",
        "repeat({group}, temperature=0.85, explore=lss)",
        "best(puzzle)",
    ),
    Row("exploratory sampling (esamp), majority vote", "repeat({group}, explore=esamp)", "vote"),
    Row("exploratory sampling (esamp), best by checker", "repeat({group}, explore=esamp)", "best(puzzle)"),
    Row("numbers permuted, majority vote", "vary(permute(7)) | repeat({n})", "vote"),
    Row("numbers permuted, log-pool", "vary(permute(7)) | repeat({n})", "log_pool"),
    Row("numbers permuted, best by reward model", "vary(permute(7)) | repeat({n})", "best(reward)"),
    Row("numbers permuted, best by checker", "vary(permute(7)) | repeat({n})", "best(puzzle)"),
)
BASELINE = "direct, majority vote"


def demo(folder: Path, puzzles: int, samples: int, seed: int, console: Console) -> dict[str, Json]:
    """Draw, choose, compare, and write `folder`/report.html. Gives the figures as plain JSON.

    Cost: about 8 x `puzzles` x `samples` draws of 25 tokens, and 400 tokens a puzzle for power sampling; nothing where
    the store has them already.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error
    task = f"game24(limit={puzzles})"
    with Store(folder / "demo.db") as store:
        started = time.monotonic()
        runs, tokens = asyncio.run(_draw(store, task, samples, seed))
        drawn_s = time.monotonic() - started
        entries = []
        for row in ROWS:
            run = runs[_line(row, samples)]
            redecide(store, run, row.selector)
            entries.append(Entry(row.name, run, row.selector))
        report = build(
            store,
            entries,
            title=f"{puzzles} Game of 24 puzzles that the model has never seen",
            baseline=BASELINE,
            facts={
                "engine": entries[0].run.manifest["engine"]["name"],
                "task": task,
                "seed": str(seed),
                "version": __version__,
                "machine": f"{platform.machine()}, {platform.system()}",
                "command": f"samplewise demo --puzzles {puzzles} --samples {samples} --seed {seed}",
            },
            notes=(
                "The checker of this puzzle is exact and needs no reference answer, so best by checker reaches the "
                "ceiling of its draws. Where no such checker exists, the other rows are what you can have.",
                "Tokens are prompt and completion tokens of every draw and what a reward model reads, without credit "
                "for a shared prompt.",
                "Rows of a single draw cost less than the common budget: more draws would not change them.",
                "Rows that go on until something stop by a rule, question by question, and cost what they did; so do "
                "power samplers, whose draws depend on each other and end in one answer.",
            ),
        )
    print_report(report, console)
    page = folder / "report.html"
    page.write_text(html(report), encoding="utf-8")
    rate = f", {tokens / drawn_s:,.0f} new tokens per second" if tokens else ""
    console.print(f"report: {page}   drawing took {drawn_s:.0f} s{rate}", style="dim", highlight=False)
    figures = {name: value for name, value in as_json(report).items() if name != "series"}  # the page has the curves
    return {"demo": figures, "report": str(page), "drawing_seconds": round(drawn_s, 1)}


def _line(row: Row, samples: int) -> str:
    """The recipe that draws a row's pool. The selector that it is run with does not matter: every row chooses again."""
    return recipe(f"{row.draws.format(n=samples, group=max(1, samples * 7 // 8))} | first").line


async def _draw(store: Store, task: str, samples: int, seed: int) -> tuple[dict[str, Run], int]:
    """The stored runs by recipe line, and how many tokens were drawn now."""
    engine = make("engine", "tiny")
    problems = make("task", task)
    runs: dict[str, Run] = {}
    tokens = 0
    try:
        for line in dict.fromkeys(_line(row, samples) for row in ROWS):
            with Bar(line.removesuffix(" | first")) as bar:
                summary = await run_task(problems, recipe(line), engine, store, seed=seed, on_event=bar)
            tokens += summary.paid.completion_tokens
            runs[line] = next(run for run in store.runs() if run.id == summary.run)
    finally:
        await engine.close()
    return runs, tokens
