"""What was not answered is asked again: refused runs, draws that failed, limits that admit nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
from tests.loop.test_run_failures import Moody

from samplewise.cli import main
from samplewise.core import retry
from samplewise.core.errors import BadRequest, ContextOverflow, EngineError, EngineUnavailable, SetupError, UsageError
from samplewise.core.events import in_words
from samplewise.core.types import Grader, Message, Problem, Question, Score
from samplewise.engines.toy import Toy
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.run import Spread, Summary, check_limit, run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.testing.endpoint import EndpointSettings, serving
from samplewise.verify.code import grade_code
from samplewise.verify.sandbox import pool
from samplewise.verify.value import grade_value

TASK = Task(
    "words",
    tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(3)),
    lambda _, text: text or None,
    lambda *_: Score(1.0),
)
ROWS = '{"question": "say 1", "answer": "1"}\n{"question": "say 2", "answer": "2"}\n'


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "BACKOFF_S", 0.0)


def go(store: Store, engine: Moody, draws: int = 8, concurrency: int = 1) -> Summary:
    line = recipe(f"repeat({draws}, max_tokens=4) | vote")
    return asyncio.run(run_task(TASK, line, engine, store, concurrency=concurrency))


def healthy() -> Moody:
    return Moody(lambda attempts, place: None)


@pytest.mark.parametrize(
    ("grade", "choice"),
    [
        (grade_code, "first"),
        (grade_value, "first"),
        (TASK.grade, "best(public_tests)"),
        (TASK.grade, "behaviour"),
        (TASK.grade, "best(codet)"),
    ],
)
def test_a_missing_sandbox_is_said_before_anything_is_drawn(
    grade: Grader, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found by the first program that was graded: after half of the run's draws."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(pool, "_shared", {})
    facts = {"entry_point": "f", "tests": ["assert f(1) == 1"]}
    asked = tuple(Problem(problem.question._replace(facts=facts), "a") for problem in TASK.problems)
    task = dataclasses.replace(TASK, problems=asked, grade=grade)
    with Store(":memory:") as store:
        with pytest.raises(SetupError, match="bubblewrap"):
            asyncio.run(run_task(task, recipe(f"repeat(2) | {choice}"), healthy(), store))
        assert not store.has_draws()


@pytest.mark.parametrize("error", [BadRequest("418"), EngineUnavailable("gone")])
def test_a_run_that_was_refused_begins_anew(error: EngineError) -> None:
    with Store(":memory:") as store, Store(":memory:") as undisturbed:
        refused = go(store, Moody(lambda attempts, place: error))
        assert (refused.num_done, refused.cancelled, refused.accuracy) == (0, True, ())
        assert refused.num_failed == 24
        again, whole = go(store, healthy()), go(undisturbed, healthy())
        assert again._replace(paid=whole.paid) == whole
        assert list(store.records(again.run)) == list(undisturbed.records(whole.run))


@pytest.mark.parametrize("error", [BadRequest("odd"), EngineUnavailable("gone")])
def test_draws_that_failed_are_made_at_the_next_start(error: EngineError) -> None:
    """3 of 8 draws failed, and the question was booked as finished with all 8."""
    with Store(":memory:") as store, Store(":memory:") as undisturbed:
        first = go(store, Moody(lambda attempts, place: error if place in (1, 4, 6) else None))
        assert (first.num_done, first.num_failed, first.num_draws) == (3, 3, 21)
        record = next(store.records(first.run))
        assert (len(record.pool.candidates), record.pool.num_failed) == (5, 3)
        assert in_words(record.stop, 8, 8, 3) == "finished: 5 of 8 draws, 3 failed"
        second, whole = go(store, healthy()), go(undisturbed, healthy())
        assert second.paid.requests == 3
        assert list(store.records(second.run)) == list(undisturbed.records(whole.run))
        third = go(store, Moody(lambda attempts, place: BadRequest("not asked")))
        assert (third.paid.requests, third.num_failed, third.failure) == (0, 0, "")


def test_a_prompt_that_is_too_long_stays_so() -> None:
    with Store(":memory:") as store:
        first = go(store, Moody(lambda attempts, place: ContextOverflow("too long") if place < 8 else None))
        assert (first.num_done, first.num_empty, first.num_failed) == (3, 1, 0)
        assert go(store, healthy()).paid.requests == 0


def test_one_question_that_is_refused_does_not_hold_up_a_run() -> None:
    """A content filter refuses one question: it counts as wrong, and the next start tries it again all the same."""
    for places, num_done in ((range(8), 3), (range(8, 16), 3), (range(16, 24), 2)):  # nothing came after the last one
        with Store(":memory:") as store:
            mood = Moody(lambda attempts, place, places=places: BadRequest("filtered") if place in places else None)
            first = go(store, mood)
            assert (first.num_done, first.num_empty) == (num_done, num_done - 2)
            again = go(store, healthy())
            assert (again.paid.requests, again.num_done, again.num_empty) == (8, 3, 0)


@pytest.mark.parametrize(("error", "num_done"), [(BadRequest("filtered"), 3), (EngineUnavailable("gone"), 2)])
def test_a_refused_question_holds_up_no_run_on_the_same_draws(error: EngineError, num_done: int) -> None:
    """A stop rule finds all other draws in the store, so nothing shows that the engine answers: the earlier run does.

    Without that the two could never be compared. An engine that may come back is waited for.
    """
    with Store(":memory:") as store:
        filtered = Moody(lambda attempts, place: BadRequest("filtered") if place < 8 else None)
        assert go(store, filtered).num_empty == 1
        refusing = Moody(lambda attempts, place: error)
        rule = recipe("repeat(8, max_tokens=4) | until(lead(2)) | vote")
        second = asyncio.run(run_task(TASK, rule, refusing, store, concurrency=1))
        assert (second.num_done, second.num_empty) == (num_done, num_done - 2)
        again = asyncio.run(run_task(TASK, rule, healthy(), store, concurrency=1))
        assert (again.num_done, again.num_empty) == (3, 0), "the next start asks it again all the same"


def test_a_limit_below_one_draw_is_refused() -> None:
    line = recipe("repeat(4, max_tokens=4) | vote")
    few = r"2 requests over 3 questions does not admit one draw .* give at least 3"
    with pytest.raises(UsageError, match=few):
        check_limit(TASK, line, Toy(3), Budget(requests=2))
    check_limit(TASK, line, Toy(3), Budget(requests=3))
    check_limit(TASK, line, Toy(3), Budget())
    for spread in get_args(Spread):
        for cap in range(12):
            with pytest.raises(UsageError, match="give at least 12,"):
                check_limit(TASK, line, Toy(3), Budget(completion_tokens=cap), spread=spread)
        check_limit(TASK, line, Toy(3), Budget(completion_tokens=12), spread=spread)


def invoke(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str]:
    monkeypatch.setattr("sys.argv", ["samplewise", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out + err


@pytest.mark.parametrize("fault", ["400", "500"])
def test_the_same_command_goes_on_once_the_endpoint_is_mended(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was exit 0 with accuracy 0.000, and nothing asked."""
    (tmp_path / "mine.jsonl").write_text(ROWS)
    command = ["run", f"jsonl:{tmp_path / 'mine.jsonl'}", "--recipe", "repeat(3, max_tokens=3) | vote", "--json"]
    command += ["--engine", 'http("toy", probe="never", patience_s=1, identity="mine")', "--store", f"{tmp_path}/s.db"]
    with serving(EndpointSettings(faults={fault: 1.0})) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        code, text = invoke(command, capsys, monkeypatch)
        assert code != 0
        assert "accuracy 0.000" not in text
    with serving(EndpointSettings()) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        code, text = invoke(command, capsys, monkeypatch)
        assert code == 0
        found = json.loads(next(line for line in text.splitlines() if line.startswith('{"run"')))
        assert (found["done"], found["complete"], found["paid"]["requests"]) == (2, True, 6)


