"""Runs by the batch API: one batch for a round, nothing lost and nothing paid twice whenever the process is killed."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support import batches
from tests.support.batches import DEATHS, DRAWS, KNOWN, LINE, NUM, TASK, run_in_batches

from samplewise.api import asolve
from samplewise.core.errors import SetupError, Unsupported, UsageError
from samplewise.core.events import Event, Stopped, Waiting
from samplewise.core.prices import Price, batch_discount
from samplewise.engines.http import http
from samplewise.engines.http.batch import collect
from samplewise.engines.team import Team
from samplewise.engines.toy import Toy
from samplewise.loop.drive import check_recipe
from samplewise.loop.ledger import Budget
from samplewise.loop.rounds import most_rounds
from samplewise.recipe import recipe
from samplewise.runs import run
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.testing.endpoint import Endpoint, EndpointSettings, serving

ROOT = Path(__file__).parents[2]
ALL = NUM * DRAWS


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLLECT_S", "FIRST_POLL_S"):
        monkeypatch.setattr(collect, name, getattr(collect, name))  # to be as before afterwards
    monkeypatch.setattr(run, "LOOK_EVERY_S", 0.02)
    batches.hurry()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.db"


def marks(texts: tuple[str, ...]) -> set[int]:
    """Return the numbers of the draws in a store, as the endpoint marked them."""
    return {int(text[1 : text.index(">")]) for text in texts}


def check_nothing_lost_or_repeated(endpoint: Endpoint, done: batches.BatchRun) -> None:
    assert done.summary.num_done == NUM
    assert endpoint.tally.draws == ALL, "paid twice"
    assert marks(done.texts) == set(range(ALL)), "lost"


def start_and_die(endpoint: Endpoint, path: Path, death: str, n: str = "auto") -> None:
    """Start a run in a process of its own, which ends there."""
    command = [sys.executable, "-m", "tests.support.batches", endpoint.url, str(path), death, LINE, n]
    child = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"}, timeout=60)
    assert child.returncode == 9


@pytest.mark.parametrize("n", ["auto", "never"])
def test_a_round_is_one_batch(n: str, path: Path) -> None:
    seen: list[Event] = []
    with serving(EndpointSettings(marks=True, batch_s=0.3)) as endpoint:
        done = run_in_batches(endpoint.url, path, n=n, on_event=seen.append)
        check_nothing_lost_or_repeated(endpoint, done)
        assert endpoint.tally.batch_calls["create"] == endpoint.tally.batch_calls["upload"] == 1
        assert endpoint.tally.requests == (NUM if n == "auto" else ALL), "draws of one prompt share a line"
        again = run_in_batches(endpoint.url, path, n=n)
        assert (again.summary.paid.requests, endpoint.tally.batch_calls["create"]) == (0, 1)
    texts = [event.what for event in seen if isinstance(event, Waiting)]
    assert any("waiting for batch batch_0: in_progress" in text for text in texts)
    assert texts[-1] == ""


def test_draws_are_those_of_a_live_run(path: Path) -> None:
    """A draw in a batch has the digest, the seed and so the text of one that is asked for at once."""
    with serving() as endpoint:
        batched = run_in_batches(endpoint.url, path, n="never")
        num = endpoint.tally.draws
        live = http("toy", base_url=endpoint.url, probe=KNOWN, n="never", price=(1, 2))

        async def go() -> int:
            with Store(path) as store:
                summary = await run_task(TASK, recipe(LINE), live, store)
            await live.close()
            return summary.paid.requests

        assert asyncio.run(go()) == 0
        assert endpoint.tally.draws == num == len(batched.texts)


@pytest.mark.parametrize("death", DEATHS)
def test_a_killed_run_finds_its_batch(death: str, path: Path) -> None:
    n = "never" if death == "waiting" else "auto"
    with serving(EndpointSettings(marks=True, batch_s=0.3)) as endpoint:
        start_and_die(endpoint, path, death, n)
        done = run_in_batches(endpoint.url, path, n=n, patience_s=0.5)
        check_nothing_lost_or_repeated(endpoint, done)
        assert endpoint.tally.batch_calls["create"] == 1
        if "kept" not in death and "upload" not in death and death != "about to submit":
            assert any("answered by batches of earlier starts" in note for note in done.notes)


def test_a_create_whose_reply_is_lost_is_found_by_its_name(path: Path) -> None:
    faults = {"create": ("lost",), "upload": ("500",), "state": ("500", "429", "lost"), "content": ("lost", "404")}
    settings = EndpointSettings(marks=True, batch_s=0.1, batch_faults=faults, batch_page=1)  # type: ignore[arg-type]
    with serving(settings) as endpoint:
        done = run_in_batches(endpoint.url, path)
        check_nothing_lost_or_repeated(endpoint, done)
        assert endpoint.tally.batch_calls["create"] == 1
        assert endpoint.tally.batch_calls["list"] == 1


@pytest.mark.parametrize("fault", ["lost", "504"])
def test_a_batch_that_is_listed_late_is_not_created_twice(fault: str, path: Path) -> None:
    """Looked for once, a second after its reply was lost, it was not in the list yet, and paid twice."""
    settings = EndpointSettings(marks=True, batch_faults={"create": (fault,)}, batch_listed_s=1.5)
    with serving(settings) as endpoint:
        done = run_in_batches(endpoint.url, path, patience_s=4.0 if fault == "lost" else 1.0)
        check_nothing_lost_or_repeated(endpoint, done)
        created = {"lost": 1, "504": 2}[fault]  # a made-up 504 creates nothing
        assert endpoint.tally.batch_calls["create"] == created
        assert endpoint.tally.batch_calls["list"] > 1


def test_a_killed_run_looks_for_a_batch_that_is_listed_late(path: Path) -> None:
    """The restart found nothing in the list, and submitted what the endpoint had already."""
    seen: list[Event] = []
    with serving(EndpointSettings(marks=True, batch_listed_s=3.0)) as endpoint:
        start_and_die(endpoint, path, "submitted, not noted")
        done = run_in_batches(endpoint.url, path, on_event=seen.append)
        check_nothing_lost_or_repeated(endpoint, done)
        assert endpoint.tally.batch_calls["create"] == 1
    texts = [event.what for event in seen if isinstance(event, Waiting)]
    assert any(text.startswith("looking for batch") for text in texts)


def test_a_batch_that_was_never_created_is_submitted_again_and_said(path: Path) -> None:
    with serving(EndpointSettings(marks=True)) as endpoint:
        start_and_die(endpoint, path, "about to submit")
        done = run_in_batches(endpoint.url, path, patience_s=0.5)
        check_nothing_lost_or_repeated(endpoint, done)
    assert any("is not at the endpoint: its requests were submitted again" in note for note in done.notes)


def test_a_batch_that_was_noted_long_ago_is_looked_for_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(EndpointSettings(marks=True)) as endpoint:
        start_and_die(endpoint, path, "about to submit")
        now = time.time
        monkeypatch.setattr(collect.time, "time", lambda: now() + 3_600.0)
        check_nothing_lost_or_repeated(endpoint, run_in_batches(endpoint.url, path))
        assert endpoint.tally.batch_calls["list"] == 1


def test_a_cancelled_run_cancels_its_batch_and_the_next_fetches_what_was_done(path: Path) -> None:
    with serving(EndpointSettings(marks=True, batch_s=2.0)) as endpoint:
        cut = run_in_batches(endpoint.url, path, n="never", cancel_after_s=1.2)
        assert cut.summary.cancelled
        assert endpoint.tally.batch_calls["cancel"] == 1
        assert cut.summary.cut.requests == ALL, "what was cut off is charged at its worst case"
        done = endpoint.tally.draws
        assert 0 < done < ALL
        check_nothing_lost_or_repeated(endpoint, run_in_batches(endpoint.url, path, n="never"))
        assert endpoint.tally.batch_calls["create"] == 2


def test_a_batch_is_called_off_before_the_questions_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted process has a second, and thousands of questions took longer than that to give up their waits."""
    monkeypatch.setattr(collect.BatchCollector, "_end", lambda self, batch: None)  # it never comes to that
    cancelled_before: list[int] = []
    with serving(EndpointSettings(batch_s=60)) as endpoint:

        def on_event(event: Event) -> None:
            if isinstance(event, Stopped):
                cancelled_before.append(endpoint.tally.batch_calls["cancel"])

        run_in_batches(endpoint.url, path, n="never", cancel_after_s=1.2, on_event=on_event)
        assert endpoint.tally.batch_calls["cancel"] == 1, "once, whoever asks for it"
    assert cancelled_before == [1] * NUM


