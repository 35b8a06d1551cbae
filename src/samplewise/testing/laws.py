"""The sampler laws, one function each. `samplewise.testing` numbers them."""

from __future__ import annotations

import copy
import inspect
import json
import math
from collections.abc import Mapping
from typing import Any, Protocol

from samplewise.core.keys import Key
from samplewise.core.types import Pool
from samplewise.loop.ledger import Budget
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.testing.distribution import draws_follow_their_distribution
from samplewise.testing.play import Case, WatchedEngine, broken, play, run_case, text_of, variants_of


class LawCheck(Protocol):
    """Check one sampler law. Raise AssertionError if the case breaks it."""

    def __call__(self, case: Case) -> None: ...


def same_key_same_run(case: Case) -> None:
    once, again = (text_of([played.step.asks for played in play(case, case.make())]) for _ in range(2))
    if once != again:
        broken(1, "keys", "the same key gave two different runs: take all randomness from `key`")
    if once == text_of([played.step.asks for played in play(case._replace(key=case.key.fold("other")), case.make())]):
        broken(1, "keys", "two different keys gave the same asks: fold `key` into every seed")


def step_is_pure(case: Case) -> None:
    sampler, other = case.make(), case.make()
    for before, completions, _, _ in play(case, case.make()):
        state, unchanged = copy.deepcopy(before), copy.deepcopy(completions)
        outcomes = [instance.step(case.key, state, completions) for instance in (sampler, sampler, other)]
        if len({repr(outcome) for outcome in outcomes}) > 1:
            broken(2, "purity", f"{sampler.name}.step gave different outputs for equal inputs")
        after = outcomes[0][0]
        after_text = repr(after)
        if len({repr(instance.pool(after)) for instance in (sampler, sampler, other)}) > 1:
            broken(2, "purity", f"{sampler.name}.pool gave different pools for one state")
        if repr(state) != repr(before) or repr(completions) != repr(unchanged) or repr(after) != after_text:
            broken(2, "purity", f"{sampler.name} changed a state or completions that it was handed")


def state_is_plain(case: Case) -> None:
    sampler = case.make()
    for before, completions, after, step in play(case, sampler):
        for value, what in ((before, "state"), (after, "state"), (step.asks, "asks"), (step.info, "info")):
            _plain(value, f"{sampler.name}'s {what}")
        restored = _restored(json.loads(json.dumps(before)), before)
        if repr(sampler.step(case.key, restored, completions)) != repr((after, step)):
            broken(3, "plain data", f"{sampler.name} goes on differently from a state that went through JSON")


def _plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        if any(type(k) is not str for k in value):
            broken(3, "plain data", f"{where} has a mapping with keys that are no strings: {value!r}")
        for k, v in value.items():
            _plain(v, f"{where}[{k!r}]")
    elif isinstance(value, tuple | list):
        for i, v in enumerate(value):
            _plain(v, f"{where}.{value._fields[i]}" if hasattr(value, "_fields") else f"{where}[{i}]")
    elif value is not None and type(value) not in (bool, int, float) and not isinstance(value, str):
        broken(3, "plain data", f"{where} is a {type(value).__name__}, which JSON cannot carry: {value!r}")


def _restored(data: Any, like: Any) -> Any:
    """Return what JSON gave back, in the types of the original."""
    if isinstance(like, tuple | list):
        items = [_restored(d, k) for d, k in zip(data, like, strict=True)]
        return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)
    if isinstance(like, Mapping):
        return {k: _restored(data[k], v) for k, v in like.items()}
    return type(like)(data) if isinstance(like, str) else data


def pool_is_valid(case: Case) -> None:
    sampler = case.make()
    arms = {variant.arm for variant in variants_of(case)}
    _valid(sampler.pool(sampler.init(variants_of(case))), arms, "before the first step")
    for singly in (False, True):
        for index, played in enumerate(play(case, sampler, singly=singly), start=1):
            _valid(sampler.pool(played.after), arms, f"after step {index}")
    full = run_case(case, case.engine).spent.requests
    for requests in _sizes(full):
        result = run_case(case, case.engine, budget=Budget(requests=requests))
        _valid(result.pool, arms, f"after a budget of {requests} requests")


def _valid(pool: Pool, arms: set[str], when: str) -> None:
    def need(valid: bool, message: str) -> None:
        if not valid:
            broken(4, "anytime", f"{when} the pool {message}")

    need(isinstance(pool, Pool) and isinstance(pool.candidates, tuple), f"is no Pool of a tuple but {pool!r:.200}")
    need(isinstance(pool.num_failed, int) and pool.num_failed >= 0, f"counts {pool.num_failed!r} failed asks")
    for c in pool.candidates:
        need(isinstance(c.text, str) and isinstance(c.scores, Mapping), f"holds {c!r:.200}")
        need(c.finish in ("stop", "length", "rejected"), f"lists a candidate with finish {c.finish!r}")
        need(c.arm in arms, f"lists a candidate of arm {c.arm!r}, which is not in the mix")
        need(isinstance(c.num_tokens, int) and c.num_tokens >= 0, f"lists a candidate of {c.num_tokens!r} tokens")
        need(not math.isnan(c.log_weight) and c.log_weight < math.inf, f"has a log weight of {c.log_weight}")
    weights = [c.log_weight for c in pool.candidates]
    need(not weights or max(weights) > -math.inf, "has no candidate of positive weight")


