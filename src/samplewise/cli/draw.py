"""The commands that draw: ask, run, compare."""

from __future__ import annotations

import asyncio
import atexit
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from samplewise.core import registry
from samplewise.core.errors import BadInput, BadSpec, StoreError, UsageError
from samplewise.core.events import Arrived, Event, OnEvent, in_words
from samplewise.core.files import is_file
from samplewise.core.spec import Spec, parse_spec
from samplewise.core.types import Message
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result, choice_notes, outside_note, unanswered_note
from samplewise.recipe import parse_stages
from samplewise.recipe import recipe as parse_recipe
from samplewise.runs.shards import Shard
from samplewise.tasks.base import Task, with_system

from .app import (
    DEFAULT_STORE,
    AsJson,
    BudgetRequests,
    BudgetSeconds,
    BudgetTokens,
    BudgetUsd,
    ConfirmAbove,
    Engine,
    EqualTokens,
    Interrupted,
    Output,
    Read,
    Recipe,
    Recipes,
    Sandbox,
    Seed,
    StorePath,
    System,
    Yes,
    app,
    end_on_signal,
    engine_for,
    fail,
    out,
    print_json,
    say,
)
from .stored import finished_runs, print_comparison, records_of, stop_reasons, unanswered_in

if TYPE_CHECKING:
    from samplewise.runs.tracking.follow import RunFollower

FILES = (".jsonl", ".json", ".csv", ".gz")  # how a file of questions is called


