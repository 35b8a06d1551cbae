"""Drafts over plain HTTP: a forbidden first token and early rejection, against the enumerated toy model."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2
from tests.support.forking import ForkedChoices, Tree
from tests.support.kernels import transitions

from samplewise.core.errors import RateLimited, Unsupported
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, ratio_cannot_rise
from samplewise.core.types import (
    Ask,
    Capability,
    Completion,
    Failure,
    Generate,
    Message,
    Question,
    RejectionBound,
    Sampling,
)
from samplewise.engines.distribution import log_filtered_norm
from samplewise.engines.http import drafts, http
from samplewise.engines.http import memory as memory_module
from samplewise.engines.http.dialect import logq
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.drafts import CHUNK, PartialDraft, piece_sizes
from samplewise.engines.http.engine import HttpEngine
from samplewise.engines.http.exchange import GaveUp
from samplewise.engines.http.memory import TokenMemory
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.recipe import recipe
from samplewise.report.trace import describe_trace
from samplewise.samplers.power import summarize_chains
from samplewise.samplers.power.chains import ChainSettings, chain_sampler
from samplewise.testing.endpoint import Endpoint, EndpointSettings
from samplewise.testing.endpoint.model import ServedDraw, ServedModel

T = TypeVar("T")
PROMPT = (Message("user", "say something"),)
QUESTION = Question("q", PROMPT)
WANT = ("tokens", "logp", "logq", "whole")
FALSE_ALARM = 1e-6  # probability that a chi-square test fails a correct engine, at fresh seeds; these are fixed
KNOWN = Profile(
    **{"n": True, "seed": True, "logprobs": True, "top_logprobs": 13, "token_ids_out": True, "token_ids_in": True},
    **{"max_tokens_field": "max_tokens", "temperature": True, "usage": True, "tokenize": True, "raw_logprobs": True},
    **{"top_ids": True, "forces_token": True, "detokenize": True},
)
LONG = EndpointSettings(vocab=12, seed=5)  # responses of a dozen tokens and more
SHORT = EndpointSettings(vocab=3, seed=3)


def used(
    settings: EndpointSettings, use: Callable[[HttpEngine, Endpoint], Awaitable[T]], **options: Any
) -> tuple[T, Endpoint]:
    """Return what `use(engine, endpoint)` gives, and the endpoint."""
    endpoint = Endpoint(settings)

    async def go() -> T:
        async with endpoint as url:
            known = KNOWN._replace(api=options.get("api", "chat"))
            engine = http("toy", base_url=url, **{"probe": known, **options})
            try:
                await engine.open()
                return await use(engine, endpoint)
            finally:
                await engine.close()

    return asyncio.run(asyncio.wait_for(go(), 300)), endpoint


async def answers(engine: HttpEngine, asks: Sequence[Ask]) -> list[Completion]:
    return [arrival.completion for arrival in sorted([arrival async for arrival in engine.answer(asks)])]


def drawn(settings: EndpointSettings, asks: Sequence[Generate], **options: Any) -> tuple[list[Completion], Endpoint]:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> list[Completion]:
        return await answers(engine, asks)

    return used(settings, use, **options)


def ran(settings: EndpointSettings, line: str, seed: int = 3, **options: Any) -> tuple[Result, Endpoint]:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> Result:
        context = RunContext(engine, budget=options.pop("budget", Budget()))
        return await run_question(QUESTION, recipe(line), context, Key(seed), read=lambda _, text: text)

    return used(settings, use, **{name: value for name, value in options.items() if name != "budget"})


def toy_of(settings: EndpointSettings) -> Toy:
    return Toy(settings.vocab, seed=settings.seed, scale=settings.scale)


def check(toy: Toy, ask: Generate, completion: Completion) -> None:
    """Check every number of a draft against the model, and that it ends where the toy engine would end it."""
    assert completion.failure is None, completion.failure
    assert completion.tokens is not None
    assert completion.logp is not None
    assert completion.logq is not None
    bound, power = ask.reject_below, 1 / ask.sampling.temperature
    running, finish, length = 0.0, "length", 0
    for index in range(ask.max_tokens):
        before = (*ask.prefix, *completion.tokens[:index])
        row, log_q = toy.next_logp(PROMPT, before), toy._logq(PROMPT, before, ask.sampling)
        if bound is not None and ratio_cannot_rise(bound.alpha, ask.sampling.temperature):
            log_z = log_filtered_norm(row, log_q, 1 / power)
            assert abs(running + log_z - bound.value) > 1e-9, "a decision by rounding"
            if running + log_z < bound.value:
                finish = "rejected"
                break
        token = completion.tokens[index]
        length += 1
        assert completion.logp[index] == pytest.approx(row[token], abs=1e-9)
        assert completion.logq[index] == pytest.approx(log_q[token], abs=1e-9)
        assert index or token != ask.forbid_first
        if bound is not None:
            running += bound.alpha * row[token] - log_q[token]
            if running < bound.value:
                finish = "rejected"
                break
        if token == toy.eos:
            finish = "stop"
            break
    assert (completion.finish, len(completion.tokens)) == (finish, length)
    assert completion.logp_sum == pytest.approx(math.fsum(completion.logp))
    if finish != "rejected":
        assert completion.text == toy.text((*ask.prefix, *completion.tokens))


def some_asks(num: int, max_tokens: int = 40) -> list[Generate]:
    """Return drafts of many kinds: bounds near and far, that look ahead or cannot, forbidden tokens or none."""
    toy, rng, asks = toy_of(LONG), Key(11).generator(), []
    for index in range(num):
        sampling = Sampling(float(rng.choice([0.25, 0.5, 1.0, 2.0])), int(rng.integers(2, 12)))
        prefix: tuple[int, ...] = ()
        for _ in range(int(rng.integers(0, 4))):
            prefix = (*prefix, int(np.argsort(-toy.next_logp(PROMPT, prefix)[:-1])[rng.integers(2)]))
        likely = int(np.argmax(toy.next_logp(PROMPT, prefix)))
        bound = RejectionBound(float(rng.choice([1.0, 2.0, 4.0])), -float(rng.exponential(8.0)))
        ask = Generate(PROMPT, prefix, sampling, max_tokens, seed=index, want=WANT)
        asks.append(ask._replace(forbid_first=likely if index % 3 else None, reject_below=bound if index % 4 else None))
    return asks


# --- one draft --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_every_number_of_a_draft_is_the_model_s(stream: bool) -> None:
    """And it is given up at the very token at which the toy engine gives it up. All that was billed is counted."""
    asks = some_asks(120)
    completions, endpoint = drawn(LONG, asks, stream=stream, api="chat" if stream else "completions")
    toy = toy_of(LONG)
    for ask, completion in zip(asks, completions, strict=True):
        check(toy, ask, completion)
    finishes = Counter(completion.finish for completion in completions)
    assert all(finishes[finish] > 5 for finish in ("rejected", "stop", "length")), finishes
    assert any(len(completion.tokens or ()) > CHUNK for completion in completions)
    tally = endpoint.tally
    assert sum(completion.usage.completion_tokens for completion in completions) == tally.completion_tokens
    assert sum(completion.usage.prompt_tokens for completion in completions) == tally.prompt_tokens
    assert sum(completion.usage.requests for completion in completions) == tally.requests


def enumerated(toy: Toy, ask: Generate) -> dict[tuple[tuple[int, ...], str], float]:
    """Return the probability of every outcome of a draft: its tokens and how it ends."""
    tree, forks = ToyTree(toy), ForkedChoices()
    found: dict[tuple[tuple[int, ...], str], float] = {}
    for probability, completion in forks.outcomes(lambda: tree.answer(forks, ask)):
        key = (completion.tokens or (), completion.finish)
        found[key] = found.get(key, 0.0) + probability
    return found


class ToyTree(Tree):
    """The toy engine's model as one that forks."""

    def __init__(self, toy: Toy) -> None:
        super().__init__(toy.vocab)
        self._toy = toy

    def _draw_logp(self, tokens: tuple[int, ...]) -> Floats:
        return self._toy.next_logp(PROMPT, tokens)


