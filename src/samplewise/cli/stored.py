"""The commands that look at a store again and draw nothing: select, show, verify, report, list."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from samplewise import spec as specs
from samplewise.errors import StoreError, UnknownName, UsageError
from samplewise.events import in_words
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
def show(
    run: Annotated[str | None, typer.Argument(help="A run's id; default: the last one that was begun")] = None,
    question: Annotated[str | None, typer.Option("--question", help="One question's id, with every answer")] = None,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Show what a stored run chose for each question, why it stopped there, and how its samples explored."""
    from samplewise.report.explored import in_words as explored_in_words
    from samplewise.report.explored import played, summary
    from samplewise.report.json import explored_json
    from samplewise.store import Store

    table = Table("question", "answer", "votes", "grade", "tokens", "why it ended", box=None)
    rows: list[Json] = []
    with Store(store, must_exist=True) as kept:
        stored = known(kept, run)[-1]
        most, selector = parse_recipe(stored.recipe).most, stored.recipe.rpartition(" | ")[2]
        chosen = {q: (answer, grade) for q, text, answer, _, grade in kept.selections(stored.id) if text == selector}
        records = [r for r in kept.records(stored.id) if question in (None, r.problem.question.id)]
        traces = [info for each in played(kept, stored, question) for info in each.trace]
    if not records:
        what = "no finished question" if question is None else f"no finished question {question!r}"
        raise UsageError(f"run {stored.id} holds {what}")
    for record in records:
        name, draws = record.problem.question.id, len(record.answers) + record.pool.num_failed
        answer, grade = chosen.get(name, (None, float("nan")))
        why, votes = in_words(record.stop, draws, most), record.answers.count(answer) if answer is not None else 0
        cells = (name, "none" if answer is None else answer, str(votes), f"{grade:g}", f"{record.spent.tokens:,}", why)
        table.add_row(*map(escape, cells))
        rows.append({"question": name, "answer": answer, "votes": votes, "draws": draws, "grade": grade, "why": why})
        rows[-1] |= {"spent": record.spent._asdict(), "stop": record.stop._asdict()}
    out.print(table)
    if question is not None:
        for text in records[0].answers:
            say("unreadable" if text is None else text)
    explored = summary(traces, parse_recipe(stored.recipe).draws)
    for line in [] if explored is None else explored_in_words(explored):
        say(line)
    if as_json:
        print_json(run=stored.id, questions=rows, explored=None if explored is None else explored_json(explored))


@app.command()
def verify(
    run: Annotated[str | None, typer.Argument(help="A run's id; default: every run")] = None,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Verify why a run stopped: its stop rule over the stored draws again. Exit code 1 where it says otherwise."""
    from samplewise.recheck import recheck
    from samplewise.store import Store

    rows: list[Json] = []
    with Store(store, must_exist=True) as kept:
        for stored in known(kept, run):
            checked = recheck(kept, stored)
            wrong = [each for each in checked if each.difference]
            verdict = f"no, {len(wrong)} of {len(checked)} stops differ" if wrong else f"yes, {len(checked)} stops"
            out.print(f"run {stored.id}: {verdict}", highlight=False)
            for each in wrong:
                out.print(f"  {each.question}: {each.difference}", markup=False, highlight=False)
            rows.append({"run": stored.id, "stops": len(checked), "ok": not wrong})
            rows[-1] |= {"differences": {each.question: each.difference for each in wrong}}
    if as_json:
        print_json(runs=rows)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


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


def known(store: Any, run: str | None) -> list[Any]:
    """The run of this id, finished or not; every run for None."""
    runs = [r for r in store.runs() if run in (None, r.id)]
    if not runs:
        raise StoreError(f"{store.path} holds no run{'' if run is None else f' {run!r}'}; see: samplewise list run")
    return runs


def reasons(store: Any, run: str) -> dict[str, int]:
    """How many of a run's questions ended for each reason, the most frequent first."""
    return dict(Counter(record.stop.reason for record in store.records(run)).most_common())


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
