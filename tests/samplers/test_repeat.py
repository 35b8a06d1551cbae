"""Independent draws. That the laws hold is in test_conformance; here is what is repeat's own."""

from __future__ import annotations

import pytest

from samplewise.core.checks import check_sampling
from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Completion, Generate, Message, Question, Sampling, Usage
from samplewise.engines.toy import Toy
from samplewise.samplers.base import Sampler, Variant, deal, direct, draws_of_arm
from samplewise.samplers.repeat import RepeatState, repeat

QUESTION = Question("q", (Message("user", "spell a word"),))
TOY = Toy(3)
ARMS = (
    direct(QUESTION),
    Variant("cold", QUESTION.messages, {"temperature": 0.5}),
    Variant("rude", (Message("user", "spell, now"),), {}, "rudeness"),
)


def draws(
    sampler: Sampler[RepeatState], arms: tuple[Variant, ...] = ARMS
) -> tuple[list[Generate], tuple[Candidate, ...]]:
    """Every ask, and the candidates they become."""
    key = Key(1)
    state, step = sampler.step(key, sampler.init(arms), ())
    asks: list[Generate] = []
    while step.asks:
        asks += [ask for ask in step.asks if isinstance(ask, Generate)]
        state, step = sampler.step(key, state, tuple(map(TOY.one, step.asks)))
    return asks, sampler.pool(state).candidates


@pytest.mark.parametrize("wave", [None, 1, 4, 100])
def test_the_first_draws_of_many_are_the_draws_of_few(wave: int | None) -> None:
    few, many = draws(repeat(7, max_tokens=4)), draws(repeat(14, max_tokens=4, wave=wave))
    assert many[0][:7] == few[0]
    assert many[1][:7] == few[1]


@pytest.mark.parametrize("wave", [1, 2, 3, 6, 7])
def test_the_wave_changes_no_draw(wave: int) -> None:
    assert draws(repeat(6, max_tokens=4, wave=wave)) == draws(repeat(6, max_tokens=4))


def test_a_wave_is_as_large_as_it_says_and_the_last_one_is_the_rest() -> None:
    sampler = repeat(7, wave=3)
    state, step = sampler.step(Key(0), sampler.init(ARMS), ())
    sizes = [len(step.asks)]
    while step.asks:
        state, step = sampler.step(Key(0), state, tuple(Completion("a", "stop") for _ in step.asks))
        sizes.append(len(step.asks))
    assert sizes == [3, 3, 1, 0]


def test_arms_are_dealt_round_robin_with_the_identity_first() -> None:
    asks, candidates = draws(repeat(7, max_tokens=4))
    assert [c.arm for c in candidates] == ["direct", "cold", "rude", "direct", "cold", "rude", "direct"]
    assert [a.sampling.temperature for a in asks[:3]] == [1.0, 0.5, 1.0]
    assert [a.group for a in asks[:3]] == ["", "", "rudeness"]
    assert asks[2].messages == (Message("user", "spell, now"),)
    assert deal(ARMS, 0) == deal(ARMS, 3) == direct(QUESTION)


@pytest.mark.parametrize("num", [1, 2, 5, 9])
def test_the_draws_of_an_arm_are_those_that_are_dealt_it(num: int) -> None:
    allocated = tuple(Variant(name, ()) for name in ("direct", "cold", "direct", "rude"))
    names = [deal(allocated, index).arm for index in range(num)]
    for index, name in enumerate(names):
        assert draws_of_arm(allocated, index, num) == tuple(i for i in range(num) if names[i] == name)


def test_a_draw_depends_on_its_arm_and_index_alone() -> None:
    """So the direct draws of a mix are the very draws of the plain run at the same index, and are paid for once."""
    mixed, plain = draws(repeat(6, max_tokens=4)), draws(repeat(6, max_tokens=4), ARMS[:1])
    assert mixed[0][0] == plain[0][0]
    assert mixed[0][3] == plain[0][3]
    assert len({ask.seed for ask in (*mixed[0], *plain[0])}) == 10


def test_settings_reach_the_ask() -> None:
    made = repeat(1, temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, max_tokens=9, stop=("x", "yy"))
    (ask,), _ = draws(made, ARMS[:1])
    assert ask.sampling == Sampling(0.7, 5, 0.9, 0.1)
    assert (ask.max_tokens, ask.stop) == (9, ("x", "yy"))


def test_one_stop_string_is_one_stop_string() -> None:
    """`stop="end"` was read as three strings: a response ended at its first "e", "n" or "d"."""
    assert draws(repeat(1, stop="end"), ARMS[:1])[0][0].stop == ("end",)


def test_failed_draws_are_counted_and_leave_the_others_in_place() -> None:
    sampler = repeat(4, max_tokens=4)
    state, step = sampler.step(Key(1), sampler.init(ARMS), ())
    completions = [TOY.one(ask) for ask in step.asks]
    completions[1] = Completion("", "error", Usage(1))
    state, step = sampler.step(Key(1), state, completions)
    pool = sampler.pool(state)
    assert not step.asks
    assert (len(pool.candidates), pool.num_failed) == (3, 1)
    assert [c.arm for c in pool.candidates] == ["direct", "rude", "direct"]


def test_a_part_of_a_wave_asks_for_nothing_and_is_in_the_pool() -> None:
    sampler = repeat(4, max_tokens=4, wave=2)
    state, step = sampler.step(Key(1), sampler.init(ARMS), ())
    state, following = sampler.step(Key(1), state, (TOY.one(step.asks[0]),))
    assert not following.asks
    assert len(sampler.pool(state).candidates) == 1
    state, following = sampler.step(Key(1), state, (TOY.one(step.asks[1]),))
    assert len(following.asks) == 2


@pytest.mark.parametrize(
    "settings",
    [{"num_samples": n} for n in (0, -1, 2.5, True, "8", None)]
    + [{"num_samples": 2, name: value} for name in ("wave", "max_tokens") for value in (0, -3, 1.5)]
    + [{"num_samples": 2, "stop": stop} for stop in ("", ("a", ""), (1,))]
    + [{"num_samples": 2, "temperature": t} for t in (-0.1, float("nan"), float("inf"))]
    + [{"num_samples": 2, "top_k": -1}, {"num_samples": 2, "top_k": 0.5}]
    + [{"num_samples": 2, "top_p": p} for p in (0.0, -0.1, 1.1)]
    + [{"num_samples": 2, "min_p": p} for p in (-0.1, 1.0)],
)
def test_settings_out_of_range_are_misuse(settings: dict[str, object]) -> None:
    """2.5 samples and 1.5 tokens were let in, and became a TypeError in the middle of the first run."""
    with pytest.raises((ValueError, TypeError)):
        repeat(**settings)  # type: ignore[arg-type]


def test_edges_that_are_fine() -> None:
    assert check_sampling(Sampling(0.0, 0, 1.0, 0.0)) == Sampling(0.0)
    assert draws(repeat(2, temperature=0))[0][0].sampling.temperature == 0.0
