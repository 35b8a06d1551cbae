"""The http engine against the faulty endpoint: n, seeds, costs, retries, replicas, and its notes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.support.script import Script, Seen, completion, reply

from samplewise.core.errors import AuthError, BadInput, EngineUnavailable, SetupError, Unsupported
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Capability, Completion, Generate, Likelihood, Message, Question, Sampling
from samplewise.engines.distribution import draw_log_probs
from samplewise.engines.http import http
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.engine import HttpEngine
from samplewise.loop.context import RunContext
from samplewise.loop.drive import check_recipe, run_question
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.testing.endpoint import Endpoint, EndpointSettings

PROMPT = (Message("user", "spell a word"),)
EVERYTHING = Profile(
    n=True,
    seed=True,
    logprobs=True,
    token_ids_out=True,
    token_ids_in=True,
    likelihood=True,
    tokenize=True,
    raw_logprobs=True,
)


def asks(num: int, messages: tuple[Message, ...] = PROMPT, **fields: Any) -> list[Generate]:
    ask = Generate(messages, max_tokens=30)._replace(**fields)
    return [ask._replace(seed=1000 + 7 * i, draw=i) for i in range(num)]


async def answered(engine: HttpEngine, wanted: Sequence[Ask]) -> list[Completion]:
    """Return every completion, in the order of the asks; each position must come once."""
    await engine.open()
    arrivals = [arrival async for arrival in engine.answer(wanted)]
    assert sorted(arrival.position for arrival in arrivals) == list(range(len(wanted)))
    return [arrival.completion for arrival in sorted(arrivals)]


def with_endpoint(settings: EndpointSettings, use: Any, **options: Any) -> tuple[Any, Endpoint]:
    """Return what `use(engine, endpoint)` gives."""
    endpoint = Endpoint(settings)

    async def go() -> Any:
        async with endpoint as url:
            engine = http("toy", base_url=url, **{"probe": "never", **options})
            try:
                return await use(engine, endpoint)
            finally:
                await engine.close()

    return run(go()), endpoint


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 120))  # what hangs is ended, and nothing that is only slow


async def scripted(script: Script, wanted: Sequence[Ask], **options: Any) -> list[Completion]:
    async with script.serving() as url:
        engine = http("m", base_url=url, **{"probe": "never", "n": "never", **options})
        try:
            return await answered(engine, wanted)
        finally:
            await engine.close()


def with_script(script: Any, use: Any) -> Any:
    """Return what `use(engine, script)` gives."""

    async def go() -> Any:
        async with script.serving() as url:
            engine = http("m", base_url=url, probe="never", n="never")
            try:
                return await use(engine, script)
            finally:
                await engine.close()

    return run(go())


class Held(Script):
    """Answer nothing until released, then everything."""

    def __init__(self) -> None:
        super().__init__(self._held)
        self._released = asyncio.Event()

    async def _held(self, seen: Seen) -> bytes:
        await self._released.wait()
        return reply(completion("x"))

    async def arrived(self, num: int) -> None:
        while len(self.seen) < num:
            await asyncio.sleep(0.001)

    def release(self) -> None:
        self._released.set()


class InRounds(Script):
    """Answer in rounds of given sizes: no reply before all requests of a round have arrived. Later requests are
    answered after a moment. Every reply is a letter that depends on the seed alone."""

    def __init__(self, rounds: Sequence[int]) -> None:
        super().__init__(self._in_rounds)
        self._rounds = list(rounds)
        self._complete = asyncio.Event()
        self._num_waiting = self._in_flight = self.most_in_flight = 0

    async def _in_rounds(self, seen: Seen) -> bytes:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self._in_flight)
        if self._rounds:
            complete = self._complete
            self._num_waiting += 1
            if self._num_waiting == self._rounds[0]:
                self._rounds, self._num_waiting, self._complete = self._rounds[1:], 0, asyncio.Event()
                complete.set()
            await complete.wait()
        else:
            await asyncio.sleep(0.02)
        self._in_flight -= 1
        return reply(completion("abc"[seen.body["seed"] % 3] * 4))


def drawn(
    settings: EndpointSettings, wanted: Sequence[Ask], **options: Any
) -> tuple[list[Completion], Endpoint, HttpEngine]:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> tuple[list[Completion], HttpEngine]:
        return await answered(engine, wanted), engine

    (completions, engine), endpoint = with_endpoint(settings, use, **options)
    return completions, endpoint, engine


# --- n and seeds ------------------------------------------------------------------------------------------------------


def test_draws_of_one_prompt_share_a_request_and_its_prompt_is_billed_once() -> None:
    done, endpoint, engine = drawn(EndpointSettings(marks=True), [*asks(10), *asks(3, (Message("user", "another"),))])
    assert endpoint.tally.requests == 2
    assert len({c.text.partition("\n")[0] for c in done}) == 13
    assert sum(c.usage.completion_tokens for c in done) == endpoint.tally.completion_tokens
    assert sum(c.usage.prompt_tokens - c.usage.cached_tokens for c in done) == endpoint.tally.prompt_tokens
    assert engine.profile.n is True
    assert engine.notes == ()


def test_a_request_asks_for_at_most_max_n_draws() -> None:
    tally = drawn(EndpointSettings(), asks(10), max_n=4)[1].tally
    assert (tally.requests, tally.draws) == (3, 10)


@pytest.mark.parametrize("more", [{"reject_below": (4.0, -3.0)}, {"forbid_first": 1}, {"want": ("logz",)}])
def test_a_cached_template_does_not_hide_what_is_unsupported(more: dict[str, Any]) -> None:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        await answered(engine, asks(2))
        with pytest.raises(Unsupported):
            await answered(engine, asks(2, **more))

    assert with_endpoint(EndpointSettings(), use, n="never")[1].tally.draws == 2


def test_concurrency_grows_without_overload() -> None:
    """The limit doubles with every round of successes, from 16 to the maximum. No reply of a round is sent before all
    of its requests have arrived, and a round that is smaller than it should be never ends."""
    rounds = [16, 32, 64, 100, 28]
    script = InRounds(rounds)
    done = run(scripted(script, asks(sum(rounds)), max_concurrency=100))
    assert [c.failure for c in done] == [None] * sum(rounds)
    assert script.most_in_flight == 100


@pytest.mark.parametrize(
    "settings", [EndpointSettings(marks=True, ignores=("n",)), EndpointSettings(marks=True, refuses=("n",))]
)
def test_where_n_is_ignored_or_refused_every_draw_is_a_request(settings: EndpointSettings) -> None:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> int:
        first = await answered(engine, asks(8))
        before = endpoint.tally.requests
        second = await answered(engine, asks(8))
        assert len({c.text for c in [*first, *second]}) == 16
        return endpoint.tally.requests - before

    requests, endpoint = with_endpoint(settings, use, max_n=8)
    assert requests == 8, "it is learned once"
    assert endpoint.tally.draws == 16


@pytest.mark.parametrize("fault", ["more", "fewer", "shuffled", "same index"])
def test_choices_are_counted_never_trusted(fault: str) -> None:
    done, endpoint, engine = drawn(EndpointSettings(marks=True, plan=(fault,)), asks(6))
    assert len({c.text for c in done}) == 6
    assert all(c.failure is None for c in done)
    assert sum(c.usage.completion_tokens for c in done) == endpoint.tally.completion_tokens, "dropped ones too"
    assert (engine.notes == ()) == (fault == "shuffled")


def test_without_n_a_draw_follows_from_its_seed_alone() -> None:
    alone = [drawn(EndpointSettings(), [ask], probe=EVERYTHING, n="never")[0][0].text for ask in asks(6)]
    done, endpoint, engine = drawn(EndpointSettings(), asks(6)[::-1], probe=EVERYTHING, n="never")
    assert [c.text for c in done][::-1] == alone
    assert len(set(alone)) > 1
    assert endpoint.tally.requests == 6
    assert Capability.SEED in engine.can
    assert Capability.SEED not in http("m", base_url="http://127.0.0.1:1", probe=EVERYTHING).can


def test_a_frozen_seed_is_detected() -> None:
    long = EndpointSettings(vocab=25, seed=1)  # whose frozen draw has 49 tokens
    _, _, honest = drawn(long, asks(8, max_tokens=60), probe=EVERYTHING, n="never")
    _, _, engine = drawn(replace(long, frozen=True), asks(8, max_tokens=60), probe=EVERYTHING, n="never")
    assert honest.profile.frozen_seed is None
    assert honest.notes == ()
    assert "8 of 8 draws" in engine.notes[-1]
    assert engine.profile.frozen_seed is None, "a cache may be gone tomorrow, so this is not remembered"
    assert Capability.SEED not in engine.can


def test_a_stream_brings_the_same_draws() -> None:
    plain, _, _ = drawn(EndpointSettings(), asks(5), n="never")
    streamed, _, _ = drawn(EndpointSettings(), asks(5), n="never", stream=True)
    assert [c.text for c in streamed] == [c.text for c in plain]
    assert [c.usage[:5] for c in streamed] == [c.usage[:5] for c in plain]


# --- costs ------------------------------------------------------------------------------------------------------------


def test_the_worst_case_is_exact_once_the_prompt_was_counted() -> None:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        (ask,) = asks(1)
        assert engine.worst_case(ask).prompt_tokens > len("spell a word")
        (done,) = await answered(engine, [ask])
        assert engine.worst_case(ask)[:3] == (1, done.usage.prompt_tokens, 30)
        assert engine.worst_case(ask._replace(prefix=(1, 2))).prompt_tokens == done.usage.prompt_tokens + 2

    with_endpoint(EndpointSettings(), use)


def test_money_is_what_was_billed_and_unknown_where_no_price_is() -> None:
    done, endpoint, _ = drawn(EndpointSettings(), asks(4), price=(1.0, 0.5, 4.0))
    billed = endpoint.tally.prompt_tokens * 1.0 + endpoint.tally.completion_tokens * 4.0
    assert math.fsum(c.usage.usd for c in done) == pytest.approx(billed / 1e6)
    (ask,) = asks(1)
    assert http("m", base_url="http://127.0.0.1:1").worst_case(ask).usd == 0.0
    unpriced = http("m", base_url="https://example.com/v1").worst_case(ask)
    assert math.isnan(unpriced.usd)
    assert not Budget(usd=100.0).admits(unpriced)
    assert Budget(requests=1).admits(unpriced)


def test_a_note_says_that_money_is_not_counted() -> None:
    assert any("price" in note for note in http("m", base_url="https://example.com/v1").notes)
    assert http("m", base_url="https://example.com/v1", price=(0.0, 0.0, 0.0)).notes == ()
    assert http("m", base_url="http://127.0.0.1:1/v1").notes == (), "a server on this machine costs nothing"


@pytest.mark.parametrize("fault", ["500", "502", "504", "half", "cut before", "cut middle", "html", "error 200"])
def test_what_may_have_been_billed_is_charged_in_full(fault: str) -> None:
    done, endpoint, engine = drawn(EndpointSettings(plan=(fault,)), asks(3))
    for ask, c in zip(asks(3), done, strict=True):
        assert c.finish == "error"
        assert c.failure is not None
        assert c.failure.retryable
        assert c.usage == engine.worst_case(ask)
    assert endpoint.tally.tokens <= sum(c.usage.tokens for c in done)
    assert "charged in full" in engine.notes[-1]


@pytest.mark.parametrize("fault", ["429", "429 date", "503"])
def test_what_was_rejected_is_sent_again_and_costs_nothing(fault: str) -> None:
    done, endpoint, engine = drawn(EndpointSettings(plan=(fault,), retry_after_s=0.01), asks(1))
    assert [c.failure for c in done] == [None]
    assert endpoint.tally.requests == 2
    assert done[0].usage.tokens == endpoint.tally.tokens
    assert engine.notes == ()


def test_a_rejection_with_status_200_is_one_too() -> None:
    answers = iter([{"error": {"message": "slow down", "code": 429}}, completion("x")])
    script = Script(lambda seen: reply(next(answers)))
    (done,) = run(scripted(script, asks(1)))
    assert done.failure is None
    assert len(script.seen) == 2


def test_without_patience_a_rejection_is_the_failure_of_its_ask() -> None:
    done, _, _ = drawn(EndpointSettings(faults={"429": 1.0}, retry_after_s=60), asks(2), patience_s=0, n="never")
    assert [(c.failure.kind, c.failure.retryable) for c in done if c.failure] == [("RateLimited", False)] * 2
    assert all(c.usage.tokens == 0 for c in done)
    assert done[0].failure is not None
    assert done[0].failure.retry_after_s == 60


def test_an_unreachable_endpoint_that_comes_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]

    async def go(patience_s: float, comes: bool) -> list[Completion]:
        engine = http("toy", base_url=f"http://127.0.0.1:{port}/v1", probe="never", patience_s=patience_s)
        waiting = asyncio.create_task(answered(engine, asks(3, draw=0)))
        try:
            async with contextlib.AsyncExitStack() as stack:
                if comes:
                    while not engine._router.replicas[0].resumes_at > 0:
                        await asyncio.sleep(0.005)
                    await stack.enter_async_context(Endpoint(EndpointSettings(), port))
                return await waiting
        finally:
            await engine.close()

    refused = run(go(0.0, False))
    assert [(c.failure.kind, c.usage.tokens) for c in refused if c.failure] == [("EngineUnavailable", 0)] * 3
    assert [c.failure for c in run(go(20.0, True))] == [None] * 3


# --- room -------------------------------------------------------------------------------------------------------------


def test_max_concurrency_is_a_guess_within_the_limit_for_each_replica() -> None:
    def max_concurrency(urls: str, **options: Any) -> int:
        return http("m", base_url=urls, probe="never", **options).max_concurrency

    assert max_concurrency("http://127.0.0.1:1/v1") == 32
    assert max_concurrency("http://127.0.0.1:1/v1,http://127.0.0.1:2/v1") == 64
    assert max_concurrency("http://127.0.0.1:1/v1,http://127.0.0.1:2/v1", max_concurrency=5) == 10


def test_free_slots_are_the_limits_less_open_asks_and_promises() -> None:
    async def use(engine: HttpEngine, script: Held) -> list[int]:
        now = [0.0]
        engine._clock = lambda: now[0]
        slots = [
            engine.free_slots(),
            engine.free_slots(),
        ]  # 16 at first; whoever asks in the same moment gets none
        now[0] += 1.0
        slots.append(engine.free_slots())  # whoever was slots has sent nothing
        waiting = asyncio.ensure_future(answered(engine, asks(10)))
        await script.arrived(10)
        now[0] += 1.0
        slots.append(engine.free_slots())
        script.release()
        await waiting
        now[0] += 1.0
        slots.append(engine.free_slots())
        return slots

    assert with_script(Held(), use) == [16, 0, 16, 6, 16]


def test_asks_use_up_promised_slots() -> None:
    """Six of sixteen come at once: the others' ten remain promised, and none of the six counts twice."""

    async def use(engine: HttpEngine, script: Held) -> list[int]:
        engine._clock = lambda: 0.0
        slots = [engine.free_slots()]
        waiting = asyncio.ensure_future(answered(engine, asks(6)))
        await script.arrived(6)
        slots.append(engine.free_slots())
        script.release()
        await waiting
        slots.append(engine.free_slots())
        return slots

    assert with_script(Held(), use) == [16, 0, 6]


