"""The command line. Tables for people on standard output, progress on standard error; with `--json` one JSON object as
the last line of standard output. Exit codes: 0 done, 2 usage, 3 set-up, 4 engine, 130 interrupted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from samplewise import spec as specs
from samplewise.errors import SamplewiseError, StoreError, UnknownName, UsageError
from samplewise.recipe import recipe as parse_recipe
from samplewise.run import Budget
from samplewise.types import Json

app = typer.Typer(
    name="samplewise",
    help="Many samples, one good answer, as few tokens as possible.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console()
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 120  # into a file or a pipe: room for the tables

Engine = Annotated[
    str,
    typer.Option("--engine", "-e", help="What draws: tiny, local:PATH_OR_NAME, toy ...", envvar="SAMPLEWISE_ENGINE"),
]
Recipe = Annotated[str, typer.Option("--recipe", "-r", help="One line: repeat(16) | vote")]
Recipes = Annotated[list[str], typer.Option("--recipe", "-r", help="A line to compare; give several")]
StorePath = Annotated[
    Path, typer.Option("--store", help="The SQLite file that keeps every draw", envvar="SAMPLEWISE_STORE")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed, the same run")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object as the last line")]
MaxRequests = Annotated[int | None, typer.Option("--max-requests", min=0, help="At most so many requests, in all")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", min=0, help="At most so many tokens, prompt and completion, in all")
]
MaxUsd = Annotated[float | None, typer.Option("--max-usd", min=0.0, help="At most so much money, in all")]
MaxSeconds = Annotated[float | None, typer.Option("--max-seconds", min=0.0, help="At most so long for each question")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Write an HTML report here")]

DEFAULT_STORE = Path("samplewise.db")
# What the parser says of a wrong word. Its class has no name that holds for every release of typer; its children do.
COMPLAINT: type[Exception] = typer.BadParameter.mro()[2]


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask")],
    engine: Engine = "tiny",
    recipe: Recipe = "repeat(8) | vote",
    store: Annotated[Path | None, typer.Option("--store", help="Keep the draws here")] = None,
    seed: Seed = 0,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    max_usd: MaxUsd = None,
    max_seconds: MaxSeconds = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and print the answer."""
    from samplewise.api import asolve
    from samplewise.progress import Bar

    budget = Budget(max_requests, None, None, max_tokens, max_usd, max_seconds)
    with Bar("ask") as bar:
        result = asyncio.run(
            asolve(question, engine=engine, recipe=recipe, seed=seed, budget=budget, store=store, on_event=bar)
        )
    if not result.pool.candidates and result.pool.num_failed:
        _fail("no request was answered; check the engine", 4)
    out.print("no answer could be read" if result.answer is None else result.answer, markup=False, highlight=False)
    votes = [a for a in result.answers if a is not None]
    _say(f"{len(result.pool.candidates)} draws, {len(set(votes))} different answers, {result.spent.tokens:,} tokens")
    if as_json:
        _json(
            answer=result.answer,
            answers=list(result.answers),
            texts=[c.text for c in result.pool.candidates],
            spent=result.spent._asdict(),
            stop=result.stop._asdict(),
        )


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="What is asked: game24(limit=100), jsonl:FILE ...")],
    engine: Engine = "tiny",
    recipe: Recipe = "repeat(16) | vote",
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    max_requests: MaxRequests = None,
    max_tokens: MaxTokens = None,
    max_usd: MaxUsd = None,
    max_seconds: MaxSeconds = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe on a task. Interrupted or killed, the same command goes on where it was."""
    from samplewise.measure import mean_interval
    from samplewise.store import Store

    budget = Budget(max_requests, None, None, max_tokens, max_usd, max_seconds)
    with Store(store) as kept:
        (summary,) = _run_all(task, engine, [recipe], kept, seed, budget)
    accuracy = mean_interval(summary.accuracy)
    out.print(
        f"run {summary.run}: {summary.num_done} of {summary.num_questions} questions, "
        f"accuracy {accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}], "
        f"{summary.spent.tokens:,} tokens ({summary.paid.tokens:,} of them paid now)",
        highlight=False,
    )
    if as_json:
        _json(
            run=summary.run,
            recipe=parse_recipe(recipe).line,
            questions=summary.num_questions,
            done=summary.num_done,
            accuracy=accuracy.value,
            accuracy_low=accuracy.low,
            accuracy_high=accuracy.high,
            spent=summary.spent._asdict(),
            paid=summary.paid._asdict(),
            complete=not summary.cancelled,
        )
    _finish(summary)


@app.command()
def compare(
    task: Annotated[str | None, typer.Argument(help="What is asked; without it, the runs that the store holds")] = None,
    recipe: Recipes = [],  # noqa: B006 - typer reads it, nobody changes it
    engine: Engine = "tiny",
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    tokens: Annotated[float | None, typer.Option("--tokens", help="Compare at so many tokens per problem")] = None,
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Compare recipes at equal tokens: accuracy with intervals, paired differences from the first."""
    from samplewise.store import Store

    if task is not None and not recipe:
        raise UsageError("give at least one --recipe to compare, such as -r 'repeat(16) | vote'")
    lines = list(dict.fromkeys(parse_recipe(line).line for line in recipe))
    with Store(store, must_exist=task is None) as kept:
        if task is not None:
            summaries = _run_all(task, engine, lines, kept, seed, Budget())
            for summary in summaries:
                _finish(summary)
            runs = {run.id: run for run in kept.runs()}
            chosen = [(runs[summary.run].recipe, runs[summary.run]) for summary in summaries]
        else:
            chosen = [(run.recipe, run) for run in _ended(kept) if not lines or run.recipe in lines]
        if not chosen:
            raise StoreError(f"{store} holds no finished run to compare")
        _report(kept, chosen, tokens, output, as_json, f"{chosen[0][1].task}: recipes at equal tokens")


