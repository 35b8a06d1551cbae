"""The commands that look at a store again and draw nothing: select, show, recheck, report."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from samplewise.core import registry
from samplewise.core.errors import StoreError, UsageError
from samplewise.core.events import in_words
from samplewise.core.types import Json
from samplewise.loop.result import choice_notes, outside_note, unanswered_note
from samplewise.recipe import recipe as parse_recipe
from samplewise.recipe import why_unread

from .app import (
    DEFAULT_STORE,
    AsJson,
    EqualTokens,
    Output,
    Sandbox,
    StorePath,
    app,
    engine_or_none,
    out,
    print_json,
    say,
    settings_of,
    write,
)

SHOW_WIDTH = 48  # characters of a column of `show`: a question stays on one line, and a long answer is cut


@app.command()
def select(
    context: typer.Context,
    selector: Annotated[list[str], typer.Argument(help="Selectors: vote 'best(puzzle)' ...")],
    store: StorePath = DEFAULT_STORE,
    run: Annotated[str | None, typer.Option("--run", help="One run's id; default: every finished run")] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", "-e", help="Who answers judges that have not judged yet", callback=engine_or_none),
    ] = None,
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Choose again on stored draws. Draws nothing; only a judge that has not judged them yet asks its engine."""
    from samplewise.measure import mean_interval
    from samplewise.runs.redecide import redecide
    from samplewise.store.database import Store

    table = Table("run", "draws", "selector", "accuracy", box=None)
    rows: list[Json] = []
    with Store(store, must_exist=True) as kept:
        for stored in finished_runs(kept, run):
            for text in selector:
                if engine is not None:
                    _judge(context, kept, stored, text, engine)
                estimate = mean_interval(redecide(kept, stored, text))
                row = f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
                row = "no grade" if math.isnan(estimate.value) else row
                table.add_row(stored.id, parse_recipe(stored.recipe).draw_line, text, row)
                rows.append({"run": stored.id, "selector": text, "accuracy": estimate.value})
                rows[-1] |= {"accuracy_low": estimate.low, "accuracy_high": estimate.high}
    out.print(table)
    if as_json:
        print_json(selections=rows)


def _judge(context: typer.Context, store: Any, run: Any, selector: str, engine: str) -> None:
    from samplewise.loop.ledger import Budget
    from samplewise.recipe import parse_choice
    from samplewise.runs.redecide import rejudge
    from samplewise.verify.base import Judge

    judges = {name: v for name, v in parse_choice(selector).verifiers.items() if isinstance(v, Judge)}
    if judges:
        asked = {name for judge in judges.values() for name in judge.engines}
        opened = registry.build("engine", settings_of(context).engine_for(engine, asked))

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
    from samplewise.report.explored import describe_exploration, explored_questions, summarize_exploration
    from samplewise.report.json import exploration_json
    from samplewise.runs.redecide import num_tied
    from samplewise.store.database import Store

    table = Table(box=None)
    for column in ("question", "answer", "votes", "grade", "tokens", "why it ended"):
        table.add_column(column, no_wrap=True, overflow="ellipsis", max_width=SHOW_WIDTH)
    rows: list[Json] = []
    with Store(store, must_exist=True) as kept:
        stored = find_runs(kept, run)[-1]
        parsed = parse_recipe(stored.recipe)
        most, selector = parsed.max_draws, str(parsed.stages.selector)
        chosen = {
            row.question: (row.answer, row.grade) for row in kept.selections(stored.id) if row.selector == selector
        }
        records = [r for r in kept.records(stored.id) if question in (None, r.problem.question.id)]
        traces = [info for _, one in explored_questions(kept, stored, question) for info in one.trace]
        say_partial(kept, stored)
    if not records:
        what = "no finished question" if question is None else f"no finished question {question!r}"
        raise UsageError(f"run {stored.id} holds {what}")
    for record in records:
        name, draws = record.problem.question.id, len(record.answers) + record.pool.num_failed
        answer, grade = chosen.get(name, (None, float("nan")))
        why = in_words(record.stop, draws, most, record.pool.num_failed)
        votes = record.answers.count(answer) if answer is not None else 0
        shown = "none" if answer is None else " ".join(answer.split())
        tied = num_tied(stored, record, parsed.selector)
        counted = f"{votes}, a tie of {tied}" if tied > 1 else str(votes)
        cells = (name, shown, counted, f"{grade:g}", f"{record.spent.tokens:,}", why)
        table.add_row(*cells)
        rows.append({"question": name, "answer": answer, "votes": votes, "draws": draws, "grade": grade, "why": why})
        rows[-1] |= {"spent": record.spent._asdict(), "stop": record.stop._asdict()}
    out.print(table)
    if question is not None:
        for candidate, text in zip(records[0].pool.candidates, records[0].answers, strict=True):
            say(text if text is not None else "ended while reasoning" if candidate.is_unanswered else "unreadable")
    if note := unanswered_note([candidate for record in records for candidate in record.pool.candidates]):
        say(note)
    for line in choice_notes(parsed.selector, [(record.pool, record.answers) for record in records]):
        say(line)
    if note := outside_note([candidate for record in records for candidate in record.pool.candidates]):
        say(note)
    explored = summarize_exploration(traces, parse_recipe(stored.recipe).draw_line)
    for line in [] if explored is None else describe_exploration(explored):
        say(line)
    if as_json:
        print_json(run=stored.id, questions=rows, explored=None if explored is None else exploration_json(explored))