def test_free_slots_of_a_paused_replica_and_after_a_closed_call() -> None:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> list[int]:
        engine._router.replicas[0].gate.pace.record_overload(0.0, time.monotonic(), 3600.0)
        slots = [engine.free_slots()]
        engine._router.replicas[0].gate.pace.resumes_at = 0.0
        arrivals = engine.answer(asks(8))
        first = asyncio.ensure_future(anext(arrivals))  # type: ignore[arg-type]
        while endpoint.tally.in_flight < 8:
            await asyncio.sleep(0.001)
        slots.append(engine.free_slots())
        first.cancel()
        await asyncio.wait({first})
        await arrivals.aclose()  # type: ignore[attr-defined]
        return [*slots, engine.free_slots()]

    slots, _ = with_endpoint(EndpointSettings(latency_ms=600_000), use, n="never")
    assert slots == [0, 0, 8], "half of sixteen after an overload signal; all eight are taken, and given back"


def test_drawing_ahead_fills_free_slots_and_changes_no_result() -> None:
    """The rule needs three draws, and then a few at a time."""

    def solved(ahead: str, rounds: Sequence[int]) -> tuple[Any, int]:
        async def use(engine: HttpEngine, script: InRounds) -> tuple[Any, int]:
            line = recipe(f"repeat(15, max_tokens=4) | until(lead(3), ahead={ahead}) | vote")
            result = await run_question(
                Question("q", PROMPT), line, RunContext(engine), Key(0), read=lambda question, text: text[:1]
            )
            return result, script.most_in_flight

        return with_script(InRounds(rounds), use)

    (plain, one), (ahead, most) = solved("0", []), solved("idle", [15])
    assert len(plain.pool.candidates) > 4, "it takes more than one wave"
    assert [c.text for c in ahead.pool.candidates] == [c.text for c in plain.pool.candidates]
    assert ahead.answer == plain.answer
    assert one <= 3
    assert most == 15


