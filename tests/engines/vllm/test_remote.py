"""The engine `vllm(url)` and the route it asks, over a real socket: whole asks, streams, faults, and who pays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from samplewise.core.errors import SetupError
from samplewise.core.registry import build
from samplewise.core.types import (
    Ask,
    Capability,
    Generate,
    Likelihood,
    Message,
    Problem,
    Question,
    RejectionBound,
    Sampling,
    Score,
    Usage,
)
from samplewise.engines.base import GROUP_SCOPE, Arrival
from samplewise.engines.http.transport.stream import StreamLimits, StreamTooLong, read_events
from samplewise.engines.toy import Toy
from samplewise.engines.vllm import vllm, wire
from samplewise.engines.vllm.remote import MAX_ASKS, _jobs
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.run import run_task
from samplewise.serve.upstreams import make_upstream
from samplewise.store.database import Store
from samplewise.tasks.base import Task

from .served import MarkedToy, Served, answers

T = TypeVar("T")
WANT = ("tokens", "logp", "logq")
PROMPT = (Message("user", "say a letter"),)
ASKS = [
    *(Generate(PROMPT, max_tokens=8, seed=i, want=WANT, sampling=Sampling(0.7, 2, 0.9)) for i in range(5)),
    Generate(PROMPT, (1, 0), Sampling(0.25), 8, seed=9, want=WANT, reject_below=RejectionBound(4.0, -2.0)),
    Generate(PROMPT, max_tokens=8, seed=9, want=("logz", "certainty"), exponents=(4.0, 0.5), forbid_first=1),
    Generate((*PROMPT, Message("assistant", "é \ud83d")), max_tokens=8, seed=3, stop=("b",)),
    Likelihood(PROMPT, (0, 1, 3)),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses before retries, and remove the user's key."""
    monkeypatch.setattr("samplewise.core.retry.BACKOFF_S", 0.001)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_whole_asks_come_back_as_from_the_engine_itself() -> None:
    async def go() -> None:
        toy = Toy()
        async with Served(toy) as served:
            engine = served.client()
            await engine.open()
            assert (engine.name, engine.identity, engine.can) == (toy.name, toy.identity, toy.can)
            assert engine.max_concurrency == toy.max_concurrency
            assert engine.notes == ()
            assert "wire format 1" in engine.runtime()["server"]
            mine, theirs = await answers(engine, ASKS), await answers(toy, ASKS)
            for one, other in zip(mine, theirs, strict=True):
                assert one.usage.seconds > 0
                assert repr(one._replace(usage=other.usage)) == repr(other)
                assert one.usage._replace(seconds=0.0) == other.usage
            await engine.close()

    run(go())


def test_settings_go_with_every_request() -> None:
    async def go() -> None:
        async with Served(Toy()) as served:
            engine = served.client(enable_thinking=False, template={"a": 1}, seeded=False)
            await engine.open()
            await answers(engine, ASKS[:1])
            assert served.settings == [wire.DrawSettings({"a": 1, "enable_thinking": False}, False)] * 2
            await engine.close()

    run(go())


def test_completions_come_as_they_are_drawn_and_closing_cancels_the_rest() -> None:
    async def go() -> None:
        toy = MarkedToy()
        toy.held = {1}
        asks = [Generate(PROMPT, seed=i, draw=i % 3) for i in range(3)]
        async with Served(toy) as served:
            engine = served.client()
            await engine.open()
            stream: Any = engine.answer(asks)
            assert [(await anext(stream)).position, (await anext(stream)).position] == [0, 2]
            await stream.aclose()
            for _ in range(500):
                if toy.num_cancelled:
                    break
                await asyncio.sleep(0.01)
            assert toy.num_cancelled == 1, "the server goes on drawing for nobody"
            assert toy.num_drawn == 2
            assert [engine.may_bill(ask) for ask in asks] == [False, True, False], "what was on the wire may cost"
            assert not engine.may_bill(asks[1]), "asked once"
            await engine.close()

    run(go())


