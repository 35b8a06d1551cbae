"""The model that the endpoint serves: the toy engine's distribution, at the speed of a server.

A draw with a seed equals, token for token and log-prob for log-prob, what `Toy.one` gives for that seed. So a client
can be checked against the toy engine itself, and its distributions by enumeration. Prompts are counted in words.
Cost: about 20 microseconds a draw, most of it for seeding.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from samplewise.core.keys import Key
from samplewise.core.numerics import log_softmax
from samplewise.core.text import find_stop
from samplewise.core.types import Message, Sampling
from samplewise.engines.distribution import draw_log_probs
from samplewise.engines.toy import LETTERS, Toy

FIRST_WORD = 100  # ids below are the toy model's own, the others are words of prompts
CHUNK = 16  # uniforms drawn at a time


class ServedDraw(NamedTuple):
    """One completion: token ids (T,), the end token included, and log-probs (T,) nats at temperature 1."""

    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    text: str
    finish: str  # "stop" or "length"


class _Row(NamedTuple):
    cumulative: list[float]  # (V+1,) cumulative probabilities, not normalized
    last: int  # the last token that can be drawn
    logp: list[float]  # (V+1,) nats at temperature 1


class ServedModel:
    """A toy model with a tokenizer for prompts: one id per word, and one per role."""

    def __init__(self, vocab: int, *, seed: int, scale: float) -> None:
        self.toy = Toy(vocab, seed=seed, scale=scale)
        self.eos = self.toy.eos
        self._rows: dict[tuple[object, Sampling, object], _Row] = {}
        self._ids: dict[str, int] = {}
        self._words: list[str] = []
        self._prompts: dict[tuple[Message, ...], tuple[int, ...]] = {}
        self._messages: dict[tuple[int, ...], tuple[Message, ...]] = {}

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return one id per word; new words are added."""
        return tuple(self._id(word) for word in text.split())

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = FIRST_WORD + len(self._words)
            self._words.append(word)
        return self._ids[word]

    def prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """Return the ids of a chat's prompt: each message after its role, then the marker that asks for a response."""
        if messages not in self._prompts:
            chat = [id for role, content in messages for id in (self._id(f"<{role}>"), *self.tokenize(content))]
            ids = (*chat, self._id("<assistant>"))
            self._prompts[messages], self._messages[ids] = ids, messages
        return self._prompts[messages]

    def parse(self, ids: Sequence[int]) -> tuple[tuple[Message, ...], tuple[int, ...]]:
        """Return the messages and the response's prefix that a prompt of ids stands for.

        A prompt that `prompt` never made is one message with its words. Raises ValueError for ids that do not exist.
        """
        split = next((i for i, id in enumerate(ids) if id < FIRST_WORD), len(ids))
        prompt, prefix = tuple(ids[:split]), tuple(ids[split:])
        if any(id >= FIRST_WORD + len(self._words) for id in prompt) or any(not 0 <= t < self.eos for t in prefix):
            raise ValueError("token ids that do not exist, or follow the end of a response")
        if prompt not in self._messages:
            self._messages[prompt] = (Message("user", " ".join(self._words[id - FIRST_WORD] for id in prompt)),)
        return self._messages[prompt], prefix

    def letters(self, text: str) -> tuple[int, ...]:
        """Return the response tokens that spell `text`. Raises ValueError for a letter that the model does not have."""
        return tuple(LETTERS[: self.eos].index(letter) for letter in text)

    def spell(self, token: int) -> str:
        """Return the text of one id, of a prompt or of a response."""
        if token >= FIRST_WORD:
            return self._words[token - FIRST_WORD]
        return "</s>" if token == self.eos else LETTERS[token]

    def logp(
        self, messages: tuple[Message, ...], tokens: Sequence[int], sampling: Sampling = Sampling()
    ) -> list[float]:
        """Return the log-probs (V+1,) in nats of the token after `tokens`, at temperature 1 or under `sampling`."""
        last = tokens[-1] if tokens else None
        logp = self._row(messages, last, Sampling()).logp
        return logp if sampling == Sampling() else draw_log_probs(np.array(logp), sampling).tolist()

    def _row(
        self,
        messages: tuple[Message, ...],
        last: int | None,
        sampling: Sampling,
        logit_bias: Sequence[tuple[int, float]] = (),
    ) -> _Row:
        key = (messages if last is None else last, sampling, tuple(logit_bias))
        if key not in self._rows:
            logp = self.toy.next_logp(messages, () if last is None else (last,))
            biased = logp.copy()
            for token, value in logit_bias:
                biased[token] += value
            logq = draw_log_probs(log_softmax(biased) if logit_bias else logp, sampling).tolist()
            total, cumulative = 0.0, []
            for value in logq:  # adds up as numpy's cumsum does, which engines/distribution.py uses
                cumulative.append(total := total + math.exp(value))
            self._rows[key] = _Row(cumulative, max(i for i, v in enumerate(logq) if v > -math.inf), logp.tolist())
        return self._rows[key]

    def draw(
        self,
        messages: tuple[Message, ...],
        prefix: tuple[int, ...],
        sampling: Sampling,
        max_tokens: int,
        stop: tuple[str, ...],
        key: Key,
        noise: float = 0.0,
        logit_bias: Sequence[tuple[int, float]] = (),
    ) -> ServedDraw:
        """Return one completion after `prefix`; the same key gives the same completion.

        With probability `noise` a token is another one than was drawn. `logit_bias` is added to the logits of tokens;
        log-probs are those without it.
        """
        generator = key.generator()
        tokens: list[int] = []
        logp: list[float] = []
        uniforms: list[float] = []
        last = prefix[-1] if prefix else None
        text, finish = "", "length"
        while len(tokens) < max_tokens:
            if not uniforms:
                uniforms = generator.random(CHUNK).tolist()[::-1]
            row = self._row(messages, last, sampling, logit_bias)
            last = bisect_right(row.cumulative, uniforms.pop() * row.cumulative[-1])
            if last > row.last:  # a uniform that rounds up to the end
                last = row.last
            if noise and generator.random() < noise:
                last = (last + 1) % self.eos
            tokens.append(last)
            logp.append(row.logp[last])
            if last == self.eos:
                finish = "stop"
                break
            text += LETTERS[last]
            if stop and (cut := find_stop(text, stop)) >= 0:
                text, finish = text[:cut], "stop"
                break
        return ServedDraw(tuple(tokens), tuple(logp), text, finish)
