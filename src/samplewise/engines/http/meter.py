"""What a reply cost. Pure: the server's figures where they can be right, else what can be counted, else a bound.

A server's count of tokens is believed where it is possible: no more than was allowed, no fewer than the token ids or
log-probs that came with it, no fewer than the text can have. Where it is missing or impossible, the ids or log-probs
are counted; without them the draw is charged the most that its text can have been, one token per byte of UTF-8, and the
reply counts as *estimated*. So a budget holds whatever a server says of itself.

The prompt of a request for n draws is computed and billed once. It counts as prompt tokens of each draw, so that
methods compare at equal tokens, and as cached ones of all but the first; money is what was billed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.engines.http.prices import Price
from samplewise.engines.http.wire import Choice, Reading
from samplewise.types import Message, Usage

PER_MESSAGE = 8  # tokens around each message: its role and its marks
PER_PROMPT = 64  # tokens that a chat template may add by itself
HIDDEN = 4096  # tokens of a system prompt that a server may add: a count beyond this is nonsense
BYTES_PER_TOKEN = 16  # a count that would make tokens longer on average, runs of blanks aside, is nonsense
MAX_REASONING = 1 << 20  # tokens of hidden thoughts, of one draw, where the server does not count them as drawn


class Bill(NamedTuple):
    """What each draw of a reply is charged, and how sure that is."""

    usages: tuple[Usage, ...]
    estimated: bool  # whether a bound stands for what is not known


class Prompts:
    """How many tokens prompts have: exactly where a server has counted them once, else at most."""

    def __init__(self, most: int = 100_000) -> None:
        self._known: dict[tuple[Message, ...], int] = {}
        self._most, self._template = most, PER_PROMPT

    def most(self, messages: tuple[Message, ...]) -> int:
        """The most tokens that the prompt can have."""
        known = self._known.get(messages)
        return self.bound(messages) if known is None else known

    def known(self, messages: tuple[Message, ...]) -> int | None:
        """What a server has counted."""
        return self._known.get(messages)

    def bound(self, messages: tuple[Message, ...]) -> int:
        """What it can have as far as its text tells: a token is at least one byte."""
        return size(messages) + PER_MESSAGE * len(messages) + self._template

    def learn(self, messages: tuple[Message, ...], count: int) -> None:
        """A server's count. Of two that differ the larger is kept: a budget must hold whichever is right."""
        if count != self._known.get(messages):
            if len(self._known) >= self._most:
                self._known.clear()
            self._known[messages] = max(count, self._known.get(messages, 0))
            # a long template is the same for every prompt
            self._template = max(self._template, count - size(messages))


def size(messages: Sequence[Message]) -> int:
    """Bytes of UTF-8."""
    return sum(len(m.content.encode(errors="surrogatepass")) for m in messages)


def bill(
    reading: Reading,
    messages: tuple[Message, ...],
    num_given: int,
    num_draws: int,
    max_tokens: int,
    prompts: Prompts,
    price: Price,
    seconds: float,
) -> Bill:
    """The usages of a reply's first `num_draws` choices, all that the reply has if it has fewer. What surplus choices
    cost is charged to the first draw. `num_given` tokens of the prompt are a prefix. What is learned of the prompt's
    length stays in `prompts`."""
    believed = _prompt(reading, messages, num_given, prompts)
    known = prompts.most(messages) + num_given
    choices, counts = reading.choices, reading.counts
    cached = min(counts.cached, known) if counts.cached else 0
    if len(choices) == 1:  # nearly always, and what every request pays in time
        num, sure = _alone(choices[0], reading, max_tokens)
        hidden = min(counts.reasoning, num) if counts.reasoning else 0
        usage = Usage(1, known, num, cached, hidden, price.usd(known, cached, num), seconds)
        return Bill((usage,), not (believed and sure))
    completion, sure = _together(reading, max_tokens)
    kept = completion[:num_draws]
    kept[0] += sum(completion[num_draws:])
    reasoning = split(min(counts.reasoning or 0, sum(kept)), kept)
    usages = [Usage(1, known, kept[0], cached, reasoning[0], price.usd(known, cached, kept[0]), seconds)]
    for num, hidden in zip(kept[1:], reasoning[1:], strict=True):
        usages.append(Usage(1, known, num, known, hidden, price.usd(0, 0, num), seconds))
    return Bill(tuple(usages), not (believed and sure))


