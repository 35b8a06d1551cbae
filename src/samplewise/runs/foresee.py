"""What a run will ask about a question, before anything is asked: of helpers, of the solver, of judges.

The parts of the recipe are played. What the store holds answers for real. In place of the rest there are answers that
make whoever waits for them ask most: a helper's reply that cannot be read, responses that all differ and are as long as
they may be, a judge's verdict without a score. A text that goes into a later request counts there with as many tokens
as it may have had when it was drawn. Requests that fail and are sent again come on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from samplewise.core.keys import Key
from samplewise.core.types import Ask, BatchVerifier, Candidate, Completion, Generate, Message, Question, Reader, Usage
from samplewise.engines.base import Engine
from samplewise.loop.keys import QuestionKeys, question_keys
from samplewise.recipe import Recipe
from samplewise.samplers.base import Variant
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.verify.base import Judge, Replies

MAX_ROUNDS = 64  # that a judge or a helper is played for
AROUND = 128  # tokens that an arm may add to a prompt around a helper's text
UNREADABLE = Completion("", "stop")


class ForeseenCosts(NamedTuple):
    """The worst cases of what is not in the store yet, and what cannot be known beforehand."""

    draws: tuple[Usage, ...]
    others: tuple[Usage, ...]  # of helpers and judges
    num_stored: int  # draws that the store holds
    unknown: tuple[str, ...]


class _Varied(NamedTuple):
    """The variants, what their helpers cost, and how many tokens their texts may add to a prompt."""

    variants: tuple[Variant, ...]
    costs: tuple[Usage, ...]
    num_added: int


def foresee(question: Question, recipe: Recipe, key: Key, engine: Engine, store: Store, read: Reader) -> ForeseenCosts:
    """Return what a run with this key will pay for a question at most. Asks nothing of the engine."""
    keys = question_keys(key, question.id)
    variants, others, num_added = _play_vary(question, recipe, keys, engine, store)
    state, step = recipe.sampler.step(keys.draw, recipe.sampler.init(variants), ())
    kept = _kept(step.asks, engine, store)
    draws = tuple(
        engine.worst_case(_longer(ask, num_added))
        for ask, completion in zip(step.asks, kept, strict=True)
        if completion is None
    )
    unknown = [name for name, verifier in recipe.verifiers.items() if isinstance(verifier, BatchVerifier)]
    judges = {n: v for n, v in recipe.verifiers.items() if isinstance(v, Judge) and v.asks}
    if recipe.max_draws is None or len(step.asks) < recipe.max_draws:
        return ForeseenCosts(
            draws, others, len(kept) - len(draws), (f"later draws of {recipe.sampler.name}", *unknown, *judges)
        )
    completions = [_longest(ask, i) if kept[i] is None else kept[i] for i, ask in enumerate(step.asks)]
    if judges:
        state, _ = recipe.sampler.step(keys.draw, state, [each for each in completions if each is not None])
        pool = recipe.sampler.pool(state).candidates
        for name, judge in judges.items():
            is_asked_often = recipe.stop is not None and name in recipe.stop.verifiers
            sizes = range(1, len(pool) + 1) if is_asked_often else (len(pool),)
            others += tuple(_play_judge(judge, keys.judge(name), question, pool, sizes, engine, store, read))
    return ForeseenCosts(draws, others, len(kept) - len(draws), tuple(unknown))


def _play_vary(question: Question, recipe: Recipe, keys: QuestionKeys, engine: Engine, store: Store) -> _Varied:
    """Play the arms with the replies of helpers that the store holds."""
    state, step = recipe.vary.step(keys.vary, recipe.vary.init(question), ())
    costs: list[Usage] = []
    num_before = num_added = 0  # tokens that helpers may have drawn: all of them, and the longest of each round
    for _ in range(MAX_ROUNDS):
        if not step.asks:
            break
        kept = _kept(step.asks, engine, store)
        missing = [ask for ask, completion in zip(step.asks, kept, strict=True) if completion is None]
        costs += [engine.worst_case(_longer(ask, num_before)) for ask in missing]
        limits = [ask.max_tokens for ask in missing if isinstance(ask, Generate)]
        num_before += sum(limits)
        num_added += max(limits, default=0) + (AROUND if limits else 0)
        state, step = recipe.vary.step(keys.vary, state, [completion or UNREADABLE for completion in kept])
    return _Varied(recipe.vary.variants(state), tuple(costs), num_added)


def _play_judge(
    judge: Judge,
    key: Key,
    question: Question,
    pool: tuple[Candidate, ...],
    sizes: Sequence[int],
    engine: Engine,
    store: Store,
    read: Reader,
) -> Iterator[Usage]:
    """Yield the worst case of each request of a judge, asked about the first candidates, so many at a time."""
    answers = tuple(
        None if each.is_unanswered else f"answer {i}" if _is_stand_in(each) else read(question, each.text)
        for i, each in enumerate(pool)
    )
    asked: dict[Ask, Completion] = {}
    for size in sizes:
        replies: Replies = ()
        for _ in range(MAX_ROUNDS):
            asks = judge.next_asks(key, question, pool[:size], answers[:size], replies)
            if not asks:
                break
            new = [ask for ask in dict.fromkeys(asks) if ask not in asked]
            for ask, completion in zip(new, _kept(new, engine, store), strict=True):
                asked[ask] = completion or UNREADABLE
                if completion is None:
                    yield engine.worst_case(ask)
            replies = (*replies, tuple(asked[ask] for ask in asks))


def _kept(asks: Sequence[Ask], engine: Engine, store: Store) -> list[Completion | None]:
    """Return what the store holds for each ask, None where it has nothing."""
    digests = [digest_of(engine.member(ask).identity, ask) for ask in asks]
    known = store.draws(digests)
    return [known.get(digest) for digest in digests]


def _longer(ask: Ask, num_tokens: int) -> Ask:
    """Return an ask whose prompt has so many tokens more."""
    return ask._replace(messages=(*ask.messages, Message("user", _filler(num_tokens)))) if num_tokens else ask


def _filler(num_tokens: int) -> str:
    """Return a text that has at least so many tokens, for whoever counts words, tokens or bytes."""
    return " ".join(["x"] * num_tokens)


STAND_IN = "stand-in "


def _longest(ask: Ask, index: int) -> Completion:
    """Return a draw that is as long as it may be, and like no other."""
    limit = ask.max_tokens if isinstance(ask, Generate) else 0
    return Completion(f"{STAND_IN}{index} {_filler(limit)}", "stop", Usage(1, 0, limit))


def _is_stand_in(candidate: Candidate) -> bool:
    return candidate.text.startswith(STAND_IN)