NUM_QUESTIONS, NUM_DRAWS = 3, 8
TASK = Task(
    "say",
    tuple(Problem(Question(f"q{i}", (Message("user", f"say {i}"),)), "a") for i in range(NUM_QUESTIONS)),
    read=lambda question, text: text[-1:] or None,
    grade=lambda problem, answer: Score(float(answer == problem.reference)),
)
LINE = recipe(f"repeat({NUM_DRAWS}, max_tokens=6) | vote")


async def ran(toy: MarkedToy, plan: list[str], path: Path, budget: Budget = Budget()) -> Any:
    """Run the task twice with one store, and return the summaries, the marks in the pools and the server."""
    async with Served(toy, plan) as served:
        engine = served.client()
        with Store(path) as store:
            first = await run_task(TASK, LINE, engine, store, budget=budget)
            num_requests = served.num_requests
            again = await run_task(TASK, LINE, engine, store, budget=budget)
            assert served.num_requests == num_requests or budget != Budget()
            pools = [record.pool for record in store.records(first.run)]
        await engine.close()
    marks = [c.text.partition(">")[0] for pool in pools for c in pool.candidates]
    return first, again, marks, served


FREE = ("503", "")  # costs nothing; no fault
LOSING = ("cut 0", "cut 3", "reset", "garbage 2", "stranger 1", "error 4", "end 5", "500")


@pytest.mark.parametrize("fault", [*FREE, *LOSING, "twice 1"])
def test_nothing_is_lost_and_nothing_paid_twice(fault: str, tmp_path: Path) -> None:
    toy = MarkedToy()
    first, again, marks, served = run(ran(toy, [fault, "", fault], tmp_path / "s.db"))
    assert first.num_done == NUM_QUESTIONS
    assert first.num_failed == 0
    assert len(marks) == len(set(marks)) == NUM_QUESTIONS * NUM_DRAWS
    assert again.paid == Usage()
    assert not served.plan or served.plan == [fault]
    assert toy.num_tokens <= first.paid.tokens, "what the server drew is on the books"
    if fault in FREE or fault == "twice 1":
        assert toy.num_drawn == NUM_QUESTIONS * NUM_DRAWS
        assert toy.num_tokens == first.paid.tokens
    if fault == "503":
        assert first.paid.requests == NUM_QUESTIONS * NUM_DRAWS


@pytest.mark.parametrize("fault", ["", "cut 1", "500", "503"])
def test_a_budget_holds_by_the_server_s_own_books(fault: str, tmp_path: Path) -> None:
    """A prompt that was never counted is charged its upper bound, and so is what is lost."""
    toy = MarkedToy()
    first, *_ = run(ran(toy, [fault, "", fault], tmp_path / "s.db", Budget(tokens=900)))
    assert toy.num_tokens <= first.paid.tokens <= 900
    assert first.paid.tokens > 0


def test_a_server_that_comes_back_is_waited_for() -> None:
    async def go() -> None:
        toy = MarkedToy()
        async with Served(toy) as served:
            engine = served.client(patience_s=20.0)
            await engine.open()
            url = served.url
        again = Served(toy)
        asking = asyncio.create_task(answers(engine, ASKS[:3]))
        await asyncio.sleep(0.05)
        assert not asking.done()
        port = int(url.rpartition(":")[2])
        from aiohttp import web

        async with again:
            site = web.TCPSite(again._runner, "127.0.0.1", port)
            await site.start()
            drawn = await asking
        assert [completion.failure for completion in drawn] == [None] * 3
        assert toy.num_drawn == 3
        await engine.close()

    run(go())


