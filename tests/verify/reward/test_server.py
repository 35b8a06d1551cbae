"""Reward models behind a server: what is sent, what is believed, and that a hostile reply never becomes a score."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.script import Script, Seen, reply

from samplewise.core.errors import AuthError, EngineUnavailable, SetupError
from samplewise.core.events import Retried
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import BatchVerifier, Candidate, Message, Problem, Question, Score
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.recipe import parse_choice, recipe
from samplewise.runs.redecide import redecide
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.testing.endpoint import serving
from samplewise.verify.reward import server as scoring
from samplewise.verify.reward.server import RewardServer, reward_server
from samplewise.verify.reward.server_replies import parse_scores

QUESTION = Question("q", (Message("user", "What is 1 + 1?"),))
TEXTS = ("two", "three", "It is 2.", "")
PAIRS = [(QUESTION, Candidate(text)) for text in TEXTS]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samplewise.core.retry.BACKOFF_S", 0.001)
    monkeypatch.delenv(scoring.KEY_VARIABLE, raising=False)


def model_score(text: str) -> float:
    """Return the test model's score of a response; it may be negative, so it is not a probability."""
    return len(text) - 5.5


def served(answer: Callable[[Seen], Any], work: Callable[[str], Any]) -> tuple[Any, Script]:
    """Return what `work(url)` gives in a thread while the server answers."""

    async def main() -> tuple[Any, Script]:
        script = Script(answer)
        async with script.serving() as url:
            return await asyncio.to_thread(work, url), script

    return asyncio.run(main())


def honest(seen: Seen) -> bytes:
    """Answer as vLLM does."""
    body, route = seen.body, seen.path.removeprefix("/")
    if route == "tokenize":
        texts = [body["prompt"]] if "prompt" in body else [m["content"] for m in body["messages"]]
        return reply({"tokens": [1] * sum(len(text.split()) + 1 for text in texts)})
    texts = body["text_2"] if route == "score" else [body["messages"][-1]["content"]]
    field: dict[str, Callable[[float], Any]] = {
        "pooling": lambda x: {"data": [x]},
        "classify": lambda x: {"probs": [x], "num_classes": 1},
        "score": lambda x: {"score": x},
    }
    data = [{"index": i, **field[route](model_score(text))} for i, text in enumerate(texts)]
    return reply({"data": data[::-1], "usage": {"prompt_tokens": 9}})  # in any order: the index counts


@pytest.mark.parametrize("route", ["pooling", "classify", "score"])
def test_scores_of_every_route(route: str) -> None:
    def work(url: str) -> tuple[RewardServer, list[float], float]:
        verifier = reward_server(url, model="m", route=route)  # type: ignore[arg-type]
        values = verifier.score_all(PAIRS + PAIRS)
        return verifier, values, verifier(*PAIRS[1]).value

    (verifier, values, alone), script = served(honest, work)
    assert values == [model_score(text) for text in TEXTS] * 2
    assert alone == model_score("three")
    assert isinstance(verifier, BatchVerifier)
    assert verifier.name == "reward_server(m)"
    assert len(script.seen) == (1 if route == "score" else 4), "each different response once, the second time none"
    assert {seen.path for seen in script.seen} == {f"/{route}"}, "above /v1"
    assert all(body["model"] == "m" and body["use_activation"] is False for body in script.bodies)
    if route == "score":
        assert script.bodies[0]["text_1"] == ["What is 1 + 1?"] * 4
        assert script.bodies[0]["text_2"] == list(TEXTS)
    else:
        chats = [body["messages"] for body in script.bodies]
        assert [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "two"}] in chats


def test_a_response_that_was_begun_goes_on() -> None:
    begun = Question("q", (Message("user", "hi"), Message("assistant", "I say ")))
    _, script = served(honest, lambda url: reward_server(url)(begun, Candidate("hello")))
    assert script.bodies[0]["messages"][1:] == [{"role": "assistant", "content": "I say hello"}]
    assert "model" not in script.bodies[0]


@pytest.mark.parametrize(
    ("steps", "aggregate", "value"),
    [
        ([[0.1, 0.9], [0.5, 0.5]], "last", 0.5),
        ([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]], "min", 0.2),
        ([[0.9], [0.5]], "product", 0.45),
        ([[0.9, 0.9]], "last", None),
        ([[3.0, -1.0]], "min", None),
        ([[-0.2]], "min", None),
        ([0.4, 0.5], "min", None),
        ([[0.1, 0.2, 0.7]], "min", None),
        ([[0.5, math.nan]], "product", None),
        ([], "product", None),
    ],
)
def test_process_models(steps: Any, aggregate: Any, value: float | None) -> None:
    def answer(seen: Seen) -> bytes:
        assert seen.body["use_activation"] is True
        return reply({"data": [{"index": 0, "data": steps}]})

    score, _ = served(answer, lambda url: reward_server(url, aggregate=aggregate)(*PAIRS[0]))
    assert (score.value == pytest.approx(value)) if value is not None else math.isnan(score.value)
    assert (value is None) == bool(score.reason)