def check_counts(counts: Counter[Any], expected: dict[Any, float], least_cells: int) -> None:
    """Check by chi-square that counts follow probabilities; outcomes of fewer than 5 due share a cell."""
    assert not counts.keys() - expected.keys(), "what cannot be was drawn"
    assert sum(expected.values()) == pytest.approx(1.0)
    total = counts.total()
    cells = [(mass * total, counts[key]) for key, mass in expected.items() if mass * total >= 5]
    rare = [(mass * total, counts[key]) for key, mass in expected.items() if mass * total < 5]
    if rare:
        cells.append((math.fsum(due for due, _ in rare), sum(seen for _, seen in rare)))
    assert len(cells) >= least_cells
    statistic = sum((seen - due) ** 2 / due for due, seen in cells if due)
    assert statistic < chi2.isf(FALSE_ALARM, len(cells) - 1), (statistic, sorted(cells))


@pytest.mark.parametrize(("n", "chunk"), [("auto", CHUNK), ("never", 1)])
def test_a_draft_has_the_enumerated_distribution(n: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """500 drafts, in one chunk or in two after the first token: tokens, and where each is given up."""
    monkeypatch.setattr(drafts, "CHUNK", chunk)
    toy = toy_of(SHORT)
    ask = Generate(PROMPT, (1,), Sampling(0.5, 3), 4, want=WANT, reject_below=RejectionBound(3.0, -9.0))
    ask = ask._replace(forbid_first=int(np.argmax(toy.next_logp(PROMPT, (1,)))))
    completions, _ = drawn(SHORT, [ask._replace(seed=Key(4).fold(i).seed()) for i in range(500)], n=n)
    counts = Counter((completion.tokens, completion.finish) for completion in completions)
    assert {finish for _, finish in counts} == {"rejected", "stop", "length"}
    check_counts(counts, enumerated(toy, ask), 10)


def test_the_first_token_is_the_one_that_is_drawn_elsewhere_without_a_token() -> None:
    """A seed stands for a draw: the same again, whatever else has been asked for, and whatever is remembered."""
    asks = some_asks(40)

    async def use(engine: HttpEngine, endpoint: Endpoint) -> list[list[Completion]]:
        assert Capability.SEED in engine.can
        return [await answers(engine, asks), await answers(engine, asks[::-1])]

    (first, second), _ = used(LONG, use, n="never")
    assert [c._replace(usage=d.usage) for c, d in zip(second[::-1], first, strict=True)] == first
    assert sum(c.usage.requests for c in second) < sum(c.usage.requests for c in first), "it has learned"


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_the_likeliest_tokens_of_a_response_s_own_positions_are_known() -> None:
    """A draft from a response that was drawn here takes no request to list them; from another one it takes one, of one
    token that is thrown away. Neither must ask which tokens end a response once all have been seen."""
    start = Generate(PROMPT, sampling=Sampling(1.0, 12), max_tokens=30, want=WANT[:3])

    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        wholes = await answers(engine, [start._replace(seed=seed) for seed in range(64)])
        for prefix, listing in (((wholes[0].tokens or ())[:2], 0), ((5, 5, 5, 5), 1)):
            assert len(set(wholes[0].tokens or ())) > 2
            before = endpoint.tally.requests
            ask = start._replace(prefix=prefix, forbid_first=(wholes[0].tokens or ())[2], want=WANT, max_tokens=4)
            (draft,) = await answers(engine, [ask])
            assert draft.failure is None
            assert endpoint.tally.requests - before == listing + (len(draft.tokens or ()) > 1)
            assert draft.usage.completion_tokens == listing + len(draft.tokens or ()) - 1, "the first one is drawn here"

    used(LONG, use)


def test_a_token_that_no_draw_has_shown_is_asked_for_once() -> None:
    """Whether it ends a response: without that a draft would go on after an end token, which the endpoint refuses."""
    toy = toy_of(SHORT)
    likely = int(np.argsort(-toy.next_logp(PROMPT, ()))[0])
    ask = Generate(PROMPT, (), Sampling(1.0, 4), 3, want=WANT, forbid_first=likely)
    asks = [ask._replace(seed=seed) for seed in range(60)]

    async def use(engine: HttpEngine, endpoint: Endpoint) -> list[Completion]:
        one_by_one = [(await answers(engine, [each]))[0] for each in asks]
        assert endpoint.tally.completion_tokens == sum(c.usage.completion_tokens for c in one_by_one)
        return one_by_one

    completions, _ = used(SHORT, use)
    for each, completion in zip(asks, completions, strict=True):
        check(toy, each, completion)
    assert {completion.tokens[0] for completion in completions if completion.tokens} == {0, 1, 2, 3} - {likely}
    assert sum(c.usage.completion_tokens - len(c.tokens or ()) for c in completions) <= 1 + 2 * 3


@given(st.integers(1, 600), st.booleans(), st.booleans(), st.integers(0, 5))
def test_the_requests_of_a_draft_add_up(max_tokens: int, forbids: bool, bounded: bool, prefix: int) -> None:
    """Every token is asked for once, beside three that may be thrown away, by few requests."""
    bound = RejectionBound(2.0, -1.0) if bounded else None
    ask = Generate(PROMPT, (0,) * prefix, max_tokens=max_tokens, reject_below=bound)
    ask = ask._replace(forbid_first=1 if forbids else None)
    sizes = list(piece_sizes(ask))
    assert sum(size.max_tokens for size in sizes) == max_tokens + 2 * forbids
    assert len(sizes) <= 2 * forbids + (math.log2(max_tokens / CHUNK + 1) + 1 if bounded else 1)
    before = prefix
    for num_before, size in sizes[2 * forbids :]:
        assert num_before == before + forbids
        before += size


def test_no_draft_costs_more_than_its_worst_case() -> None:
    asks = some_asks(80)

    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        before = [engine.worst_case(ask) for ask in asks]
        for ask, cost, completion in zip(asks, before, await answers(engine, asks), strict=True):
            assert all(a <= b for a, b in zip(completion.usage[:3], cost[:3], strict=True)), (ask, cost)

    used(LONG, use)


def test_a_budget_holds() -> None:
    result, endpoint = ran(LONG, "power(2, 30, 4, top_k=6, max_tokens=16)", budget=Budget(tokens=1500))
    assert result.stop.reason == "budget"
    assert endpoint.tally.tokens == result.paid.tokens - result.paid.cached_tokens <= 1500


# --- chains -----------------------------------------------------------------------------------------------------------

CHAINS, STEPS, HORIZON = 400, 2, 3


@pytest.mark.parametrize("settings", [{}, {"cuts": "recent", "early": False}], ids=str)
def test_chains_have_the_enumerated_distribution(settings: dict[str, Any]) -> None:
    """400 chains of two steps over HTTP, against the exact matrix of the shipped kernel: chi-square over responses."""
    toy, sampling = toy_of(SHORT), Sampling(0.5, 3)

    def one_step(choices: ForkedChoices) -> Any:
        return chain_sampler(
            ChainSettings(alpha=2.0, steps=1, max_tokens=HORIZON, top_k=3, make_choices=choices, **settings)
        )

    tree = ToyTree(toy)
    table = transitions(one_step, tree, HORIZON, sampling=sampling)
    starts = np.exp([math.fsum(tree.logq(tokens, sampling)) for tokens in table.responses])
    ends = starts @ np.linalg.matrix_power(table.matrix, STEPS)
    assert np.abs(ends - starts).sum() > 0.1, "or a chain that stays where it began would pass"
    more = "".join(f", {name}={value!r}" for name, value in settings.items())
    result, endpoint = ran(SHORT, f"power(2, {STEPS}, {CHAINS}, top_k=3, max_tokens={HORIZON}{more})", seed=21)
    assert result.pool.num_failed == 0
    counts = Counter((c.text, c.finish) for c in result.pool.candidates)
    expected: dict[tuple[str, str], float] = {}
    for tokens, mass in zip(table.responses, ends, strict=True):
        key = (tree.text(tokens), "stop" if tree.ended(tokens) else "length")
        expected[key] = expected.get(key, 0.0) + float(mass)
    check_counts(counts, expected, 8)
    assert endpoint.tally.tokens == result.paid.tokens - result.paid.cached_tokens


def test_particles_have_the_enumerated_mass() -> None:
    """`smc` over HTTP: the mean weight of 150 runs is the sum of p^2 over what top-k reaches, to four errors."""
    toy = toy_of(SHORT)
    truth = math.fsum(
        math.exp(2 * math.fsum(float(toy.next_logp(PROMPT, tokens[:i])[t]) for i, t in enumerate(tokens)))
        for tokens in toy.enumerate(PROMPT, HORIZON, Sampling(0.5, 3))
    )

    async def use(engine: HttpEngine, endpoint: Endpoint) -> list[float]:
        line = recipe(f"smc(4, 2, block=1, top_k=3, max_tokens={HORIZON})")
        runs = [
            run_question(QUESTION, line, RunContext(engine), Key(31).fold(i), read=lambda _, text: text)
            for i in range(150)
        ]
        pools = [result.pool.candidates for result in await asyncio.gather(*runs)]
        return [math.fsum(math.exp(c.log_weight) for c in pool) / len(pool) for pool in pools]

    means, _ = used(SHORT, use)
    error = np.std(means, ddof=1) / math.sqrt(len(means))
    assert error < 0.1 * truth
    assert abs(np.mean(means) - truth) < 4 * error


def test_a_run_says_what_its_chains_took() -> None:
    result, endpoint = ran(LONG, "power(3, 12, 4, top_k=6, max_tokens=40) | vote", n="never")
    report = summarize_chains(result.trace)
    moves = [move for info in result.trace if info and "moves" in info for move in info["moves"]]
    steps_tokens = sum(move["tokens"] for move in moves)
    assert report.steps == 48
    assert report.acceptance is not None
    assert report.unused > 0
    assert report.requests_per_step == (endpoint.tally.requests - 4) / 48
    assert report.tokens == steps_tokens
    kept = result.paid.completion_tokens - steps_tokens  # of the four starts
    assert kept == endpoint.tally.completion_tokens - report.tokens
    line = describe_trace(result.trace)[0]
    assert f"({report.unused} in vain)" in line
    assert f"{report.requests_per_step:.2f} requests a step" in line


# --- what can go wrong ------------------------------------------------------------------------------------------------


def long_draft() -> tuple[Generate, Completion]:
    """Return a draft of more than one chunk that is not given up, and its completion."""
    ask = Generate(PROMPT, (0,), Sampling(1.0, 11), 40, want=WANT, reject_below=RejectionBound(1.0, -99.0))
    asks = [ask._replace(seed=seed) for seed in range(60)]
    completions, _ = drawn(LONG, asks)
    return next(
        (each, done) for each, done in zip(asks, completions, strict=True) if len(done.tokens or ()) > CHUNK + 4
    )


def test_a_draft_goes_on_where_it_failed() -> None:
    """The chunk that failed is drawn again, and no other: drafts of many chunks must not be redrawn more often."""
    ask, whole = long_draft()
    assert whole.tokens is not None

    async def use(engine: HttpEngine, endpoint: Endpoint) -> list[Completion]:
        return [(await answers(engine, [ask]))[0] for _ in range(2)]

    (broken, again), endpoint = used(replace(LONG, plan=("", "500")), use)
    assert broken.failure is not None
    assert broken.failure.retryable
    assert again._replace(usage=whole.usage) == whole
    assert again.usage.completion_tokens == len(whole.tokens) - CHUNK
    assert again.usage.requests == endpoint.tally.requests - 2
    assert broken.usage.completion_tokens >= CHUNK


def test_a_text_that_failed_is_asked_for_again_alone() -> None:
    ask = Generate(PROMPT, (0,), Sampling(1.0, 11), 6, seed=6, want=WANT, reject_below=RejectionBound(1.0, -99.0))

    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        exchange = engine._exchange
        text_of = exchange.text_of

        async def broken(*args: Any) -> str:
            from samplewise.core.errors import EngineUnavailable

            raise EngineUnavailable("gone")

        exchange.text_of = broken  # type: ignore[method-assign]
        (failed,) = await answers(engine, [ask])
        assert failed.failure is not None
        assert failed.usage.completion_tokens > 0
        exchange.text_of = text_of  # type: ignore[method-assign]
        before = endpoint.tally.requests
        (done,) = await answers(engine, [ask])
        assert done.failure is None
        assert done.usage.tokens == 0
        assert endpoint.tally.requests == before

    used(LONG, use)


def test_patience_that_ends_at_a_text_names_what_was_waited_for() -> None:
    ask = Generate(PROMPT, (0,), Sampling(1.0, 11), 6, seed=6, want=WANT, reject_below=RejectionBound(1.0, -99.0))

    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        async def busy(*args: Any) -> str:
            raise GaveUp(RateLimited("too many requests", status=429), 30.0)

        engine._exchange.text_of = busy  # type: ignore[method-assign]
        (done,) = await answers(engine, [ask])
        assert done.failure == Failure("RateLimited", "too many requests", False, 30.0)

    used(LONG, use)


def test_faults_change_no_chain() -> None:
    """One request in ten fails. With seeds of their own, chains end where they end without."""
    line = "power(2, 6, 6, top_k=6, max_tokens=20)"
    calm, _ = ran(LONG, line, n="never")
    faulty, endpoint = ran(
        replace(LONG, faults={"500": 0.04, "503": 0.03, "cut before": 0.03}, retry_after_s=0.01), line, n="never"
    )
    assert sum(endpoint.tally.faults.values()) > 3
    assert [c.text for c in faulty.pool.candidates] == [c.text for c in calm.pool.candidates]
    assert endpoint.tally.tokens <= faulty.paid.tokens


def test_where_the_context_ends_every_draft_ends() -> None:
    """Between two chunks, too: a prompt that fills the context is refused, which is no failure."""
    ask, whole = long_draft()
    num_prompt = 4  # <user> say something <assistant>
    for room in (CHUNK - 3, CHUNK, CHUNK + 1, CHUNK + 3):
        assert len(whole.tokens or ()) > room
        ((cut,), _) = drawn(replace(LONG, context=num_prompt + 1 + room), [ask])
        assert (cut.finish, len(cut.tokens or ())) == ("length", room), cut


def test_where_the_limit_is_looked_at_first_no_draft_goes_on_after_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of vLLM say "length" of a draw whose last token is an end token, if it has max_tokens tokens. Drafts
    that took it at its word went on from there: 5 of these 120."""
    as_it_is = ServedModel.draw

    def limit_first(self: ServedModel, *args: Any, **options: Any) -> ServedDraw:
        done = as_it_is(self, *args, **options)
        max_tokens = args[3]
        return done._replace(finish="length") if len(done.tokens) == max_tokens else done

    monkeypatch.setattr(ServedModel, "draw", limit_first)
    asks = some_asks(120)
    completions, _ = drawn(LONG, asks)
    toy = toy_of(LONG)
    for ask, completion in zip(asks, completions, strict=True):
        check(toy, ask, completion)
    assert sum(len(c.tokens or ()) == 1 and c.finish == "stop" for c in completions) > 1, "the first one, drawn here"
    assert any((c.tokens or ())[-1:] == (toy.eos,) and len(c.tokens or ()) == 1 + CHUNK for c in completions)


def test_a_first_token_that_fills_the_context_ends_a_draft() -> None:
    """There is no room for the second token that would show whether the first is an end token."""
    ask = Generate(PROMPT, (0,), Sampling(1.0, 5), 5, want=WANT, forbid_first=0)
    asks = [ask._replace(seed=seed) for seed in range(6)]
    completions, _ = drawn(replace(LONG, context=4 + 1 + 1), asks)
    assert {(c.finish, len(c.tokens or ())) for c in completions} <= {("length", 1), ("stop", 1)}


def test_what_was_cut_off_is_charged() -> None:
    """A draft that is cancelled in its second chunk may be billed, one that never left may not."""
    ask, _ = long_draft()
    later = ask._replace(draw=7)

    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        stream = engine.answer([ask, later])
        waiting = asyncio.ensure_future(anext(stream))
        while endpoint.tally.requests < 2:
            await asyncio.sleep(0.002)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await stream.aclose()
        assert engine.may_bill(ask)
        assert not engine.may_bill(ask)
        assert not engine.may_bill(later)
        assert not engine._exchange.cut

    used(replace(LONG, latency_ms=100.0), use, max_concurrency=1)


def test_a_token_that_is_not_forced_is_an_error() -> None:
    ask = Generate(PROMPT, (0,), Sampling(1.0, 5), 5, want=WANT, forbid_first=0)
    failures = []
    for seed in range(6):
        ((completion,), _) = drawn(replace(LONG, ignores=("logit_bias",)), [ask._replace(seed=seed)])
        if completion.failure is not None:
            assert "where a logit_bias of 100 asks for token" in completion.failure.message
            assert completion.usage.completion_tokens == 3, "both requests are paid"
            failures.append(completion)
    assert failures, "the others drew the likeliest token, which no bias changes"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(SHORT, ignores=("return_tokens_as_token_ids",)), "does not list 3 likely tokens by their ids"),
        (replace(SHORT, ignores=("top_k",)), "does not apply top_k"),
    ],
)
def test_a_list_that_is_not_what_was_asked_for_is_an_error(settings: EndpointSettings, message: str) -> None:
    ask = Generate(PROMPT, (0,), Sampling(1.0, 2), 2, want=WANT, forbid_first=0)
    completions, _ = drawn(settings, [ask._replace(seed=seed) for seed in range(12)])
    failures = [completion.failure for completion in completions if completion.failure is not None]
    assert failures
    assert all(message in failure.message for failure in failures)


def test_a_draft_that_cannot_begin_is_an_error() -> None:
    toy = toy_of(SHORT)
    likely = int(np.argmax(toy.next_logp(PROMPT, (0,))))
    ask = Generate(PROMPT, (0,), Sampling(1.0, 1), 2, want=WANT, forbid_first=likely)
    ((completion,), _) = drawn(SHORT, [ask])
    assert completion.failure is not None
    assert f"nothing but the forbidden first token {likely} can be drawn" in completion.failure.message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sampling": Sampling(0.5)}, "use a temperature above 0, top_k from 1 to 12, and no other filter"),
        ({"sampling": Sampling(0.5, 13)}, "top_k from 1 to 12"),
        ({"sampling": Sampling(0.0, 4)}, "use a temperature above 0"),
        ({"sampling": Sampling()}, "it does not list all tokens, so use top_k"),
        ({"stop": ("ab",)}, "with stop strings"),
        ({"want": ("logz",)}, "logz"),
        ({"want": ("top",)}, "and give the likeliest tokens"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_paid(more: dict[str, Any], message: str) -> None:
    ask = Generate(PROMPT, (0,), Sampling(0.5, 4), 5, want=WANT, forbid_first=0)._replace(**more)

    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        with pytest.raises(Unsupported, match=message):
            await answers(engine, [ask])

    assert used(LONG, use)[1].tally.requests == 0


def test_stop_strings_of_the_user_are_no_end_tokens() -> None:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        with pytest.raises(Unsupported, match="stop strings"):
            await answers(engine, some_asks(1))

    assert used(LONG, use, extra={"stop": ["a"]})[1].tally.requests == 0


# --- what is claimed --------------------------------------------------------------------------------------------------

LACKS = {
    "names by id ignored": ({"ignores": ("return_tokens_as_token_ids",)}, {"top_ids": False}),
    "names by id refused": ({"refuses": ("return_tokens_as_token_ids",)}, {"top_ids": False}),
    "bias ignored": ({"ignores": ("logit_bias",)}, {"forces_token": False}),
    "bias refused": ({"refuses": ("logit_bias",)}, {"forces_token": False}),
    "no texts of ids": ({"lacks": ("detokenize",)}, {"detokenize": False}),
    "no tokenizer": ({"lacks": ("tokenize",)}, {"tokenize": False}),
    "no ids in": ({"refuses": ("token_ids_in",)}, {"token_ids_in": False}),
    "no log-probs": ({"refuses": ("logprobs",)}, {"logprobs": False}),
    "no alternatives": ({"refuses": ("top_logprobs",)}, {"top_logprobs": 0}),
    "log-probs after the temperature": ({"processed_logprobs": True}, {"raw_logprobs": False}),
    "other log-probs": ({"odd_logprobs": 0.3}, {"raw_logprobs": None}),
}


@pytest.mark.parametrize("case", LACKS)
def test_drafts_are_claimed_only_where_all_that_they_need_was_found(case: str) -> None:
    """And a recipe of chains is refused before anything is paid."""
    settings, found = LACKS[case]

    async def use(engine: HttpEngine, endpoint: Endpoint) -> None:
        for name, value in found.items():
            assert getattr(engine.profile, name) is value, name
        assert Capability.REJECT_BELOW not in engine.can
        before = endpoint.tally.requests
        line = recipe("power(2, 4, top_k=4, max_tokens=8)")
        with pytest.raises(Unsupported, match=r"needs .*which http"):
            await run_question(QUESTION, line, RunContext(engine), Key(1), read=lambda _, text: text)
        assert endpoint.tally.requests == before

    used(replace(LONG, **settings), use, probe="fresh")


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_chains_run_where_the_probe_has_found_it_all(api: str) -> None:
    async def use(engine: HttpEngine, endpoint: Endpoint) -> Result:
        assert Capability.REJECT_BELOW in engine.can
        assert not logq.why_no_drafts(engine.profile)
        with pytest.raises(Unsupported, match="top_k from 1 to 12"):
            await run_question(
                QUESTION, recipe("power(2, 4, max_tokens=8)"), RunContext(engine), Key(1), read=lambda _, text: text
            )
        line = recipe("power(2, 4, 2, top_k=4, max_tokens=8)")
        return await run_question(QUESTION, line, RunContext(engine), Key(1), read=lambda _, text: text)

    result, _ = used(LONG, use, probe="fresh", api=api)
    assert len(result.pool.candidates) == 2
    assert not logq.why_no_drafts(KNOWN)
    assert logq.why_no_drafts(KNOWN._replace(temperature=False)) == "set temperature and top_k"
    assert logq.why_no_drafts(KNOWN.with_refused("top_k")) == "set temperature and top_k"
    assert logq.why_no_drafts(KNOWN._replace(top_logprobs=1)) == "list the likeliest tokens"


@pytest.mark.parametrize(
    "line",
    [
        "power(2, 3, 2, blocks=2, top_k=5, max_tokens=10)",
        "tempering((1.5, 2.0), 3, temperature=0.5, top_k=5, max_tokens=8)",
        "power(2, 3, 2, top_k=5, max_tokens=8, jump=False)",
    ],
)
def test_other_samplers_of_the_family_run(line: str) -> None:
    """Their texts are those of whole responses."""
    result, _ = ran(LONG, line)
    assert result.pool.candidates
    assert result.pool.num_failed == 0
    for candidate in result.pool.candidates:
        assert len(candidate.text) == candidate.num_tokens - (candidate.finish == "stop")


# --- the memory -------------------------------------------------------------------------------------------------------


def test_the_memory_knows_prompts_and_beginnings_apart() -> None:
    memory, other = TokenMemory(max_positions=3), (Message("user", "other"),)
    one, two = (("token_id:4", -0.5), ("token_id:7", -1.5)), (("token_id:7", -0.2), ("token_id:4", -2.5))
    memory.add(PROMPT, (1, 2), (4, 7), (one, two))
    assert memory.listed(PROMPT, (1, 2), 2) == ((4, -0.5), (7, -1.5))
    assert memory.listed(PROMPT, (1, 2, 4), 2) == ((7, -0.2), (4, -2.5))
    assert memory.listed(PROMPT, (1, 2, 4), 3) is None, "it lists too few"
    assert memory.listed(PROMPT, (1, 2, 7), 2) is memory.listed(PROMPT, (12,), 2) is memory.listed(other, (1, 2), 2)
    memory.add(other, (), (1,), ((("token_id:1", -0.1), ("b", -3.0)),))
    assert memory.listed(other, (), 1) is None, "a token's text is not its id"
    memory.add(other, (), (1,), ((("token_id:1", -0.7), ("token_id:0", math.log(1 - math.exp(-0.7)))),))
    assert memory.listed(other, (), 9) is not None, "the whole vocabulary"
    assert memory.listed(PROMPT, (1, 2), 2) is not None
    memory.add(PROMPT, (9,), (4,), (one,))
    assert memory.listed(PROMPT, (1, 2, 4), 2) is None, "the one that was used longest ago is gone"
    assert memory_module.MAX_POSITIONS >= 10_000


def test_a_token_within_a_response_does_not_end_one() -> None:
    memory = TokenMemory()
    memory.learn_end((3, 1, 9), True)
    memory.learn_end((3, 5), False)
    assert [memory.is_end(token) for token in (3, 1, 9, 8)] == [False, False, True, None]
    assert memory.is_end(5) is None, "a server may look at the limit before the token"
    memory.learn_end((9, 3), False)
    assert memory.is_end(9) is False


def test_a_draft_takes_no_more_than_it_may() -> None:
    """An endpoint that does not keep max_tokens: what is beyond the horizon is not used, nor is how it ended."""
    draft = PartialDraft(Generate(PROMPT, max_tokens=3))
    draft.add_chunk(Completion("", "stop", tokens=(1, 2, 3, 4), logp=(-1.0,) * 4, logq=(-1.0,) * 4), 3)
    assert (draft.tokens, draft.finish) == ([1, 2, 3], "length")
    with pytest.raises(ValueError, match="id and the log-prob of every token"):
        PartialDraft(Generate(PROMPT)).add_chunk(Completion("", "stop", tokens=None, logp=(), logq=()), 3)
    with pytest.raises(ValueError, match="id and the log-prob"):
        PartialDraft(Generate(PROMPT)).add_chunk(Completion("", "stop", tokens=(1, 2), logp=(-1.0,), logq=(-1.0,)), 3)
