"""Follow a run by its events: its settings at the start, running figures after each question, a table at the end.

    follower = RunFollower("wandb", open_tracker("wandb"), store, say)
    summary = await run_task(..., on_event=follower)
    follower.end(is_complete=not summary.cancelled)

The tracker works in a thread of its own, so the run never waits for it until its end, and then for `END_S` at most.
What the tracker raises is said once and ends the following, never the run. Figures are those of the whole run: what an
earlier start has finished counts from the beginning.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from samplewise.core.events import Event, Recorded, Started
from samplewise.core.text import as_one_line
from samplewise.core.types import Json
from samplewise.measure import mean_interval
from samplewise.recipe import recipe
from samplewise.runs.export import decision_rows
from samplewise.store.database import Store
from samplewise.store.records import Run

END_S = 60.0  # that a tracker has after the run to send what is left
LEFT_OUT = ("run", "messages", "selector")  # of the table: the same in each row, or long

Figures = Mapping[str, float]
Row = Mapping[str, Json]


class Tracker(Protocol):
    """Keeps what it is given of one run. Called in one thread, in this order; may raise anything."""

    def begin(self, run: Run, settings: Mapping[str, Json]) -> None: ...

    def log(self, num_done: int, figures: Figures) -> None:
        """Keep the figures of the run after so many questions."""

    def end(self, figures: Figures, rows: Sequence[Row], is_complete: bool) -> None:
        """Keep the last figures, and a row for each question."""


class Say(Protocol):
    def __call__(self, text: str) -> None: ...


class RunFollower:
    """An `OnEvent` that tells a tracker of a run. `name` is the tracker's, for people."""

    def __init__(self, name: str, tracker: Tracker, store: Store, say: Say) -> None:
        self._name, self._tracker, self._store, self._say = name, tracker, store, say
        self._work: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._serve, name=f"tracking by {name}", daemon=True)
        self._has_failed = False
        self._run: Run | None = None
        self._counted: dict[str, Figures] = {}  # what each question adds to the totals
        self._totals = {"draws": 0.0, "tokens": 0.0, "usd": 0.0, "grade": 0.0, "graded": 0.0}

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, Started):
            self._begin(event.run)
        elif isinstance(event, Recorded):
            self._add(event.question, event.grade, event.draws, event.spent.tokens, event.spent.usd)
            figures, num_done = self._figures(), len(self._counted)
            self._work.put(lambda: self._tracker.log(num_done, figures))

    def _begin(self, run_id: str) -> None:
        run = self._run = next(run for run in self._store.runs() if run.id == run_id)
        for row in self._rows():
            self._add(row["question"], _number(row["grade"]), row["draws"], row["tokens"], _number(row["usd"]))
        settings = {"run": run.id, **run.manifest}
        self._thread.start()
        self._work.put(lambda: self._tracker.begin(run, settings))

    def _add(self, question: str, grade: float, draws: int, tokens: int, usd: float) -> None:
        """Count a question; one that an earlier start finished without all of its draws is counted as it is now."""
        is_graded = not math.isnan(grade)
        counts = {"draws": float(draws), "tokens": float(tokens), "usd": usd}
        counts |= {"grade": grade if is_graded else 0.0, "graded": float(is_graded)}
        before = self._counted.get(question, {})
        for name, amount in counts.items():
            self._totals[name] += amount - before.get(name, 0.0)
        self._counted[question] = counts

    def _figures(self) -> dict[str, float]:
        totals = dict(self._totals)
        grade, num_graded = totals.pop("grade"), totals.pop("graded")
        accuracy = grade / num_graded if num_graded else math.nan
        return _known({"accuracy": accuracy, "questions": len(self._counted), **totals})

    def _rows(self) -> list[Row]:
        """Return a row for each finished question, as the run's own selector has chosen."""
        assert self._run is not None
        selector = str(recipe(self._run.recipe).stages.selector)
        rows = [row for row in decision_rows(self._store, self._run) if row["selector"] == selector]
        return [{name: value for name, value in row.items() if name not in LEFT_OUT} for row in rows]

    def end(self, *, is_complete: bool) -> None:
        """Send the last figures and the table, and wait until the tracker has taken all. Does nothing twice."""
        if self._run is None or not self._thread.is_alive():
            return
        rows = self._rows()
        accuracy = mean_interval([_number(row["grade"]) for row in rows]) if rows else None
        ends = {} if accuracy is None else {"accuracy_low": accuracy.low, "accuracy_high": accuracy.high}
        figures = {**self._figures(), **_known(ends)}
        self._work.put(lambda: self._tracker.end(figures, rows, is_complete))
        self._work.put(None)
        self._thread.join(END_S)
        if self._thread.is_alive():
            self._fail(f"it did not take the end of the run within {END_S:g} s")

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            if self._has_failed:
                continue
            try:
                work()
            except Exception as error:
                self._fail(f"{type(error).__name__}: {as_one_line(str(error))}")

    def _fail(self, why: str) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._say(f"{self._name} failed, so the run is not logged there any more; the run goes on ({why})")


def _number(value: Json) -> float:
    return math.nan if value is None else float(value)


def _known(figures: Figures) -> dict[str, float]:
    """Return the figures that are known: trackers draw curves, in which nan has no place."""
    return {name: value for name, value in figures.items() if math.isfinite(value)}