def test_a_server_that_stays_away_ends_the_run_in_one_sentence() -> None:
    async def go() -> None:
        async with Served(Toy()) as served:
            engine = served.client(patience_s=0.05)
            await engine.open()
        with pytest.raises(SetupError, match=r"cannot be reached.*nothing was answered for .* resume"):
            await answers(engine, ASKS[:3])
        assert not any(engine.may_bill(ask) for ask in ASKS[:3])
        await engine.close()

    run(go())


def test_a_refused_request_is_not_charged() -> None:
    async def go() -> None:
        async with Served(Toy(), ["400"]) as served, served.opened() as engine:
            (completion,) = await answers(engine, ASKS[:1])
            assert completion.failure is not None
            assert (completion.failure.kind, completion.failure.retryable) == ("BadRequest", False)
            assert completion.usage == Usage(requests=1)
            assert not engine.may_bill(ASKS[0])

    run(go())


def test_a_lost_draw_is_charged_at_its_worst_case_and_said() -> None:
    async def go() -> None:
        async with Served(Toy(), ["cut 1"]) as served, served.opened() as engine:
            drawn = await answers(engine, ASKS[:3])
            assert [completion.failure is None for completion in drawn].count(True) == 1
            lost = [position for position, completion in enumerate(drawn) if completion.failure]
            for position in lost:
                assert drawn[position].usage == engine.worst_case(ASKS[position])
                failure = drawn[position].failure
                assert failure is not None
                assert failure.retryable
                assert "broke off with 2 of 3 draws missing" in failure.message
            assert "2 draws may have been computed without an answer: charged in full" in engine.notes

    run(go())


class Raising(MarkedToy):
    """An engine that breaks after its first draw, whose text repeats a credential."""

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        yield Arrival(0, self.one(asks[0])._replace(text="it is a secret key"))
        raise RuntimeError("a made-up fault")


def test_an_engine_that_breaks_is_told_of_and_no_credential_comes_back() -> None:
    async def go() -> None:
        async with Served(Raising(), key="a secret key") as served:
            engine = served.client(api_key="a secret key")
            await engine.open()
            first, second = await answers(engine, ASKS[:2])
            assert first.text == "it is ***"
            assert second.failure is not None
            assert "RuntimeError: a made-up fault" in second.failure.message
            assert second.usage == engine.worst_case(ASKS[1])
            await engine.close()

    run(go())


@pytest.mark.parametrize(
    ("pieces", "ends"),
    [
        ((b"data: {}\n\nda", b'ta: {"a": 1}\r\n: still\n', b"data: [DONE]\n"), {}),
        ((b"data: {}\n\n", b'data: {"a": 1}\n'), None),
        ((b"data: {}\n", b'data: {"a": 1}\n', b"data: {half\n", b"data: [DONE]\n"), None),
        ((b"data: {}\n", b'data: {"a": 1}\n', b"data: ", b"x" * 40, b"x" * 40), StreamTooLong),
        ((b"data: {}\n", b'data: {"a": 1}\n', *[b": still\n"] * 20), TimeoutError),
    ],
)
def test_events_are_heard_as_they_come_and_a_stream_has_limits(pieces: tuple[bytes, ...], ends: Any) -> None:
    """Every piece takes a second. Nothing but comments for ten, or a line of more than 64 bytes, is not read on."""
    events: list[Any] = []
    seconds = iter(range(100))

    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    async def go() -> Any:
        limits = StreamLimits(64, 9, 10.0)
        return await read_events(stream(), limits, lambda: float(next(seconds)), events.append)

    if isinstance(ends, type):
        with pytest.raises(ends):
            run(go())
    else:
        assert run(go()) == ends
    assert events == [{}, {"a": 1}]


def test_the_worst_case_is_a_bound_and_then_exact() -> None:
    async def go() -> None:
        toy = Toy()
        async with Served(toy) as served:
            engine = served.client()
            await engine.open()
            ask = ASKS[5]
            bound = engine.worst_case(ask)
            assert bound.prompt_tokens > toy.worst_case(ask).prompt_tokens
            await answers(engine, [ask])
            assert engine.worst_case(ask) == toy.worst_case(ask)
            assert engine._facts is not None
            engine._facts = engine._facts._replace(max_context=9)
            assert engine.worst_case(ask).completion_tokens == 9 - toy.worst_case(ask).prompt_tokens
            await engine.close()

    run(go())


