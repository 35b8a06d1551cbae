"""What goes into the store comes out of it, and names what it is filed under for ever."""

from __future__ import annotations

import contextlib
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from samplewise.core.types import (
    Ask,
    Candidate,
    Completion,
    Generate,
    Likelihood,
    Message,
    Pool,
    Problem,
    Question,
    RejectionBound,
    Sampling,
    Selection,
    Stop,
    Usage,
)
from samplewise.store.database import Store
from samplewise.store.digests import ask_json, digest_of
from samplewise.store.records import GRADE, Decision, Record, Run

HI = (Message("user", "hi"),)
FULL = Generate(
    HI, (1, 2), Sampling(0.5, top_k=3), 16, ("\n",), 12345, ("tokens", "logp"), "g", RejectionBound(4.0, -2.5), 3
)
LATER = (
    "exponents",
    "group_size",
    "score_first",
)  # fields that came after the first stores: at their default they are in no digest

# Digests that stored draws are filed under: should one of these change, every store out there would be paid for again.
GOLDEN: list[tuple[Ask, str, str]] = [
    (
        Generate(HI),
        "da41eec946f14f880941603abc3fbfb3",
        '{"ask":"generate","messages":[{"content":"hi","role":"user"}]}',
    ),
    (
        FULL,
        "316fd26ede4be151d18d33338973a9d1",
        '{"ask":"generate","floor":{"alpha":4,"value":-2.5},"forbid_first":3,"group":"g","max_tokens":16,'
        '"messages":[{"content":"hi","role":"user"}],"prefix":[1,2],"sampling":{"temperature":0.5,"top_k":3},'
        '"seed":12345,"stop":["\\n"],"want":["tokens","logp"]}',
    ),
    (
        Likelihood(HI, (1, 2, 3)),
        "2274edc31588a7c6e9c48eb8c819f1eb",
        '{"ask":"likelihood","completion":[1,2,3],"messages":[{"content":"hi","role":"user"}]}',
    ),
]


@pytest.mark.parametrize(("ask", "digest", "text"), GOLDEN)
def test_stored_digests_never_change(ask: Ask, digest: str, text: str) -> None:
    assert digest_of("toy", ask).hex() == digest
    assert ask_json(ask) == text


def test_every_field_and_the_engine_tell_draws_apart() -> None:
    """But for `draw` and `engine`, which say no more than the seed and the identity do."""
    fields = [name for name in FULL._fields if name not in ("messages", "draw", "engine", *LATER)]
    others = [FULL._replace(**{name: Generate(HI)._asdict()[name]}) for name in fields]
    others += [
        FULL._replace(messages=(Message("system", "hi"),)),
        FULL._replace(exponents=(4.0,)),
        FULL._replace(group_size=4),
        FULL._replace(score_first=("A", "B")),
    ]
    digests = [digest_of("toy", ask) for ask in (FULL, *others)] + [digest_of("other", FULL)]
    assert len(set(digests)) == len(FULL._fields)
    assert digest_of("toy", FULL._replace(draw=3, engine="two")) == digest_of("toy", FULL)


def test_what_stands_at_its_default_leaves_no_trace() -> None:
    """Inside an ask too: a later field of Sampling would otherwise change the digest of every tempered draw."""
    assert "top_p" not in ask_json(FULL)
    assert "sampling" not in ask_json(FULL._replace(sampling=Sampling()))
    assert digest_of("toy", Generate(HI, max_tokens=256)) == digest_of("toy", Generate(HI))


def test_equal_asks_have_equal_digests() -> None:
    """Sampling(2) == Sampling(2.0), and Python is right: they are the same request."""
    one, other = Generate(HI, sampling=Sampling(2)), Generate(HI, sampling=Sampling(2.0))
    assert one == other
    assert digest_of("toy", one) == digest_of("toy", other)


text = st.text(st.characters(), max_size=20)  # all of Unicode, halves of surrogate pairs included
floats = st.floats(allow_nan=True, allow_infinity=True)