def _prompt(reading: Reading, messages: tuple[Message, ...], num_given: int, prompts: Prompts) -> bool:
    """Whether the reply says believably how many tokens the prompt has, what was given of the response left out."""
    if reading.prompt_ids is not None and num_given == 0:
        prompts.learn(messages, len(reading.prompt_ids))
        return True
    if reading.counts.prompt is None:
        return False
    count = reading.counts.prompt - num_given
    if count == prompts.known(messages):
        return True
    num_bytes = size(messages)
    most = num_bytes + PER_MESSAGE * len(messages) + HIDDEN
    if count < 1 or count > most or (count * BYTES_PER_TOKEN < num_bytes and _too_few(count, _all_of(messages))):
        return False
    prompts.learn(messages, count)
    return True


def _alone(choice: Choice, reading: Reading, max_tokens: int) -> tuple[int, bool]:
    """Tokens of a reply's only choice, and whether they are more than a bound."""
    total, counted = reading.counts.completion, num_tokens(choice)
    length = len(choice.text) + len(choice.reasoning)
    if total is not None and (counted or 0) <= total and _possible(total, length, reading, max_tokens):
        return total, True
    return (_bound(choice, max_tokens), False) if counted is None else (counted, True)


def _together(reading: Reading, max_tokens: int) -> tuple[list[int], bool]:
    """Tokens of each of a reply's choices, and whether they are more than a bound. Their sum is what was billed."""
    choices, total = reading.choices, reading.counts.completion
    seen = [num_tokens(choice) for choice in choices]
    counted: list[int] = [num for num in seen if num is not None]
    exact, num_counted = len(counted) == len(choices), sum(counted)
    lengths = [len(choice.text) + len(choice.reasoning) for choice in choices]
    if total is not None and num_counted <= total and _possible(total, sum(lengths), reading, max_tokens):
        weights = counted if exact and num_counted else [length + 1 for length in lengths]
        # whoever was cut by the limit or not, none can have had more than it
        return split(total, weights, max_tokens if total <= max_tokens * len(choices) else None), True
    if exact:
        return counted, True
    return [_bound(choice, max_tokens) for choice in choices], False


def _bound(choice: Choice, max_tokens: int) -> int:
    """The most tokens that a choice can have had: one per byte, and an end."""
    return min(max_tokens, len((choice.text + choice.reasoning).encode(errors="surrogatepass")) + 1)


def _possible(total: int, num_characters: int, reading: Reading, max_tokens: int) -> bool:
    """Whether choices with so much text can have had this many tokens."""
    most = max_tokens * reading.num_listed
    if total > most:  # some servers do not count thoughts against the limit
        hidden = reading.counts.reasoning or 0
        if total - hidden > most or hidden > MAX_REASONING * reading.num_listed:
            return False
    if total * BYTES_PER_TOKEN >= num_characters:
        return True
    return not _too_few(total, " ".join(c.text + c.reasoning for c in reading.choices))


def _too_few(count: int, text: str) -> bool:
    """Whether the text is too long for so few tokens. A run of blanks, which one token can hold, counts as one."""
    return count * BYTES_PER_TOKEN < len(" ".join(text.split()))


def _all_of(messages: Sequence[Message]) -> str:
    return " ".join(m.content for m in messages)


def num_tokens(choice: Choice) -> int | None:
    """Tokens of a draw as its ids or log-probs have them, or None."""
    listed = choice.tokens if choice.tokens is not None else choice.logp
    if listed is None or (not listed and choice.text):  # an empty list beside a text says nothing
        return None
    return len(listed)


def split(total: int, weights: Sequence[int], cap: int | None = None) -> list[int]:
    """`total` in proportion to the weights, in whole numbers whose sum is exact, none above `cap` (which must leave
    room for all). What is left over goes to the largest fractions, ties to the first."""
    parts = [0] * len(weights)
    open_ = list(range(len(weights)))
    left = total
    while left and open_:
        mass = sum(weights[i] for i in open_)
        shares = [left * (weights[i] if mass else 1) for i in open_]
        mass = mass or len(open_)
        over = [i for i, share in zip(open_, shares, strict=True) if cap is not None and share > cap * mass]
        if over:  # those are full; the rest is dealt out again among the others
            for i in over:
                assert cap is not None
                parts[i] = cap
                left -= cap
            open_ = [i for i in open_ if i not in over]
            continue
        for i, share in zip(open_, shares, strict=True):
            parts[i] = share // mass
        left -= sum(parts[i] for i in open_)
        order = sorted(range(len(open_)), key=lambda k: (-(shares[k] % mass), k))
        for k in order:
            if left and (cap is None or parts[open_[k]] < cap):
                parts[open_[k]] += 1
                left -= 1
        break
    return parts


def most(num_prompt: int, num_new: int, price: Price) -> Usage:
    """The most that one draw can cost."""
    usd = (num_prompt * price.dearest + num_new * price.output) / 1e6
    return Usage(1, num_prompt, num_new, usd=usd if not math.isnan(usd) else math.nan)