def test_money_is_counted_where_a_price_is_known() -> None:
    async def go() -> None:
        async with Served(Toy()) as served:
            engine = served.client(price=(2.0, 1.0, 10.0))
            await engine.open()
            (drawn,) = await answers(engine, ASKS[:1])
            expected = (2.0 * drawn.usage.prompt_tokens + 10.0 * drawn.usage.completion_tokens) / 1e6
            assert drawn.usage.usd == pytest.approx(expected)
            await engine.close()
            far = vllm("https://example.com")
            assert "its price is unknown, so money is not counted: give price=" in far.notes

    run(go())


def refusal(served: Served, **settings: Any) -> str:
    async def go() -> str:
        async with served:
            engine = served.client(**settings)
            try:
                await engine.open()
                await answers(engine, ASKS[:2])
            except SetupError as error:
                return str(error)
            finally:
                await engine.close()
        return ""

    return run(go())


def test_a_server_of_another_version_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either end notices: here the client, whose word the server has refused."""
    decode, encode = wire.decode_describe, wire.encode_facts
    with monkeypatch.context() as patch:
        patch.setattr(wire, "encode_facts", lambda facts: {**encode(facts), "wire": 2, "new": 1})
        why = refusal(Served(Toy()))
    sentence = "speaks version 2 of the wire format and this samplewise version 1: install the same release"
    assert sentence in why
    with monkeypatch.context() as patch:
        patch.setattr(wire, "decode_describe", lambda body: decode({**body, "wire": 2}))
        patch.setattr("samplewise.engines.vllm.route._reply", _newer_reply)
        assert sentence in refusal(Served(Toy()))


async def _newer_reply(send: Any, status: int, body: Any) -> None:
    from samplewise.engines.vllm.route import _start

    await _start(send, status, "application/json")
    import json

    await send({"type": "http.response.body", "body": json.dumps({**body, "wire": 2}).encode()})


def test_a_wrong_key_a_server_of_vllm_alone_and_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "give api_key=, or set VLLM_API_KEY" in refusal(Served(Toy(), key="a secret key"))
    assert refusal(Served(Toy(), key="a secret key"), api_key="a secret key") == ""
    monkeypatch.setenv("VLLM_API_KEY", "a secret key")
    assert refusal(Served(Toy(), key="a secret key")) == ""

    async def elsewhere() -> None:
        async with Served(Toy()) as served:
            engine = vllm(f"{served.url}/other")
            with pytest.raises(SetupError, match=r"no route of samplewise.*samplewise vllm MODEL"):
                await engine.open()
            await engine.close()
            engine = served.client()
            await engine.open()
            served.engine = Toy(4)
            with pytest.raises(SetupError, match=r"this server runs toy\(4.*not toy\(3"):
                await answers(engine, ASKS[:1])
            await engine.close()

    run(elsewhere())


def test_groups_of_two_clients_are_told_apart_and_never_cut() -> None:
    explored = Sampling(explore="css")
    group = [Generate(PROMPT, seed=i, sampling=explored, group="g", group_size=300, draw=i) for i in range(300)]
    plain = [Generate(PROMPT, seed=i) for i in range(600)]
    sizes = [len(job.asks) for job in _jobs([*plain[:200], *group, *plain])]
    assert sizes == [500, MAX_ASKS, MAX_ASKS, 88]

    async def go() -> None:
        toy = MarkedToy()
        async with Served(toy) as served:
            for _ in range(2):
                engine = served.client()
                await engine.open()
                await answers(engine, [*group[:3], plain[0]])
                await engine.close()
        names = [ask.group for ask in toy.asked if isinstance(ask, Generate)]
        assert len(set(names[:3])) == len(set(names[4:7])) == 1
        assert names[0] != names[4]
        assert names[0].endswith(f"{GROUP_SCOPE}g")
        assert names[3] == names[7] == ""

    run(go())


def test_what_a_client_is_told_of_its_group_has_its_own_name() -> None:
    from samplewise.core.errors import BadRequest
    from samplewise.engines.base import failed
    from samplewise.engines.vllm.route import _unscoped

    told = _unscoped(failed(BadRequest(f"group {f'me{GROUP_SCOPE}g'!r} is gone, {f'me{GROUP_SCOPE}g'}")), "me")
    assert told.failure is not None
    assert told.failure.message == "group 'g' is gone, g"


def test_a_group_s_name_alone_seeds_its_policy() -> None:
    """Behind the name of a client it draws what it draws without."""
    pytest.importorskip("torch", reason="the local engine's extra is not installed")

    async def go() -> None:
        engine = build("engine", "tiny")
        prompt = (Message("user", "make 24 from 4 6 7 8"),)
        ask = Generate(prompt, max_tokens=20, want=("tokens",), sampling=Sampling(explore="css"))
        drawn = []
        for name in ("g", f"client{GROUP_SCOPE}g", "h"):
            asks = [ask._replace(seed=i, group=name, group_size=4, draw=i) for i in range(4)]
            drawn.append([completion.tokens for completion in await answers(engine, asks)])
        assert drawn[0] == drawn[1] != drawn[2]
        await engine.close()

    run(go())


def test_options_are_for_one_of_the_two_forms() -> None:
    for spec, why in (
        ("vllm('http://127.0.0.1:8000', max_num_seqs=4)", "leave out max_num_seqs, or restart it with it"),
        ("vllm('http://127.0.0.1:8000', in_process=True)", "leave out in_process"),
        ("vllm('tiny', api_key='abc')", "api_key is for a server"),
        ("vllm('tiny', price=(1.0, 2.0))", "price is for a server"),
    ):
        with pytest.raises(SetupError, match=why):
            build("engine", spec)
    engine = build("engine", "vllm:http://127.0.0.1:8000/")
    assert engine.client.shown == "http://127.0.0.1:8000/v1"
    assert engine.can == {Capability.GENERATE}
    assert make_upstream("vllm('http://127.0.0.1:8000')").name == "vllm"


def test_a_body_that_is_no_request_is_refused() -> None:
    import aiohttp

    async def go() -> None:
        async with Served(Toy()) as served, aiohttp.ClientSession() as session:
            for data, why in ((b"{", "no JSON"), (b"[]", "needs an object"), (b"{}", "version None")):
                for path in (wire.DESCRIBE_PATH, wire.ANSWER_PATH):
                    async with session.post(f"{served.url}/v1/{path}", data=data) as reply:
                        body = await reply.json()
                        assert reply.status == 400
                        assert why in body["error"]["message"]
                        assert body["wire"] == wire.WIRE

    run(go())


def test_signs_of_life_come_while_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause longer than what the client waits for a sign of life."""
    monkeypatch.setattr("samplewise.engines.vllm.route.KEEP_ALIVE_S", 0.02)
    monkeypatch.setattr("samplewise.engines.vllm.remote.IDLE_TIMEOUT_S", 0.5)

    async def go(timeout_s: float) -> Any:
        toy = MarkedToy()
        toy.held = {0}
        async with Served(toy) as served:
            engine = served.client(timeout_s=timeout_s)
            await engine.open()
            asyncio.get_running_loop().call_later(1.0, toy.gate.set)
            drawn = await answers(engine, [Generate(PROMPT, seed=1)])
            await engine.close()
            return drawn[0]

    assert run(go(60.0)).failure is None
    late = run(go(0.3))
    assert late.failure.kind == "EngineTimeout"
    assert late.usage.completion_tokens == 256
