"""What an actor does and what its driver makes of it, without Ray."""

from __future__ import annotations

import asyncio
import pickle
import sys
from pathlib import Path

import pytest
from bench.store import words

from samplewise.cli import main
from samplewise.core.errors import BadSpec, EngineUnavailable, MissingExtra, UnknownName, UsageError
from samplewise.core.events import Arrived, Drawn, Event, Stopped
from samplewise.core.types import Completion, Failure, Generate, Message, Stop, Usage
from samplewise.engines.toy import Toy
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.actors.pool import _Log
from samplewise.runs.actors.worker import QuestionWorker, Raised, Report, ReportedDraw, ReportingDraws, Work
from samplewise.runs.run import EngineFacts, RunLog, Solved, run_task
from samplewise.store.database import Store

LINE = "repeat(6, max_tokens=4) | best(logp)"
TASK = words(5)


def work(engine: str = "toy(4)") -> Work:
    return Work(engine, TASK, LINE, 3, Budget(), "bubblewrap")


async def solve(worker: QuestionWorker, index: int, stored: dict[bytes, Completion]) -> list[Report]:
    def look_up(digests: object) -> dict[bytes, Completion]:
        return {digest: stored[digest] for digest in digests if digest in stored}  # type: ignore[attr-defined]

    solving = worker.solve(index, TASK.problems[index], Budget(), look_up)
    return [report async for some in solving for report in pickle.loads(pickle.dumps(some))]


def test_a_worker_draws_what_a_run_draws_and_reports_each_draw_before_the_outcome() -> None:
    async def go() -> tuple[EngineFacts | Raised, list[Report]]:
        worker = QuestionWorker(work())
        return (await worker.open(TASK))[1], await solve(worker, 2, {})

    facts, reports = asyncio.run(go())
    assert isinstance(facts, EngineFacts)
    with Store(":memory:") as store:
        summary = asyncio.run(run_task(TASK, recipe(LINE), Toy(4), store, seed=3))
        record = list(store.records(summary.run))[2]
        assert facts.identity == store.runs()[0].engine
        draws = [report for report in reports if isinstance(report, ReportedDraw)]
        assert len(store.draws([draw.digest for draw in draws])) == len(draws) == 6
    assert isinstance(solved := reports[-1], Solved)
    assert solved.record is not None
    assert solved.record == record._replace(bill=solved.record.bill)
    assert solved.paid == record.spent
    assert isinstance(reports[-2], Stopped)


def test_what_was_reported_is_not_drawn_again() -> None:
    """By another worker, after the first has died: it goes on from any draw."""

    async def go(num: int) -> tuple[list[Report], list[Report]]:
        first = QuestionWorker(work())
        await first.open(None)
        all_reports = await solve(first, 1, {})
        draws = [report for report in all_reports if isinstance(report, ReportedDraw)]
        second = QuestionWorker(work())
        await second.open(None)
        return all_reports, await solve(second, 1, {draw.digest: draw.completion for draw in draws[:num]})

    for num in range(7):
        whole, again = asyncio.run(go(num))
        assert len([report for report in again if isinstance(report, ReportedDraw)]) == 6 - num
        before, after = whole[-1], again[-1]
        assert isinstance(before, Solved)
        assert isinstance(after, Solved)
        assert before.record == after.record
        assert (before.selection, before.grade) == (after.selection, after.grade)
        assert after.paid.requests == 6 - num


def test_an_error_of_ours_comes_back_with_its_class_and_words() -> None:
    errors = (BadSpec("wrong", "repeat(x)", 7), MissingExtra("vllm", "vllm"), EngineUnavailable("gone", hint="start"))
    for error in errors:
        raised = pickle.loads(pickle.dumps(Raised(type(error), str(error)))).error()
        assert (type(raised), str(raised)) == (type(error), str(error))
    for engine, kind in (("toy(4", BadSpec), ("nobody", UnknownName)):
        _, raised = asyncio.run(QuestionWorker(work(engine)).open(TASK))
        assert isinstance(raised, Raised)
        assert issubclass(raised.kind, kind)


