"""What a tracker is told of a run, and that nothing of it can hurt the run. The real ones: test_tracking_clients.py."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.support.commands import Call, caller
from tests.support.paid import PaidToy

from samplewise.core import registry
from samplewise.core.errors import BadRequest, MissingExtra, UsageError
from samplewise.core.types import Ask, Completion, Json, Message, Problem, Question, Score
from samplewise.engines.base import failed
from samplewise.recipe import recipe
from samplewise.runs.run import Summary, run_task
from samplewise.runs.tracking import follow
from samplewise.runs.tracking.follow import Figures, Row, RunFollower
from samplewise.runs.tracking.trackers import OtelTracker, open_tracker
from samplewise.store.database import Store
from samplewise.store.records import Run
from samplewise.tasks.base import Task

NUM = 5
LINE = "repeat(4, max_tokens=3) | vote"
TASK = Task(
    "say",
    tuple(Problem(Question(f"q{i}", (Message("user", f"say {i}"),)), "a") for i in range(NUM)),
    read=lambda question, text: text or None,
    grade=lambda problem, answer: Score(float((answer or "").startswith("a"))),
)


class Kept:
    """A tracker that remembers. `fails_in` names a method that raises."""

    def __init__(self, fails_in: str = "") -> None:
        self.settings: Mapping[str, Json] = {}
        self.logged: list[tuple[int, Figures]] = []
        self.figures: Figures = {}
        self.rows: Sequence[Row] = ()
        self.is_complete: bool | None = None
        self.threads: set[str] = set()
        self._fails_in = fails_in

    def _called(self, name: str) -> None:
        self.threads.add(threading.current_thread().name)
        if name == self._fails_in:
            raise ConnectionError("nobody\nthere")

    def begin(self, run: Run, settings: Mapping[str, Json]) -> None:
        self._called("begin")
        self.settings = settings

    def log(self, num_done: int, figures: Figures) -> None:
        self._called("log")
        self.logged.append((num_done, figures))

    def end(self, figures: Figures, rows: Sequence[Row], is_complete: bool) -> None:
        self._called("end")
        self.figures, self.rows, self.is_complete = figures, rows, is_complete


def followed(
    store: Store, tracker: Kept, line: str = LINE, num: int = NUM, engine: PaidToy | None = None
) -> tuple[Summary, list[str]]:
    told: list[str] = []
    follower = RunFollower("kept", tracker, store, told.append)
    task = TASK if num == NUM else Task("say", TASK.problems[:num], TASK.read, TASK.grade)
    summary = asyncio.run(run_task(task, recipe(line), engine or PaidToy(), store, on_event=follower))
    follower.end(is_complete=not summary.cancelled)
    follower.end(is_complete=False)
    return summary, told


def test_a_tracker_is_told_settings_running_figures_and_a_table() -> None:
    tracker = Kept()
    with Store(":memory:") as store:
        summary, told = followed(store, tracker)
    assert told == []
    assert tracker.settings["recipe"] == LINE
    assert tracker.settings["seed"] == 0
    assert tracker.settings["engine"]["name"].startswith("toy(")  # type: ignore[index]
    assert [num for num, _ in tracker.logged] == list(range(1, NUM + 1))
    last = tracker.logged[-1][1]
    assert last["accuracy"] == pytest.approx(sum(summary.accuracy) / NUM)
    assert last["tokens"] == summary.spent.tokens
    assert last["usd"] == pytest.approx(summary.spent.usd)
    assert last["draws"] == NUM * 4
    assert all(a["tokens"] < b["tokens"] for (_, a), (_, b) in zip(tracker.logged, tracker.logged[1:], strict=False))
    assert tracker.figures["accuracy_low"] <= last["accuracy"] <= tracker.figures["accuracy_high"]
    assert [row["question"] for row in tracker.rows] == [f"q{i}" for i in range(NUM)]
    assert {"answer", "grade", "draws", "tokens", "usd", "stop"} <= set(tracker.rows[0])
    assert tracker.is_complete is True
    assert tracker.threads == {"tracking by kept"}, "the run waits for nothing"


class Refusing(PaidToy):
    """A paid toy that refuses the first draw of all."""

    num_refused = 0

    def one(self, ask: Ask) -> Completion:
        if not self.num_refused:
            self.num_refused = 1
            return failed(BadRequest("not today"))
        return super().one(ask)


def test_a_question_that_is_drawn_again_is_counted_once() -> None:
    """One of its requests had failed: it was counted as it was before, and once more as it is now."""
    first, second = Kept(), Kept()
    with Store(":memory:") as store:
        followed(store, first, engine=Refusing())
        summary, _ = followed(store, second)
    assert (first.figures["draws"], first.figures["questions"]) == (NUM * 4 - 1, NUM)
    assert (second.figures["draws"], second.figures["questions"]) == (NUM * 4, NUM)
    assert second.figures["tokens"] == summary.spent.tokens
    assert second.figures["accuracy"] == pytest.approx(sum(summary.accuracy) / NUM)


def test_a_run_that_goes_on_counts_what_an_earlier_start_finished(tmp_path: Path) -> None:
    whole, first, second = Kept(), Kept(), Kept()
    with Store(tmp_path / "whole.db") as store:
        followed(store, whole)
    with Store(tmp_path / "s.db") as store:

        async def some() -> None:
            cancel = asyncio.Event()
            follower = RunFollower("kept", first, store, print)

            def end_after_two(event: Any) -> None:
                follower(event)
                if len(store.questions(str(first.settings.get("run")))) >= 2:
                    cancel.set()

            await run_task(TASK, recipe(LINE), PaidToy(), store, concurrency=1, on_event=end_after_two, cancel=cancel)
            follower.end(is_complete=False)

        asyncio.run(some())
        followed(store, second)
    assert first.is_complete is False
    assert 2 <= len(first.logged) < NUM
    assert [num for num, _ in second.logged] == list(range(len(first.logged) + 1, NUM + 1))
    assert second.figures == pytest.approx(dict(whole.figures))


@pytest.mark.parametrize("fails_in", ["begin", "log", "end"])
def test_a_tracker_that_fails_is_said_once_and_the_run_goes_on(fails_in: str) -> None:
    with Store(":memory:") as store:
        summary, told = followed(store, Kept(fails_in))
    assert summary.num_done == NUM
    assert told == [
        "kept failed, so the run is not logged there any more; the run goes on (ConnectionError: nobody there)"
    ]


def test_a_tracker_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "END_S", 0.1)
    never = threading.Event()
    tracker = Kept()
    monkeypatch.setattr(tracker, "begin", lambda run, settings: never.wait(5))
    with Store(":memory:") as store:
        summary, told = followed(store, tracker)
    never.set()
    assert summary.num_done == NUM
    assert len(told) == 1
    assert "within 0.1 s" in told[0]


def test_a_run_whose_questions_are_all_done_has_its_table_again() -> None:
    again = Kept()
    with Store(":memory:") as store:
        followed(store, Kept())
        followed(store, again)
    assert (again.logged, len(again.rows), again.figures["questions"]) == ([], NUM, NUM)


def test_a_figure_that_is_not_known_is_left_out() -> None:
    tracker = Kept()
    unread = Task("say", TASK.problems, TASK.read, grade=lambda problem, answer: Score(float("nan")))
    with Store(":memory:") as store:
        follower = RunFollower("kept", tracker, store, print)
        asyncio.run(run_task(unread, recipe(LINE), PaidToy(), store, on_event=follower))
        follower.end(is_complete=True)
    assert "accuracy" not in tracker.figures
    assert tracker.rows[0]["grade"] is None


def test_a_span_has_the_settings_an_event_a_question_and_the_last_figures() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with Store(":memory:") as store:
        summary, told = followed(store, OtelTracker(provider))  # type: ignore[arg-type]
    (span,) = exporter.get_finished_spans()
    assert told == []
    assert span.attributes["samplewise.recipe"] == LINE
    assert span.attributes["samplewise.tokens"] == summary.spent.tokens
    assert span.attributes["samplewise.complete"] is True
    assert [event.attributes["samplewise.questions"] for event in span.events] == list(range(1, NUM + 1))


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.BUILT_IN["engine"], "paid", "tests.support.paid:paid_toy")  # type: ignore[arg-type]
    (tmp_path / "q.jsonl").write_text('{"question": "say a", "answer": "a"}\n')
    return caller(monkeypatch, capsys, "run", "q.jsonl", "-e", "paid", "-r", LINE)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_without_the_extra_one_line_says_so_before_anything_is_paid(
    name: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtra):
        open_tracker(name)
    PaidToy.num_asked = 0
    done = call("--log", name)
    assert done.code == 3
    assert done.err.splitlines()[-1] == (
        f"samplewise: --log {name} needs an extra that is not installed: pip install 'samplewise[{name}]'"
    )
    assert PaidToy.num_asked == 0


def test_another_name_is_a_mistake(call: Call) -> None:
    with pytest.raises(UsageError, match="wandb"):
        open_tracker("comet")
    assert call("--log", "comet").code == 2


def test_the_command_follows_a_run_by_several(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trackers that are not there: a fake wandb, which fails, and spans."""
    fake = ModuleType("wandb")
    fake.init = lambda **settings: 1 / 0  # type: ignore[attr-defined]
    fake.Settings = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    done = call("--log", "wandb", "--log", "wandb", "--json")
    assert done.code == 0
    assert (done.out + done.err).count("wandb failed, so the run is not logged there any more") == 1
    assert done.json["done"] == 1
