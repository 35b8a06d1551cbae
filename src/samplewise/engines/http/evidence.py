"""What replies tell about the endpoint that gave them. Pure: bodies in, findings out.

A status of 200 is no evidence: choices are counted, texts compared, log-probs looked at. What faults now and then can
imitate is only called False when every reply says so, and at least two do.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.types import Json

BY_CHANCE = 1e-3  # odds below which equal texts are no accident
NATS_PER_CHARACTER, NATS_PER_TOKEN = 0.2, 0.7  # low guesses, where no log-probs tell how likely a text was

MOST_HIDDEN = 100_000  # tokens; a reply of a few words that is billed for more is none to be believed


class Draw(NamedTuple):
    """One choice of a reply. `key` is what a seeded endpoint draws it from: seed, and place among the choices."""

    key: tuple[int, int]
    text: str  # reasoning left out: it often begins with the same words
    tokens: tuple[int, ...] | None
    logp: tuple[float, ...] | None
    num_top: int | None  # alternatives listed for a token, the most of all
    finish: str | None

    @property
    def chance(self) -> float:
        """The odds that another draw gives the same text."""
        if self.logp is not None:
            return math.exp(sum(self.logp))
        return math.exp(-max(NATS_PER_CHARACTER * len(self.text), NATS_PER_TOKEN * len(self.tokens or ())))


class Counts(NamedTuple):
    """A reply's usage."""

    prompt_tokens: int
    completion_tokens: int


def draws_of(body: Json, seed: int) -> list[Draw]:
    """The choices of a reply that have a text, in the order of their indices; [] where there is none to be read."""
    choices = body.get("choices") if isinstance(body, dict) else None
    listed = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    listed.sort(key=lambda choice: choice["index"] if isinstance(choice.get("index"), int) else 0)
    draws = []
    for place, choice in enumerate(listed):
        text = _text(choice)
        if text is not None and choice.get("finish_reason") != "content_filter":
            ids, finish = choice.get("token_ids"), choice.get("finish_reason")
            tokens = tuple(ids) if isinstance(ids, list) and ids and all(isinstance(i, int) for i in ids) else None
            logp, num_top = _logprobs(choice.get("logprobs"))
            draws.append(Draw((seed, place), text, tokens, logp, num_top, finish if isinstance(finish, str) else None))
    return draws


def _text(choice: dict[str, Json]) -> str | None:
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    if isinstance(text, str):
        return text
    thought = isinstance(message, dict) and bool(message.get("reasoning_content") or message.get("reasoning"))
    return "" if thought else None  # cut off before it said anything


def _logprobs(given: Json) -> tuple[tuple[float, ...] | None, int | None]:
    """Log-probs (T,), and how many alternatives are listed; either None where it is missing or cannot be true."""
    if not isinstance(given, dict):
        return None, None
    if isinstance(given.get("content"), list):
        entries = [entry for entry in given["content"] if isinstance(entry, dict)]
        logp, tops = [entry.get("logprob") for entry in entries], [entry.get("top_logprobs") for entry in entries]
    else:
        logp, tops = given.get("token_logprobs") or [], given.get("top_logprobs") or []
    numbers = [float(p) for p in logp if isinstance(p, int | float) and -math.inf < p <= 1e-6]
    if not numbers or len(numbers) < len(logp):
        return None, None
    sizes = [len(top) for top in tops if isinstance(top, list | dict)]
    return tuple(numbers), max(sizes, default=0)


def prompt_ids(body: Json) -> tuple[int, ...] | None:
    """The prompt's token ids, where a reply holds them."""
    places = [body, *(body.get("choices") or [])] if isinstance(body, dict) else []
    for place in places:
        ids = place.get("prompt_token_ids") if isinstance(place, dict) else None
        if isinstance(ids, list) and ids and all(isinstance(i, int) for i in ids):
            return tuple(ids)
    return None


def prompt_logp(body: Json, ids: Sequence[int]) -> tuple[float, ...] | None:
    """The log-probs of a prompt's ids but the first, where a reply holds them all."""
    places = [body, *(body.get("choices") or [])] if isinstance(body, dict) else []
    for place in places:
        given = place.get("prompt_logprobs") if isinstance(place, dict) else None
        if isinstance(given, list) and len(given) == len(ids):
            entries = [
                entry.get(str(id)) if isinstance(entry, dict) else None for id, entry in zip(ids, given, strict=True)
            ]
            found = [
                e["logprob"] for e in entries[1:] if isinstance(e, dict) and isinstance(e.get("logprob"), int | float)
            ]
            if len(found) == len(ids) - 1:
                return tuple(found)
    return None


