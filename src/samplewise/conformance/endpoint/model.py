"""What the endpoint serves: the toy engine's law, at the speed of a server.

A draw with a seed is, token for token and log-probability for log-probability, what `Toy.one` gives for that seed, so
that a client can be checked against the toy engine itself, and its laws by enumeration. Prompts are counted in words.
Cost: about 20 microseconds a draw, most of it for seeding.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.engines.law import draw_law
from samplewise.engines.toy import LETTERS, Toy
from samplewise.keys import Key
from samplewise.types import Message, Sampling

FIRST_WORD = 100  # ids below are the toy model's own, ids from here are words of prompts
CHUNK = 16  # uniforms drawn at a time


class Draw(NamedTuple):
    """One completion: token ids (T,), the end token included, and log-probs (T,) nats at temperature 1."""

    tokens: tuple[int, ...]
    logp: tuple[float, ...]
    text: str
    finish: str  # "stop" or "length"


class _Row(NamedTuple):
    upto: list[float]  # (V+1,) the law's distribution function, not normalised
    last: int  # the last token that can be drawn
    logp: list[float]  # (V+1,) nats at temperature 1


class Model:
    """A toy model with a tokenizer for prompts: one id for each word, and one for each role."""

    def __init__(self, vocab: int, *, seed: int, scale: float) -> None:
        self.toy = Toy(vocab, seed=seed, scale=scale)
        self.eos = self.toy.eos
        self._rows: dict[tuple[object, Sampling], _Row] = {}
        self._ids: dict[str, int] = {}
        self._words: list[str] = []
        self._prompts: dict[tuple[Message, ...], tuple[int, ...]] = {}
        self._messages: dict[tuple[int, ...], tuple[Message, ...]] = {}

    def tokenize(self, text: str) -> tuple[int, ...]:
        """One id a word, new words included."""
        return tuple(self._id(word) for word in text.split())

    def _id(self, word: str) -> int:
        if word not in self._ids:
            self._ids[word] = FIRST_WORD + len(self._words)
            self._words.append(word)
        return self._ids[word]

    def prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """Ids of a chat's prompt: each message behind its role, then the word that asks for a response."""
        if messages not in self._prompts:
            chat = [id for role, content in messages for id in (self._id(f"<{role}>"), *self.tokenize(content))]
            ids = (*chat, self._id("<assistant>"))
            self._prompts[messages], self._messages[ids] = ids, messages
        return self._prompts[messages]

    def parse(self, ids: Sequence[int]) -> tuple[tuple[Message, ...], tuple[int, ...]]:
        """The messages and the response's prefix that a prompt of ids stands for. A prompt that was never made here is
        one message with its words. Raises ValueError at ids that do not exist."""
        split = next((i for i, id in enumerate(ids) if id < FIRST_WORD), len(ids))
        prompt, prefix = tuple(ids[:split]), tuple(ids[split:])
        if any(id >= FIRST_WORD + len(self._words) for id in prompt) or any(not 0 <= t < self.eos for t in prefix):
            raise ValueError("token ids that do not exist, or follow the end of a response")
        if prompt not in self._messages:
            self._messages[prompt] = (Message("user", " ".join(self._words[id - FIRST_WORD] for id in prompt)),)
        return self._messages[prompt], prefix

    def letters(self, text: str) -> tuple[int, ...]:
        """The response's tokens that spell `text`. Raises ValueError at a letter that the model does not have."""
        return tuple(LETTERS[: self.eos].index(letter) for letter in text)

    def spell(self, token: int) -> str:
        """The text of one id, of a prompt or of a response."""
        if token >= FIRST_WORD:
            return self._words[token - FIRST_WORD]
        return "</s>" if token == self.eos else LETTERS[token]

    def logp(self, messages: tuple[Message, ...], tokens: Sequence[int]) -> list[float]:
        """Log-probs (V+1,) nats of the token after `tokens`, at temperature 1."""
        return self._row(messages, tokens[-1] if tokens else None, Sampling()).logp

    def _row(self, messages: tuple[Message, ...], last: int | None, sampling: Sampling) -> _Row:
        key = (messages if last is None else last, sampling)
        if key not in self._rows:
            logp = self.toy.next_logp(messages, () if last is None else (last,))
            law = draw_law(logp, sampling)
            total, upto = 0.0, []
            for value in law.tolist():  # adds up as numpy's cumsum does, which engines/law.py uses
                upto.append(total := total + math.exp(value))
            self._rows[key] = _Row(upto, max(i for i, v in enumerate(law.tolist()) if v > -math.inf), logp.tolist())
        return self._rows[key]

    def draw(
        self,
        messages: tuple[Message, ...],
        prefix: tuple[int, ...],
        sampling: Sampling,
        max_tokens: int,
        stop: tuple[str, ...],
        key: Key,
    ) -> Draw:
        """One completion after `prefix`; the same key, the same completion."""
        generator = key.generator()
        tokens: list[int] = []
        logp: list[float] = []
        uniforms: list[float] = []
        last = prefix[-1] if prefix else None
        text, finish = "", "length"
        while len(tokens) < max_tokens:
            if not uniforms:
                uniforms = generator.random(CHUNK).tolist()[::-1]
            row = self._row(messages, last, sampling)
            last = bisect_right(row.upto, uniforms.pop() * row.upto[-1])
            if last > row.last:  # a uniform that rounds up to the end
                last = row.last
            tokens.append(last)
            logp.append(row.logp[last])
            if last == self.eos:
                finish = "stop"
                break
            text += LETTERS[last]
            if stop and (cut := min((i for s in stop if (i := text.find(s)) >= 0), default=-1)) >= 0:
                text, finish = text[:cut], "stop"
                break
        return Draw(tuple(tokens), tuple(logp), text, finish)
