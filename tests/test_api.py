"""The five-line use, and the bar that people see."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

import samplewise
from samplewise import Budget, Message, Question, asolve, solve
from samplewise.engines.toy import Toy
from samplewise.errors import UnknownName
from samplewise.events import Arrived, Retried, Started, Stopped, Weighed
from samplewise.progress import Bar
from samplewise.types import Failure, Stop, Usage

LINE = "repeat(12, max_tokens=3) | vote"


def test_one_question_one_answer() -> None:
    result = solve("hello", engine="toy", recipe=LINE)
    assert result.answer == max(set(result.answers) - {None}, key=result.answers.count)
    assert result.stop.reason == "finished"
    assert result.spent.requests == 12


def test_the_question_can_come_in_three_forms() -> None:
    messages = [Message("user", "hello")]
    question = Question("mine", tuple(messages))
    as_text, as_messages = (solve(q, engine="toy", recipe=LINE) for q in ("hello", messages))
    assert as_text == as_messages
    assert solve(question, engine="toy", recipe=LINE).question is question


def test_a_store_answers_the_second_time(tmp_path: Path) -> None:
    first = solve("hello", engine="toy", recipe=LINE, store=tmp_path / "s.db")
    again = solve("hello", engine="toy", recipe=LINE, store=tmp_path / "s.db")
    assert again == first._replace(paid=Usage())


def test_an_engine_of_ones_own_stays_open() -> None:
    class Mine(Toy):
        closed = False

        async def close(self) -> None:
            self.closed = True

    engine = Mine(3)

    async def both() -> None:
        await asolve("hello", engine=engine, recipe=LINE)
        await asolve("hello", engine=engine, recipe=LINE, budget=Budget(requests=3))

    asyncio.run(both())
    assert not engine.closed


def test_a_budget_holds() -> None:
    assert solve("hello", engine="toy", recipe=LINE, budget=Budget(requests=5)).spent.requests == 5


def test_a_wrong_name_is_said_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean toy"):
        solve("hello", engine="tory", recipe=LINE, store=tmp_path / "s.db")


def test_every_public_name_is_there_and_sorted() -> None:
    assert samplewise.__all__ == sorted(samplewise.__all__)
    for name in samplewise.__all__:
        assert getattr(samplewise, name) is not None
    assert set(samplewise.__all__) <= set(dir(samplewise))
    with pytest.raises(AttributeError, match="nonsense"):
        samplewise.nonsense  # type: ignore[attr-defined]  # noqa: B018


def test_without_a_terminal_the_bar_is_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samplewise.progress.LINE_EVERY_S", 0.0)
    with Bar("draw") as bar:
        bar(Started("r", 2, 0))
        bar(Arrived("q", Usage(1, 3, 4), "engine"))
        bar(Retried("q", 1, 0.5, Failure("RateLimited", "slow down", True)))
        bar(Stopped("q", Stop("finished"), Usage(), "a"))
    told = capsys.readouterr()
    assert told.out == ""
    assert "draw: 0/2 questions, 1 draws" in told.err
    assert "draw: 1/2 questions" in told.err
    assert "slow down" in told.err


def test_of_one_question_the_bar_shows_how_it_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samplewise.progress.LINE_EVERY_S", 0.0)
    with Bar("ask") as bar:
        bar(Arrived("q", Usage(1, 3, 4), "engine"))
        bar(Weighed("q", 7, 5, 2, math.nan, Usage(7, 21, 28)))
        bar(Weighed("q", 8, 5, 3, 0.8351, Usage(8, 24, 32)))
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:] == ["ask: 7 draws, votes 5 : 2, 49 tokens", "ask: 8 draws, best score 0.835, 56 tokens"]
