"""A language model small enough to list: an explicit Markov chain over a few letters. What exactness is proved on.

The next token's law depends on the last token alone, and the first token's on the prompt; so every response up to a
length can be enumerated with its probability.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence

import numpy as np

from samplewise.engines.base import Arrival, failed
from samplewise.engines.law import certainty, check_exponents, draw_law, draw_token, falls, log_norm, powers
from samplewise.errors import BadRequest
from samplewise.keys import Key
from samplewise.numerics import Floats, log_softmax
from samplewise.types import Ask, Capability, Completion, Finish, Generate, Likelihood, Message, Sampling, Usage

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Toy:
    """`vocab` letters (1 to 26) and an end token, id `vocab`. `scale` spreads the logits, `seed` picks them."""

    can = frozenset(Capability) - {Capability.TOP, Capability.EXPLORE}

    def __init__(self, vocab: int = 3, *, seed: int = 0, scale: float = 1.0) -> None:
        if not 1 <= vocab <= len(LETTERS):
            raise ValueError(f"vocab must be 1 to {len(LETTERS)}, got {vocab}")
        self.vocab, self.eos = vocab, vocab
        self._key = Key(seed).fold("toy")
        self._scale = scale
        self._starts: dict[tuple[Message, ...], Floats] = {}  # first rows worked out so far, one per prompt
        self._laws: dict[tuple[object, Sampling], Floats] = {}  # and laws, per row and sampling
        self._rows = self._law(self._key.fold("rows"), vocab)  # (V, V+1) nats: row of the last token, last column end
        self.name = f"toy({vocab}, seed={seed}, scale={scale})"
        self.identity = self.name

    def _law(self, key: Key, rows: int) -> Floats:
        return log_softmax(self._scale * key.generator().normal(size=(rows, self.vocab + 1)))

    def next_logp(self, messages: tuple[Message, ...], tokens: Sequence[int]) -> Floats:
        """Log-probabilities (V+1,) of the token after `tokens`, at temperature 1."""
        if tokens:
            return np.asarray(self._rows[tokens[-1]], dtype=np.float64)
        if messages not in self._starts:
            self._starts[messages] = self._law(self._key.fold("start", json.dumps(messages)), 1)[0]
        return self._starts[messages]

    def _draw_law(self, messages: tuple[Message, ...], tokens: Sequence[int], sampling: Sampling) -> Floats:
        row = (tokens[-1] if tokens else messages, sampling)
        if row not in self._laws:
            self._laws[row] = draw_law(self.next_logp(messages, tokens), sampling)
        return self._laws[row]

    def text(self, tokens: Sequence[int]) -> str:
        return "".join(LETTERS[t] for t in tokens if t != self.eos)

    def enumerate(
        self,
        messages: tuple[Message, ...],
        max_tokens: int,
        sampling: Sampling = Sampling(),
        prefix: tuple[int, ...] = (),
    ) -> dict[tuple[int, ...], float]:
        """Every continuation of `prefix` by at most `max_tokens` tokens, and its log-probability (nats)."""
        done: dict[tuple[int, ...], float] = {}
        growing: dict[tuple[int, ...], float] = {(): 0.0}
        for length in range(1, max_tokens + 1):
            longer: dict[tuple[int, ...], float] = {}
            for tokens, total in growing.items():
                law = self._draw_law(messages, prefix + tokens, sampling)
                for token in np.flatnonzero(np.isfinite(law)).tolist():
                    ended = token == self.eos or length == max_tokens
                    (done if ended else longer)[(*tokens, token)] = total + float(law[token])
            growing = longer
        return done

    def worst_case(self, ask: Ask) -> Usage:
        new = ask.max_tokens if isinstance(ask, Generate) else 0
        return Usage(requests=1, prompt_tokens=self._num_prompt_tokens(ask), completion_tokens=new)

    def _num_prompt_tokens(self, ask: Ask) -> int:
        given = ask.prefix if isinstance(ask, Generate) else ask.completion
        return sum(len(m.content.split()) for m in ask.messages) + len(given)

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            yield Arrival(position, self.one(ask))

    async def open(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def one(self, ask: Ask) -> Completion:
        """The completion of one ask."""
        given = ask.prefix if isinstance(ask, Generate) else ask.completion
        if any(not 0 <= t <= self.eos for t in given) or self.eos in given[:-1]:
            return failed(BadRequest(f"token ids must be 0 to {self.eos}, the end token {self.eos} last, got {given}"))
        if isinstance(ask, Generate) and self.eos in given:
            return failed(BadRequest(f"the prefix {given} has ended: nothing follows the end token {self.eos}"))
        if isinstance(ask, Generate) and ask.forbid_first is not None and not 0 <= ask.forbid_first <= self.eos:
            return failed(BadRequest(f"a token id is 0 to {self.eos}, got forbid_first={ask.forbid_first}"))
        if isinstance(ask, Likelihood):
            logp = tuple(float(self.next_logp(ask.messages, given[:i])[t]) for i, t in enumerate(given))
            usage = Usage(1, self._num_prompt_tokens(ask))
            return Completion(self.text(given), "stop", usage, given, logp, logp, math.fsum(logp))
        if ask.sampling.explore:
            return failed(BadRequest(f"{self.name} has no states to explore by"))
        try:
            check_exponents(ask)
        except BadRequest as error:
            return failed(error)
        return self._generate(ask)

    def _generate(self, ask: Generate) -> Completion:
        rng = Key(ask.seed).generator()
        tokens: list[int] = []
        logp: list[float] = []
        logq: list[float] = []
        logz: list[tuple[float, ...]] = []
        sure: list[float] = []
        running = 0.0
        finish: Finish = "length"
        text = ""
        tight = ask.floor is not None and falls(ask.floor.alpha, ask.sampling.temperature)
        while len(tokens) < ask.max_tokens and finish == "length":
            before = (*ask.prefix, *tokens)
            model = self.next_logp(ask.messages, before)
            law = allowed = self._draw_law(ask.messages, before, ask.sampling)
            if not tokens and ask.forbid_first is not None:
                allowed = law.copy()
                allowed[ask.forbid_first] = -np.inf
                if not np.isfinite(allowed).any():
                    return failed(BadRequest(f"nothing but the forbidden first token {ask.forbid_first} can be drawn"))
            if ask.floor is not None and tight:
                most = running + log_norm(model, law, ask.sampling.temperature)
                if most < ask.floor.value:
                    finish = "floor"
                    break
            token = draw_token(allowed, rng.random())
            tokens.append(token)
            logp.append(float(model[token]))
            logq.append(float(law[token]))
            logz.append(powers(model, ask.exponents))
            sure.append(certainty(model))
            if ask.floor is not None:
                running += ask.floor.alpha * logp[-1] - logq[-1]
            text = self.text(tokens)
            cut = min((i for s in ask.stop if (i := text.find(s)) >= 0), default=-1)
            if ask.floor is not None and running < ask.floor.value:
                finish = "floor"
            elif token == self.eos or cut >= 0:
                finish, text = "stop", text if cut < 0 else text[:cut]
        want = ask.want
        num_prompt = self._num_prompt_tokens(ask) if ask.max_tokens else 0  # nothing asked for, nothing charged
        return Completion(
            text=self.text(ask.prefix) + text if "whole" in want else text,
            finish=finish,
            usage=Usage(1, num_prompt, len(tokens)),
            tokens=tuple(tokens) if "tokens" in want else None,
            logp=tuple(logp) if "logp" in want else None,
            logq=tuple(logq) if "logq" in want else None,
            logp_sum=math.fsum(logp),
            logz=tuple(logz) if "logz" in want else None,
            certainty=tuple(sure) if "certainty" in want else None,
        )


def toy(vocab: int = 3, *, seed: int = 0, scale: float = 1.0) -> Toy:
    """The toy engine: numpy only, exact, enumerable."""
    return Toy(vocab, seed=seed, scale=scale)