def test_a_run_that_is_cancelled_before_it_submits_costs_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "COLLECT_S", 5.0)
    with serving() as endpoint:
        cut = run_in_batches(endpoint.url, path, cancel_after_s=0.3)
        assert (cut.summary.paid.requests, endpoint.tally.batch_calls.total()) == (0, 0)


def test_what_is_asked_anew_is_not_charged_before_it_is_submitted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "COLLECT_S", 1.0)
    with serving(EndpointSettings(num_expiring=1, expires_after=10)) as endpoint:
        cut = run_in_batches(endpoint.url, path, n="never", cancel_after_s=1.7)
        assert endpoint.tally.batch_calls["create"] == 1
    assert (cut.summary.paid.requests, cut.summary.cut.requests) == (10, 0)


def test_a_request_of_an_earlier_start_is_found_whatever_draws_share_one_now(path: Path) -> None:
    with serving(EndpointSettings(marks=True, batch_s=0.5)) as endpoint:
        start_and_die(endpoint, path, "waiting")
        check_nothing_lost_or_repeated(endpoint, run_in_batches(endpoint.url, path, max_n=2))


def test_failed_lines_are_retried_in_another_batch(path: Path) -> None:
    settings = EndpointSettings(marks=True, line_faults=("429", "", "500", "503"))
    with serving(settings) as endpoint:
        done = run_in_batches(endpoint.url, path, n="never")
        check_nothing_lost_or_repeated(endpoint, done)
        assert endpoint.tally.batch_calls["create"] == 2
        assert endpoint.tally.requests == ALL, "a line that fails is not worked on"
        assert done.summary.paid.prompt_tokens == endpoint.tally.prompt_tokens, "and not paid"