@given(
    text,
    st.sampled_from(["stop", "length", "rejected"]),
    st.none() | st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
    st.none() | st.lists(floats, max_size=5).map(tuple),
    floats,
    st.builds(Usage, *[st.integers(0, 10**9)] * 5, st.floats(0, 100), st.floats(0, 100)),
    st.none() | st.integers(1, 3).flatmap(lambda e: st.lists(st.tuples(*[floats] * e), max_size=4)).map(tuple),
    st.none() | st.fixed_dictionaries({"policy": text, "numbers": st.dictionaries(text, floats, max_size=3)}),
)
@example("half \ud83d", "stop", (), (math.nan, -math.inf), math.nan, Usage(1), (), {"policy": "half \ud83d"})
@example("x", "rejected", (5,), (-1.0,), -1.0, Usage(1), ((-0.5, -0.25),), {"numbers": {"heat": math.nan}})
def test_a_completion_comes_back_as_it_was(
    said: str, finish: Any, tokens: Any, logp: Any, logp_sum: float, usage: Usage, logz: Any, explored: Any
) -> None:
    """Half a surrogate pair, as in a response cut inside an emoji, was a UnicodeEncodeError that ended the run."""
    completion = Completion(
        said, finish, usage, tokens, logp, logp, logp_sum, logz=logz, certainty=logp, explored=explored
    )
    ask = Generate((Message("user", said),), stop=(said,))
    digest = digest_of("toy", ask)
    with Store(":memory:") as store:
        store.put_draw(digest, "toy", ask, completion)
        back = store.draws([digest, b"nothing"])
    assert list(back) == [digest]
    assert repr(back[digest]) == repr(completion)


def test_the_first_draw_under_a_digest_stays() -> None:
    with Store(":memory:") as store:
        for said in ("first", "second"):
            store.put_draw(b"x" * 16, "toy", Generate(HI), Completion(said, "stop"))
        assert store.draws([b"x" * 16])[b"x" * 16].text == "first"
        assert store.num_draws() == 1


def test_thousands_of_digests_at_once() -> None:
    with Store(":memory:") as store:
        digests = [digest_of("toy", Generate(HI, seed=seed)) for seed in range(2_500)]
        for digest in digests[::2]:
            store.put_draw(digest, "toy", Generate(HI), Completion("x", "stop"))
        assert set(store.draws(digests)) == set(digests[::2])
        assert store.draws([]) == {}


# --- runs and records -------------------------------------------------------------------------------------------------


def make_run(run_id: str = "r", started: float = 1.0) -> Run:
    return Run(
        run_id, "repeat(2) | vote", "task", "toy", 7, {"versions": {"python": "3"}, "é": [1, None]}, started, None
    )


def make_record(question: str = "q", number: int = 0, num: int = 3, *, said: str = "t") -> Record:
    candidates = tuple(
        Candidate(f"{said}{i}", "length", "cold", -0.5 * i, i, math.nan if i else -1.5, {"v": 0.5 * i, "w": math.nan})
        for i in range(num)
    )
    answers = tuple(None if i == 1 else f"{said}{i}" for i in range(num))
    problem = Problem(Question(question, (Message("user", said),), {"numbers": [1, 2]}), {"target": 24})
    grades = tuple(math.nan if i == 2 else float(i) for i in range(num))
    spent = Usage(num, 10, 20, usd=0.25)
    return Record(problem, number, Pool(candidates, 2), answers, grades, spent, Stop("lead", {"margin": 2.0}))


def test_a_record_comes_back_as_it_was() -> None:
    with Store(":memory:") as store:
        store.start_run(make_run())
        record = make_record()
        store.save("r", record, "vote", Selection("t0", 0, (1.0, 0.0, 0.0)), 1.0)
        (back,) = store.records("r")
        assert repr(back) == repr(record)
        assert store.questions("r") == {"q"}
        assert store.selections("r") == [("q", "vote", "t0", 0, 1.0)]
        assert repr(store.scores("r", "q")) == repr(
            {GRADE: [0.0, 1.0, math.nan], "v": [0.0, 0.5, 1.0], "w": [math.nan] * 3}
        )
        (outcome,) = store.outcomes("r")
        assert (outcome.question, outcome.answers, outcome.spent) == ("q", ["t0", None, "t2"], record.spent)
        assert repr(outcome.grades) == repr([0.0, 1.0, math.nan])
        assert not list(store.records("other"))


@pytest.mark.parametrize("said", ["", "\x00", "\ud83d", "🙂\u2028\\\"'", "a\nb"])
def test_any_text_comes_back(said: str) -> None:
    with Store(":memory:") as store:
        store.start_run(make_run())
        record = make_record(f"id {said}", said=said)
        store.save("r", record, "vote", Selection(said, 0, (1.0, 0.0, 0.0)), math.nan)
        assert repr(list(store.records("r"))) == repr([record])
        assert store.questions("r") == {f"id {said}"}
        assert repr(store.selections("r")) == repr([Decision(f"id {said}", "vote", said, 0, math.nan)])
        assert [outcome.question for outcome in store.outcomes("r")] == [f"id {said}"]


