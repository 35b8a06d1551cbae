"""What a person sees who waits, on standard error: what is loaded, and how far a run is.

On a terminal it is one line that moves. Elsewhere there is a line when loading takes long, a line a minute, and one at
the end of a part.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from samplewise.core.errors import UsageError
from samplewise.core.events import Arrived, Dispatched, Drawn, Event, Retried, Started, StopChecked, Stopped, Waiting
from samplewise.core.spec import parse_spec
from samplewise.core.text import as_one_line

from .app import PlainConsole

LINE_EVERY_S = 60.0  # between lines where there is no terminal
LONG_S = 3.0  # of loading, after which that is said where there is no terminal


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """Show that something is loaded, until it is."""
    console = PlainConsole(stderr=True)
    line = f"loading {as_one_line(what)} ..."
    if console.is_terminal:
        with console.status(Text(line)):
            yield
        return
    timer = threading.Timer(LONG_S, console.print, (line,), {"highlight": False, "soft_wrap": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def engine_to_load(text: str) -> str:
    """Return what is loaded for an engine's spec: the model of a local engine, else the spec."""
    try:
        spec = parse_spec(text)
    except UsageError:  # is said where the engine is made
        return text
    return str(spec.args[0]) if spec.name == "local" and spec.args else text


class Bar:
    """An `OnEvent` that shows one line: of a run questions done, draws done, tokens drawn now and how fast; of one
    question also the votes for the first two answers or the best score.

    Tokens are counted as they are drawn if the engine knows that, else as a draw is done.
    """

    def __init__(self, label: str, *, one_question: bool = False) -> None:
        self._label = label
        of_a_run = () if one_question else (MofNCompleteColumn(), TextColumn("questions,", markup=False))
        time_left = () if one_question else (TimeRemainingColumn(compact=True),)
        self._console = PlainConsole(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            *of_a_run,
            TextColumn("{task.fields[note]}", markup=False),
            *time_left,
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._total = self._done = self._draws = self._stored = 0
        self._drawn: dict[str, int] = {}  # tokens by question
        self._tokens = 0
        self._waits_for = ""
        self._last: StopChecked | None = None
        self._said = time.monotonic()
        self._began = self._until = math.nan  # when the first request was sent, and when tokens were last counted

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()
        if error is None and not self._console.is_terminal and (self._total or self._draws):
            self._print_line()

    def __call__(self, event: Event, /) -> None:
        if isinstance(event, Started):
            self._total, self._done = event.num_questions, event.num_done
            self._task = self._bar.add_task(self._label, total=self._total, completed=self._done, note="")
        elif isinstance(event, Dispatched):
            if event.num_sent and math.isnan(self._began):
                self._began = time.monotonic()
        elif isinstance(event, Drawn):
            self._tokens += event.tokens - self._drawn.get(event.question, 0)
            self._drawn[event.question] = event.tokens
            self._until = time.monotonic()
        elif isinstance(event, Arrived):
            self._draws += 1
            self._stored += event.source == "store"
        elif isinstance(event, Waiting):
            is_new = event.what.partition(":")[0] != self._waits_for.partition(":")[0]
            self._waits_for = event.what
            if is_new and event.what and not self._console.is_terminal:
                self._print_line()
        elif isinstance(event, StopChecked):
            self._last = event
        elif isinstance(event, Stopped):
            self._done += event.stop.reason != "cancelled"
        elif isinstance(event, Retried):
            why = event.failure.message if event.failure else "failed"
            self._console.print(f"{event.num} asks again in {event.wait_s:.1f} s: {as_one_line(why)}", style="yellow")
        if isinstance(event, Arrived | Drawn | StopChecked | Stopped | Waiting):
            self._show()

    def _show(self) -> None:
        if self._console.is_terminal:
            if self._task is None:  # one question: nobody knows how long it takes
                self._task = self._bar.add_task(self._label, total=None, note="")
            self._bar.update(self._task, completed=self._done, note=self._note())
        elif time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            self._print_line()

    def _print_line(self) -> None:
        done = f"{self._done}/{self._total} questions, " if self._total else ""
        self._console.print(f"{self._label}: {done}{self._note()}", highlight=False, soft_wrap=True)

    def _note(self) -> str:
        draws = "draw" if self._draws == 1 else "draws"
        parts = [f"{self._draws:,} {draws} done" + (f" ({self._stored:,} from the store)" if self._stored else "")]
        if not self._total and (last := self._last) is not None:
            parts.append(
                f"votes {last.first} : {last.second}" if math.isnan(last.best) else f"best score {last.best:.3g}"
            )
        parts.append(f"{self._tokens:,} tokens drawn")
        if self._tokens and (elapsed_s := self._until - self._began) > 0:
            parts.append(f"{self._tokens / elapsed_s:,.0f} tokens/s")
        if self._waits_for:
            return self._waits_for if not self._draws else f"{self._waits_for}; {', '.join(parts)}"
        return ", ".join(parts)