def test_a_batch_that_expires_is_said_and_what_is_missing_is_submitted_again(path: Path) -> None:
    with serving(EndpointSettings(marks=True, num_expiring=2, expires_after=10)) as endpoint:
        done = run_in_batches(endpoint.url, path, n="never")
        check_nothing_lost_or_repeated(endpoint, done)
        assert endpoint.tally.batch_calls["create"] == 3
    assert "18 requests were not done when their batch expired, and were submitted again" in done.notes


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (EndpointSettings(num_expiring=1), "batch batch_0 expired without a result"),
        (EndpointSettings(num_refused=1), "batch batch_0 was refused: the file was refused"),
        (EndpointSettings(lacks=("batches",)), "no batch API: leave out --batch"),
        (EndpointSettings(batch_faults={"state": ("404",) * 9}), "does not know batch batch_0.*key.*another project"),
        (EndpointSettings(batch_faults={"upload": ("500",) * 9}), "cannot upload a file: .* answered 500"),
        (
            EndpointSettings(batch_faults={"create": ("lost",), "list": ("404",) * 9}),
            "whether batch .* was submitted is not known: look there",
        ),
    ],
)
def test_what_a_user_must_see_to_ends_the_run_in_one_line(settings: EndpointSettings, told: str, path: Path) -> None:
    with serving(settings) as endpoint, pytest.raises(SetupError, match=told) as raised:
        run_in_batches(endpoint.url, path, patience_s=0.5)
    assert "\n" not in str(raised.value)


def test_helpers_are_a_batch_before_that_of_the_draws(path: Path) -> None:
    with serving(EndpointSettings()) as endpoint:
        done = run_in_batches(endpoint.url, path, "vary(rephrase(1)) | repeat(2, max_tokens=8) | vote")
        assert done.summary.num_done == NUM
        assert 2 <= endpoint.tally.batch_calls["create"] <= 3


# --- stop rules -------------------------------------------------------------------------------------------------------


def test_a_rule_stops_where_it_would_have_stopped_at_once(path: Path, tmp_path: Path) -> None:
    """Waves of five: the rule sees the draws in their order, and what it does not need it leaves in the store."""
    line = "repeat(16, max_tokens=8) | until(lead(2), ahead=4) | vote"
    with serving(EndpointSettings(answer="")) as endpoint:
        batched = run_in_batches(endpoint.url, path, line, n="never")
        num = endpoint.tally.batch_calls["create"]
        live = http("toy", base_url=endpoint.url, probe=KNOWN, n="never", price=(1, 2))
        with Store(tmp_path / "live.db") as store:

            async def go() -> float:
                summary = await run_task(TASK, recipe(line), live, store)
                await live.close()
                return summary.spent.tokens

            assert batched.summary.spent.tokens == asyncio.run(go())
        assert 1 <= num <= math.ceil(16 / 5)


@pytest.mark.parametrize(
    ("rule", "rounds"),
    [
        ("cap(8)", 1),
        ("esc(4)", 8),
        ("lead(2)", 30),
        ("lead(2), ahead=7", 4),
        ("asc(0.95)", 27),
        ("vote_plan(0.02, 0.005, 32)", 1),
        ("passed(logp)", 32),
        ("passed(logp), ahead=3", 8),
    ],
)
def test_how_often_a_rule_decides_in_turn(rule: str, rounds: int) -> None:
    made = recipe(f"repeat(32) | until({rule}) | vote")
    assert made.stop is not None
    assert isinstance(made.ahead, int)
    assert most_rounds(made.stop, 32, made.ahead) == rounds


