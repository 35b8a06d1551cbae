"""Every outcome of a sampler with its exact probability, by forking on every random choice.

A sampler that takes its randomness from `RandomChoices` (samplewise.samplers.power.random_choices) and an engine run
once for every way that the choices can go. So what is enumerated is the shipped code, not another version of it:

    forks = ForkedChoices()
    for probability, response in forks.outcomes(one_step): ...

A uniform number that is only compared is not split beforehand: it is an interval, and each comparison that is not
decided yet cuts it. It may be drawn in one play and compared in another. Cost: a play per outcome.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, log_normalise, log_softmax
from samplewise.core.types import Completion, Finish, Generate, Sampling, Usage
from samplewise.engines.distribution import draw_log_probs

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Play(Protocol[T_co]):
    """Makes choices by `ForkedChoices` and returns a result."""

    def __call__(self) -> T_co: ...


class ForkedChoices:
    """The choices of one run after another. It stands for the choices of every key, and draws for the engine."""

    def __init__(self) -> None:
        self._script: list[int] = []
        self._position = 0
        self._probability = 1.0
        self.turn = 0  # results so far: what was learned of a number in one play does not hold in the next

    def outcomes(self, play: Play[T]) -> Iterator[tuple[float, T]]:
        """Yield every result of `play` with its probability; a result can come several times."""
        waiting: list[list[int]] = [[]]
        while waiting:
            self._script, self._position, self._probability = waiting.pop(), 0, 1.0
            self._others: list[list[int]] = []
            self.turn += 1
            result = play()
            waiting += self._others
            yield self._probability, result

    def branch(self, probabilities: Sequence[float]) -> int:
        """Return one of the choices with these probabilities (N,), which sum to 1."""
        if self._position == len(self._script):
            first, *others = [choice for choice, probability in enumerate(probabilities) if probability > 0.0]
            self._others += [[*self._script, other] for other in others]
            self._script = [*self._script, first]
        choice = self._script[self._position]
        self._position += 1
        self._probability *= probabilities[choice]
        return choice

    # -------------------------------------------------------------------------------------------- as random choices

    def __call__(self, key: Key) -> ForkedChoices:
        """Return the choices of any key: they do not depend on keys here."""
        return self

    def choose(self, masses: Sequence[float]) -> int:
        total = math.fsum(masses)
        return self.branch([mass / total for mass in masses])

    def happens(self, probability: float) -> bool:
        return self.branch([probability, max(0.0, 1.0 - probability)]) == 0

    def log_uniform(self) -> float:
        return LogUniform(Interval(self), 0.0)

    def gumbels(self, num: int) -> tuple[float, ...]:
        return (0.0,) * num

    def winner(self, log_weights: Sequence[float], noise: Sequence[float]) -> int:
        """Choose by weight, which the largest of log weights plus Gumbel noise does."""
        return self.choose(np.exp(log_normalise(log_weights)).tolist())


class Interval:
    """The interval in which a uniform number is known to be."""

    def __init__(self, forks: ForkedChoices) -> None:
        self.low, self.high = 0.0, 1.0
        self._forks, self._turn = forks, forks.turn

    def below(self, bound: float) -> bool:
        if self._turn != self._forks.turn:
            self.low, self.high, self._turn = 0.0, 1.0, self._forks.turn
        if bound <= self.low or bound >= self.high:
            return bound >= self.high
        share = (bound - self.low) / (self.high - self.low)
        if self._forks.branch([share, 1.0 - share]) == 0:
            self.high = bound
            return True
        self.low = bound
        return False


class LogUniform(float):
    """log u + shift, for a u that is still an interval. It can be shifted and compared, nothing else."""

    _interval: Interval
    _shift: float

    def __new__(cls, interval: Interval, shift: float) -> LogUniform:
        self = super().__new__(cls, math.nan)  # any other use shows
        self._interval, self._shift = interval, shift
        return self

    def __add__(self, other: float) -> LogUniform:
        return LogUniform(self._interval, self._shift + other)

    __radd__ = __add__

    def __sub__(self, other: float) -> LogUniform:
        return LogUniform(self._interval, self._shift - other)

    def __lt__(self, other: float) -> bool:
        return self._interval.below(math.exp(min(other - self._shift, 1.0)))

    def __le__(self, other: float) -> bool:
        return self < other

    def __gt__(self, other: float) -> bool:
        return not self < other

    def __ge__(self, other: float) -> bool:
        return not self < other


class Tree:
    """A language model with its own distribution after every prefix, drawn from `seed`: `vocab` letters, then `stops`
    token ids that end a response. `scale` spreads the logits."""

    def __init__(self, vocab: int, *, stops: int = 1, seed: int = 0, scale: float = 1.0) -> None:
        self.vocab, self.size = vocab, vocab + stops
        self._key, self._scale = Key(seed).fold("tree"), scale
        self._rows: dict[tuple[int, ...], Floats] = {}
        self._distributions: dict[tuple[tuple[int, ...], Sampling], Floats] = {}

    def next_logp(self, tokens: tuple[int, ...]) -> Floats:
        """Return log-probabilities (V,) in nats of what follows `tokens`."""
        if tokens not in self._rows:
            self._rows[tokens] = self._draw_logp(tokens)
        return self._rows[tokens]

    def _draw_logp(self, tokens: tuple[int, ...]) -> Floats:
        return log_softmax(self._scale * self._key.fold(*tokens).generator().normal(size=self.size))

    def draw_log_probs(self, tokens: tuple[int, ...], sampling: Sampling) -> Floats:
        """Return the distribution drawn from (V,), in nats."""
        if (tokens, sampling) not in self._distributions:
            self._distributions[tokens, sampling] = draw_log_probs(self.next_logp(tokens), sampling)
        return self._distributions[tokens, sampling]

    def reported(self, tokens: tuple[int, ...], sampling: Sampling) -> Floats:
        """Return what the engine reports that it draws from: the truth, unless a mutant changes it."""
        return self.draw_log_probs(tokens, sampling)

    def log_power(self, tokens: tuple[int, ...], exponent: float) -> float:
        """Return log sum_v p(v)^exponent (nats)."""
        return float(np.log(np.exp(exponent * self.next_logp(tokens)).sum()))

    def ended(self, tokens: tuple[int, ...]) -> bool:
        return bool(tokens) and tokens[-1] >= self.vocab

    def responses(self, horizon: int, sampling: Sampling = Sampling()) -> list[tuple[int, ...]]:
        """Return every complete response that `sampling` can give."""
        done: list[tuple[int, ...]] = []
        growing: list[tuple[int, ...]] = [()]
        while growing:
            tokens = growing.pop()
            for token in np.flatnonzero(np.isfinite(self.draw_log_probs(tokens, sampling))).tolist():
                longer = (*tokens, int(token))
                (done if self.ended(longer) or len(longer) == horizon else growing).append(longer)
        return sorted(done)

    def logp(self, tokens: tuple[int, ...]) -> list[float]:
        """Return the log-probability of each token (L,), at temperature 1."""
        return [float(self.next_logp(tokens[:i])[token]) for i, token in enumerate(tokens)]

    def logq(self, tokens: tuple[int, ...], sampling: Sampling) -> list[float]:
        """Return the log-probability of each token (L,), under the distribution drawn from."""
        return [float(self.reported(tokens[:i], sampling)[token]) for i, token in enumerate(tokens)]

    def text(self, tokens: Sequence[int]) -> str:
        return "".join("abcdefgh"[token] for token in tokens if token < self.vocab)

    def answer(self, forks: ForkedChoices, ask: Generate, *, tight: bool = True) -> Completion:
        """Return the completion of one ask, one way of all. `tight`: the bound looks one position ahead."""
        tokens: list[int] = []
        logp: list[float] = []
        logq: list[float] = []
        logz: list[tuple[float, ...]] = []
        running, finish = 0.0, "length"
        while len(tokens) < ask.max_tokens and finish == "length":
            before = (*ask.prefix, *tokens)
            row, draw_logq = self.next_logp(before), self.draw_log_probs(before, ask.sampling)
            kept = np.isfinite(draw_logq)
            if ask.reject_below is not None and tight:
                power = 1.0 / ask.sampling.temperature
                if running + float(np.log(np.exp(power * row[kept]).sum())) < ask.reject_below.value:
                    finish = "rejected"
                    break
            masses = np.exp(draw_logq)
            if not tokens and ask.forbid_first is not None:
                masses[ask.forbid_first] = 0.0
            token = forks.choose(masses.tolist())
            tokens.append(token)
            logp.append(float(row[token]))
            logq.append(float(self.reported(before, ask.sampling)[token]))
            logz.append(tuple(self.log_power(before, exponent) for exponent in ask.exponents))
            if ask.reject_below is not None:
                running += ask.reject_below.alpha * logp[-1] - logq[-1]
                if running < ask.reject_below.value:
                    finish = "rejected"
                    break
            if token >= self.vocab:
                finish = "stop"
        ids = tuple(tokens)
        ending: Finish = "rejected" if finish == "rejected" else "stop" if finish == "stop" else "length"
        text = self.text((*ask.prefix, *ids) if "whole" in ask.want else ids)
        usage = Usage(1, len(ask.prefix), len(ids))
        return Completion(text, ending, usage, ids, tuple(logp), tuple(logq), math.fsum(logp), logz=tuple(logz) or None)