def test_a_run_without_draws_claims_no_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said "accuracy 0.000", and report and compare ended in a traceback, for the other runs of the store too."""
    (tmp_path / "mine.jsonl").write_text(ROWS)
    store = ["--store", f"{tmp_path}/s.db"]
    command = ["run", f"jsonl:{tmp_path / 'mine.jsonl'}", "--engine", "toy", *store, "--recipe"]
    monkeypatch.setattr("samplewise.runs.run.check_limit", lambda *_, **__: None)  # as an earlier version left it
    code, text = invoke([*command, "repeat(4, max_tokens=3) | vote", "--budget-tokens", "4"], capsys, monkeypatch)
    assert (code, "no draw, so no accuracy" in text) == (0, True)
    monkeypatch.undo()
    page = ["-o", f"{tmp_path}/page.html"]
    for reading in (["report", *store, *page], ["compare", *store]):
        code, text = invoke(reading, capsys, monkeypatch)
        assert (code, "no run with draws" in text) == (3, True)
    assert invoke(["show", *store], capsys, monkeypatch)[0] == 0
    assert invoke([*command, "repeat(2, max_tokens=3) | vote"], capsys, monkeypatch)[0] == 0
    for reading in (["report", *store, *page], ["compare", *store]):
        code, text = invoke(reading, capsys, monkeypatch)
        assert (code, "has no draw: left out" in text) == (0, True)
    code, text = invoke([*command, "repeat(4, max_tokens=3) | vote", "--budget-tokens", "4"], capsys, monkeypatch)
    assert (code, "give at least" in text) == (2, True)


def test_a_run_without_grades_claims_no_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said "accuracy nan [nan, nan]", as did `select`."""
    (tmp_path / "mine.jsonl").write_text('{"question": "say 1"}\n{"question": "say 2"}\n')
    store = ["--store", f"{tmp_path}/s.db"]
    command = ["run", f"jsonl:{tmp_path / 'mine.jsonl'}", "--engine", "toy", *store]
    code, text = invoke([*command, "--recipe", "repeat(2, max_tokens=3) | vote"], capsys, monkeypatch)
    assert (code, "no grade, so no accuracy" in text, "nan" in text) == (0, True, False)
    code, text = invoke(["select", "first", *store], capsys, monkeypatch)
    assert (code, "no grade" in text, "nan" in text) == (0, True, False)
