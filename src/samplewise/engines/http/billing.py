"""What a reply cost. Pure: the server's counts where they are plausible, else what can be counted, else a bound.

A server's token count is believed if it is possible: no fewer than the token ids or log-probs that came with it, no
fewer than the text can have, and no more than was allowed, or than text and reasoning can have where the endpoint draws
more than it may. Tokens that are in the reply's total alone are reasoning, and were drawn. Where the count is missing
or impossible, the ids or log-probs are counted. Without them the draw is charged the most tokens that its text can have
had, one per byte of UTF-8, and no more than was allowed; where the text is evidently longer than that, an estimate.
Such a reply counts as *estimated*. What a reply cost may thus exceed the worst case of its asks: it is what was billed.

The prompt of a request for n draws is computed and billed once. It counts as prompt tokens of each draw, so that
methods compare at equal tokens, and as cached tokens of all but the first; money is what was billed.

A server on this machine costs nothing. A model elsewhere without a price (see `samplewise.core.prices`) costs nan,
never 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.core.prices import Price
from samplewise.core.types import Message, Usage
from samplewise.engines.http.dialect.replies import ParsedReply, ReplyChoice, ReportedUsage

PER_MESSAGE = 8  # tokens around each message: its role and its markers
PER_PROMPT = 64  # tokens that a chat template may add by itself
HIDDEN = 4096  # tokens of a system prompt that a server may add; a count beyond that is implausible
BYTES_PER_TOKEN = 16  # a count that would make tokens longer on average, runs of blanks aside, is implausible
BYTES_WITHIN = 8  # per token that was allowed; a longer text, runs aside, had evidently more tokens
BYTES_ESTIMATED = 4  # per token of such a text
MAX_REASONING = 1 << 20  # tokens of hidden reasoning per draw, where the server does not count them as drawn
MAX_PROMPT = 1 << 24  # tokens; a larger count of a prompt whose text is not known is implausible


# --- tokens -----------------------------------------------------------------------------------------------------------


class Bill(NamedTuple):
    """What each draw of a reply is charged, and whether a bound or an estimate stands for what is unknown."""

    usages: tuple[Usage, ...]
    estimated: bool


class SentRequest(NamedTuple):
    """What a reply is billed against. `num_prefix` tokens of the response were given in the prompt."""

    messages: tuple[Message, ...]
    num_prefix: int
    num_draws: int
    max_tokens: int


class PromptLengths:
    """The lengths of prompts in tokens: exact where a server has counted them, else an upper bound."""

    def __init__(self, max_prompts: int = 100_000) -> None:
        self._counts: dict[tuple[Message, ...], int] = {}
        self._max_prompts, self._template = max_prompts, PER_PROMPT

    def upper_bound(self, messages: tuple[Message, ...]) -> int:
        """Return the server's count, or the most tokens that the text allows: a token is at least one byte."""
        count = self._counts.get(messages)
        return num_bytes(messages) + PER_MESSAGE * len(messages) + self._template if count is None else count

    def count(self, messages: tuple[Message, ...]) -> int | None:
        """Return the server's count, if there is one."""
        return self._counts.get(messages)

    def learn(self, messages: tuple[Message, ...], count: int) -> None:
        """Record a server's count. Of two that differ the larger is kept: a budget must hold whichever is right."""
        if count != self._counts.get(messages):
            if len(self._counts) >= self._max_prompts:
                self._counts.clear()
            self._counts[messages] = max(count, self._counts.get(messages, 0))
            # a long template is the same for every prompt
            self._template = max(self._template, count - num_bytes(messages))


def num_bytes(messages: Sequence[Message]) -> int:
    """Return the size of the messages' contents in bytes of UTF-8."""
    return sum(len(m.content.encode(errors="surrogatepass")) for m in messages)


def worst_case_usage(num_prompt: int, num_new: int, price: Price) -> Usage:
    """Return the most that one draw can cost."""
    return Usage(1, num_prompt, num_new, usd=(num_prompt * price.max_input + num_new * price.output) / 1e6)