def test_a_model_that_scores_every_token() -> None:
    (score,) = parse_scores({"data": [{"index": 0, "data": [[-1.0], [2.0], [0.25]]}]}, "pooling", 1)
    assert score.value == 0.25


ONE = {"index": 0, "data": [1.0]}
HOSTILE = {
    "too few": ({"data": []}, "0 scores for 1"),
    "too many": ({"data": [ONE, ONE]}, "2 scores for 1"),
    "another index": ({"data": [{**ONE, "index": 1}]}, "numbers 1 scores 1"),
    "an index that is not a number": ({"data": [{**ONE, "index": "0"}]}, "numbers 1 scores '0'"),
    "no list": ({"data": {"index": 0}}, "not a list of scores"),
    "another kind of list": ({"data": [1.0]}, "not a list of scores"),
    "a list alone": ([1.0], "not a list of scores"),
    "nan": (b'{"data": [{"index": 0, "data": [NaN]}]}', "gave nan"),
    "infinite": (b'{"data": [{"index": 0, "data": [Infinity]}]}', "gave inf"),
    "null": ({"data": [{"index": 0, "data": [None]}]}, "gave None"),
    "true": ({"data": [{"index": 0, "data": [True]}]}, "gave True"),
    "words": ({"data": [{"index": 0, "data": ["0.9"]}]}, "gave '0.9'"),
    "an embedding": ({"data": [{"index": 0, "data": [0.1, 0.2, 0.7]}]}, "gave 3 numbers"),
    "no numbers": ({"data": [{"index": 0}]}, "gave no numbers"),
    "half JSON": (b'{"data": [{"index": 0, "data": [0.9', "breaks off"),
    "no JSON": (b"<html>", "breaks off"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_reply_is_no_score(case: str) -> None:
    body, message = HOSTILE[case]
    score, _ = served(lambda seen: reply(body), lambda url: reward_server(url)(*PAIRS[0]))
    assert math.isnan(score.value)
    assert message in score.reason


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), lambda x: st.lists(x, max_size=3)))
def test_whatever_stands_for_a_score_is_one_number_or_nan(value: Any) -> None:
    for route, field in (("pooling", "data"), ("classify", "probs"), ("score", "score")):
        (score,) = parse_scores({"data": [{"index": 0, field: value}]}, route, 1)  # type: ignore[arg-type]
        if math.isfinite(score.value):
            inner = value[-1] if isinstance(value, list) and value and isinstance(value[-1], list) else value
            assert score.value in (inner if isinstance(inner, list) else [inner])
        else:
            assert math.isnan(score.value)
            assert score.reason


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_what_passes_is_tried_again_and_what_stays_is_nan(status: int) -> None:
    fails = iter([status, status, 200])

    def passing(seen: Seen) -> bytes:
        now = next(fails, 200)
        return honest(seen) if now == 200 else reply({"error": {"message": "busy"}}, now, "retry-after: 0\r\n")

    score, script = served(passing, lambda url: reward_server(url)(*PAIRS[0]))
    assert (score.value, len(script.seen)) == (model_score("two"), 3)

    def work(url: str) -> tuple[float, str, float]:
        verifier = reward_server(url)
        first = verifier(*PAIRS[0])
        fails_no_more.set()
        return first.value, first.reason, verifier(*PAIRS[0]).value

    fails_no_more = threading.Event()
    staying = lambda seen: honest(seen) if fails_no_more.is_set() else reply({"error": "busy"}, status)  # noqa: E731
    (value, reason, later), script = served(staying, work)
    assert math.isnan(value)
    assert f"status {status}: busy" in reason
    assert later == model_score("two"), "a score that failed is not kept"
    assert len(script.seen) == scoring.ATTEMPTS + 1