# --- cancelling -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_closing_the_iterator_closes_the_connections_and_leaves_nothing_running(stream: bool) -> None:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        await engine.open()
        before = asyncio.all_tasks()
        arrivals = engine.answer(asks(40))
        first = asyncio.ensure_future(anext(arrivals))  # type: ignore[arg-type]
        while endpoint.tally.in_flight < 16:
            await asyncio.sleep(0.001)
        first.cancel()
        await asyncio.wait({first})
        await arrivals.aclose()  # type: ignore[attr-defined]
        assert asyncio.all_tasks() == before
        while endpoint.tally.in_flight:
            await asyncio.sleep(0.001)
        gate = engine._router.replicas[0].gate
        assert (gate.in_flight, gate.load) == (0, 0)

    _, endpoint = with_endpoint(EndpointSettings(latency_ms=600_000), use, n="never", stream=stream)
    assert endpoint.tally.aborted == endpoint.tally.disconnects == 16, "as many as were sent at first"
    assert endpoint.tally.draws == 0


# --- what an endpoint refuses -----------------------------------------------------------------------------------------


def test_refused_parameters_are_left_out_from_then_on() -> None:
    refused = ("top_k", "min_p", "repetition_penalty", "max_tokens", "seed", "top_p")

    async def use(engine: HttpEngine, endpoint: Endpoint) -> int:
        assert all(c.failure is None for c in await answered(engine, asks(12)))
        before = endpoint.tally.requests
        assert all(c.failure is None for c in await answered(engine, asks(12)))
        assert engine.profile.max_tokens_field == "max_completion_tokens"
        return endpoint.tally.requests - before

    again, _ = with_endpoint(EndpointSettings(refuses=refused), use, n="never")
    assert again == 12


