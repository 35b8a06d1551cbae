"""Tells when an endpoint gives the same draw again and again: a frozen seed, a cache in front of it.

Draws of different seeds agree by chance where a text is short or nearly certain. So only texts of at least 20 tokens
count, drawn at a temperature of at least 0.5, and, where log-probs are known, of a probability below exp(-5).
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict

from samplewise.types import Message

LEAST_TOKENS = 20
LEAST_TEMPERATURE = 0.5
LEAST_DRAWS = 4  # of one prompt, before anything is said
UNLIKELY = -5.0  # nats
PROMPTS = 1000  # kept in mind


class Repeats:
    """Counts equal texts, per prompt."""

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[Message, ...], Counter[int | None]] = OrderedDict()  # None: how many in all
        self.most = 0  # equal draws of the prompt that repeats itself
        self.of = 0  # of how many
        self.frozen = False

    def add(
        self, messages: tuple[Message, ...], temperature: float, text: str, num_tokens: int, logp_sum: float
    ) -> None:
        """One draw. `frozen` is set when most draws of a prompt agree."""
        if temperature < LEAST_TEMPERATURE or num_tokens < LEAST_TOKENS:
            return
        if not math.isnan(logp_sum) and logp_sum > UNLIKELY:
            return
        texts = self._texts.get(messages)
        if texts is None:
            texts = self._texts[messages] = Counter()
            if len(self._texts) > PROMPTS:
                self._texts.popitem(last=False)
        digest = hash(text)
        texts[digest] += 1
        texts[None] += 1
        count, total = texts[digest], texts[None]
        if total >= LEAST_DRAWS and count > total / 2:
            self.frozen = True
            if count > self.most:
                self.most, self.of = count, total

    @property
    def note(self) -> str:
        """What a person should know, or ""."""
        if not self.frozen:
            return ""
        return (
            f"{self.most} of {self.of} draws of one prompt are the same text: the endpoint repeats itself "
            "(a fixed seed, or a cache in front of it), and more draws bring nothing"
        )