def test_one_response_that_is_refused_takes_no_other_with_it() -> None:
    """Too long for the model's context, in a batch of pairs."""

    def answer(seen: Seen) -> bytes:
        if "three" in seen.body["text_2"]:
            return reply({"error": {"message": "This model's maximum context length is 4 tokens"}}, 400)
        return honest(seen)

    values, _ = served(answer, lambda url: reward_server(url, route="score").score_all(PAIRS))
    assert math.isnan(values[1])
    assert [values[i] for i in (0, 2, 3)] == [model_score(TEXTS[i]) for i in (0, 2, 3)]


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [
        (401, AuthError, scoring.KEY_VARIABLE),
        (404, SetupError, "route='classify'"),
        (405, SetupError, "check that it serves m"),
        (400, SetupError, "check that this is a reward model"),
    ],
)
def test_what_the_user_must_change_is_an_error(status: int, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        served(
            lambda seen: reply({"error": {"message": "no"}}, status),
            lambda url: reward_server(url, model="m").score_all(PAIRS),
        )


def test_nobody_there() -> None:
    with pytest.raises(EngineUnavailable, match="start the reward model's server"):
        reward_server("http://127.0.0.1:9").score_all(PAIRS)


def test_a_server_that_stalls_is_given_up() -> None:
    async def never() -> bytes:
        await asyncio.sleep(600)
        raise AssertionError("the client should have left")

    score, script = served(lambda seen: never(), lambda url: reward_server(url, timeout_s=0.5)(*PAIRS[0]))
    assert math.isnan(score.value)
    assert "no answer within 0.5 s" in score.reason
    assert len(script.seen) == scoring.ATTEMPTS


def test_no_more_requests_at_once_than_allowed() -> None:
    under_way, most = 0, 0
    everyone = asyncio.Event()  # seven are there

    async def slowly(seen: Seen) -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 7:
            everyone.set()
        await everyone.wait()
        await asyncio.sleep(0.01)  # time for one too many
        under_way -= 1
        return honest(seen)

    many = [(QUESTION, Candidate("x" * i)) for i in range(40)]
    values, _ = served(slowly, lambda url: reward_server(url, max_concurrency=7).score_all(many))
    assert values == [model_score("x" * i) for i in range(40)]
    assert most == 7


def test_tokens_are_the_servers_or_a_bound() -> None:
    def work(url: str) -> tuple[int, int]:
        verifier = reward_server(url, model="m")
        return verifier.tokens_of(*PAIRS[2]), verifier.tokens_of(*PAIRS[2])

    tokens, script = served(honest, work)
    assert tokens == (6 + 4, 6 + 4)
    assert len(script.seen) == 1
    bound, script = served(lambda seen: reply({}, 404), lambda url: reward_server(url).tokens_of(*PAIRS[2]))
    assert bound == len("What is 1 + 1?It is 2.") + 2 * scoring.PER_MESSAGE
    assert len(script.seen) == 1


def test_the_key_goes_to_the_server_and_into_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(scoring.KEY_VARIABLE, "sesame")
    monkeypatch.setenv("OPENAI_API_KEY", "not for this server")

    def refuse(seen: Seen) -> bytes:
        return reply({"error": {"message": f"wrong: {seen.headers['authorization']}"}}, 500)

    score, script = served(refuse, lambda url: reward_server(url)(*PAIRS[0]))
    assert script.seen[0].headers["authorization"] == "Bearer sesame"
    assert "sesame" not in score.reason + repr(reward_server("http://127.0.0.1:9"))


def test_in_a_recipe_its_tokens_count() -> None:
    def work(url: str) -> tuple[Any, Any]:
        line = recipe(f"repeat(6, max_tokens=4) | best(reward_server({url!r}))")
        ask = lambda budget: asyncio.run(  # noqa: E731
            run_question(
                QUESTION, line, RunContext(Toy(3), budget=budget), Key(0), read=lambda question, text: text or None
            )
        )
        whole = ask(Budget())
        plain = asyncio.run(
            run_question(
                QUESTION,
                recipe("repeat(6, max_tokens=4) | vote"),
                RunContext(Toy(3)),
                Key(0),
                read=lambda question, text: text,
            )
        )
        return whole, plain

    (found, plain), _ = served(honest, work)
    (name,) = {name for candidate in found.pool.candidates for name in candidate.scores}
    assert name.startswith("reward_server('http://127.0.0.1")
    assert [c.scores[name] for c in found.pool.candidates] == [model_score(c.text) for c in found.pool.candidates]
    tokens = sum(6 + len(candidate.text.split()) + 1 for candidate in found.pool.candidates)
    assert found.spent.tokens == plain.spent.tokens + tokens
    assert found.spent.requests == plain.spent.requests + 6, "one for each draw, as much as its draws"
    assert found.paid == found.spent


def in_run(answer: Callable[[Seen], Any], budget: Budget = Budget(), cancel_after: int | None = None) -> Any:
    """The result of a run of six draws scored by a server, the events, and what the server saw."""
    events: list[Any] = []
    cancel = asyncio.Event()

    async def main() -> Any:
        script = Script(lambda seen: (cancel.set() if len(script.seen) == cancel_after else None, answer(seen))[1])
        async with script.serving() as url:
            line = recipe(f"repeat(6, max_tokens=4) | best(reward_server({url!r}, max_concurrency=1))")
            context = RunContext(Toy(3), budget=budget, on_event=events.append, cancel=cancel)
            return await run_question(QUESTION, line, context, Key(0), read=lambda q, t: t or None), script

    result, script = asyncio.run(main())
    return result, events, script


def test_requests_of_a_server_are_kept_within_the_budget() -> None:
    result, _, script = in_run(honest, Budget(requests=9))
    assert result.spent.requests == 9
    scores = [score for candidate in result.pool.candidates for score in candidate.scores.values()]
    assert sum(not math.isnan(score) for score in scores) == 3
    assert [seen.path for seen in script.seen].count("/pooling") == len({c.text for c in result.pool.candidates[:3]})


def test_a_run_tells_of_requests_that_are_sent_again_and_pays_for_them() -> None:
    def busy(seen: Seen) -> bytes:
        num["pooling"] += seen.path == "/pooling"
        return reply({}, 503) if seen.path == "/pooling" and num["pooling"] <= 2 else honest(seen)

    num = Counter[str]()
    result, events, _ = in_run(busy)
    retried = [event for event in events if isinstance(event, Retried)]
    assert [event.wait_s for event in retried] == [0.001, 0.002]
    assert result.paid.requests == result.spent.requests + 2 == 14
    assert not any(math.isnan(score) for c in result.pool.candidates for score in c.scores.values())


def test_what_a_server_could_not_score_is_scored_by_the_next_start(tmp_path: Path) -> None:
    """A run whose server failed for a minute was finished for good, and chose by chance where it had no score."""
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(3))
    task = Task("words", problems, lambda q, t: t or None, lambda p, a: Score(0.0))
    is_up = False

    def answer(seen: Seen) -> bytes:
        is_fine = is_up or seen.path != "/pooling" or "word 1" not in str(seen.body)
        return honest(seen) if is_fine else reply({"error": "busy"}, 503)

    async def main() -> list[tuple[int, int]]:
        nonlocal is_up
        seen = []
        async with Script(answer).serving() as url:
            line = f"repeat(4, max_tokens=3) | best(reward_server({url!r}))"
            with Store(tmp_path / "s.db") as store:
                for is_up_now in (False, True, True):
                    is_up = is_up_now
                    summary = await run_task(task, recipe(line), Toy(3), store)
                    (run,) = store.runs()
                    scores = [s for r in store.records(run.id) for c in r.pool.candidates for s in c.scores.values()]
                    seen.append((summary.num_failed, sum(map(math.isnan, scores))))
                    assert summary.num_done == 3
        return seen

    (failed, unscored), *later = asyncio.run(main())
    assert failed > 0
    assert unscored == 4
    assert later == [(0, 0), (0, 0)]