def test_a_temperature_that_the_recipe_asks_for_is_not_dropped() -> None:
    done, _, engine = drawn(EndpointSettings(refuses=("temperature",)), asks(2))
    assert all(c.failure is None for c in done)
    assert any("temperature" in note for note in engine.notes)
    with pytest.raises(Unsupported, match=r"temperature=0\.5"):
        drawn(EndpointSettings(refuses=("temperature",)), asks(2, sampling=Sampling(temperature=0.5)))


@pytest.mark.parametrize("trait", [{"ignores": ("stop",)}, {"refuses": ("stop",)}])
def test_a_response_ends_at_its_stop_string(trait: dict[str, Any]) -> None:
    honest, _, _ = drawn(EndpointSettings(), asks(8, stop=("b",)), n="never")
    cut, _, _ = drawn(EndpointSettings(**trait), asks(8, stop=("b",)), n="never")
    assert [(c.text, c.finish) for c in cut] == [(c.text, c.finish) for c in honest]


def test_fewer_tokens_are_asked_for_where_the_context_ends() -> None:
    says = "This model's maximum context length is 40 tokens and your request has 10 input tokens."

    def answer(seen: Any) -> bytes:
        fits = seen.body["max_tokens"] <= 30
        return reply(completion("x")) if fits else reply({"error": {"message": says}}, 400)

    script = Script(answer)
    done = run(scripted(script, asks(1, max_tokens=50)))
    assert [c.failure for c in done] == [None]
    assert [body["max_tokens"] for body in script.bodies] == [50, 30]
    full = Script(lambda seen: reply({"error": {"message": says.replace("10 input", "40 input")}}, 400))
    (failed,) = run(scripted(full, asks(1, max_tokens=50)))
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.retryable, failed.usage.tokens) == ("ContextOverflow", False, 0)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "BadRequest"),
        (413, "ContextOverflow"),
        (422, "BadRequest"),
    ],
)
def test_errors_have_a_kind_and_the_servers_message(status: int, kind: str) -> None:
    script = Script(lambda seen: reply({"error": {"message": "no\nway"}}, status))
    (failed,) = run(scripted(script, asks(1), api_key="sk-secret"))
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.retryable) == (kind, False)
    assert f"answered {status}: no way" in failed.failure.message
    assert "\n" not in failed.failure.message
    assert failed.usage.tokens == 0
    assert len(script.seen) == 1


