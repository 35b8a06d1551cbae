"""Judge from replies what an endpoint supports. Pure: bodies in, findings out.

A status of 200 is no evidence: choices are counted, texts compared, log-probs inspected. What an occasional fault can
imitate is called False only if every reply says so, and at least two do.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Json, Message
from samplewise.engines.http.dialect.replies import ReportedUsage, is_logp, thoughts_of, token_id

MAX_COINCIDENCE = 1e-3  # probability below which equal texts are not a coincidence
NATS_PER_CHARACTER, NATS_PER_TOKEN = 0.2, 0.7  # low guesses of a text's surprise, where no log-probs tell

MAX_HIDDEN = 100_000  # tokens; a short reply that is billed for more is implausible


class ProbeDraw(NamedTuple):
    """One choice of a reply. `key` is what a seeded endpoint draws it from: the seed and the choice's index."""

    key: tuple[int, int]
    text: str  # without reasoning, which often begins with the same words
    tokens: tuple[int, ...] | None
    logp: tuple[float, ...] | None
    num_top: int | None  # the most alternatives listed for a token
    finish: str | None
    reasoning: str = ""
    first: Mapping[str, float] = {}  # log-probs (nats) of the tokens listed for the first position, the drawn one too
    ranks: tuple[bool, ...] = ()  # for each position with alternatives: whether the drawn token is the likeliest

    @property
    def shown(self) -> tuple[str, str, tuple[int, ...] | None]:
        """Return what two draws must have in common to be the same."""
        return self.reasoning, self.text, self.tokens

    @property
    def reasons(self) -> bool:
        """Return whether the model thought before it answered."""
        reply = split_reasoning(self.text)
        return bool(self.reasoning or reply.reasoning) or not reply.closed

    @property
    def probability(self) -> float:
        """Return the probability that another draw is the same."""
        if self.logp is not None:
            return math.exp(sum(self.logp))
        num_characters = len(self.reasoning) + len(self.text)
        return math.exp(-max(NATS_PER_CHARACTER * num_characters, NATS_PER_TOKEN * len(self.tokens or ())))


def probe_draws(body: Json, seed: int) -> list[ProbeDraw]:
    """Return a reply's choices that have a text, in the order of their indices; [] if it cannot be read."""
    choices = body.get("choices") if isinstance(body, dict) else None
    listed = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    listed.sort(key=lambda choice: choice["index"] if isinstance(choice.get("index"), int) else 0)
    given = [index for choice in listed if type(index := choice.get("index")) is int]
    indices = given if len(set(given)) == len(listed) else range(len(listed))
    draws = []
    for index, choice in zip(indices, listed, strict=True):
        text = _text(choice)
        if text is not None and choice.get("finish_reason") != "content_filter":
            ids, finish = choice.get("token_ids"), choice.get("finish_reason")
            tokens = tuple(ids) if isinstance(ids, list) and ids and all(isinstance(i, int) for i in ids) else None
            logp, num_top = _logprobs(choice.get("logprobs"))
            finish = finish if isinstance(finish, str) else None
            first = _first_logp(choice.get("logprobs"))
            ranks = _ranks(choice.get("logprobs"))
            draws.append(
                ProbeDraw((seed, index), text, tokens, logp, num_top, finish, _reasoning(choice), first, ranks)
            )
    return draws


def _text(choice: dict[str, Json]) -> str | None:
    message = choice.get("message")
    text = message.get("content") if isinstance(message, dict) else choice.get("text")
    if isinstance(text, str):
        return text
    reasoned = isinstance(message, dict) and bool(message.get("reasoning_content") or message.get("reasoning"))
    return "" if reasoned else None  # cut off before its answer began


def _reasoning(choice: Mapping[str, Json]) -> str:
    message = choice.get("message")
    holder = message if isinstance(message, dict) else choice
    return thoughts_of(holder)


def _listed(raw: Json) -> Iterator[list[tuple[Json, Json]]]:
    """Yield for each position the listed tokens with their log-probs: the drawn one, then the likeliest."""
    if not isinstance(raw, dict):
        return
    if isinstance(raw.get("content"), list):
        for entry in raw["content"]:
            tops = entry.get("top_logprobs") if isinstance(entry, dict) else None
            listed = [entry, *(tops if isinstance(tops, list) else [])]
            yield [(part.get("token"), part.get("logprob")) for part in listed if isinstance(part, dict)]
        return
    words, values, tops = raw.get("tokens"), raw.get("token_logprobs"), raw.get("top_logprobs")
    if isinstance(words, list) and isinstance(values, list):
        rows = tops if isinstance(tops, list) else []
        for word, value, row in itertools.zip_longest(words, values, rows):
            yield [(word, value), *(row.items() if isinstance(row, dict) else ())]