def _sizes(full: int) -> list[int]:
    """Return every budget from 0 to the full cost, or 41 evenly spaced ones if there are more."""
    return sorted({round(i * full / 40) for i in range(41)}) if full > 40 else list(range(full + 1))


def no_ask_twice(case: Case) -> None:
    for arms in ((), case.arms):
        watched = WatchedEngine(case.engine)
        result = run_case(case, watched, arms=arms)
        seen: set[bytes] = set()
        for ask in watched.asked:
            if (digest := digest_of("", ask)) in seen:
                message = f"{text_of(ask):.300} was asked twice, and a store would hand out one draw for both"
                broken(5, "no ask twice", f"{message}: give every draw a seed of its own")
            seen.add(digest)
        if result.stop.reason != "finished":
            broken(4, "anytime", f"a run without a budget ended with {result.stop}")


def budget_is_kept(case: Case) -> None:
    price = 0.01
    for fails in (0.0, 0.4):
        full = run_case(case, WatchedEngine(case.engine, fails=fails, usd_per_token=price)).spent
        costs = {name: getattr(full, name) for name in ("requests", "prompt_tokens", "completion_tokens", "tokens")}
        budgets = [Budget(**{name: size}) for name, cost in costs.items() for size in _sizes(cost)]
        budgets += [Budget(usd=size * price) for size in _sizes(full.tokens)] + [Budget(seconds=0.0)]
        for budget in budgets:
            watched = WatchedEngine(case.engine, fails=fails, usd_per_token=price)
            result = run_case(case, watched, budget=budget)
            if not budget.admits(watched.used) or not budget.admits(result.spent):
                broken(6, "budget", f"{result.spent} was spent and {watched.used} paid, with {budget}")
            if budget.seconds == 0.0 and watched.asked:
                broken(6, "budget", "an ask was sent after the time was up")


def failures_are_tolerated(case: Case) -> None:
    arms = {variant.arm for variant in variants_of(case)}
    patience = Budget(requests=10 * run_case(case, case.engine).spent.requests + 100)
    for fails in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        for i in range(4):
            watched = WatchedEngine(case.engine, fails=fails, key=Key(i))
            try:
                result = run_case(case, watched, budget=patience)
            except Exception as error:
                raise AssertionError(
                    f"law 7 (failures): a run in which some asks failed raised {type(error).__name__}: {error}"
                ) from error
            _valid(result.pool, arms, "after failures")
            if result.stop.reason != "finished":
                broken(7, "failures", f"with {fails:.0%} of the asks failing it goes on asking, ten times over")
            if fails == 1.0 and (result.pool.candidates or not result.pool.num_failed):
                broken(7, "failures", f"every ask failed, and yet the pool is {result.pool!r:.200}")


def permutations_permute(case: Case) -> None:
    sampler = case.make()
    if not sampler.exchangeable:
        return
    case = case._replace(arms=())
    for before, completions, after, step in play(case, sampler):
        for i in range(5 if len(completions) > 1 else 0):
            order = case.key.fold("permute", i).generator().permutation(len(completions)).tolist()
            permuted, then = sampler.step(case.key, before, tuple(completions[j] for j in order))
            if sorted(map(repr, sampler.pool(permuted).candidates)) != sorted(
                map(repr, sampler.pool(after).candidates)
            ):
                broken(8, "exchangeability", f"{sampler.name}'s pool changes with the order of its completions")
            if then != step:
                broken(8, "exchangeability", f"{sampler.name} asks for something else after a permutation")


def replay_is_free(case: Case) -> None:
    with Store(":memory:") as store:
        once = run_case(case, case.engine, store=store)
        watched = WatchedEngine(case.engine)
        again = run_case(case, watched, store=store)
    if watched.asked:
        broken(9, "replay", f"{len(watched.asked)} asks were sent again although the store had their draws")
    if repr(again._replace(paid=once.paid)) != repr(once):
        broken(9, "replay", "the replayed run ended in another result")


def parameters_are_named(case: Case) -> None:
    sampler = case.make()
    wanted = {"init": ["variants"], "step": ["key", "state", "completions"], "pool": ["state"]}
    for name, parameters in wanted.items():
        got = list(inspect.signature(getattr(sampler, name)).parameters)
        if got != parameters:
            broken(10, "names", f"{sampler.name}.{name} takes {got}, it should take {parameters}")


def splitting_changes_nothing(case: Case) -> None:
    sampler = case.make()
    whole, split = play(case, sampler), play(case, sampler, singly=True)
    if repr(sampler.pool(whole[-1].after)) != repr(sampler.pool(split[-1].after)):
        broken(12, "splitting", f"{sampler.name} ends in another pool when its completions come one at a time")
    all_asks = [text_of([ask for played in run for ask in played.step.asks]) for run in (whole, split)]
    if all_asks[0] != all_asks[1]:
        broken(12, "splitting", f"{sampler.name} asks for something else when its completions come one at a time")


LAWS: Mapping[str, LawCheck] = {  # the order matters: the first broken law explains the most
    "parameters are named": parameters_are_named,
    "step is pure": step_is_pure,
    "state is plain": state_is_plain,
    "same key, same run": same_key_same_run,
    "splitting changes nothing": splitting_changes_nothing,
    "pool is valid": pool_is_valid,
    "no ask twice": no_ask_twice,
    "failures are tolerated": failures_are_tolerated,
    "budget is kept": budget_is_kept,
    "permutations permute": permutations_permute,
    "replay is free": replay_is_free,
    "draws follow their distribution": draws_follow_their_distribution,
}