def test_the_key_is_nowhere() -> None:
    key = "sk-very-secret"

    async def go() -> str:
        script = Script(lambda seen: reply({"error": {"message": f"bad key {key}"}}, 401))
        async with script.serving() as url:
            engine = http("m", base_url=url.replace("http://", f"http://me:{key}@"), api_key=key, probe="never")
            with pytest.raises(SetupError) as done:
                await answered(engine, asks(1))
            await engine.close()
            assert script.seen[0].headers["authorization"]
            return f"{engine!r} {engine.name} {engine.identity} {engine.notes} {done.value!r} {engine.profile}"

    assert key not in run(go())


# --- replicas, models, opening ----------------------------------------------------------------------------------------


def test_prompts_are_spread_over_replicas_and_a_dead_one_is_skipped() -> None:
    prompts = [(Message("user", f"question {i}"),) for i in range(12)]
    wanted = [ask for messages in prompts for ask in asks(3, messages)]

    async def go() -> None:
        one, other = Endpoint(EndpointSettings(marks=True)), Endpoint(EndpointSettings(marks=True))
        async with one as first:
            async with other as second:
                engine = http("toy", base_url=f"{first}, {second}", probe="never")
                assert engine.identity == f"http:toy:chat@{first}"
                assert all(c.failure is None for c in await answered(engine, wanted))
                counts = one.tally.requests, other.tally.requests
                assert sum(counts) == 12, "the draws of a prompt went to one replica together"
                assert min(counts) >= 1
            await asyncio.sleep(0.1)  # until its end is heard of
            done = await answered(engine, wanted)
            assert [c.failure for c in done if c.failure] == [], "the second replica is gone"
            await engine.close()

    run(go())


