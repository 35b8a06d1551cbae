"""The command that lists: the parts that a recipe can name, by stage, or the runs of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from samplewise.core import registry
from samplewise.core.errors import UnknownName
from samplewise.core.types import Json

from .app import DEFAULT_STORE, AsJson, StorePath, app, out, print_json, say
from .completion import complete_kind

# The kinds in the order of a recipe line, each with its heading.
STAGES: tuple[tuple[registry.Kind, str], ...] = (
    ("engine", "engines: what answers (--engine)"),
    ("task", "tasks: what is asked (samplewise run TASK)"),
    ("arm", "arms: vary(ARM, ...)"),
    ("share", "allocation of draws to arms: vary(..., share=...)"),
    ("sampler", "samplers: how responses are drawn"),
    ("explore", "exploring: repeat(N, explore=...)"),
    ("stop", "stop rules: until(RULE)"),
    ("selector", "selectors: how the answer is chosen, the last stage"),
    ("verifier", "verifiers: what best(...), weighted(...) and stop rules look at"),
    ("reader", "readers: how an answer is read from a response (jsonl('FILE', read=READER))"),
)
# The parts that most users need, the most common first; the others follow by name.
COMMON: dict[registry.Kind, tuple[str, ...]] = {
    "engine": ("tiny", "http", "local"),
    "task": ("jsonl", "gsm8k", "math500", "humaneval", "mbpp", "game24"),
    "arm": ("role", "instruction", "idea", "rephrase", "ladder"),
    "sampler": ("repeat", "power", "sir", "smc"),
    "explore": ("lss", "css", "esamp"),
    "stop": ("lead", "asc", "optscale", "passed", "vote_e", "cap"),
    "selector": ("vote", "best", "weighted", "first"),
    "verifier": ("reward", "judge", "likelihood", "public_tests", "codet"),
    "reader": ("auto", "number", "choice", "maths", "json", "text"),
}


@app.command("list")
def list_parts(
    kind: Annotated[
        str | None,
        typer.Argument(help=f"One of: {', '.join(registry.KINDS)}, run", autocompletion=complete_kind),
    ] = None,
    store: StorePath = DEFAULT_STORE,
    as_json: AsJson = False,
) -> None:
    """List the parts that a recipe can name, stage by stage, or a store's runs."""
    if kind == "run":
        return _list_runs(store, as_json)
    if kind is not None and kind not in registry.KINDS:
        raise UnknownName("kind", kind, [*registry.KINDS, "run"])
    rows: list[Json] = []
    for stage, heading in STAGES:
        if kind in (None, stage):
            names = sorted_names(stage)
            advised = [name for name in names if not registry.published(stage, name)]
            published = [name for name in names if registry.published(stage, name)]
            _print_parts(stage, heading, advised)
            if published:
                _print_parts(stage, f"{heading.partition(':')[0]}, published, kept for comparison", published)
            rows += [_part(stage, name) for name in (*advised, *published)]
    if as_json:
        print_json(parts=rows)
    return None


def sorted_names(kind: registry.Kind) -> list[str]:
    """Return the names of a kind: the common ones first, then the others by name."""
    common = [name for name in COMMON.get(kind, ()) if name in registry.names(kind)]
    return [*common, *(name for name in registry.names(kind) if name not in common)]


def _part(kind: registry.Kind, name: str) -> dict[str, Json]:
    call = f"{name}{registry.signature(kind, name)}"
    published = registry.published(kind, name)
    return {"kind": kind, "name": name, "call": call, "summary": registry.summary(kind, name), "published": published}


def _print_parts(kind: registry.Kind, heading: str, names: list[str]) -> None:
    table = Table("call", "what it does", box=None, title=heading, title_justify="left", title_style="bold")
    for name in names:
        part = _part(kind, name)
        table.add_row(part["call"], part["summary"])
    out.print(table)
    out.print()


def _list_runs(path: Path, as_json: bool) -> None:
    from samplewise.runs.shards import partial_note
    from samplewise.store.database import Store

    table = Table("run", "task", "recipe", "seed", "finished", box=None)
    with Store(path, must_exist=True) as kept:
        runs = kept.runs()
        notes = [note for run in runs if (note := partial_note(kept, run))]
    for run in runs:
        table.add_row(run.id, run.task, run.recipe, str(run.seed), "yes" if run.ended else "no")
    out.print(table)
    for note in notes:
        say(note)
    if as_json:
        print_json(
            runs=[{"run": r.id, "task": r.task, "recipe": r.recipe, "seed": r.seed, "ended": r.ended} for r in runs]
        )