def bill_reply(reply: ParsedReply, sent: SentRequest, prompts: PromptLengths, price: Price, seconds: float) -> Bill:
    """Return the usages of a reply's first `num_draws` choices, or of all if it has fewer.

    The cost of surplus choices is charged to the first draw. `prompts` learns the prompt's length.
    """
    prompt_known = _learn_prompt(reply, sent, prompts)
    num_prompt = prompts.upper_bound(sent.messages) + sent.num_prefix
    choices, reported = reply.choices, reply.usage
    cached = min(reported.cached, num_prompt) if reported.cached else 0
    if len(choices) == 1:  # nearly always, so this is the fast path
        num, exact = _count_single(choices[0], reply, sent.max_tokens)
        hidden = min(_num_reasoning(reply), num)
        usage = Usage(1, num_prompt, num, cached, hidden, price.usd(num_prompt, cached, num), seconds)
        return Bill((usage,), not (prompt_known and exact))
    completion, exact = _count_several(reply, sent.max_tokens)
    kept = completion[: sent.num_draws]
    kept[0] += sum(completion[sent.num_draws :])
    reasoning = split_tokens(min(_num_reasoning(reply), sum(kept)), kept)
    usages = [Usage(1, num_prompt, kept[0], cached, reasoning[0], price.usd(num_prompt, cached, kept[0]), seconds)]
    for num, hidden in zip(kept[1:], reasoning[1:], strict=True):
        usages.append(Usage(1, num_prompt, num, num_prompt, hidden, price.usd(0, 0, num), seconds))
    return Bill(tuple(usages), not (prompt_known and exact))


def bill_counts(reported: ReportedUsage, num_choices: int, worst: Usage, price: Price, seconds: float) -> Usage:
    """Return what a reply of any parts cost, from its counts alone: tools and images have no text to hold them against.

    What is not reported, or cannot be, is charged as in `worst`. Counts of 0 for prompt and completion are none.
    """
    counted = ParsedReply((), max(1, num_choices), reported)
    prompt, new = reported.prompt, _num_completion(counted)
    if not prompt or prompt > MAX_PROMPT:
        prompt, new = worst.prompt_tokens, new or None
    if new is None or new > worst.completion_tokens + MAX_REASONING * counted.num_listed:
        new = worst.completion_tokens
    cached, reasoning = min(reported.cached or 0, prompt), min(_num_reasoning(counted), new)
    return Usage(1, prompt, new, cached, reasoning, price.usd(prompt, cached, new), seconds)


def _num_outside(reply: ParsedReply) -> int:
    """Return the reported tokens that are neither the prompt's nor the completion's: reasoning, counted apart.

    0 where the counts do not say so, or cannot be right.
    """
    prompt, completion, _, reasoning, total = reply.usage
    if completion is None:
        return 0
    outside = 0 if total is None or prompt is None else total - prompt - completion
    if reasoning is not None:  # it may be a part of the completion, and what is outside may be something else
        outside = reasoning if reasoning > completion else min(outside, reasoning)
    return outside if 0 < outside <= MAX_REASONING * max(reply.num_listed, 1) else 0


def _num_completion(reply: ParsedReply) -> int | None:
    """Return the tokens that the server says it drew, reasoning included."""
    completion = reply.usage.completion
    return None if completion is None else completion + _num_outside(reply)


def _num_reasoning(reply: ParsedReply) -> int:
    """Return the tokens of reasoning that the server reports."""
    return max(reply.usage.reasoning or 0, _num_outside(reply))


def _learn_prompt(reply: ParsedReply, sent: SentRequest, prompts: PromptLengths) -> bool:
    """Return whether the reply gives a plausible length of the prompt, without the response's prefix."""
    messages = sent.messages
    if reply.prompt_ids is not None and sent.num_prefix == 0:
        prompts.learn(messages, len(reply.prompt_ids))
        return True
    if reply.usage.prompt is None:
        return False
    count = reply.usage.prompt - sent.num_prefix
    if count == prompts.count(messages):
        return True
    size = num_bytes(messages)
    if count < 1 or count > size + PER_MESSAGE * len(messages) + HIDDEN:
        return False
    if count * BYTES_PER_TOKEN < size and _too_few(count, " ".join(m.content for m in messages)):
        return False
    prompts.learn(messages, count)
    return True