@app.command()
def ask(
    context: typer.Context,
    question: Annotated[str, typer.Argument(help="What to ask")],
    engine: Engine = "tiny",
    recipe: Recipe = "repeat(8) | vote",
    system: System = None,
    read: Read = None,
    store: Annotated[Path | None, typer.Option("--store", help="Keep the draws here")] = None,
    seed: Seed = 0,
    budget_requests: BudgetRequests = None,
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    budget_seconds: BudgetSeconds = None,
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and print the answer."""
    from samplewise.api import asolve, make_question
    from samplewise.cli.progress import Bar, engine_to_load, loading
    from samplewise.report.explored import summarize_exploration
    from samplewise.report.json import exploration_json
    from samplewise.report.trace import describe_trace
    from samplewise.tasks.jsonl import reader_of

    with loading(f"the parts of {recipe}"):
        parsed = parse_recipe(recipe)
    budget = Budget(budget_requests, None, None, budget_tokens, budget_usd, budget_seconds)
    asked = [Message("user", question)] if system is None else [Message("system", system), Message("user", question)]
    checked = make_question(asked)
    reader = None if read is None else reader_of(read)
    failures: list[str] = []
    notes: list[str] = []  # what an endpoint did not honor

    async def go() -> Result:
        with loading(engine_to_load(engine)):
            opened = registry.build("engine", engine_for(context, engine, [parsed]))
        try:
            with loading(engine_to_load(engine)):
                await opened.open()
            with Bar("drawing", one_question=True) as bar:

                def on_event(event: Event) -> None:
                    if isinstance(event, Arrived) and event.failure:
                        failures.append(event.failure.message)
                    bar(event)

                return await asolve(
                    checked,
                    engine=opened,
                    recipe=parsed,
                    read=reader,
                    seed=seed,
                    budget=budget,
                    store=store,
                    on_event=on_event,
                )
        finally:
            notes.extend(opened.notes)
            await opened.close()

    result = asyncio.run(go())
    if not result.pool.candidates and result.pool.num_failed:
        fail(f"no request was answered: {failures[-1] if failures else 'check the engine'}", 4)
    answer = "no answer could be read" if result.answer is None else result.answer
    out.print(answer, highlight=False)
    num = len(result.votes)
    say(f"{len(result.pool.candidates)} draws, {num} different answers, {result.spent.tokens:,} tokens")
    if note := unanswered_note(result.pool.candidates):
        say(note)
    no_choice = parsed.selector.note_on(result.pool, result.answers)
    if no_choice:
        say(no_choice)
    elif result.tied > 1:
        say(f"a tie of {result.tied}: as many answers came out equal, and this one was drawn among them")
    if note := outside_note(result.pool.candidates):
        say(note)
    num_failed = result.pool.num_failed
    say(in_words(result.stop, len(result.pool.candidates) + num_failed, parsed.max_draws, num_failed))
    if num_failed and failures:
        say(f"{num_failed} requests failed ({failures[-1]})")
    for line in (*describe_trace(result.trace), *notes):
        say(line)
    if as_json:
        explored = summarize_exploration([*result.trace])
        print_json(
            answer=result.answer,
            tied=result.tied,
            answers=list(result.answers),
            texts=[c.text for c in result.pool.candidates],
            spent=result.spent._asdict(),
            stop=result.stop._asdict(),
            explored=None if explored is None else exploration_json(explored),
        )


@app.command()
def run(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="What is asked: game24(limit=100), jsonl:FILE, or a file ...")],
    engine: Engine = "tiny",
    recipe: Recipe = "repeat(16) | vote",
    system: System = None,
    read: Read = None,
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    budget_requests: BudgetRequests = None,
    budget_tokens: BudgetTokens = None,
    budget_usd: BudgetUsd = None,
    budget_seconds: BudgetSeconds = None,
    spread: Annotated[
        str,
        typer.Option(
            "--spread", help="How questions share a limit: even, or gain: where the next draw is expected to gain most"
        ),
    ] = "even",
    confirm_above_usd: ConfirmAbove = None,
    yes: Yes = False,
    shard: Annotated[
        str | None, typer.Option("--shard", help="Draw one shard's questions alone: 0/4 for the first of four")
    ] = None,
    batch: Annotated[
        bool, typer.Option("--batch", help="Draw by the endpoint's batch API: within a day, where known at half price")
    ] = False,
    log: Annotated[
        list[str] | None, typer.Option("--log", help="Follow the run by wandb, mlflow or otel, each an extra")
    ] = None,
    ray: Annotated[
        int | None,
        typer.Option("--ray", min=1, help="Draw with so many of Ray's actors, each with an engine (extra ray)"),
    ] = None,
    ray_gpus: Annotated[float, typer.Option("--ray-gpus", min=0.0, help="GPUs of each actor")] = 0.0,
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe on a task. Interrupted or killed, the same command goes on where it was."""
    from samplewise.measure import mean_interval
    from samplewise.store.database import Store

    part = None if shard is None else Shard.of(shard)
    engine = in_batches(engine) if batch else engine

    budget = Budget(budget_requests, None, None, budget_tokens, budget_usd, budget_seconds)
    limit = None if yes else confirm_above_usd
    if ray is None and ray_gpus:
        raise UsageError("--ray-gpus is of each actor: say how many with --ray")
    if ray is not None and limit is not None and not (budget_usd is not None and budget_usd <= limit):
        raise UsageError(
            "--confirm-above-usd needs the engine here, and --ray has it in actors: give --yes, or --budget-usd "
            f"{limit:g} or less"
        )
    if ray is not None and batch:
        raise UsageError(
            "--batch asks for all questions at once, which the actors of --ray cannot: leave out one of them"
        )
    with Store(store) as kept:
        asked = open_task(task, read, system)
        if ray is None:
            (summary,) = _run_all(
                context, asked, engine, [recipe], kept, seed, budget, spread, part, limit, trackers=log or ()
            )
        else:
            summary = _run_with_actors(
                context, asked, engine, recipe, kept, seed, budget, spread, part, ray, ray_gpus, log or ()
            )
        records = records_of(kept, summary.run, part)
        stops, note = stop_reasons(records), unanswered_in(records)
        selector = registry.build("selector", parse_stages(recipe).selector)
        no_choice = choice_notes(selector, [(record.pool, record.answers) for record in records])
    accuracy = mean_interval(summary.accuracy if summary.num_draws else ())
    name = summary.run if part is None else f"{summary.run}, shard {part}"
    out.print(
        f"run {name}: {summary.num_done} of {summary.num_questions} questions, "
        + (
            f"accuracy {accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}], "
            if not math.isnan(accuracy.value)
            else f"no {'grade' if summary.num_draws else 'draw'}, so no accuracy, "
        )
        + f"{summary.spent.tokens:,} tokens ({summary.paid.tokens:,} of them paid now)",
        highlight=False,
    )
    if part is not None:
        say(
            f"all figures are of this shard, a part of {summary.num_in_task:,} questions; once every shard is done: "
            "samplewise merge A.db B.db -o all.db"
        )
    if summary.cut.requests:
        say(f"{summary.cut.requests} requests were cut off in flight: at most {summary.cut.tokens:,} tokens, as paid")
    if 0 < summary.num_empty < summary.num_done:
        say(f"{summary.num_empty} of the questions got no draw and count as wrong")
    if stops:
        say(", ".join(f"{num} {reason}" for reason, num in stops.items()) + f"; why: samplewise show {summary.run}")
    for line in (*([note] if note else []), *no_choice):
        say(line)
    say_failed(summary)
    if as_json:
        print_json(
            run=summary.run,
            recipe=parse_recipe(recipe).line,
            questions=summary.num_questions,
            done=summary.num_done,
            accuracy=accuracy.value,
            accuracy_low=accuracy.low,
            accuracy_high=accuracy.high,
            spent=summary.spent._asdict(),
            paid=summary.paid._asdict(),
            stops=stops,
            complete=not summary.cancelled,
            **({} if part is None else {"shard": str(part), "task_questions": summary.num_in_task}),
        )
    end_if_unanswered(summary)


@app.command()
def compare(
    context: typer.Context,
    task: Annotated[str | None, typer.Argument(help="What is asked; without it, the runs that the store holds")] = None,
    recipe: Recipes = [],  # noqa: B006 - typer reads it, nobody changes it
    engine: Engine = "tiny",
    system: System = None,
    read: Read = None,
    store: StorePath = DEFAULT_STORE,
    seed: Seed = 0,
    tokens: EqualTokens = None,
    output: Output = None,
    confirm_above_usd: ConfirmAbove = None,
    yes: Yes = False,
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Compare recipes at equal tokens: accuracy with intervals, paired differences from the first."""
    from samplewise.store.database import Store

    if task is not None and not recipe:
        raise UsageError("give at least one --recipe to compare, such as -r 'repeat(16) | vote'")
    lines = list(dict.fromkeys(parse_recipe(line).line for line in recipe))
    with Store(store, must_exist=task is None) as kept:
        if task is not None:
            limit = None if yes else confirm_above_usd
            summaries = _run_all(
                context, open_task(task, read, system), engine, lines, kept, seed, Budget(), limit_usd=limit
            )
            for summary in summaries:
                say_failed(summary)
                end_if_unanswered(summary)
            runs = {run.id: run for run in kept.runs()}
            chosen = [(runs[summary.run].recipe, runs[summary.run]) for summary in summaries]
        else:
            chosen = [(run.recipe, run) for run in finished_runs(kept) if not lines or run.recipe in lines]
        if not chosen:
            raise StoreError(f"{store} holds no finished run to compare")
        print_comparison(kept, chosen, tokens, output, as_json, f"{chosen[0][1].task}: recipes at equal tokens")


def in_batches(engine: str) -> str:
    """Return the spec of an engine that draws by the batch API. Raises UsageError where it is no endpoint."""
    spec = parse_spec(engine)
    if spec.name != "http":
        raise UsageError(
            f"--batch is for an endpoint, such as http:MODEL, not for {spec.name}; in a team: http(..., batch=True)"
        )
    return str(spec._replace(kwargs=(*(each for each in spec.kwargs if each[0] != "batch"), ("batch", True))))


def open_task(text: str, read: str | None = None, system: str | None = None) -> Task:
    """Return the task of a spec, or of the path of a file, with another reader or a system prompt before each question.

    Says what must be known of its problems. Raises UsageError where the task has a reader of its own.
    """
    try:
        spec = Spec("jsonl", (text,)) if is_file(Path(text)) else parse_spec(text)
    except BadSpec:
        if Path(text).suffix in FILES:
            raise BadInput(f"{text}: there is no such file") from None
        raise
    if read is not None:
        if spec.name != "jsonl":
            raise UsageError(f"--read is for files of questions; {spec.name} says itself how its answers are read")
        spec = spec._replace(kwargs=(*(each for each in spec.kwargs if each[0] != "read"), ("read", read)))
    task: Task = registry.build("task", spec)
    for note in task.notes:
        say(note)
    return task if system is None else with_system(task, system)


def _run_all(
    context: typer.Context,
    problems: Task,
    engine: str,
    lines: list[str],
    store: Any,
    seed: int,
    budget: Budget,
    spread: str = "even",
    shard: Shard | None = None,
    limit_usd: float | None = None,
    trackers: Sequence[str] = (),
) -> list[Any]:
    from samplewise.cli.forecast import confirm_cost
    from samplewise.cli.progress import engine_to_load, loading
    from samplewise.runs.run import check_limit

    with loading("the parts of the recipe"):
        recipes = [parse_recipe(line) for line in lines]
    with loading(engine_to_load(engine)):
        opened = registry.build("engine", engine_for(context, engine, recipes))

    followers = [_follow(name, store) for name in dict.fromkeys(trackers)]

    async def go() -> list[Any]:
        cancel = asyncio.Event()
        end_on_signal(cancel, f"{store.path} keeps all draws that arrived; the same command goes on from there")
        done: list[Any] = []
        try:
            with loading(engine_to_load(engine)):
                await opened.open()
            for each in recipes:
                check_limit(problems, each, opened, budget, seed=seed, spread=spread)  # type: ignore[arg-type]
            confirm_cost(problems, recipes, opened, store, seed, budget, shard, limit_usd)
            for each in recipes:
                done.append(
                    await _run_one(
                        problems, each, opened, store, seed, budget, spread, shard, followers=followers, cancel=cancel
                    )
                )
                if cancel.is_set():
                    raise Interrupted(f"interrupted; {describe_kept(store, done[-1])}")
        finally:
            for note in opened.notes:  # what an endpoint did not honour
                say(f"{opened.name}: {note}")
            await opened.close()
            for follower in followers:
                follower.end(is_complete=bool(done) and not done[-1].cancelled)
        return done

    return asyncio.run(go())


def _run_with_actors(
    context: typer.Context,
    task: Task,
    engine: str,
    line: str,
    store: Any,
    seed: int,
    budget: Budget,
    spread: str,
    shard: Shard | None,
    num: int,
    gpus: float,
    trackers: Sequence[str],
) -> Any:
    from samplewise.cli.progress import loading
    from samplewise.runs.actors import RayWorkers

    with loading("the parts of the recipe"):
        recipe = parse_recipe(line)
    workers = RayWorkers(engine_for(context, engine, [recipe]), num, gpus=gpus, say=say)
    followers = [_follow(name, store) for name in dict.fromkeys(trackers)]

    async def go() -> Any:
        cancel, summary = asyncio.Event(), None
        try:
            async with workers:
                end_on_signal(cancel, f"{store.path} keeps all draws that arrived; the same command goes on from there")
                summary = await _run_one(
                    task, recipe, workers, store, seed, budget, spread, shard, followers=followers, cancel=cancel
                )
        finally:
            for note in workers.notes:
                say(f"{engine}: {note}")
            for follower in followers:
                follower.end(is_complete=summary is not None and not summary.cancelled)
        if cancel.is_set():
            raise Interrupted(f"interrupted; {describe_kept(store, summary)}")
        return summary

    return asyncio.run(go())


async def _run_one(
    task: Task,
    recipe: Any,
    engine: Any,
    store: Any,
    seed: int,
    budget: Budget,
    spread: str,
    shard: Shard | None,
    *,
    followers: Sequence[OnEvent],
    cancel: asyncio.Event,
) -> Any:
    """Run a recipe on a task with an engine, or with workers in its place, beside a bar."""
    from samplewise.cli.progress import Bar
    from samplewise.runs.run import run_task

    with Bar(recipe.line) as bar:

        def on_event(event: Event, /) -> None:
            for listener in (bar, *followers):
                listener(event)

        return await run_task(
            task,
            recipe,
            engine,
            store,
            seed=seed,
            budget=budget,
            spread=spread,  # type: ignore[arg-type]  # a wrong word is a UsageError
            shard=shard,
            on_event=on_event,
            cancel=cancel,
        )


def _follow(name: str, store: Any) -> RunFollower:
    """Return what follows the run by the tracker of this name. Raises UsageError and MissingExtra."""
    from samplewise.cli.progress import loading
    from samplewise.runs.tracking.follow import RunFollower
    from samplewise.runs.tracking.trackers import open_tracker

    with loading(name):
        if name == "otel":
            from samplewise.serve.tracing import start_tracing

            atexit.register(start_tracing("--log otel"))
        return RunFollower(name, open_tracker(name), store, say)


def describe_kept(store: Any, summary: Any) -> str:
    """Return what an interrupted run leaves, and how to go on."""
    cut = f"; up to {summary.cut.tokens:,} tokens were cut off in flight" if summary.cut.requests else ""
    return (
        f"{summary.num_done} of {summary.num_questions} questions and {store.num_draws():,} draws are in {store.path}"
        f"{cut}; the same command goes on from there"
    )


def say_failed(summary: Any) -> None:
    """Say what failed of a run whose questions all have an answer."""
    if summary.num_failed and summary.num_done == summary.num_questions and summary.spent.completion_tokens:
        say(_describe_failed(summary))


def end_if_unanswered(summary: Any) -> None:
    """End with exit code 4 where a question got no answer."""
    if summary.failure and (summary.num_done == 0 or summary.spent.completion_tokens == 0):
        fail(f"no request was answered: {summary.failure}", 4)
    if summary.num_failed and summary.num_done < summary.num_questions:
        fail(_describe_failed(summary), 4)


def _describe_failed(summary: Any) -> str:
    left = summary.num_questions - summary.num_done
    questions = f", {left} questions got no answer" if left else ""
    return f"{summary.num_failed} requests failed{questions} ({summary.failure}); the same command makes them again"