@app.command()
def select(
    selector: Annotated[list[str], typer.Argument(help="Selectors: vote 'best(puzzle)' ...")],
    store: StorePath = DEFAULT_STORE,
    run: Annotated[str | None, typer.Option("--run", help="One run's id; default: every finished run")] = None,
    as_json: AsJson = False,
) -> None:
    """Choose again on stored draws. Draws nothing, pays nothing."""
    from samplewise.evaluate import redecide
    from samplewise.measure import mean_interval
    from samplewise.store import Store

    table = Table("run", "draws", "selector", "accuracy", box=None)
    rows: list[Json] = []
    with Store(store, must_exist=True) as kept:
        for stored in _ended(kept, run):
            for text in selector:
                estimate = mean_interval(redecide(kept, stored, text))
                row = f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
                table.add_row(stored.id, parse_recipe(stored.recipe).draws, text, row)
                rows.append({"run": stored.id, "selector": text, "accuracy": estimate.value})
                rows[-1] |= {"accuracy_low": estimate.low, "accuracy_high": estimate.high}
    out.print(table)
    if as_json:
        _json(selections=rows)


@app.command()
def report(
    store: StorePath = DEFAULT_STORE,
    output: Output = Path("report.html"),
    tokens: Annotated[float | None, typer.Option("--tokens", help="Compare at so many tokens per problem")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a self-contained HTML page about a store's finished runs."""
    from samplewise.store import Store

    with Store(store, must_exist=True) as kept:
        chosen = [(run.recipe, run) for run in _ended(kept)]
        _report(kept, chosen, tokens, output, as_json, f"{chosen[0][1].task}: recipes at equal tokens")


@app.command("list")
def list_parts(
    kind: Annotated[str | None, typer.Argument(help=f"One of: {', '.join(specs.KINDS)}, run")] = None,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """List the parts that a recipe can name, or a store's runs."""
    if kind == "run":
        return _list_runs(store, as_json)
    if kind is not None and kind not in specs.KINDS:
        raise UnknownName("kind", kind, [*specs.KINDS, "run"])
    table = Table("kind", "call", "what it is", box=None)
    rows = []
    for each in specs.KINDS:
        for name in specs.names(each) if kind in (None, each) else ():
            call, summary = f"{name}{specs.signature(each, name)}", specs.summary(each, name)
            table.add_row(each, call, summary)
            rows.append({"kind": each, "name": name, "call": call, "summary": summary})
    out.print(table)
    if as_json:
        _json(parts=rows)
    return None


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the store and the report go")] = Path("demo"),
    puzzles: Annotated[int, typer.Option("--puzzles", min=2, max=1100, help="How many held-out puzzles")] = 100,
    samples: Annotated[int, typer.Option("--samples", min=2, max=1000, help="Draws per puzzle and method")] = 64,
    seed: Seed = 0,
) -> None:
    """The main job on real puzzles with the embedded model: draw, choose, compare at equal tokens."""
    from samplewise.demo import demo as show

    started = time.monotonic()
    found = show(folder, puzzles, samples, seed, out)
    _json(**found, seconds=round(time.monotonic() - started, 1))


def main() -> NoReturn:
    """The entry point: samplewise's own errors become one line and an exit code."""
    try:
        code = typer.main.get_command(app).main(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except SamplewiseError as error:
        _fail(str(error), error.exit_code)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except COMPLAINT as error:
        _fail(error.format_message(), 2)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; what was paid for is kept, the same command goes on from there", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has what it wanted
        sys.exit(0)


# --- what the commands share ------------------------------------------------------------------------------------------


def _run_all(task: str, engine: str, lines: list[str], store: Any, seed: int, budget: Budget) -> list[Any]:
    from samplewise.evaluate import run_task
    from samplewise.progress import Bar

    recipes = [parse_recipe(line) for line in lines]
    problems = specs.build("task", task)
    opened = specs.build("engine", engine)

    async def go() -> list[Any]:
        cancel = asyncio.Event()
        with contextlib.suppress(NotImplementedError, RuntimeError):  # no signals on this loop: Ctrl-C then just stops
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, cancel.set)
        done = []
        try:
            for each in recipes:
                with Bar(each.line) as bar:
                    done.append(
                        await run_task(
                            problems, each, opened, store, seed=seed, budget=budget, on_event=bar, cancel=cancel
                        )
                    )
                if cancel.is_set():
                    raise KeyboardInterrupt
        finally:
            await opened.close()
        return done

    return asyncio.run(go())


def _finish(summary: Any) -> None:
    """Exit code 4 when nothing at all came back."""
    if summary.failure and summary.paid.completion_tokens == 0 and summary.spent.completion_tokens == 0:
        _fail(f"no request was answered: {summary.failure}", 4)


def _ended(store: Any, run: str | None = None) -> list[Any]:
    runs = [r for r in store.runs() if r.ended is not None and run in (None, r.id)]
    if not runs:
        what = "no finished run" if run is None else f"no finished run {run!r}; see: samplewise list run"
        raise StoreError(f"{store.path} holds {what}")
    return runs


def _report(
    store: Any, chosen: list[Any], tokens: float | None, output: Path | None, as_json: bool, title: str
) -> None:
    from samplewise.evaluate import redecide
    from samplewise.report.build import Entry, build
    from samplewise.report.html import html
    from samplewise.report.json import as_json as plain
    from samplewise.report.terminal import print_report

    entries = [Entry(name, run, parse_recipe(run.recipe).line.rpartition(" | ")[2]) for name, run in chosen]
    for entry in entries:
        if parse_recipe(entry.run.recipe).stop is None:
            redecide(store, entry.run, entry.selector)
    facts = {"engine": entries[0].run.manifest["engine"]["name"], "task": entries[0].run.task}
    facts |= {"seed": str(entries[0].run.seed), "store": store.path}
    built = build(
        store, entries, title=title, baseline=entries[0].name, tokens=tokens, facts=facts, views=output is not None
    )
    print_report(built, out)
    if output is not None:
        _write(output, html(built))
    if as_json:
        _json(**plain(built))


def _list_runs(path: Path, as_json: bool) -> None:
    from samplewise.store import Store

    table = Table("run", "task", "recipe", "seed", "finished", box=None)
    with Store(path, must_exist=True) as kept:
        runs = kept.runs()
    for run in runs:
        table.add_row(run.id, run.task, run.recipe, str(run.seed), "yes" if run.ended else "no")
    out.print(table)
    if as_json:
        _json(runs=[{"run": r.id, "task": r.task, "recipe": r.recipe, "seed": r.seed, "ended": r.ended} for r in runs])


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error
    _say(f"report: {path}")


def _say(text: str) -> None:
    out.print(text, style="dim", markup=False, highlight=False)


def _json(**fields: Json) -> None:
    """The last line of standard output. Unknown numbers are null."""
    sys.stdout.flush()
    print(json.dumps(_known(fields), ensure_ascii=False), flush=True)


def _known(value: Json) -> Json:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _known(v) for k, v in value.items()}
    return [_known(v) for v in value] if isinstance(value, list | tuple) else value


def _fail(message: str, code: int) -> NoReturn:
    print(f"samplewise: {message}", file=sys.stderr)
    sys.exit(code)