def test_the_only_model_is_found_and_of_several_one_must_be_named() -> None:
    def listing(*names: str) -> Script:
        return Script(lambda seen: reply({"data": [{"id": name} for name in names]}))

    async def opened(script: Script) -> HttpEngine:
        async with script.serving() as url:
            engine = http(base_url=url, probe="never")
            try:
                await engine.open()
                return engine
            finally:
                await engine.close()

    assert run(opened(listing("only"))).name == "http(only)"
    with pytest.raises(SetupError, match="serves 2 models, name one of them: a, b"):
        run(opened(listing("b", "a")))
    with pytest.raises(AuthError, match="give api_key="):
        run(opened(Script(lambda seen: reply({"error": {"message": "who?"}}, 401))))
    with pytest.raises(EngineUnavailable, match="name one"):
        run(opened(Script(lambda seen: reply({}, 404))))


def test_what_the_probe_found_is_kept_and_what_is_learned_too() -> None:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> tuple[int, HttpEngine]:
        await asyncio.gather(engine.open(), engine.open())
        probed = endpoint.tally.requests
        again = http("toy", base_url=endpoint.url)
        await again.open()
        assert endpoint.tally.requests == probed, "the second engine reads it from the cache"
        await again.close()
        return probed, again

    (probed, engine), _ = with_endpoint(EndpointSettings(), use, probe="auto")
    assert 0 < probed <= 12
    assert {Capability.LOGP, Capability.TOKENS, Capability.PREFIX, Capability.LIKELIHOOD} <= engine.can


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api": "grpc"}, "api must be"),
        ({"n": 4}, "n must be"),
        ({"max_n": 0}, "max_n must be"),
        ({"timeout_s": 0}, "timeout_s must be"),
        ({"price": (1.0,)}, "price must be"),
        ({"api": "completions", "probe": Profile()}, "the profile is for api"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        http("m", base_url="http://127.0.0.1:1", **options)


def test_an_endpoint_must_be_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with pytest.raises(SetupError, match="OPENAI_BASE_URL"):
        http("m")
    with pytest.raises(BadInput, match="cannot be read"):
        http("m", base_url="http://127.0.0.1:1", prices=str(tmp_path / "none.json"))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/")
    assert http("m").identity == "http:m:chat@http://127.0.0.1:9/v1"
    assert http("m", identity="ours").identity == "ours"
    assert http("m", extra={"reasoning_effort": "low"}).identity != http("m").identity


# --- log-probs, token ids, prefixes -----------------------------------------------------------------------------------


def test_log_probs_and_ids_of_a_draw_are_those_of_the_model() -> None:
    wanted = asks(5, want=("tokens", "logp", "logq"))
    done, endpoint, _ = drawn(EndpointSettings(), wanted, probe=EVERYTHING)
    for c in done:
        assert c.tokens is not None
        assert c.logp is not None
        exact = [float(endpoint.model.toy.next_logp(PROMPT, c.tokens[:i])[t]) for i, t in enumerate(c.tokens)]
        assert c.logp == pytest.approx(exact)
        assert c.logq == c.logp
        assert c.logp_sum == pytest.approx(math.fsum(exact))
        assert c.usage.completion_tokens == len(c.tokens)
    (listed,), _, engine = drawn(
        EndpointSettings(), asks(1, want=("top", "logp")), probe=EVERYTHING._replace(top_logprobs=3)
    )
    assert listed.logp is not None
    assert listed.top is not None
    for at, logp in zip(listed.top, listed.logp, strict=True):
        assert [value for _, value in at] == sorted((value for _, value in at), reverse=True)
        assert len(at) == 3
        assert at[0][1] >= logp - 1e-9
    assert Capability.TOP in engine.can


@pytest.mark.parametrize("prefix", [(), (0, 1)])
@pytest.mark.parametrize("temperature", [0.25, 0.7, 1.0, 1.5])
def test_logq_is_exact_where_the_likeliest_tokens_are_all_that_is_kept(
    prefix: tuple[int, ...], temperature: float
) -> None:
    """Out of K + 1 listed log-probs, through both routes, against the distribution itself."""
    sampling = Sampling(temperature, top_k=5)
    wanted = asks(8, prefix=prefix, want=("tokens", "logp", "logq"), sampling=sampling)
    done, endpoint, engine = drawn(EndpointSettings(), wanted, probe=EVERYTHING._replace(top_logprobs=8))
    assert Capability.LOGQ in engine.can
    toy, seen = endpoint.model.toy, 0
    for c in done:
        assert c.failure is None, c.failure
        assert c.tokens is not None
        assert c.logq is not None
        before = [(*prefix, *c.tokens[:i]) for i in range(len(c.tokens))]
        expected = [draw_log_probs(toy.next_logp(PROMPT, tokens), sampling) for tokens in before]
        assert c.logq == pytest.approx([logq[t] for logq, t in zip(expected, c.tokens, strict=True)], abs=1e-9)
        seen += len(c.tokens)
    assert seen > 30


@pytest.mark.parametrize(
    ("sampling", "known"),
    [
        (Sampling(0.5), 8),
        (Sampling(0.5, top_k=8), 8),  # the token after the last that is kept would not be seen
        (Sampling(0.5, 3, 0.9), 8),
        (Sampling(0.5, 3, min_p=0.1), 8),
        (Sampling(0.0, 3), 8),
        (Sampling(0.5, 3), 1),
        (Sampling(0.5, 3), None),
    ],
)
def test_logq_of_an_unknown_distribution_is_refused(sampling: Sampling, known: int | None) -> None:
    with pytest.raises(Unsupported, match="cannot give logq"):
        drawn(
            EndpointSettings(),
            asks(1, want=("logq",), sampling=sampling),
            probe=EVERYTHING._replace(top_logprobs=known),
        )


def test_an_endpoint_that_ignores_top_k_is_detected() -> None:
    """It accepts top_k and ignores it: its tokens are drawn from another distribution, so the draws fail."""
    wanted = asks(30, want=("logq",), sampling=Sampling(1.0, top_k=2))
    done, _, _ = drawn(EndpointSettings(ignores=("top_k",)), wanted, probe=EVERYTHING._replace(top_logprobs=8))
    messages = [c.failure.message for c in done if c.failure is not None]
    assert len(messages) > 20
    assert all("does not apply top_k" in message for message in messages)


def test_a_prefix_is_continued_and_a_given_text_scored() -> None:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        prefix = (0, 1, 2)
        whole = await answered(engine, asks(1, want=("tokens",)))
        (done,) = await answered(engine, asks(1, prefix=prefix, want=("tokens", "logp")))
        toy = endpoint.model.toy
        assert done.tokens is not None
        assert done.logp is not None
        exact = [float(toy.next_logp(PROMPT, (*prefix, *done.tokens[:i]))[t]) for i, t in enumerate(done.tokens)]
        assert done.logp == pytest.approx(exact)
        assert done.usage.prompt_tokens == whole[0].usage.prompt_tokens + 3
        drawn_ids = [token for token in done.tokens if token != toy.eos]  # the end cannot be a part of a prompt
        (scored,) = await answered(engine, [Likelihood(PROMPT, (*prefix, *drawn_ids))])
        assert scored.logp is not None
        assert scored.logp[3:] == pytest.approx(done.logp[: len(drawn_ids)])
        assert engine.worst_case(Likelihood(PROMPT, prefix)).prompt_tokens == done.usage.prompt_tokens

    with_endpoint(EndpointSettings(), use, probe=EVERYTHING)


def test_what_chains_miss_is_told_with_what_to_do() -> None:
    engine = http("m", base_url="http://127.0.0.1:9/v1", probe="never")
    with pytest.raises(
        Unsupported, match=r"reject_below.* cannot do: it is not known to give token ids; .*doctor.*top_k="
    ):
        check_recipe(recipe("power(4.0, 6, top_k=20) | first"), engine)
    assert engine.why_missing(Capability.EXPLORE) == ""


def test_what_it_can_do_follows_what_it_learns() -> None:
    engine = http("m", base_url="http://127.0.0.1:9/v1", probe="never", n="never")
    assert engine.can == {Capability.GENERATE}
    engine._exchange.profile = engine.profile._replace(seed=True, logprobs=True)
    assert engine.can == {Capability.GENERATE, Capability.SEED, Capability.LOGP}
    engine._exchange.repeats.frozen = True
    assert engine.can == {Capability.GENERATE, Capability.LOGP}