def test_an_empty_pool_is_a_record_too() -> None:
    with Store(":memory:") as store:
        store.start_run(make_run())
        record = make_record(num=0)
        store.save("r", record, "vote", Selection(None, None), 0.0)
        assert list(store.records("r")) == [record]
        assert store.selections("r") == [("q", "vote", None, None, 0.0)]


def test_saving_again_leaves_nothing_of_what_was_there() -> None:
    """Scores of an earlier and smaller pool stayed where they were, and the record could not be read any more."""
    with Store(":memory:") as store:
        store.start_run(make_run())
        store.save("r", make_record(num=2), "vote", Selection("t0", 0), 1.0)
        store.save_scores("r", "q", "late", [1.0, 2.0])
        store.save_selection("r", "q", "best(late)", Selection("t1", 1), 0.0)
        record = make_record(num=3)
        store.save("r", record, "vote", Selection("t2", 2), 0.5)
        assert repr(list(store.records("r"))) == repr([record])
        assert store.selections("r") == [("q", "vote", "t2", 2, 0.5)]


def test_scores_and_decisions_can_be_added_later() -> None:
    with Store(":memory:") as store:
        store.start_run(make_run())
        store.save("r", make_record(), "vote", Selection("t0", 0), 1.0)
        store.save_scores("r", "q", "late", [3.0, math.nan, 1.0])
        store.save_selection("r", "q", "best(late)", Selection("t0", 0), 1.0)
        store.save_selection("r", "q", "best(late)", Selection("t2", 2), 0.0)  # decided anew
        (back,) = store.records("r")
        assert [c.scores["late"] for c in back.pool.candidates][::2] == [3.0, 1.0]
        assert store.selections("r") == [("q", "best(late)", "t2", 2, 0.0), ("q", "vote", "t0", 0, 1.0)]


def test_a_record_is_saved_whole_or_not_at_all() -> None:
    with Store(":memory:") as store:
        store.start_run(make_run())
        broken = make_record()._replace(grades=("no number",))  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            store.save("r", broken, "vote", Selection("t0", 0), 1.0)
        assert store.questions("r") == set()
        assert store.scores("r", "q") == {}
        store.save("r", make_record(), "vote", Selection("t0", 0), 1.0)  # and the store goes on


def test_records_come_in_the_order_of_the_task() -> None:
    with Store(":memory:") as store:
        store.start_run(make_run())
        for number in (2, 0, 3, 1):
            store.save("r", make_record(f"q{9 - number}", number), "vote", Selection("t0", 0), 1.0)
        assert [record.number for record in store.records("r")] == [0, 1, 2, 3]
        assert [outcome.question for outcome in store.outcomes("r")] == ["q9", "q8", "q7", "q6"]


def test_runs_start_once_and_end_once() -> None:
    with Store(":memory:") as store:
        store.start_run(make_run("late", 2.0))
        store.start_run(make_run("early", 1.0))
        assert [r.id for r in store.runs()] == ["early", "late"]
        assert store.runs()[0] == make_run("early", 1.0)
        store.end_run("early")
        ended = store.runs()[0].ended
        assert ended is not None
        store.start_run(make_run("early", 9.0)._replace(manifest={"resumed": True}))
        again = store.runs()[0]
        assert (again.started, again.ended, again.manifest) == (1.0, ended, {"resumed": True})
        store.end_run("early")
        assert store.runs()[0].ended == ended


def test_events_are_kept_in_order() -> None:
    with Store(":memory:") as store:
        for i in range(3):
            store.note("r", "kind", {"i": i, "said": "\ud83d"})
        store.note("other", "kind", None)
        assert [(kind, data) for _, kind, data in store.events("r")] == [
            ("kind", {"i": i, "said": "\ud83d"}) for i in range(3)
        ]


def test_what_is_written_is_there_for_the_next_who_opens(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with Store(path) as store:
        store.start_run(make_run())
        store.put_draw(b"x" * 16, "toy", Generate(HI), Completion("x", "stop"))
        store.save("r", make_record(), "vote", Selection("t0", 0), 1.0)
        with Store(path) as reader:  # while it is being written
            assert reader.num_draws() == 1
    with Store(path, must_exist=True) as store:
        assert repr(list(store.records("r"))) == repr([make_record()])
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
