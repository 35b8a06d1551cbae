"""The commands that look at a store again and draw nothing: select, report, list."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from samplewise import spec as specs
from samplewise.errors import StoreError, UnknownName
from samplewise.recipe import recipe as parse_recipe
from samplewise.types import Json

from .app import DEFAULT_STORE, AsJson, Output, Sandbox, StorePath, app, out, print_json, say, write


@app.command()
def select(
    selector: Annotated[list[str], typer.Argument(help="Selectors: vote 'best(puzzle)' ...")],
    store: StorePath = DEFAULT_STORE,
    run: Annotated[str | None, typer.Option("--run", help="One run's id; default: every finished run")] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", help="Who answers judges that have not judged yet")
    ] = None,
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Choose again on stored draws. Draws nothing; only a judge that has not judged them yet asks its engine."""
    from samplewise.evaluate import redecide
    from samplewise.measure import mean_interval
    from samplewise.store import Store

    table = Table("run", "draws", "selector", "accuracy", box=None)
    rows: list[Json] = []
    with Store(store, must_exist=True) as kept:
        for stored in ended(kept, run):
            for text in selector:
                if engine is not None:
                    _judge(kept, stored, text, engine)
                estimate = mean_interval(redecide(kept, stored, text))
                row = f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
                table.add_row(stored.id, parse_recipe(stored.recipe).draws, text, row)
                rows.append({"run": stored.id, "selector": text, "accuracy": estimate.value})
                rows[-1] |= {"accuracy_low": estimate.low, "accuracy_high": estimate.high}
    out.print(table)
    if as_json:
        print_json(selections=rows)


def _judge(store: Any, run: Any, selector: str, engine: str) -> None:
    from samplewise.evaluate import rejudge
    from samplewise.recipe import selector_of
    from samplewise.run import Budget
    from samplewise.verify.base import Judge

    judges = {name: v for name, v in selector_of(selector)[2].items() if isinstance(v, Judge)}
    if judges:
        opened = specs.build("engine", engine)

        async def go() -> Any:
            try:
                return await rejudge(store, run, judges, opened, Budget())
            finally:
                await opened.close()

        say(f"{', '.join(judges)} judged run {run.id}: {asyncio.run(go()).tokens:,} tokens")


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
        chosen = [(run.recipe, run) for run in ended(kept)]
        print_comparison(kept, chosen, tokens, output, as_json, f"{chosen[0][1].task}: recipes at equal tokens")


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
        print_json(parts=rows)
    return None


def ended(store: Any, run: str | None = None) -> list[Any]:
    runs = [r for r in store.runs() if r.ended is not None and run in (None, r.id)]
    if not runs:
        what = "no finished run" if run is None else f"no finished run {run!r}; see: samplewise list run"
        raise StoreError(f"{store.path} holds {what}")
    return runs


def print_comparison(
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
        write(output, html(built))
    if as_json:
        print_json(**plain(built))


def _list_runs(path: Path, as_json: bool) -> None:
    from samplewise.store import Store

    table = Table("run", "task", "recipe", "seed", "finished", box=None)
    with Store(path, must_exist=True) as kept:
        runs = kept.runs()
    for run in runs:
        table.add_row(run.id, run.task, run.recipe, str(run.seed), "yes" if run.ended else "no")
    out.print(table)
    if as_json:
        print_json(
            runs=[{"run": r.id, "task": r.task, "recipe": r.recipe, "seed": r.seed, "ended": r.ended} for r in runs]
        )