@app.command()
def recheck(
    run: Annotated[str | None, typer.Argument(help="A run's id; default: every run")] = None,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """Recheck why a run stopped: its stop rule over the stored draws again. Exit code 1 where a stop differs."""
    from samplewise.runs.recheck import recheck_run
    from samplewise.store.database import Store

    rows: list[Json] = []
    with Store(store, must_exist=True) as kept:
        for stored in find_runs(kept, run) if run is not None else _read_ones(find_runs(kept, None)):
            say_partial(kept, stored)
            checked = recheck_run(kept, stored)
            wrong = [each for each in checked if each.difference]
            verdict = f"no, {len(wrong)} of {len(checked)} stops differ" if wrong else f"yes, {len(checked)} stops"
            out.print(f"run {stored.id}: {verdict}", highlight=False)
            for each in wrong:
                out.print(f"  {each.question}: {each.difference}", highlight=False)
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
    tokens: EqualTokens = None,
    as_json: AsJson = False,
) -> None:
    """Write a self-contained HTML page about a store's finished runs."""
    from samplewise.store.database import Store

    with Store(store, must_exist=True) as kept:
        chosen = [(run.recipe, run) for run in finished_runs(kept)]
        print_comparison(kept, chosen, tokens, output, as_json, f"{chosen[0][1].task}: recipes at equal tokens")


def find_runs(store: Any, run: str | None) -> list[Any]:
    """The run of this id, finished or not; every run for None."""
    runs = [r for r in store.runs() if run in (None, r.id)]
    if not runs:
        raise StoreError(f"{store.path} holds no run{'' if run is None else f' {run!r}'}; see: samplewise list run")
    return runs


def say_partial(store: Any, run: Any) -> None:
    """Say so where a run holds a part of its task's questions."""
    from samplewise.runs.shards import partial_note

    if note := partial_note(store, run):
        say(f"{note}; all figures are of that part")


def records_of(store: Any, run: str, shard: Any = None) -> list[Any]:
    """Return a run's records, or those of one shard."""
    return [r for r in store.records(run) if shard is None or shard.holds(r.problem.question.id)]


def stop_reasons(records: list[Any]) -> dict[str, int]:
    """How many questions ended for each reason, the most frequent first."""
    return dict(Counter(record.stop.reason for record in records).most_common())


def unanswered_in(records: list[Any]) -> str:
    """Return how many draws ended while reasoning, and what to do; "" if none did."""
    return unanswered_note([candidate for record in records for candidate in record.pool.candidates])


def finished_runs(store: Any, run: str | None = None) -> list[Any]:
    """The finished runs, or the one of this id. Says which are left out, as they are partial or their recipe is not
    read by this version."""
    from samplewise.runs.shards import partial_note

    wanted = [r for r in store.runs() if run in (None, r.id)]
    finished = [r for r in wanted if r.ended is not None]
    partial = [note for r in wanted if (note := partial_note(store, r))]
    if not finished:
        what = "no finished run" if run is None else f"no finished run {run!r}; see: samplewise list run"
        raise StoreError(f"{store.path} holds {'; '.join([what, *partial])}")
    for note in partial:
        say(f"left out: {note}")
    if run is None:
        finished = _read_ones(finished)
        if not finished:
            raise StoreError(f"{store.path} holds no finished run whose recipe this version reads")
    return finished


def _read_ones(runs: Sequence[Any]) -> list[Any]:
    """Return the runs whose recipes are read, and say which are left out, as other versions drew them."""
    reasons = {r.id: why_unread(r.recipe) for r in runs}
    for r in runs:
        if reasons[r.id]:
            say(f"left out: run {r.id}, whose recipe is not read: {r.recipe} ({reasons[r.id]})")
    return [r for r in runs if not reasons[r.id]]


def print_comparison(
    store: Any, chosen: list[Any], tokens: float | None, output: Path | None, as_json: bool, title: str
) -> None:
    from samplewise.report.build import ReportEntry, build_report
    from samplewise.report.html import render_html
    from samplewise.report.json import report_json
    from samplewise.report.terminal import print_report
    from samplewise.runs.arrays import has_draws
    from samplewise.runs.redecide import redecide

    empty = [run for _, run in chosen if not has_draws(store, run.id)]
    for run in empty:
        say(f"run {run.id} ({run.recipe}) has no draw: left out")
    chosen = [(name, run) for name, run in chosen if run not in empty]
    if not chosen:
        raise StoreError(f"{store.path} holds no run with draws: nothing can be compared")
    entries = [ReportEntry(name, run, str(parse_recipe(run.recipe).stages.selector)) for name, run in chosen]
    for entry in entries:
        if parse_recipe(entry.run.recipe).stop is None:
            redecide(store, entry.run, entry.selector)
    facts = {"engine": entries[0].run.engine_name, "task": entries[0].run.task}
    facts |= {"seed": str(entries[0].run.seed), "store": store.path}
    try:
        built = build_report(
            store, entries, title=title, baseline=entries[0].name, tokens=tokens, views=output is not None
        )._replace(facts=facts)
    except ValueError as error:  # runs that cannot be compared
        raise UsageError(str(error)) from error
    print_report(built, out)
    if output is not None:
        write(output, render_html(built))
    if as_json:
        print_json(**report_json(built))
