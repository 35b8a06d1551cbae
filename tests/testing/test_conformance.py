"""Every registered sampler keeps the laws, and each law sees the sampler that breaks it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pytest

from samplewise.core.keys import Key
from samplewise.core.registry import build, names
from samplewise.core.types import Candidate, Capability, Completion, Generate, Message, Pool, Question, Usage
from samplewise.engines.toy import Toy
from samplewise.samplers.base import Sampler, Step, Variant, candidate
from samplewise.samplers.repeat import repeat
from samplewise.testing import LAWS, Case, MakeSampler, check_sampler, examples
from samplewise.vary import ladder
from samplewise.vary.prompts import verbatim

QUESTION = Question("conformance", (Message("user", "spell a word"),))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("spec", examples())
def test_registered_samplers_keep_the_laws(spec: str, law: str) -> None:
    arms = (ladder(0.5, 1.5),)
    LAWS[law](Case(lambda: build("sampler", spec), QUESTION, Toy(2, seed=3), arms, Key(7), None))


@pytest.mark.parametrize("law", LAWS)
def test_entropy_cuts_keep_the_laws_with_arms_that_set_no_temperature(law: str) -> None:
    spec = "power(3, 3, max_tokens=4, cuts='entropy')"
    LAWS[law](Case(lambda: build("sampler", spec), QUESTION, Toy(2, seed=3), (verbatim(),), Key(7), None))


def test_every_registered_sampler_has_an_example() -> None:
    assert {spec.partition("(")[0] for spec in examples()} == set(names("sampler"))
    assert examples("repeat") == [spec for spec in examples() if spec.startswith("repeat(")]


# --- mutants of repeat ------------------------------------------------------------------------------------------------


def mutant(
    make: MakeSampler = lambda: repeat(6, max_tokens=4, wave=3), **parts: Callable[[Sampler[Any]], Any]
) -> MakeSampler:
    """`make` with some parts replaced; each is a function of the sound sampler."""

    def changed() -> Sampler[Any]:
        sound = make()
        kept = {name: getattr(sound, name) for name in Sampler.__slots__}
        return Sampler(**{**kept, **{name: part(sound) for name, part in parts.items()}})

    return changed


def stepped(change: Callable[[Sampler[Any], Key, Any, Sequence[Completion]], tuple[Any, Step]]) -> MakeSampler:
    """repeat with another step, which is handed the sound sampler."""

    def part(sound: Sampler[Any]) -> Any:
        def step(key: Key, state: Any, completions: Sequence[Completion]) -> tuple[Any, Step]:
            return change(sound, key, state, completions)

        return step

    return mutant(step=part)


def seeded(step: Step, seed: Callable[[int, Generate], int]) -> Step:
    asks = tuple(a._replace(seed=seed(i, a)) for i, a in enumerate(step.asks) if isinstance(a, Generate))
    return step._replace(asks=asks)


class Wrapped(NamedTuple):
    """repeat's state and something more."""

    inner: Any
    more: Any


def wrapping(first: Any, more: Callable[[Any, Sequence[Completion]], Any]) -> MakeSampler:
    def step_of(sound: Sampler[Any]) -> Any:
        def step(key: Key, state: Wrapped, completions: Sequence[Completion]) -> tuple[Wrapped, Step]:
            inner, following = sound.step(key, state.inner, completions)
            return Wrapped(inner, more(state.more, completions)), following

        return step

    return mutant(
        init=lambda sound: lambda variants: Wrapped(sound.init(variants), first),
        step=step_of,
        pool=lambda sound: lambda state: sound.pool(state.inner),
    )


def with_pool(change: Callable[[Any, Pool], Any]) -> MakeSampler:
    return mutant(pool=lambda sound: lambda state: change(state, sound.pool(state)))


counter = itertools.count()