def test_a_draw_is_looked_up_once_and_never_where_it_was_reported() -> None:
    asked: list[list[bytes]] = []
    reports: list[Report] = []

    def look_up(digests: object) -> dict[bytes, Completion]:
        asked.append(list(digests))  # type: ignore[call-overload]
        return {b"b": Completion("b", "stop", Usage())}

    draws = ReportingDraws(reports.append, look_up)
    draws.put_draw(b"a", "toy", Generate((Message("user", "x"),)), Completion("a", "stop", Usage()))
    assert {digest: draw.text for digest, draw in draws.draws([b"a", b"b", b"c"]).items()} == {b"a": "a", b"b": "b"}
    assert draws.draws([b"a"])
    assert asked == [[b"b", b"c"]]
    assert len(reports) == 1
    assert ReportingDraws(reports.append, None).draws([b"b"]) == {}


def test_a_question_that_is_begun_again_is_counted_once() -> None:
    heard: list[Event] = []
    with Store(":memory:") as store:
        log = RunLog(store, "run", heard.append)
        told = _Log(log)
        paid = Usage(1, 2, 3)
        told(Arrived("q", paid, "engine"))
        told(Arrived("q", paid, "failure", Failure("BadRequest", "no", False, None)))
        told(Drawn("q", 5))
        told.begin_again("q")
        assert (told.paid, told.num_deaths, log.failed["q"]) == (Usage(2, 4, 6), 1, 0)
        told(Arrived("q", paid, "store"))  # was told as it was drawn
        told(Stopped("q", Stop("finished"), paid, "a"))
        told.begin_again("q")  # it died before the outcome came
        told.finish()
        assert not any(isinstance(event, Stopped) for event in heard)
        assert (told.paid, told.num_deaths) == (Usage(2, 4, 6), 2)
        told(Arrived("q", paid, "store"))
        told(Arrived("q", paid, "store"))  # which an earlier run has drawn
        told(Arrived("q", paid, "engine"))
        told(Drawn("q", 7))
        assert told.num_deaths == 0
        told(Stopped("q", Stop("finished"), paid, "a"))
        told.finish()
    assert sum(isinstance(event, Stopped) for event in heard) == 1
    assert [event.source for event in heard if isinstance(event, Arrived)] == ["engine", "failure", "store", "engine"]
    assert [event.tokens for event in heard if isinstance(event, Drawn)] == [5, 12]


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--ray", "2"], 3, "--ray needs an extra that is not installed: pip install 'samplewise[ray]'"),
        (["--ray-gpus", "1"], 2, "--ray-gpus is of each actor: say how many with --ray"),
        (["--ray", "2", "--confirm-above-usd", "1"], 2, "give --yes, or --budget-usd 1 or less"),
        (["--ray", "2", "--confirm-above-usd", "1", "--budget-usd", "2"], 2, "give --yes, or --budget-usd 1 or less"),
        (["--ray", "2", "--confirm-above-usd", "1", "--budget-usd", "1"], 3, "--ray needs an extra"),
    ],
)
def test_what_cannot_be_done_with_actors_is_one_line(
    words: list[str],
    code: int,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    monkeypatch.chdir(tmp_path)
    options = ["--engine", "toy", "--recipe", "repeat(2, max_tokens=3) | vote", "--store", "s.db"]
    monkeypatch.setattr(sys, "argv", ["samplewise", "run", "game24(limit=2)", *options, *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == code
    err = capsys.readouterr().err
    assert line in err
    assert len(err.splitlines()) == 1


def test_actors_share_no_budget() -> None:
    class Nobody:
        num = 2

    with Store(":memory:") as store, pytest.raises(UsageError, match="which the actors of --ray cannot: leave out one"):
        asyncio.run(run_task(TASK, recipe(LINE), Nobody(), store, budget=Budget(tokens=99), spread="gain"))  # type: ignore[arg-type]