def test_what_cannot_go_by_batches_is_refused_in_a_sentence() -> None:
    engine = http("toy", base_url="http://127.0.0.1:9/v1", batch=True, probe=KNOWN)
    with pytest.raises(UsageError, match=r"until\(lead\) may decide .* ahead=3 sends .* at most 8 batches"):
        check_recipe(recipe("repeat(32) | until(lead(2)) | vote"), engine)
    check_recipe(recipe("repeat(32) | until(lead(2), ahead=3) | vote"), engine)
    check_recipe(recipe("repeat(32) | until(lead(2), ahead=idle) | vote"), engine)
    check_recipe(recipe("repeat(32) | until(vote_plan(0.02, 0.005, 32)) | vote"), engine)
    judged = "repeat(4) | until(passed(judge)) | best(judge)"
    with pytest.raises(Unsupported, match="asks judge after each draw, which would be a batch each time"):
        check_recipe(recipe(judged), engine)
    with pytest.raises(UsageError, match="limit in seconds"):
        check_recipe(recipe(LINE), engine, Budget(seconds=60))
    for line in ("power(2, 3) | first", "repeat(4, explore=esamp) | vote"):
        with pytest.raises(Unsupported, match="in batches cannot do"):
            check_recipe(recipe(line), engine)
    check_recipe(recipe("repeat(4) | best(judge)"), engine)
    mild = recipe("repeat(4) | until(passed(judge(mild)), ahead=1) | best(judge(mild))")
    check_recipe(mild, Team({"": engine, "mild": Toy()}))
    live = Team({"": Toy(), "judge": engine})
    assert live.is_batched, "so that what the judge is asked is collected from all questions"
    check_recipe(recipe("repeat(32) | until(lead(2)) | best(judge('judge'))"), live)
    shared = recipe("repeat(4) | until(blend_asc(floor=1), ahead=3) | vote")
    with Store(":memory:") as store, pytest.raises(UsageError, match="spread=gain"):
        asyncio.run(run_task(TASK, shared, engine, store, budget=Budget(tokens=9999), spread="gain"))


def test_without_a_store_nothing_is_submitted() -> None:
    with serving() as endpoint:
        engine = http("toy", base_url=endpoint.url, batch=True, probe=KNOWN)

        async def go() -> None:
            try:
                await asolve("a word", engine=engine, recipe=LINE)
            finally:
                await engine.close()

        with pytest.raises(SetupError, match="needs a store"):
            asyncio.run(go())
        assert endpoint.tally.batch_calls.total() == 0


# --- prices -----------------------------------------------------------------------------------------------------------


def test_a_batch_costs_what_is_known_of_it() -> None:
    discount = batch_discount("https://api.openai.com/v1")
    assert discount is not None
    assert discount.factor == 0.5
    assert discount.source.startswith("https://help.openai.com/")
    assert batch_discount("https://api.deepseek.com/v1") is None
    assert Price(2.0, 0.5, 8.0).in_batch(0.5) == Price(1.0, 1.0, 4.0)


@pytest.mark.parametrize(
    ("url", "factor", "output", "note"),
    [
        ("https://api.openai.com/v1", None, 1.0, "batches count at 0.5 of the price, as https://help.openai.com"),
        ("https://api.openai.com/v1", 0.75, 1.5, "batches count at 0.75 of the price"),
        ("https://example.com/v1", None, 2.0, "no discount is known for its batches, so they count in full"),
    ],
)
def test_the_price_of_a_batch_is_the_providers_or_the_users(
    url: str, factor: float | None, output: float, note: str
) -> None:
    engine = http("m", base_url=url, batch=True, probe=KNOWN, price=(1, 2), batch_factor=factor, api_key="k")
    assert engine._exchange.price.output == output
    assert any(line.startswith(note) for line in engine.notes)
    assert http("m", base_url=url, probe=KNOWN, price=(1, 2), api_key="k")._exchange.price.output == 2.0


def test_what_was_billed_is_what_was_drawn_at_the_price_of_a_batch(path: Path) -> None:
    with serving() as endpoint:
        done = run_in_batches(endpoint.url, path, n="never", batch_factor=0.5)
        tally = endpoint.tally
        expected = (tally.prompt_tokens * 1 + tally.completion_tokens * 2) / 1e6 / 2
    assert done.summary.paid.usd == pytest.approx(expected)
