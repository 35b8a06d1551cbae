"""The engine that exactness is proved on must itself be exact."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from samplewise import Message
from samplewise.core.keys import Key
from samplewise.core.types import (
    Ask,
    Capability,
    Completion,
    Generate,
    Likelihood,
    RejectionBound,
    Sampling,
    Usage,
)
from samplewise.engines.base import Arrival
from samplewise.engines.toy import Toy, toy

HI = (Message("user", "hi there"),)
ALL = ("tokens", "logp", "logq")


def law_of(
    engine: Toy, max_tokens: int, sampling: Sampling = Sampling(), prefix: tuple[int, ...] = ()
) -> dict[tuple[int, ...], float]:
    return {tokens: math.exp(p) for tokens, p in engine.enumerate(HI, max_tokens, sampling, prefix).items()}


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.3), Sampling(2.0, 2), Sampling(1.0, 0, 0.7), Sampling(0.0)]
)
@pytest.mark.parametrize("vocab", [1, 2, 4])
def test_enumeration_is_a_law(vocab: int, sampling: Sampling) -> None:
    engine = Toy(vocab, seed=5)
    law = law_of(engine, 4, sampling)
    assert math.isclose(sum(law.values()), 1.0, rel_tol=1e-12)
    for tokens in law:
        assert engine.eos not in tokens[:-1]
        assert len(tokens) == 4 or tokens[-1] == engine.eos


def test_enumeration_is_every_path() -> None:
    """Against the plain product over all sequences, at temperature 1."""
    engine = Toy(2, seed=1)
    for tokens, p in law_of(engine, 3).items():
        steps = [engine.next_logp(HI, tokens[:i])[t] for i, t in enumerate(tokens)]
        assert math.isclose(p, math.exp(sum(steps)))
    ended = [t for n in range(3) for t in itertools.product(range(2), repeat=n)]
    assert set(law_of(engine, 3)) == {(*t, 2) for t in ended} | set(itertools.product(range(2), repeat=3))


def test_a_continued_law_is_the_law_given_the_prefix() -> None:
    engine = Toy(3, seed=2)
    whole = law_of(engine, 4)
    for prefix in ((0,), (2, 1)):
        inside = {t[len(prefix) :]: p for t, p in whole.items() if t[: len(prefix)] == prefix}
        total = sum(inside.values())
        continued = law_of(engine, 4 - len(prefix), prefix=prefix)
        assert continued.keys() == inside.keys()
        assert all(math.isclose(continued[t], inside[t] / total) for t in inside)


@pytest.mark.parametrize(
    ("sampling", "prefix"),
    [
        (Sampling(), ()),
        (Sampling(0.5), ()),
        (Sampling(1.5, 3, 0.9), ()),
        (Sampling(min_p=0.2), (1,)),
    ],
)
def test_draws_follow_the_enumeration(sampling: Sampling, prefix: tuple[int, ...]) -> None:
    """Chi-square over every response; false alarm 1e-5 at fresh seeds."""
    engine = Toy(3, seed=3)
    law = law_of(engine, 3, sampling, prefix)
    seeds = Key(0).fold("toy test").generator().integers(0, 2**53, 2_500)
    asks = [Generate(HI, prefix, sampling, 3, seed=int(s), want=("tokens",)) for s in seeds]
    counts = Counter(engine.one(ask).tokens for ask in asks)
    assert counts.keys() <= law.keys()
    cells = [(2_500 * p, counts[t]) for t, p in law.items() if 2_500 * p >= 5]
    rest = 2_500 - sum(mean for mean, _ in cells), 2_500 - sum(count for _, count in cells)
    cells += [rest] if rest[0] > 1e-9 else []
    statistic = sum((count - mean) ** 2 / mean for mean, count in cells)
    assert chi2.sf(statistic, len(cells) - 1) > 1e-5


def test_log_probabilities_are_those_of_the_enumeration() -> None:
    engine = Toy(3, seed=3)
    sampling = Sampling(0.5, 2)
    law, raw = engine.enumerate(HI, 4, sampling), engine.enumerate(HI, 4)
    for seed in range(50):
        drawn = engine.one(Generate(HI, (), sampling, 4, seed=seed, want=ALL))
        assert drawn.tokens is not None
        assert drawn.logp is not None
        assert drawn.logq is not None
        assert math.isclose(sum(drawn.logq), law[drawn.tokens])
        assert math.isclose(drawn.logp_sum, raw[drawn.tokens])
        assert math.isclose(sum(drawn.logp), drawn.logp_sum)


def test_likelihood_is_what_a_draw_reports() -> None:
    engine = Toy(3, seed=4)
    for seed in range(20):
        drawn = engine.one(Generate(HI, max_tokens=5, seed=seed, want=ALL))
        assert drawn.tokens is not None
        scored = engine.one(Likelihood(HI, drawn.tokens))
        assert scored.logp == drawn.logp
        assert scored.logp_sum == drawn.logp_sum
        assert scored.usage.completion_tokens == 0


@given(st.integers(0, 2**53 - 1), st.integers(1, 6))
def test_a_draw_follows_from_its_ask_alone(seed: int, max_tokens: int) -> None:
    one, other = Toy(3, seed=1), Toy(3, seed=1)
    ask = Generate(HI, max_tokens=max_tokens, seed=seed, want=ALL)
    one.one(ask._replace(seed=seed ^ 1))
    assert one.one(ask) == other.one(ask) == other.one(ask)


@given(st.integers(0, 2**53 - 1), st.integers(1, 5))
def test_a_longer_draw_begins_with_the_shorter(seed: int, max_tokens: int) -> None:
    engine = Toy(3)
    short, long = (engine.one(Generate(HI, max_tokens=n, seed=seed, want=("tokens",))) for n in (max_tokens, 8))
    assert short.tokens is not None
    assert long.tokens is not None
    assert long.tokens[: len(short.tokens)] == short.tokens


@given(st.integers(0, 2**53 - 1), st.sampled_from([("b",), ("ab",), ("cc", "a"), ("zz",)]))
def test_stop_strings_end_the_text_before_them(seed: int, stop: tuple[str, ...]) -> None:
    engine = Toy(3, seed=6)
    plain = engine.one(Generate(HI, max_tokens=8, seed=seed, want=("tokens",)))
    stopped = engine.one(Generate(HI, max_tokens=8, seed=seed, stop=stop, want=("tokens",)))
    assert plain.tokens is not None
    assert stopped.tokens is not None
    assert not any(s in stopped.text for s in stop)
    assert plain.text.startswith(stopped.text)
    assert plain.tokens[: len(stopped.tokens)] == stopped.tokens  # no token is drawn after the stop
    if any(s in plain.text for s in stop):
        assert stopped.finish == "stop"
        assert stopped.text == plain.text[: min(plain.text.find(s) for s in stop if s in plain.text)]
    else:
        assert stopped == plain


def test_a_floor_gives_up_and_says_so() -> None:
    """alpha logp - logq at temperature 1 and alpha 2 is logp: the running sum falls with every token."""
    engine = Toy(3, seed=6)
    seen: Counter[str] = Counter()
    for seed in range(100):
        ask = Generate(HI, max_tokens=8, seed=seed, want=ALL)
        plain, rejected = engine.one(ask), engine.one(ask._replace(reject_below=RejectionBound(2.0, -4.0)))
        assert plain.logp is not None
        assert rejected.logp is not None
        running = np.cumsum(plain.logp)
        below = np.flatnonzero(running < -4.0)
        seen[rejected.finish] += 1
        if len(below):
            assert rejected.finish == "rejected"
            assert len(rejected.logp) == below[0] + 1
            assert rejected.usage.completion_tokens == below[0] + 1
        else:
            assert rejected == plain
    assert seen["rejected"] > 10
    assert seen["rejected"] < 100


@pytest.mark.parametrize(
    "sampling",
    [Sampling(0.25), Sampling(0.5), Sampling(1 / 3, top_k=2), Sampling(0.5, top_p=0.8), Sampling(0.25, 0, 1, 0.2)],
)
@pytest.mark.parametrize("banned", [None, 1])
def test_a_floor_that_only_falls_gives_up_before_the_token_that_crosses_it(
    sampling: Sampling, banned: int | None
) -> None:
    """Whether a response is given up is what its whole sum says, as by the plain rule; but a token whose log Z takes
    the sum below is neither drawn nor charged, even if it is the first."""
    engine = Toy(3, seed=6, scale=2.0)
    seen: Counter[str] = Counter()
    for seed in range(150):
        ask = Generate(HI, (0,), sampling, 8, seed=seed, want=(*ALL, "logz"), forbid_first=banned, exponents=(1.0,))
        plain = engine.one(ask)
        value = -0.02 * 1.05**seed
        rejected = engine.one(ask._replace(reject_below=RejectionBound(4.0, value)))
        if plain.finish == "error":
            assert rejected.failure == plain.failure
            continue
        assert plain.tokens is not None
        assert rejected.tokens is not None
        sums = list(itertools.accumulate(4 * p - q for p, q in zip(plain.logp or (), plain.logq or (), strict=True)))
        bounds = [0.0, *sums]
        for t, (p, q) in enumerate(zip(plain.logp or (), plain.logq or (), strict=True)):
            bounds[t] += p / sampling.temperature - q
        doomed = next((t for t, bound in enumerate(bounds[: len(sums)]) if bound < value), len(sums) + 1)
        below = next((t + 1 for t, total in enumerate(sums) if total < value), len(sums) + 1)
        num = min(doomed, below)
        assert (rejected.finish == "rejected") == (num <= len(sums)) == (sums[-1] < value)
        assert rejected.tokens == plain.tokens[:num]
        assert rejected.usage.completion_tokens == len(rejected.tokens) == len(rejected.logz or ())
        assert rejected.text == engine.text(rejected.tokens)
        seen["whole" if num > len(sums) else "none" if num == 0 else "doomed" if doomed < below else "below"] += 1
    assert seen["whole"] > 5
    assert seen["none"] > 5
    assert seen["doomed"] > 20


def test_a_floor_above_the_law_may_rise_and_waits() -> None:
    """With alpha below 1 / temperature a token can raise the sum, so log Z is no bound: what was drawn counts."""
    engine = Toy(3, seed=6, scale=2.0)
    given_up = 0
    for seed, (temperature, alpha) in itertools.product(range(40), [(0.25, 2.0), (2.0, 4.0)]):
        ask = Generate(HI, (), Sampling(temperature), 8, seed=seed, want=ALL)
        plain, rejected = engine.one(ask), engine.one(ask._replace(reject_below=RejectionBound(alpha, -1.0)))
        sums = itertools.accumulate(alpha * p - q for p, q in zip(plain.logp or (), plain.logq or (), strict=True))
        below = next((t + 1 for t, total in enumerate(sums) if total < -1.0), None)
        given_up += below is not None
        assert rejected.tokens == (plain.tokens or ())[:below]
    assert given_up > 10


def test_marks_are_those_of_the_law() -> None:
    """log Z renormalises the powers: at exponent 1 it is 0, and at 1 / temperature it joins logp and logq."""
    engine = Toy(3, seed=6, scale=2.0)
    exponents = (1.0, 2.5, 4.0)
    want = (*ALL, "logz", "certainty")
    drawn = engine.one(Generate(HI, (0,), Sampling(0.4), 8, seed=5, want=want, exponents=exponents))
    assert drawn.tokens is not None
    assert len(drawn.tokens) > 2
    rows = zip(drawn.tokens, drawn.logp or (), drawn.logq or (), drawn.logz or (), drawn.certainty or (), strict=True)
    for t, (_, logp, logq, logz, certainty) in enumerate(rows):
        law = np.exp(engine.next_logp(HI, (0, *drawn.tokens[:t])))
        assert logz == pytest.approx([math.log(sum(p**e for p in law)) for e in exponents], abs=1e-12)
        assert logz[0] == pytest.approx(0.0, abs=1e-12)
        assert logz[1] == pytest.approx(logp / 0.4 - logq, abs=1e-12)
        assert certainty == pytest.approx(sum(math.log(1 / len(law) / p) for p in law) / len(law), abs=1e-12)
    bare = engine.one(Generate(HI, (0,), Sampling(0.4), 8, seed=5, want=ALL))
    assert bare == drawn._replace(logz=None, certainty=None)


def test_the_text_of_the_whole_response() -> None:
    ask = Generate(HI, (0, 1), max_tokens=5, seed=3, stop=("c",), want=("tokens",))
    part, whole = Toy(3).one(ask), Toy(3).one(ask._replace(want=("tokens", "whole")))
    assert whole == part._replace(text="ab" + part.text)


def test_a_forbidden_first_token_is_not_drawn_first() -> None:
    """The rest of the law keeps its proportions, and logq stays that of the law without the ban: what a sampler that
    walks along a stored response needs."""
    engine = Toy(2, seed=7)
    plain = np.exp(engine.next_logp(HI, ()))
    for banned in range(3):
        drawn = [engine.one(Generate(HI, max_tokens=3, seed=s, forbid_first=banned, want=ALL)) for s in range(600)]
        firsts = Counter(d.tokens[0] for d in drawn if d.tokens)
        assert banned not in firsts
        for token in set(range(3)) - {banned}:
            share = plain[token] / (1 - plain[banned])
            assert abs(firsts[token] / 600 - share) < 4.5 * math.sqrt(
                share * (1 - share) / 600
            )  # false alarm 1e-5 each
        assert all(
            d.logq is not None and math.isclose(d.logq[0], math.log(plain[d.tokens[0]])) for d in drawn if d.tokens
        )


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (Generate(HI, (7,)), "token ids must be"),
        (Generate(HI, (-1,)), "token ids must be"),
        (Generate(HI, (3, 1)), "token ids must be"),
        (Likelihood(HI, (0, 9)), "token ids must be"),
        (Likelihood(HI, (3, 0)), "token ids must be"),
        (Generate(HI, (1, 3)), "nothing follows the end token"),
        (Generate(HI, forbid_first=9), "a token id is 0 to 3"),
        (Generate(HI, forbid_first=-1), "a token id is 0 to 3"),
        (Generate(HI, exponents=(4.0, 0.0)), "exponents must be above 0 and finite, got 0.0"),
        (Generate(HI, exponents=(math.inf,)), "exponents must be above 0 and finite, got inf"),
        (Generate(HI, want=("logz",)), "needs exponents"),
        (Generate(HI, sampling=Sampling(0.0), forbid_first=None), ""),
    ],
)
def test_bad_requests_are_values(ask: Ask, message: str) -> None:
    """A prefix that has ended, and a forbidden token out of range, were an IndexError; -1 forbade the end token."""
    completion = Toy(3).one(ask)
    if message:
        assert completion.finish == "error"
        assert completion.failure is not None
        assert completion.failure.kind == "BadRequest"
        assert message in completion.failure.message
        assert not completion.failure.retryable
    else:
        assert completion.finish != "error"


def test_nothing_left_to_draw_is_a_bad_request() -> None:
    greedy = Toy(3).one(Generate(HI, sampling=Sampling(0.0), max_tokens=1, want=("tokens",)))
    assert greedy.tokens is not None
    banned = Toy(3).one(Generate(HI, sampling=Sampling(0.0), max_tokens=1, forbid_first=greedy.tokens[0]))
    assert banned.finish == "error"


def test_costs_are_within_the_worst_case() -> None:
    engine = Toy(3, seed=8)
    for seed in range(50):
        ask = Generate(HI, (0, 1), max_tokens=5, seed=seed)
        worst, usage = engine.worst_case(ask), engine.one(ask).usage
        assert (usage.requests, usage.prompt_tokens) == (worst.requests, worst.prompt_tokens) == (1, 4)
        assert usage.completion_tokens <= worst.completion_tokens == 5
    assert engine.worst_case(Likelihood(HI, (0, 1))).tokens == 4


def test_only_what_is_wanted_comes_back() -> None:
    drawn = Toy(3).one(Generate(HI, max_tokens=3))
    assert (drawn.tokens, drawn.logp, drawn.logq) == (None, None, None)
    assert not math.isnan(drawn.logp_sum)
    nothing = Toy(3).one(Generate(HI, (1,), max_tokens=0, want=("tokens", "logz"), exponents=(2.0,)))
    assert nothing == Completion("", "length", Usage(1), (), logp_sum=0.0, logz=())


def test_it_answers_every_ask_in_order() -> None:
    engine = toy(2, seed=1)
    asks = [Generate(HI, max_tokens=3, seed=s) for s in range(5)]

    async def collect() -> list[Arrival]:
        return [arrival async for arrival in engine.answer(asks)]

    arrivals = asyncio.run(collect())
    assert [a.position for a in arrivals] == list(range(5))
    assert [a.completion for a in arrivals] == [engine.one(ask) for ask in asks]
    assert engine.can == frozenset(Capability) - {Capability.TOP, Capability.SCORE_FIRST, Capability.EXPLORE}
    assert isinstance(arrivals[0].completion, Completion)
    asyncio.run(engine.close())


def test_identity_tells_laws_apart() -> None:
    identities = {Toy(v, seed=s, scale=x).identity for v in (2, 3) for s in (0, 1) for x in (1.0, 2.0)}
    assert len(identities) == 8
    with pytest.raises(ValueError, match="vocab must be 1 to 26"):
        Toy(27)