def _count_single(choice: ReplyChoice, reply: ParsedReply, max_tokens: int) -> tuple[int, bool]:
    """Return the tokens of a reply's only choice, and whether they are exact rather than a bound."""
    total, counted = _num_completion(reply), num_tokens(choice)
    length = len(choice.text) + len(choice.reasoning)
    if total is not None and (counted or 0) <= total and _possible(total, length, reply, max_tokens):
        return total, True
    return (_upper_bound(choice, max_tokens), False) if counted is None else (counted, True)


def _count_several(reply: ParsedReply, max_tokens: int) -> tuple[list[int], bool]:
    """Return the tokens of each choice, and whether they are exact. Their sum is what was billed."""
    choices, total = reply.choices, _num_completion(reply)
    listed = [num_tokens(choice) for choice in choices]
    counted: list[int] = [num for num in listed if num is not None]
    exact, num_counted = len(counted) == len(choices), sum(counted)
    lengths = [len(choice.text) + len(choice.reasoning) for choice in choices]
    if total is not None and num_counted <= total and _possible(total, sum(lengths), reply, max_tokens):
        weights = counted if exact and num_counted else [length + 1 for length in lengths]
        # no choice can have had more than the limit, whether or not it was cut by it
        return split_tokens(total, weights, max_tokens if total <= max_tokens * len(choices) else None), True
    if exact:
        return counted, True
    return [_upper_bound(choice, max_tokens) for choice in choices], False


def _upper_bound(choice: ReplyChoice, max_tokens: int) -> int:
    """Return the most tokens that a choice can have had: one per byte, and an end token, but no more than was allowed.

    Where the text is evidently longer than that, return an estimate of its tokens.
    """
    text = choice.text + choice.reasoning
    num = num_bytes_of(text)
    if num > BYTES_WITHIN * max_tokens and (num_dense := num_bytes_of(_squeeze(text))) > BYTES_WITHIN * max_tokens:
        return max(max_tokens, -(-num_dense // BYTES_ESTIMATED))
    return min(max_tokens, num + 1)


def _possible(total: int, num_characters: int, reply: ParsedReply, max_tokens: int) -> bool:
    """Return whether choices with this much text can have had `total` tokens."""
    limit = max_tokens * reply.num_listed
    if total > limit:
        # some servers do not count reasoning against the limit, some keep no limit: then the text must be as long
        hidden = _num_reasoning(reply)
        num_shown = sum(num_bytes_of(c.text) + num_bytes_of(c.reasoning) + 1 for c in reply.choices)
        if total - hidden > max(limit, num_shown) or hidden > MAX_REASONING * reply.num_listed:
            return False
    if total * BYTES_PER_TOKEN >= num_characters:
        return True
    return not _too_few(total, " ".join(c.text + c.reasoning for c in reply.choices))


def num_bytes_of(text: str) -> int:
    """Return the size of a text in bytes of UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _squeeze(text: str) -> str:
    """Return the text with runs of one character, or of blanks, as one: such a run may be a single token."""
    return re.sub(r"(.)\1{3,}", r"\1", " ".join(text.split()))


def _too_few(count: int, text: str) -> bool:
    """Return whether the text is too long for this few tokens. A run of blanks counts as one: it may be one token."""
    return count * BYTES_PER_TOKEN < len(" ".join(text.split()))


def num_tokens(choice: ReplyChoice) -> int | None:
    """Return the number of a draw's token ids or log-probs, or None if it came without."""
    listed = choice.tokens if choice.tokens is not None else choice.logp
    if listed is None or (not listed and choice.text):  # an empty list beside a text says nothing
        return None
    return len(listed)


def split_tokens(total: int, weights: Sequence[int], cap: int | None = None) -> list[int]:
    """Split `total` in proportion to the weights, in whole numbers that sum to it exactly.

    No part exceeds `cap`, which must leave room for all. The rest goes to the largest fractions, ties to the first.
    """
    parts = [0] * len(weights)
    open_ = list(range(len(weights)))
    left = total
    while left and open_:
        mass = sum(weights[i] for i in open_)
        shares = [left * (weights[i] if mass else 1) for i in open_]
        mass = mass or len(open_)
        over = [i for i, share in zip(open_, shares, strict=True) if cap is not None and share > cap * mass]
        if over:  # these are full; the rest is split again among the others
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
