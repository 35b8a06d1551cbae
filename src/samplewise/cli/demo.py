"""The command that shows it all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from .app import Seed, app, out, print_json


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
    print_json(**found, seconds=round(time.monotonic() - started, 1))
