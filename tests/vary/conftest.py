"""Arms played by hand: a scripted helper, which is a plain function from a request to a text, None for a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from samplewise.core.keys import Key
from samplewise.core.types import Completion, Generate, Question
from samplewise.samplers.base import Variant
from samplewise.vary.base import Arm, PlainArm, vary

MAX_ROUNDS = 50

Think = Callable[[Generate], str | None]


class Played(NamedTuple):
    variants: tuple[Variant, ...]  # without the identity arm
    rounds: list[tuple[Generate, ...]]
    counts: dict[str, int]  # fallbacks, leaks, losses, repeats

    @property
    def texts(self) -> list[str]:
        return [variant.messages[-1].content for variant in self.variants]

    @property
    def asks(self) -> list[Generate]:
        return [ask for asks in self.rounds for ask in asks]


KEY = Key(0)


def _play(arm: Arm | PlainArm, question: Question, think: Think, key: Key = KEY) -> Played:
    mix = vary(arm)
    state = mix.init(question)
    completions: list[Completion] = []
    rounds: list[tuple[Generate, ...]] = []
    for _ in range(MAX_ROUNDS):
        state, step = mix.step(key, state, completions)
        assert mix.variants(state)[0].messages == question.messages
        if not step.asks:
            told = dict(step.info["vary"][0]) if step.info else {}
            counts = {name: told.get(name, 0) for name in ("fallbacks", "leaks", "losses", "repeats")}
            return Played(mix.variants(state)[1:], rounds, counts)
        rounds.append(step.asks)  # type: ignore[arg-type]
        texts = [think(ask) for ask in step.asks]  # type: ignore[arg-type]
        completions = [Completion("", "error") if text is None else Completion(text, "stop") for text in texts]
    raise AssertionError("the arm never stops asking")


@pytest.fixture
def play() -> Callable[..., Played]:
    return _play