def test_a_stored_run_is_scored_again_where_the_server_had_failed(tmp_path: Path) -> None:
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(3))
    task = Task("words", problems, lambda q, t: t or None, lambda p, a: Score(0.0))
    is_up = False

    def answer(seen: Seen) -> bytes:
        fails = seen.path == "/pooling" and "word 1" in str(seen.body) and not is_up
        return reply({"error": "busy"}, 503) if fails else honest(seen)

    def work(url: str) -> list[int]:
        nonlocal is_up
        num_unscored = []
        with Store(tmp_path / "s.db") as store:
            asyncio.run(run_task(task, recipe("repeat(4, max_tokens=3) | vote"), Toy(3), store))
            (run,) = store.runs()
            for is_up_now in (False, True):
                is_up = is_up_now
                choice = parse_choice(f"best(reward_server({url!r}))")  # of another process: nothing is cached
                redecide(store, run, choice.text)
                (name,) = choice.verifiers
                scores = [score for p in problems for score in store.scores(run.id, p.question.id)[name]]
                num_unscored.append(sum(map(math.isnan, scores)))
        return num_unscored

    assert served(answer, work)[0] == [4, 0]


def test_a_run_that_is_cancelled_does_not_wait_for_its_server() -> None:
    result, _, script = in_run(honest, cancel_after=1)
    assert len(script.seen) <= 3, "of twelve: it may be on its way when the run is cancelled"
    assert all(math.isnan(score) for c in result.pool.candidates for score in c.scores.values())


def test_misuse() -> None:
    assert isinstance(build("verifier", "reward_server('http://127.0.0.1:9', route='score')"), RewardServer)
    for words in ({"route": "guess"}, {"aggregate": "mean"}, {"aggregate": "min", "route": "score"}, {"timeout_s": 0}):
        with pytest.raises(ValueError):
            reward_server("http://127.0.0.1:9", **words)  # type: ignore[arg-type]
    with pytest.raises(SetupError, match="base_url"):
        reward_server("127.0.0.1:9")


def test_an_endpoint_without_such_a_route_says_so() -> None:
    """A server of completions alone."""
    with serving() as endpoint, pytest.raises(SetupError, match="status 404"):
        reward_server(endpoint.url, model="toy").score_all(PAIRS)