def counts_of(body: Json) -> Counts | None:
    """The usage of a reply; None where there is none."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Counts(prompt, completion) if type(prompt) is int and type(completion) is int else None


def believable(counts: Counts | None, draws: Sequence[Draw]) -> bool:
    """Whether a usage can be true of these draws. An end token may not be counted, and reasoning may be hidden."""
    if counts is None or counts.prompt_tokens < 1:
        return False
    shown = sum(max(len(draw.tokens or draw.logp or ()), bool(draw.text)) for draw in draws)
    return shown - len(draws) <= counts.completion_tokens <= shown + MOST_HIDDEN


# --- findings ---------------------------------------------------------------------------------------------------------


def agreed(signs: Sequence[bool]) -> bool | None:
    """True where any reply shows it; False where two or more replies do not and none does."""
    return True if any(signs) else False if len(signs) >= 2 else None


def frozen(draws: Sequence[Draw]) -> bool | None:
    """Whether draws of different keys are all the same text."""
    first_of_key = list({draw.key: draw for draw in reversed(draws)}.values())
    if len({draw.text for draw in first_of_key}) > 1:
        return False
    chance = math.prod(draw.chance for draw in first_of_key[1:])
    return True if len(first_of_key) > 1 and chance < BY_CHANCE else None


def seeded(draws: Sequence[Draw]) -> bool | None:
    """Whether draws of one key are the same text, and draws of different keys are not."""
    if (stuck := frozen(draws)) is True:
        return False
    chance, seen = 1.0, dict[tuple[int, int], Draw]()
    for draw in draws:
        if (before := seen.setdefault(draw.key, draw)) is not draw:
            if before.text != draw.text:
                return False
            chance *= draw.chance
    return True if stuck is False and chance < BY_CHANCE else None


def continued(whole: str, beginning: str, reply: str) -> bool | None:
    """Whether `reply`, greedy after `beginning`, is what follows it in `whole`. None where the reply is empty, or where
    it could as well be the beginning once more. Spaces are not looked at: templates drop them."""
    rest, told = _solid(whole)[len(_solid(beginning)) :], _solid(reply)
    length = min(len(rest), len(told))
    if length == 0 or rest[:length] == _solid(whole)[:length]:
        return None
    return rest[:length] == told[:length]


def _solid(text: str) -> str:
    return "".join(text.split())


def beginning_of(text: str) -> str | None:
    """About half of a text, to the end of a word; None where it is too short to be divided."""
    text = text.rstrip()
    spaces = [i for i, letter in enumerate(text) if letter.isspace() and text[:i].strip()]
    if spaces:
        return text[: min(spaces, key=lambda i: abs(i - len(text) / 2))]
    return text[: len(text) // 2] if len(text) >= 4 else None


COLOURS = ("red", "blue")  # what the schema of the probe allows
SCHEMA: Json = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": list(COLOURS)}},
    "required": ["colour"],
    "additionalProperties": False,
}
TOOL = "note"


def followed_schema(body: Json) -> bool | None:
    """Whether a reply to a request with `SCHEMA` is JSON of that form; nobody writes it unasked. None where the reply
    was cut, or holds no text."""
    message, finish = _message(body)
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return None if finish == "length" and text.lstrip().startswith("{") else False
    return isinstance(told, dict) and set(told) == {"colour"} and told["colour"] in COLOURS


def called_tool(body: Json) -> bool | None:
    """Whether a reply calls the tool that it was told to call. None where there is neither a call nor a text."""
    message, _ = _message(body)
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        function = calls[0].get("function") if isinstance(calls[0], dict) else None
        return isinstance(function, dict) and function.get("name") == TOOL
    return False if isinstance(message.get("content"), str) and message["content"].strip() else None


def _message(body: Json) -> tuple[dict[str, Json], Json]:
    """The first choice's message, {} where there is none, and its finish reason."""
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    return (message if isinstance(message, dict) else {}), choice.get("finish_reason")
