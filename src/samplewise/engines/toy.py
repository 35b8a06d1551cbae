"""A language model small enough to enumerate: an explicit Markov chain over a few letters, for exact proofs.

The next token's distribution depends on the last token alone, and the first token's on the prompt. So every response up
to a length can be listed with its probability.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Sequence

import numpy as np

from samplewise.core.errors import BadRequest
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, log_softmax, ratio_cannot_rise
from samplewise.core.text import find_stop
from samplewise.core.types import Ask, Capability, Completion, Finish, Generate, Likelihood, Message, Sampling, Usage
from samplewise.engines.base import Arrival, Engine, failed
from samplewise.engines.distribution import (
    certainty,
    check_exponents,
    draw_log_probs,
    draw_token,
    log_filtered_norm,
    powers,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Toy(Engine):
    """`vocab` letters (1 to 26) and an end token, id `vocab`. `scale` spreads the logits, `seed` picks them."""

    can = frozenset(Capability) - {Capability.TOP, Capability.SCORE_FIRST, Capability.EXPLORE}

    def __init__(self, vocab: int = 3, *, seed: int = 0, scale: float = 1.0) -> None:
        if not 1 <= vocab <= len(LETTERS):
            raise ValueError(f"vocab must be 1 to {len(LETTERS)}, got {vocab}")
        self.vocab, self.eos = vocab, vocab
        self._key = Key(seed).fold("toy")
        self._scale = scale
        self._starts: dict[tuple[Message, ...], Floats] = {}  # first rows computed so far, one per prompt
        self._draw_log_probs: dict[tuple[object, Sampling], Floats] = {}  # log q (V,), per row and sampling
        self._rows = self._random_rows(
            self._key.fold("rows"), vocab
        )  # (V, V+1) nats: row of the last token, last column end
        self.name = f"toy({vocab}, seed={seed}, scale={scale})"
        self.identity = self.name

    def _random_rows(self, key: Key, rows: int) -> Floats:
        return log_softmax(self._scale * key.generator().normal(size=(rows, self.vocab + 1)))

    def next_logp(self, messages: tuple[Message, ...], tokens: Sequence[int]) -> Floats:
        """Return the log-probabilities (V+1,) of the token after `tokens`, at temperature 1."""
        if tokens:
            return np.asarray(self._rows[tokens[-1]], dtype=np.float64)
        if messages not in self._starts:
            self._starts[messages] = self._random_rows(self._key.fold("start", json.dumps(messages)), 1)[0]
        return self._starts[messages]

    def _logq(self, messages: tuple[Message, ...], tokens: Sequence[int], sampling: Sampling) -> Floats:
        row = (tokens[-1] if tokens else messages, sampling)
        if row not in self._draw_log_probs:
            self._draw_log_probs[row] = draw_log_probs(self.next_logp(messages, tokens), sampling)
        return self._draw_log_probs[row]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the letters of the tokens, without the end token."""
        return "".join(LETTERS[t] for t in tokens if t != self.eos)

    def enumerate(
        self,
        messages: tuple[Message, ...],
        max_tokens: int,
        sampling: Sampling = Sampling(),
        prefix: tuple[int, ...] = (),
    ) -> dict[tuple[int, ...], float]:
        """Return every continuation of `prefix` by at most `max_tokens` tokens, with its log-probability (nats)."""
        done: dict[tuple[int, ...], float] = {}
        growing: dict[tuple[int, ...], float] = {(): 0.0}
        for length in range(1, max_tokens + 1):
            longer: dict[tuple[int, ...], float] = {}
            for tokens, total in growing.items():
                logq_row = self._logq(messages, prefix + tokens, sampling)
                for token in np.flatnonzero(np.isfinite(logq_row)).tolist():
                    ended = token == self.eos or length == max_tokens
                    (done if ended else longer)[(*tokens, token)] = total + float(logq_row[token])
            growing = longer
        return done

    def worst_case(self, ask: Ask) -> Usage:
        new = ask.max_tokens if isinstance(ask, Generate) else 0
        return Usage(requests=1, prompt_tokens=self._num_prompt_tokens(ask), completion_tokens=new)

    def _num_prompt_tokens(self, ask: Ask) -> int:
        given = ask.prefix if isinstance(ask, Generate) else ask.completion
        return sum(len(m.content.split()) for m in ask.messages) + len(given)

    def may_bill(self, ask: Ask) -> bool:
        """Return False: this process computes, so nobody bills what it is not asked to finish."""
        return False

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            yield Arrival(position, self.one(ask))

    def one(self, ask: Ask) -> Completion:
        """Return the completion of one ask."""
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
        tight = ask.reject_below is not None and ratio_cannot_rise(ask.reject_below.alpha, ask.sampling.temperature)
        while len(tokens) < ask.max_tokens and finish == "length":
            before = (*ask.prefix, *tokens)
            model = self.next_logp(ask.messages, before)
            logq_row = allowed = self._logq(ask.messages, before, ask.sampling)
            if not tokens and ask.forbid_first is not None:
                allowed = logq_row.copy()
                allowed[ask.forbid_first] = -np.inf
                if not np.isfinite(allowed).any():
                    return failed(BadRequest(f"nothing but the forbidden first token {ask.forbid_first} can be drawn"))
            if ask.reject_below is not None and tight:
                most = running + log_filtered_norm(model, logq_row, ask.sampling.temperature)
                if most < ask.reject_below.value:
                    finish = "rejected"
                    break
            token = draw_token(allowed, rng.random())
            tokens.append(token)
            logp.append(float(model[token]))
            logq.append(float(logq_row[token]))
            logz.append(powers(model, ask.exponents))
            sure.append(certainty(model))
            if ask.reject_below is not None:
                running += ask.reject_below.alpha * logp[-1] - logq[-1]
            text = self.text(tokens)
            cut = find_stop(text, ask.stop)
            if ask.reject_below is not None and running < ask.reject_below.value:
                finish = "rejected"
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