def no_seed_from_key(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    return sound.step(Key(1), state, completions)


def clock_seed(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    return sound.step(key.fold(next(counter)), state, completions)


def one_seed_for_all(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    state, step = sound.step(key, state, completions)
    return state, seeded(step, lambda i, ask: key.seed())


def one_seed_per_position(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    state, step = sound.step(key, state, completions)
    return state, seeded(step, lambda i, ask: key.fold(i).seed())


def needs_all(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    if any(completion.finish == "error" for completion in completions):
        raise RuntimeError("I need them all")
    return sound.step(key, state, completions)


def failures_as_candidates(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    return sound.step(key, state, [c._replace(finish="stop") for c in completions])


def tries_for_ever(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    after, step = sound.step(key, state, completions)
    if any(completion.finish == "error" for completion in completions) and not step.asks:
        ask = Generate(QUESTION.messages, max_tokens=1, seed=key.fold("again", after.num_failed).seed())
        return after, Step((ask,), splittable=True)
    return after, step


def first_of_each_handover(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    after, step = sound.step(key, state, completions)
    return after._replace(candidates=after.candidates[: len(state.candidates) + 1]), step


def asks_while_in_flight(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    state, step = sound.step(key, state, completions)
    if state.num_done < state.num_asked and completions:
        step = Step((Generate(QUESTION.messages, seed=key.fold("more", state.num_done).seed()),), splittable=True)
    return state, step


def never_ends(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    state, step = sound.step(key, state, completions)
    if not step.asks and state.num_done >= 6:
        ask = Generate(QUESTION.messages, max_tokens=1, seed=key.fold("more", state.num_done).seed())
        return state, Step((ask,), splittable=True)
    return state, step


def numpy_in_info(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    state, step = sound.step(key, state, completions)
    return state, step._replace(info=key.generator().random(3))


def numpy_seed(sound: Sampler[Any], key: Key, state: Any, completions: Sequence[Completion]) -> Any:
    state, step = sound.step(key, state, completions)
    return state, seeded(step, lambda i, ask: key.fold(ask.seed).generator().integers(0, 2**53))  # type: ignore[return-value]


def drops_long(state: Any, pool: Pool) -> Pool:
    return pool._replace(candidates=tuple(c for c in pool.candidates if len(c.text) < 2))


def weights_by_position(state: Any, pool: Pool) -> Pool:
    return pool._replace(candidates=tuple(c._replace(log_weight=-1.0 * i) for i, c in enumerate(pool.candidates)))


def only_when_whole(state: Any, pool: Pool) -> Pool:
    assert len(pool.candidates) in (0, 3, 6), "not done yet"
    return pool


def nan_weight_when_cut(state: Any, pool: Pool) -> Pool:
    total = 0.0 if len(pool.candidates) < 6 else 1.0
    return pool._replace(
        candidates=tuple(c._replace(log_weight=math.log(total) if total else math.nan) for c in pool.candidates)
    )


def remembers(change: Callable[[list[Any]], Any]) -> MakeSampler:
    """A sampler that keeps state of its own, between calls."""

    def make() -> Sampler[Any]:
        memory: list[Any] = []
        sound = repeat(6, max_tokens=4, wave=3)

        def step(key: Key, state: Any, completions: Sequence[Completion]) -> tuple[Any, Step]:
            memory.extend(completions)
            state, following = sound.step(key, state, completions)
            return state, following._replace(info={"seen": len(memory)})

        return Sampler(**{**{n: getattr(sound, n) for n in Sampler.__slots__}, "step": step})

    return make


def grows_its_list() -> Sampler[Any]:
    """The state is a list that step changes in place and hands back."""
    sound = repeat(6, max_tokens=4, wave=3)

    def step(key: Key, state: list[Any], completions: Sequence[Completion]) -> tuple[list[Any], Step]:
        state[0], following = sound.step(key, state[0], completions)
        return state, following

    return Sampler(
        "grows", sound.needs, lambda variants: [sound.init(variants)], step, lambda state: sound.pool(state[0])
    )


def misnamed() -> Sampler[Any]:
    sound = repeat(6, max_tokens=4)
    return Sampler(
        "misnamed",
        sound.needs,
        sound.init,
        lambda rng, s, replies: sound.step(rng, s, replies),
        sound.pool,  # type: ignore[arg-type]
    )


MUTANTS: dict[str, tuple[MakeSampler, str]] = {
    "the key is not used": (stepped(no_seed_from_key), "law 1 .*different keys"),
    "seeds from a counter": (stepped(clock_seed), "law [123] "),
    "state of its own": (remembers(len), "law 2 .*different outputs"),
    "a state changed in place": (grows_its_list, "law [23] "),
    "a set in the state": (wrapping(set(), lambda old, new: old | {len(new)}), "law 3 .*a set"),
    "numbers as keys": (wrapping({}, lambda old, new: {**old, len(old): len(new)}), "law 3 .*keys that are no strings"),
    "an array in the info": (stepped(numpy_in_info), "law 3 .*info is a ndarray"),
    "numpy's integers in an ask": (stepped(numpy_seed), "law 3 .*asks.*seed is a int64"),
    "a pool of whole waves only": (with_pool(only_when_whole), "not done yet"),
    "nan weights until the end": (with_pool(nan_weight_when_cut), "law 4 .*log weight of nan"),
    "no pool but a list": (with_pool(lambda state, pool: list(pool.candidates)), "law 4 .*is no Pool"),
    "failures in the pool": (stepped(failures_as_candidates), "law 7 .*every ask failed"),
    "it never ends": (stepped(never_ends), "law 4 .*has not finished"),
    "one seed for all": (stepped(one_seed_for_all), "law 5 .*asked twice"),
    "one seed per position in the wave": (stepped(one_seed_per_position), "law 5 .*asked twice"),
    "it needs them all": (stepped(needs_all), "law 7 .*RuntimeError: I need them all"),
    "it tries for ever": (stepped(tries_for_ever), "law 7 .*goes on asking"),
    "weights by position": (with_pool(weights_by_position), "law 8 "),
    "parameters of its own naming": (misnamed, r"law 10 .*takes \['rng', 's', 'replies'\]"),
    "long responses are dropped": (with_pool(drops_long), "law 11 .*chi-square"),
    "the first of each handover": (stepped(first_of_each_handover), "law 12 .*another pool"),
    "asks while in flight": (stepped(asks_while_in_flight), "law 12 .*still to come"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_sees_its_mutant(name: str) -> None:
    make, message = MUTANTS[name]
    with pytest.raises(AssertionError, match=message):
        check_sampler(make)


def test_the_sampler_without_mutation_passes() -> None:
    check_sampler(mutant())


def test_a_budget_that_is_passed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 6 is the loop's to keep, so its mutant is a loop that counts no worst case."""
    monkeypatch.setattr(Toy, "worst_case", lambda self, ask: Usage())
    with pytest.raises(AssertionError, match="law 6 "):
        check_sampler(lambda: repeat(6, max_tokens=4))


# --- weighted samplers ------------------------------------------------------------------------------------------------

ALPHA = 2.0


def power_by_weights(weight: Callable[[float], float]) -> MakeSampler:
    """Importance sampling of p^2 from p: the weight of a draw is p."""

    class State(NamedTuple):
        variants: tuple[Variant, ...]
        asked: bool
        candidates: tuple[Candidate, ...]
        num_failed: int

    def step(key: Key, state: State, completions: Sequence[Completion]) -> tuple[State, Step]:
        if not state.asked:
            messages = state.variants[0].messages
            asks = tuple(Generate(messages, max_tokens=3, seed=key.fold(i).seed()) for i in range(8))
            return state._replace(asked=True), Step(asks)
        good = [c for c in completions if c.finish != "error"]
        drawn = tuple(candidate(c, "direct")._replace(log_weight=weight(c.logp_sum)) for c in good)
        return state._replace(candidates=drawn, num_failed=len(completions) - len(good)), Step()

    def make() -> Sampler[State]:
        return Sampler(
            "importance",
            frozenset({Capability.GENERATE}),
            lambda variants: State(variants, False, (), 0),
            step,
            lambda state: Pool(state.candidates, state.num_failed),
            weighted=True,
        )

    return make


def power(tokens: tuple[int, ...], logp: float) -> float:
    return ALPHA * logp


def test_a_weighted_sampler_hits_its_target() -> None:
    check_sampler(power_by_weights(lambda logp: (ALPHA - 1) * logp), log_target=power)


@pytest.mark.parametrize(
    "weight",
    [
        lambda logp: ALPHA * logp,  # wrong exponent
        lambda logp: 0.0,  # no weight
        lambda logp: (ALPHA - 1) * logp + 0.1,  # a constant that is not in the target
        lambda logp: (ALPHA - 1) * logp * 0.9,
    ],
)
def test_wrong_weights_are_seen(weight: Callable[[float], float]) -> None:
    with pytest.raises(AssertionError, match=r"law 11 .*standard error"):
        check_sampler(power_by_weights(weight), log_target=power)
