"""The demo: held-out puzzles, the embedded model, every method at equal tokens.

Each row is a way to draw and a way to choose. Rows that draw alike share their draws. The short table has twelve rows;
`--full` has all of them.
"""

from __future__ import annotations

import asyncio
import platform
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from samplewise import __version__
from samplewise.core.errors import UsageError
from samplewise.core.registry import build as build_part
from samplewise.core.types import Json
from samplewise.recipe import recipe
from samplewise.store.database import Store
from samplewise.store.records import Run

from .app import Seed, app, out, print_json

BASELINE = "direct, majority vote"
SHORT_DRAWS, FULL_DRAWS = 24, 64  # draws a puzzle and method


class Method(NamedTuple):
    """A row of the table: its name, how it draws, how it chooses.

    {n} stands for the number of draws, {group} for that of a group that explores: a group is scored as a whole and must
    fit into the common budget. `short` rows are in the short table.
    """

    name: str
    draws: str
    selector: str
    short: bool = False


METHODS = (
    Method("direct, one draw", "repeat({n})", "first", short=True),
    Method("greedy", "repeat(1, temperature=0)", "first", short=True),
    Method("temperature 0.6, one draw", "repeat({n}, temperature=0.6)", "first"),
    Method("temperature 0.25, one draw", "repeat({n}, temperature=0.25)", "first", short=True),
    Method("power sampling, one response", "power(4, 20, cuts='entropy')", "first", short=True),
    Method("power by 16 weighted draws, one response", "sir(16, 4)", "first"),
    Method("direct, majority vote", "repeat({n})", "vote", short=True),
    Method("temperature 0.6, majority vote", "repeat({n}, temperature=0.6)", "vote"),
    Method("temperature 0.25, majority vote", "repeat({n}, temperature=0.25)", "vote"),
    Method("temperature ladder, majority vote", "vary(ladder) | repeat({n})", "vote"),
    Method("direct, best by log-probability", "repeat({n})", "best(likelihood)", short=True),
    Method("direct, best by reward model", "repeat({n})", "best(reward)"),
    Method("direct, votes weighted by reward model", "repeat({n})", "weighted(reward)", short=True),
    Method("direct, best by checker", "repeat({n})", "best(puzzle)", short=True),
    Method("direct, majority vote until settled", "repeat({n}) | until(asc(0.95))", "vote"),
    Method(
        "direct, by reward model until sure",
        "repeat({n}) | until(optscale(0.95, reward, target=0.95))",
        "best(reward)",
        short=True,
    ),
    Method("direct, by checker until one passes", "repeat({n}) | until(passed(puzzle))", "best(puzzle)"),
    Method("temperature 0.6, best by checker", "repeat({n}, temperature=0.6)", "best(puzzle)"),
    Method("temperature ladder, best by checker", "vary(ladder) | repeat({n})", "best(puzzle)", short=True),
    Method("clustered draws (css), majority vote", "repeat({group}, temperature=0.85, explore=css)", "vote"),
    Method("clustered draws (css), best by checker", "repeat({group}, temperature=0.85, explore=css)", "best(puzzle)"),
    Method("latent stratified draws (lss), majority vote", "repeat({group}, temperature=0.85, explore=lss)", "vote"),
    Method(
        "latent stratified draws (lss), best by checker",
        "repeat({group}, temperature=0.85, explore=lss)",
        "best(puzzle)",
        short=True,
    ),
    Method("exploratory sampling (esamp), majority vote", "repeat({group}, explore=esamp)", "vote"),
    Method("exploratory sampling (esamp), best by checker", "repeat({group}, explore=esamp)", "best(puzzle)"),
    Method("numbers permuted, majority vote", "vary(permute(7)) | repeat({n})", "vote"),
    Method("numbers permuted, log-pool", "vary(permute(7)) | repeat({n})", "log_pool"),
    Method("numbers permuted, best by reward model", "vary(permute(7)) | repeat({n})", "best(reward)"),
    Method("numbers permuted, best by checker", "vary(permute(7)) | repeat({n})", "best(puzzle)", short=True),
)
NOTES = (
    "The checker of this puzzle is exact and needs no reference answer, so best by checker reaches the ceiling of its "
    "draws. Where no such checker exists, the other rows are what you can have.",
    "Tokens are prompt and completion tokens of every draw and what a reward model reads, without credit for a shared "
    "prompt.",
    "Rows of a single draw cost less than the common budget: more draws would not change them.",
    "Rows that stop by a rule decide question by question. A power sampler's draws depend on each other and end in one "
    "answer; it costs what it cost.",
)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the store and the report go")] = Path("demo"),
    puzzles: Annotated[int, typer.Option("--puzzles", min=2, max=1100, help="How many held-out puzzles")] = 100,
    draws: Annotated[
        int | None,
        typer.Option(
            "--draws", min=2, max=1000, help=f"Draws per puzzle and method; default {SHORT_DRAWS}, {FULL_DRAWS} in full"
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every method, not the twelve of the short table")] = False,
    seed: Seed = 0,
) -> None:
    """Show what the methods are worth: puzzles of the embedded model, every method at equal tokens."""
    started = time.monotonic()
    methods = METHODS if full else tuple(method for method in METHODS if method.short)
    num = draws or (FULL_DRAWS if full else SHORT_DRAWS)
    figures = show_methods(folder, puzzles, num, seed, methods)
    print_json(**figures, seconds=round(time.monotonic() - started, 1))


def show_methods(
    folder: Path, puzzles: int, draws: int, seed: int, methods: tuple[Method, ...] = METHODS
) -> dict[str, Json]:
    """Draw, choose and compare; write `folder`/report.html; return the figures as plain JSON.

    Cost: `puzzles` x `draws` draws of 25 tokens for each way to draw, and 400 tokens a puzzle for power sampling;
    nothing where the store has them already. Raises UsageError where the folder cannot be written.
    """
    from samplewise.report.build import ReportEntry, build_report
    from samplewise.report.html import render_html
    from samplewise.report.json import report_json
    from samplewise.report.terminal import print_report
    from samplewise.runs.redecide import redecide

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error
    task = f"game24(limit={puzzles})"
    command = f"samplewise demo --puzzles {puzzles} --draws {draws} --seed {seed}"
    with Store(folder / "demo.db") as store:
        started = time.monotonic()
        runs, tokens = asyncio.run(_draw(store, task, methods, draws, seed))
        drawing_s = time.monotonic() - started
        entries = []
        for method in methods:
            run = runs[_draw_line(method, draws)]
            redecide(store, run, method.selector)
            entries.append(ReportEntry(method.name, run, method.selector))
        title = f"{puzzles} Game of 24 puzzles that the model has never seen"
        report = build_report(store, entries, title=title, baseline=BASELINE)
        report = report._replace(
            facts={
                "engine": entries[0].run.engine_name,
                "task": task,
                "seed": str(seed),
                "version": __version__,
                "machine": f"{platform.machine()}, {platform.system()}",
                "command": f"{command} --full" if methods == METHODS else command,
            },
            notes=(*NOTES, *report.notes),
        )
    print_report(report, out)
    page = folder / "report.html"
    page.write_text(render_html(report), encoding="utf-8")
    rate = f", {tokens / drawing_s:,.0f} new tokens per second" if tokens else ""
    out.print(f"report: {page}   drawing took {drawing_s:.0f} s{rate}", style="dim", highlight=False)
    figures = report_json(report)
    del figures["series"]  # the page has the curves
    return {"demo": figures, "report": str(page), "drawing_seconds": round(drawing_s, 1)}


def _draw_line(method: Method, draws: int) -> str:
    """Return the recipe that draws a method's pool. Its selector does not matter: every row chooses again."""
    return recipe(method.draws.format(n=draws, group=max(1, draws * 7 // 8))).line


async def _draw(
    store: Store, task: str, methods: tuple[Method, ...], draws: int, seed: int
) -> tuple[dict[str, Run], int]:
    """Return the stored runs by recipe line, and how many tokens were drawn now."""
    from samplewise.cli.progress import Bar, loading
    from samplewise.runs.run import run_task

    with loading("the bundled model"):
        engine = build_part("engine", "tiny")
    problems = build_part("task", task)
    runs: dict[str, Run] = {}
    tokens = 0
    try:
        for line in dict.fromkeys(_draw_line(method, draws) for method in methods):
            with Bar(recipe(line).draw_line) as bar:
                summary = await run_task(problems, recipe(line), engine, store, seed=seed, on_event=bar)
            tokens += summary.paid.completion_tokens
            runs[line] = next(run for run in store.runs() if run.id == summary.run)
    finally:
        await engine.close()
    return runs, tokens
