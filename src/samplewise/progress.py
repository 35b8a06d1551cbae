"""A progress bar for people: on standard error, plain lines where there is no terminal."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from samplewise.events import Arrived, Event, Retried, Started, Stopped

LINE_EVERY_S = 10.0


class Bar:
    """An `OnEvent` that shows one line per run: questions done, draws, tokens, tokens per second."""

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
        elif isinstance(event, Stopped):
            self._done += 1
        elif isinstance(event, Retried):
            why = event.failure.message if event.failure else "failed"
            self._console.print(f"{event.num} asks again in {event.wait_s:.1f} s: {why}", style="yellow", markup=False)
        if isinstance(event, Arrived | Stopped):
            self._show()

    def _show(self) -> None:
        elapsed = max(time.monotonic() - self._started, 1e-6)
        stored = f", {self._stored:,} from the store" if self._stored else ""
        note = f"{self._draws:,} draws{stored}, {self._tokens / elapsed:,.0f} tok/s"
        if self._console.is_terminal and self._task is not None:
            self._bar.update(self._task, completed=self._done, note=note)
        elif time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            self._console.print(f"{self._label}: {self._done}/{self._total} questions, {note}", markup=False)