def _first_logp(raw: Json) -> dict[str, float]:
    """Return the log-probs of the tokens that are listed for the first position, the drawn one included."""
    pairs = next(_listed(raw), [])
    return {token: float(value) for token, value in pairs if isinstance(token, str) and is_logp(value)}


def _ranks(raw: Json) -> tuple[bool, ...]:
    """Return for each position with alternatives whether the drawn token is the likeliest of them."""
    positions = [[value for _, value in pairs] for pairs in _listed(raw)]
    return tuple(row[0] >= max(row[1:]) - 1e-6 for row in positions if len(row) > 2 and all(map(is_logp, row)))


def _logprobs(raw: Json) -> tuple[tuple[float, ...] | None, int | None]:
    """Return log-probs (T,), and how many alternatives are listed; either is None if absent or impossible."""
    if not isinstance(raw, dict):
        return None, None
    if isinstance(raw.get("content"), list):
        entries = [entry for entry in raw["content"] if isinstance(entry, dict)]
        logp, tops = [entry.get("logprob") for entry in entries], [entry.get("top_logprobs") for entry in entries]
    else:
        logp, tops = raw.get("token_logprobs") or [], raw.get("top_logprobs") or []
    numbers = [float(p) for p in logp if is_logp(p)] if isinstance(logp, list) else []
    if not numbers or len(numbers) < len(logp):
        return None, None
    sizes = [len(top) for top in tops if isinstance(top, list | dict)] if isinstance(tops, list) else []
    return tuple(numbers), max(sizes, default=0)


def prompt_ids(body: Json) -> tuple[int, ...] | None:
    """Return the prompt's token ids, if the reply holds them."""
    holders = [body, *(body.get("choices") or [])] if isinstance(body, dict) else []
    for holder in holders:
        ids = holder.get("prompt_token_ids") if isinstance(holder, dict) else None
        if isinstance(ids, list) and ids and all(isinstance(i, int) for i in ids):
            return tuple(ids)
    return None


def prompt_logp(body: Json, ids: Sequence[int]) -> tuple[float, ...] | None:
    """Return the log-probs of a prompt's ids but the first, if the reply holds them all."""
    holders = [body, *(body.get("choices") or [])] if isinstance(body, dict) else []
    for holder in holders:
        listed = holder.get("prompt_logprobs") if isinstance(holder, dict) else None
        if isinstance(listed, list) and len(listed) == len(ids):
            entries = [
                entry.get(str(id)) if isinstance(entry, dict) else None for id, entry in zip(ids, listed, strict=True)
            ]
            logp = [
                e["logprob"] for e in entries[1:] if isinstance(e, dict) and isinstance(e.get("logprob"), int | float)
            ]
            if len(logp) == len(ids) - 1:
                return tuple(logp)
    return None


def is_plausible(usage: ReportedUsage, draws: Sequence[ProbeDraw]) -> bool:
    """Return whether a usage can be true of these draws. An end token may be uncounted, and reasoning hidden."""
    if usage.prompt is None or usage.completion is None or usage.prompt < 1:
        return False
    shown = sum(max(len(draw.tokens or draw.logp or ()), bool(draw.text)) for draw in draws)
    return shown - len(draws) <= usage.completion <= shown + MAX_HIDDEN


# --- findings ---------------------------------------------------------------------------------------------------------


def combine_signs(signs: Sequence[bool]) -> bool | None:
    """Return True if any reply shows it, False if two or more replies do not and none does, else None."""
    return True if any(signs) else False if len(signs) >= 2 else None


def are_apart(a: ProbeDraw, b: ProbeDraw) -> bool:
    """Return whether two draws contradict each other, which a draw and a faulty copy of it do not.

    Draws of the same token ids are one draw, whatever their texts. Where one begins with the other, this may have been
    cut, or that drawn beyond its limit: they contradict only if both ended by themselves, after different numbers of
    tokens.
    """
    if (a.text, a.reasoning) == (b.text, b.reasoning):
        return False
    if a.tokens and b.tokens:
        num = min(len(a.tokens), len(b.tokens))
        may_be_cut = a.tokens[:num] == b.tokens[:num]
    else:
        pairs = (a.text, b.text), (a.reasoning, b.reasoning)
        may_be_cut = all(one.startswith(other) or other.startswith(one) for one, other in pairs)
    lengths = [len(draw.tokens or draw.logp or ()) for draw in (a, b)]
    both_ended = all(lengths) and lengths[0] != lengths[1] and a.finish == b.finish == "stop"
    return both_ended or not may_be_cut


