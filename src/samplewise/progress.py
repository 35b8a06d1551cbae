"""A progress bar for people: on standard error, plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from samplewise.events import Arrived, Event, Retried, Started, Stopped, Weighed

LINE_EVERY_S = 10.0


class Bar:
    """An `OnEvent` that shows one line: of a run questions done, draws, tokens drawn now and how fast; of one question
    draws, votes for the first two answers or the best score, and what was spent."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._total = self._done = self._draws = self._tokens = self._stored = 0
        self._last: Weighed | None = None
        self._started = self._said = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, Started):
            self._total, self._done = event.num_questions, event.num_done
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._done, note="")
        elif isinstance(event, Arrived):
            self._draws += 1
            self._stored += event.source == "store"
            self._tokens += event.usage.completion_tokens if event.source == "engine" else 0
        elif isinstance(event, Weighed):
            self._last = event
        elif isinstance(event, Stopped):
            self._done += 1
        elif isinstance(event, Retried):
            why = event.failure.message if event.failure else "failed"
            self._console.print(f"{event.num} asks again in {event.wait_s:.1f} s: {why}", style="yellow", markup=False)
        if isinstance(event, Arrived | Weighed | Stopped):
            self._show()

    def _show(self) -> None:
        note = self._note()
        if self._console.is_terminal:
            if self._task is None:  # one question: nobody knows how long it takes
                self._task = self._bar.add_task(self._label, total=None, note="")
            self._bar.update(self._task, completed=self._done, note=note)
        elif time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            done = f"{self._done}/{self._total} questions, " if self._total else ""
            self._console.print(f"{self._label}: {done}{note}", markup=False)

    def _note(self) -> str:
        if not self._total and (last := self._last) is not None:
            best = (
                f", best score {last.best:.3g}"
                if not math.isnan(last.best)
                else f", votes {last.first} : {last.second}"
            )
            return f"{last.draws} draws{best}, {last.spent.tokens:,} tokens"
        elapsed = max(time.monotonic() - self._started, 1e-6)
        stored = f", {self._stored:,} from the store" if self._stored else ""
        return f"{self._draws:,} draws{stored}, {self._tokens:,} new tokens, {self._tokens / elapsed:,.0f} tok/s"
