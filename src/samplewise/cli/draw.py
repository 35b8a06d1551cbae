"""The commands that draw: ask, run, compare."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from samplewise import spec as specs
from samplewise.errors import StoreError, UsageError
from samplewise.events import Arrived, Event, in_words
from samplewise.recipe import recipe as parse_recipe
from samplewise.run import Budget

from .app import (
    DEFAULT_STORE,
    AsJson,
    Engine,
    MaxRequests,
    MaxSeconds,
    MaxTokens,
    MaxUsd,
    Output,
    Recipe,
    Recipes,
    Sandbox,
    Seed,
    StorePath,
    app,
    fail,
    out,
    print_json,
    say,
)
from .stored import ended, print_comparison, reasons


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
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Ask one question and print the answer."""
    from samplewise.api import asolve
    from samplewise.progress import Bar
    from samplewise.report.explored import summary
    from samplewise.report.json import explored_json
    from samplewise.report.trace import chains_in_words

    budget = Budget(max_requests, None, None, max_tokens, max_usd, max_seconds)
    failures: list[str] = []
    with Bar("ask") as bar:

        def tell(event: Event) -> None:
            if isinstance(event, Arrived) and event.failure:
                failures.append(event.failure.message)
            bar(event)

        result = asyncio.run(
            asolve(question, engine=engine, recipe=recipe, seed=seed, budget=budget, store=store, on_event=tell)
        )
    if not result.pool.candidates and result.pool.num_failed:
        fail(f"no request was answered: {failures[-1] if failures else 'check the engine'}", 4)
    out.print("no answer could be read" if result.answer is None else result.answer, markup=False, highlight=False)
    votes = [a for a in result.answers if a is not None]
    say(f"{len(result.pool.candidates)} draws, {len(set(votes))} different answers, {result.spent.tokens:,} tokens")
    draws = len(result.pool.candidates) + result.pool.num_failed
    say(in_words(result.stop, draws, parse_recipe(recipe).most))
    for line in chains_in_words(result.trace):
        say(line)
    if as_json:
        explored = summary([*result.trace])
        print_json(
            answer=result.answer,
            answers=list(result.answers),
            texts=[c.text for c in result.pool.candidates],
            spent=result.spent._asdict(),
            stop=result.stop._asdict(),
            explored=None if explored is None else explored_json(explored),
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
    spread: Annotated[
        str,
        typer.Option("--spread", help="How questions share a limit: even, or worth: where the next draw is worth most"),
    ] = "even",
    sandbox: Sandbox = None,
    as_json: AsJson = False,
) -> None:
    """Run a recipe on a task. Interrupted or killed, the same command goes on where it was."""
    from samplewise.measure import mean_interval
    from samplewise.store import Store

    budget = Budget(max_requests, None, None, max_tokens, max_usd, max_seconds)
    with Store(store) as kept:
        (summary,) = _run_all(task, engine, [recipe], kept, seed, budget, spread)
        stops = reasons(kept, summary.run)
    accuracy = mean_interval(summary.accuracy)
    out.print(
        f"run {summary.run}: {summary.num_done} of {summary.num_questions} questions, "
        f"accuracy {accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}], "
        f"{summary.spent.tokens:,} tokens ({summary.paid.tokens:,} of them paid now)",
        highlight=False,
    )
    say(", ".join(f"{num} {reason}" for reason, num in stops.items()) + f"; why: samplewise show {summary.run}")
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
    sandbox: Sandbox = None,
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
            chosen = [(run.recipe, run) for run in ended(kept) if not lines or run.recipe in lines]
        if not chosen:
            raise StoreError(f"{store} holds no finished run to compare")
        print_comparison(kept, chosen, tokens, output, as_json, f"{chosen[0][1].task}: recipes at equal tokens")


def _run_all(
    task: str, engine: str, lines: list[str], store: Any, seed: int, budget: Budget, spread: str = "even"
) -> list[Any]:
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
                            problems,
                            each,
                            opened,
                            store,
                            seed=seed,
                            budget=budget,
                            spread=spread,  # type: ignore[arg-type]  # a wrong word is a UsageError
                            on_event=bar,
                            cancel=cancel,
                        )
                    )
                if cancel.is_set():
                    raise KeyboardInterrupt
        finally:
            for note in getattr(opened, "notes", ()):  # what an endpoint did not honour
                say(f"{opened.name}: {note}")
            await opened.close()
        return done

    return asyncio.run(go())


def _finish(summary: Any) -> None:
    """Exit code 4 when nothing at all came back."""
    if summary.failure and (summary.num_done == 0 or summary.spent.completion_tokens == 0):
        fail(f"no request was answered: {summary.failure}", 4)
    if summary.failure and (left := summary.num_questions - summary.num_done):
        say(f"{left} questions got no answer ({summary.failure}); the same command tries them again")