def looks_frozen(draws: Sequence[ProbeDraw]) -> bool | None:
    """Return whether draws of different keys are all the same; None if that may be a coincidence, or a fault."""
    first_of_key = list({draw.key: draw for draw in reversed(draws)}.values())
    if any(are_apart(a, b) for a, b in itertools.combinations(first_of_key, 2)):
        return False
    probability = math.prod(draw.probability for draw in first_of_key[1:])
    are_same = len({draw.shown for draw in first_of_key}) == 1 < len(first_of_key)
    return True if are_same and probability < MAX_COINCIDENCE else None


def honors_seed(draws: Sequence[ProbeDraw]) -> bool | None:
    """Return whether draws of one key are the same and draws of different keys are not; None if undecided.

    Draws of one key that neither are the same nor contradict each other decide nothing; nor do choices that have only
    changed places.
    """
    if (frozen := looks_frozen(draws)) is True or gives_one_list(draws):
        return False
    probability, first_of_key = 1.0, dict[tuple[int, int], ProbeDraw]()
    for draw in draws:
        if (earlier := first_of_key.setdefault(draw.key, draw)) is draw:
            continue
        if earlier.shown == draw.shown:
            probability *= draw.probability
        elif are_apart(earlier, draw) and not _has_moved(draw, first_of_key.values()):
            return False
    return True if frozen is False and probability < MAX_COINCIDENCE else None


def _has_moved(draw: ProbeDraw, earlier: Iterable[ProbeDraw]) -> bool:
    """Return whether the same draw came before for its seed, at another index and hardly by chance."""
    seed, index = draw.key
    same = (other for other in earlier if other.shown == draw.shown and other.key[0] == seed)
    return draw.probability < MAX_PAIR and any(other.key[1] != index for other in same)


def are_alike(replies: Sequence[Sequence[ProbeDraw]]) -> bool:
    """Return whether the choices of one reply are always the same, beyond coincidence."""
    lists = [reply for reply in replies if len(reply) > 1]
    if not lists or any(len({draw.shown for draw in reply}) > 1 for reply in lists):
        return False
    return math.prod(draw.probability for reply in lists for draw in reply[1:]) < MAX_COINCIDENCE


def gives_one_list(draws: Sequence[ProbeDraw]) -> bool:
    """Return whether requests of different seeds get the same list of different draws, beyond coincidence."""
    by_index: dict[int, dict[int, ProbeDraw]] = {}
    for draw in draws:
        by_index.setdefault(draw.key[1], {}).setdefault(draw.key[0], draw)
    lists = [list(of_seed.values()) for of_seed in by_index.values() if len(of_seed) > 1]
    if len(lists) < 2 or any(len({draw.shown for draw in of_seed}) > 1 for of_seed in lists):
        return False
    probability = math.prod(draw.probability for of_seed in lists for draw in of_seed[1:])
    return len({of_seed[0].shown for of_seed in lists}) > 1 and probability < MAX_COINCIDENCE


def obeys_temperature(greedy: Sequence[ProbeDraw], warm: Sequence[ProbeDraw]) -> bool | None:
    """Return whether greedy draws are greedy: equal, or nearly always of the likeliest tokens.

    Rounding may change a greedy token now and then, after which all is different. So for a no, draws must be of less
    likely tokens, or, where no alternatives are listed, part as soon as draws at temperature 1. None if undecided.
    """
    counts = Counter(draw.shown for draw in greedy)
    if len(greedy) < 2:
        return None
    if len(counts) == 1:
        return True
    num_pairs = len(greedy) * (len(greedy) - 1) / 2
    if any(counts[draw.shown] > 1 and num_pairs * draw.probability < MAX_PAIR for draw in greedy):
        return True
    ranks, warm_ranks = ([rank for draw in draws for rank in draw.ranks] for draws in (greedy, warm))
    if len(ranks) >= MIN_RANKS:
        share = sum(ranks) / len(ranks)
        share_warm = sum(warm_ranks) / max(len(warm_ranks), 1)
        return False if share < 0.85 else True if share >= 0.9 and share_warm < share - 0.1 else None
    shared = max(_shared(a, b) for i, a in enumerate(greedy) for b in greedy[:i] if a.shown != b.shown)
    apart = [_shared(a, b) for i, a in enumerate(warm) for b in warm[:i] if a.key != b.key]
    return False if len(counts) == len(greedy) > 2 and shared <= max([*apart, 1]) else None


def _flat(draw: ProbeDraw) -> str:
    return draw.reasoning + draw.text


