"""Shards: which questions each draws, that together they are the whole run, and what a part says of itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import UsageError
from samplewise.core.events import Ended, Event, Started
from samplewise.core.types import Message, Problem, Question, Score
from samplewise.engines.toy import Toy
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.run import Summary, run_task
from samplewise.runs.shards import Shard, partial_note, shard_index
from samplewise.store.database import Store
from samplewise.tasks.base import Task

NUM = 12
LINE = "repeat(4, max_tokens=3) | vote"


def words(num: int = NUM) -> Task:
    """Spell a word that begins with the letter that is asked for."""

    def grade(problem: Problem, answer: str | None) -> Score:
        return Score(float(answer is not None and answer[0] == problem.reference))

    asked = (Question(f"q{i}", (Message("user", f"word {i}"),)) for i in range(num))
    problems = tuple(Problem(question, "abc"[i % 3]) for i, question in enumerate(asked))
    return Task("words", problems, lambda question, text: text[:2] or None, grade)


def draw(path: Path, shard: tuple[int, int] | None = None, line: str = LINE, **settings: Any) -> Summary:
    with Store(path) as store:
        return asyncio.run(run_task(words(), recipe(line), Toy(3), store, shard=shard, **settings))


# A changed one would send questions that are drawn already to another shard, where they would be drawn again.
GOLDEN = {"q0": [0, 0, 1, 4], "q1": [0, 2, 0, 3], "ünï\ud83d": [0, 0, 0, 5], "question 7": [0, 2, 1, 0]}


@pytest.mark.parametrize("question", GOLDEN)
def test_the_shard_of_a_question_never_changes(question: str) -> None:
    assert [shard_index(question, num) for num in (1, 3, 4, 7)] == GOLDEN[question]


@given(st.integers(), st.integers(1, 60))
def test_a_question_is_in_one_shard(question: int, num: int) -> None:
    assert [Shard(i, num).holds(str(question)) for i in range(num)].count(True) == 1


def test_shards_are_of_about_one_size() -> None:
    """Each of 4 within five standard deviations of 2,500: a fair hash misses that with probability 2.3e-6."""
    sizes = Counter(shard_index(f"question {i}", 4) for i in range(10_000))
    assert all(abs(sizes[i] - 2_500) < 5 * (10_000 * 0.25 * 0.75) ** 0.5 for i in range(4))


def test_a_shard_is_written_as_a_fraction() -> None:
    assert Shard.of("0/4") == Shard.of(" 0 / 4 ") == (0, 4)
    assert str(Shard.of("3/40")) == "3/40"
    for text in ("4/4", "1/0"):
        with pytest.raises(UsageError, match="shards count from 0"):
            Shard.of(text)
    for text in ("", "1", "-1/4", "1/4/2", "a/b", "1.0/4", "٣/٤"):
        with pytest.raises(UsageError, match="a shard is i/m, such as 0/4"):
            Shard.of(text)


def test_each_shard_draws_its_own_questions_under_the_id_of_the_whole(tmp_path: Path) -> None:
    whole = draw(tmp_path / "whole.db")
    seen: list[str] = []
    for index in range(3):
        events: list[Event] = []
        path = tmp_path / f"{index}.db"
        summary = draw(path, (index, 3), on_event=events.append)
        with Store(path) as store:
            (run,) = store.runs()
            questions = store.questions(run.id)
            note = partial_note(store, run)
            pools = {record.problem.question.id: record.number for record in store.records(run.id)}
        assert questions == {f"q{i}" for i in range(NUM) if shard_index(f"q{i}", 3) == index}
        assert pools == {question: int(question[1:]) for question in questions}  # numbers of the whole task
        assert run.id == whole.run
        assert run.ended is None
        assert not summary.cancelled
        assert (summary.num_questions, summary.num_done) == (len(questions), len(questions))
        assert (summary.num_in_task, summary.shard) == (NUM, (index, 3))
        assert summary.num_draws == len(summary.accuracy) * 4 == len(questions) * 4
        started, ended = events[0], events[-1]
        assert (started, ended) == (Started(run.id, len(questions), 0), Ended(run.id, len(questions)))
        assert f"run {run.id} is partial: {len(questions)} of {NUM} questions, shard {index}/3; draw the others" in note
        seen += questions
    assert sorted(seen) == sorted(f"q{i}" for i in range(NUM))


def test_a_shard_that_is_done_costs_nothing_again(tmp_path: Path) -> None:
    first, again = (draw(tmp_path / "s.db", (1, 3)) for _ in range(2))
    assert first.paid.requests == 4 * first.num_questions > 0
    assert again.paid.requests == 0
    assert again._replace(paid=first.paid) == first
    with Store(tmp_path / "s.db") as store:
        notes = [data for _, kind, data in store.events(first.run) if kind == "shard"]
    assert notes == [[1, 3]]


def test_shards_in_one_store_end_the_run_with_the_last(tmp_path: Path) -> None:
    summaries = [draw(tmp_path / "s.db", (index, 2)) for index in range(2)]
    with Store(tmp_path / "s.db") as store:
        (run,) = store.runs()
        assert run.ended is not None
        assert partial_note(store, run) == ""
    whole = draw(tmp_path / "whole.db")
    assert sum(summary.spent.tokens for summary in summaries) == whole.spent.tokens
    assert sum(summary.num_draws for summary in summaries) == whole.num_draws
    assert sorted(grade for s in summaries for grade in s.accuracy) == sorted(whole.accuracy)
    after = draw(tmp_path / "s.db")
    assert after.paid.requests == 0
    assert after.accuracy == whole.accuracy


def test_a_run_that_was_cut_off_says_how_to_go_on(tmp_path: Path) -> None:
    cancel = asyncio.Event()

    def on_event(event: Event) -> None:
        if type(event).__name__ == "Stopped":
            cancel.set()

    summary = draw(tmp_path / "s.db", on_event=on_event, cancel=cancel, concurrency=1)
    assert summary.cancelled
    with Store(tmp_path / "s.db") as store:
        (run,) = store.runs()
        note = partial_note(store, run)
    assert note.startswith(f"run {run.id} is partial: {summary.num_done} of {NUM} questions; the command that began it")


def test_a_limit_is_each_questions_part_of_the_whole_tasks(tmp_path: Path) -> None:
    """A shard that split the limit over its own questions would draw more for each."""
    budget = Budget(tokens=NUM * 16)
    draw(tmp_path / "whole.db", budget=budget)
    spent = {}
    with Store(tmp_path / "whole.db") as store:
        (run,) = store.runs()
        spent = {record.problem.question.id: record.spent.tokens for record in store.records(run.id)}
    assert len(set(spent.values())) > 1
    for index in range(3):
        assert draw(tmp_path / f"{index}.db", (index, 3), budget=budget).run == run.id
        with Store(tmp_path / f"{index}.db") as store:
            parts = {record.problem.question.id: record.spent.tokens for record in store.records(run.id)}
        assert parts == {question: spent[question] for question in parts}


def test_a_shard_without_questions_is_done_at_once(tmp_path: Path) -> None:
    empty = next(i for i in range(50) if not any(Shard(i, 50).holds(f"q{j}") for j in range(NUM)))
    summary = draw(tmp_path / "s.db", (empty, 50))
    assert (summary.num_questions, summary.num_done, summary.cancelled) == (0, 0, False)


class Closed(Toy):
    """An engine that must not be opened."""

    async def open(self) -> None:
        raise AssertionError("opened")


def test_a_shared_budget_and_shards_are_refused_before_anything_is_opened(tmp_path: Path) -> None:
    shared = recipe("repeat(4, max_tokens=3) | until(blend_asc) | vote")
    with Store(tmp_path / "s.db") as store:
        for shard, settings, problem in (
            ((0, 2), {"spread": "gain", "budget": Budget(tokens=99)}, "which shards cannot"),
            ((2, 2), {}, "shards count from 0: of 2 there are 0 to 1, got 2/2"),
        ):
            with pytest.raises(UsageError, match=problem):
                asyncio.run(run_task(words(), shared, Closed(3), store, shard=shard, **settings))  # type: ignore[arg-type]
        assert store.runs() == []