def _shared(a: ProbeDraw, b: ProbeDraw) -> int:
    """Return how many characters two draws begin with in common."""
    pairs = zip(_flat(a), _flat(b), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


MAX_PAIR = 0.05  # probability below which equal draws among several are no coincidence
MIN_RANKS = 16  # positions
ROUNDING, RELATIVE_ROUNDING = 0.02, 0.02  # nats that a log-prob may differ by: in half precision, of another batch

LogProbs = Literal["raw", "tempered", "other"]


def keeps_logp(plain: Sequence[ProbeDraw], hot: Sequence[ProbeDraw]) -> LogProbs | None:
    """Return whose the log-probs of draws at temperature 2 are: "raw", the same as at temperature 1; "tempered", those
    of the distribution drawn from; "other", neither. None if undecided.

    Tempered ones are half of the raw ones, less the same number for every token. Only the first position is looked at,
    where all draws of a prompt have the same distribution. What rounding can do is forgiven, more of it to unlikely
    tokens.
    """
    at_1 = {token: value for draw in plain for token, value in draw.first.items()}
    at_2 = {token: value for draw in hot for token, value in draw.first.items()}
    common = [(at_1[token], at_2[token]) for token in at_1.keys() & at_2.keys()]
    if len(common) < 2:  # any shift would explain a single one
        return None
    slack = [ROUNDING + RELATIVE_ROUNDING * abs(one) for one, _ in common]
    misses = [abs(two - one) - some for (one, two), some in zip(common, slack, strict=True)]
    is_raw = max(misses) <= 0
    # The interval of shifts that make every token's value half of its raw one, within the slack.
    shifts = [(one / 2 - two - some, one / 2 - two + some) for (one, two), some in zip(common, slack, strict=True)]
    is_tempered = max(low for low, _ in shifts) <= min(high for _, high in shifts)
    if is_raw != is_tempered:
        return "raw" if is_raw else "tempered"
    return None if is_raw else "other"


def names_by_id(body: Json) -> bool | None:
    """Return whether a reply's list of likeliest tokens names them by their ids, the drawn one by its own."""
    draws = probe_draws(body, 0)
    if not draws or not draws[0].tokens or not draws[0].first:
        return None
    ids = {token_id(name) for name in draws[0].first}
    return None not in ids and draws[0].tokens[0] in ids


def gives_text(body: Json, draw: ProbeDraw) -> bool | None:
    """Return whether a reply to a detokenize request has the text of a draw, as far as it is shown. None if it is cut
    within a letter, or has none."""
    text = body.get("prompt") if isinstance(body, dict) else None
    shown = _squeeze(draw.text.rstrip("\ufffd"))
    if not shown:
        return None
    return isinstance(text, str) and _squeeze(text.rstrip("\ufffd")).endswith(shown)


def continues_text(whole: str, beginning: str, reply: str) -> bool | None:
    """Return whether `reply`, greedy after `beginning`, is what follows it in `whole`.

    None if the reply is empty, or could as well be the beginning once more. White space is ignored: templates drop it.
    """
    rest, continuation = _squeeze(whole)[len(_squeeze(beginning)) :], _squeeze(reply)
    length = min(len(rest), len(continuation))
    if length == 0 or rest[:length] == _squeeze(whole)[:length]:
        return None
    return rest[:length] == continuation[:length]


def _squeeze(text: str) -> str:
    return "".join(text.split())


def first_half(text: str) -> str | None:
    """Return about half of a text, up to the end of a word; None if the text is too short to divide."""
    text = text.rstrip()
    spaces = [i for i, letter in enumerate(text) if letter.isspace() and text[:i].strip()]
    if spaces:
        return text[: min(spaces, key=lambda i: abs(i - len(text) / 2))]
    return text[: len(text) // 2] if len(text) >= 4 else None


COLORS = ("red", "blue")  # what the probe's schema allows
SCHEMA: Json = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": list(COLORS)}},
    "required": ["color"],
    "additionalProperties": False,
}
TOOL = "note"


def follows_schema(body: Json) -> bool | None:
    """Return whether a reply to a request with `SCHEMA` is JSON of that form, which no model writes unasked.

    None if the reply was cut, or has no text.
    """
    message, finish = _message(body)
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None if finish == "length" and text.lstrip().startswith("{") else False
    return isinstance(value, dict) and set(value) == {"color"} and value["color"] in COLORS


def calls_tool(body: Json) -> bool | None:
    """Return whether a reply calls the tool that it was told to call. None if it has neither a call nor a text."""
    message, _ = _message(body)
    calls = message.get("tool_calls")
    if isinstance(calls, list) and calls:
        function = calls[0].get("function") if isinstance(calls[0], dict) else None
        return isinstance(function, dict) and function.get("name") == TOOL
    return False if isinstance(message.get("content"), str) and message["content"].strip() else None


def _message(body: Json) -> tuple[dict[str, Json], Json]:
    """Return the first choice's message, {} if absent, and its finish reason."""
    choices = body.get("choices") if isinstance(body, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    return (message if isinstance(message, dict) else {}), choice.get("finish_reason")


# --- draws of a run ---------------------------------------------------------------------------------------------------

MIN_TOKENS = 20  # of the text alone
MIN_TEMPERATURE = 0.5
MIN_REPEATS = 3  # draws of one prompt that say what an earlier one said, before anything is concluded
MAX_LOGP = -5.0  # nats
MAX_PROMPTS = 1000  # tracked at once


class DrawnText(NamedTuple):
    """One choice of a reply: what repeats when an endpoint repeats itself, and how surprising it is (nats, or nan)."""

    text: str
    reasoning: str
    num_tokens: int  # reasoning included
    logp_sum: float

    @property
    def is_telling(self) -> bool:
        """Whether another draw would hardly be the same. An answer may well be short, after a long reasoning."""
        num_text_tokens = min(self.num_tokens, len(self.text.encode(errors="surrogatepass")))
        return num_text_tokens >= MIN_TOKENS and not self.logp_sum > MAX_LOGP


@dataclass(slots=True)
class _Prompt:
    counts: Counter[int]  # digest of a draw -> how often it came
    num_draws: int = 0
    num_later: int = 0  # draws of requests after the first
    num_repeats: int = 0  # of these, the ones that an earlier request has had
    num_lists: int = 0  # requests with several draws
    num_alike: int = 0  # of these, the ones whose draws are all the same
    num_alike_repeats: int = 0  # draws beyond the first in those


class RepeatDetector:
    """Detect during a run that an endpoint gives the same draws again and again.

    Either every request gets the same (a frozen seed, or a cache before the endpoint), or the choices of one request
    are all alike. Draws of different seeds agree by chance if a text is short or nearly certain. So only texts of at
    least 20 tokens count, equal in text, reasoning and token count, drawn at a temperature of at least 0.5, and, where
    log-probs are known, of a probability below exp(-5).
    """

    def __init__(self) -> None:
        self._prompts: OrderedDict[tuple[Message, ...], _Prompt] = OrderedDict()
        self._most = (0, 0)  # equal draws, draws of that prompt
        self._has_lists = False  # what repeats are lists of different draws
        self.frozen = False  # requests get what earlier ones have had
        self.alike = False  # the choices of one request are the same

    def add(self, messages: tuple[Message, ...], temperature: float, draws: Sequence[DrawnText]) -> None:
        """Add the draws of one reply. Sets `frozen` or `alike` when most draws of a prompt agree."""
        telling = [hash(draw[:3]) for draw in draws if draw.is_telling]
        if temperature < MIN_TEMPERATURE or not telling:
            return
        prompt = self._prompts.get(messages)
        if prompt is None:
            prompt = self._prompts[messages] = _Prompt(Counter())
            if len(self._prompts) > MAX_PROMPTS:
                self._prompts.popitem(last=False)
        if prompt.num_draws:
            prompt.num_later += len(telling)
            prompt.num_repeats += sum(digest in prompt.counts for digest in telling)
        if len(telling) > 1:
            prompt.num_lists += 1
            if len(set(telling)) == 1:
                prompt.num_alike += 1
                prompt.num_alike_repeats += len(telling) - 1
        prompt.counts.update(telling)
        prompt.num_draws += len(telling)
        if prompt.num_repeats >= MIN_REPEATS and prompt.num_repeats > prompt.num_later / 2:
            self.frozen = True
            self._has_lists = self._has_lists or len(set(telling)) > 1
            self._most = max(self._most, (max(prompt.counts.values()), prompt.num_draws))
        if prompt.num_alike_repeats >= MIN_REPEATS and prompt.num_alike > prompt.num_lists / 2:
            self.alike = True

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a user should know."""
        notes = []
        if self.frozen:
            remedy = "look for a fixed seed or a cache in front of the endpoint, as more draws add nothing"
            if self._has_lists:
                remedy = f'every request gets the same list of draws: try n="never"; if they still repeat, {remedy}'
            notes.append(f"{self._most[0]} of {self._most[1]} draws of one prompt are the same text: {remedy}")
        if self.alike:
            notes.append(
                "the draws of one request are all the same text, as if one: further requests are for one draw each; "
                'give n="never" and draw again, as what is stored holds copies'
            )
        return tuple(notes)
