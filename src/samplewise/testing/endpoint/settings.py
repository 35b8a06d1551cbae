"""The endpoint's settings, its faults, and its tally. Plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple, get_args

from samplewise.core.types import Json

Trait = Literal[
    "n",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "stop",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "return_token_ids",
    "prompt_logprobs",
    "continue_final_message",
    "stream_options",
    "logit_bias",
    "return_tokens_as_token_ids",
    "token_ids_in",  # no parameter: a prompt given as token ids
]
Route = Literal["chat", "completions", "models", "tokenize", "detokenize", "batches"]
BatchRoute = Literal["upload", "create", "list", "state", "cancel", "content"]
BatchFault = Literal["", "500", "504", "429", "404", "lost", "hang", "hang before"]
TRAITS: tuple[Trait, ...] = get_args(Trait)
ROUTES: tuple[Route, ...] = get_args(Route)
BATCH_ROUTES: tuple[BatchRoute, ...] = get_args(BatchRoute)
# "lost": done, and the connection closed; "hang": done, and never answered; "hang before": neither done nor answered
BATCH_FAULTS: tuple[BatchFault, ...] = get_args(BatchFault)


class Fault(NamedTuple):
    """One way in which a request goes wrong. `drawn`: the completion was made, and billed, before that."""

    about: str
    drawn: bool
    status: int = 200


FAULTS: Mapping[str, Fault] = {
    "400": Fault("a bad request, without a reason", False, 400),
    "429": Fault("too many requests, Retry-After in seconds", False, 429),
    "429 date": Fault("too many requests, Retry-After as an HTTP date", False, 429),
    "429 now": Fault("too many requests, Retry-After of 0", False, 429),
    "429 past": Fault("too many requests, Retry-After as a date that is past", False, 429),
    "500": Fault("an internal error", False, 500),
    "502": Fault("a bad gateway: a proxy's HTML page", False, 502),
    "503": Fault("overloaded, Retry-After in seconds", False, 503),
    "504": Fault("a gateway's time-out: the work behind it is done and billed", True, 504),
    "html": Fault("a web page with status 200", False),
    "error 200": Fault("an error object with status 200", False),
    "half": Fault("half of the JSON, with a content-length that fits it", True),
    "cut before": Fault("the connection is closed before the reply", True),
    "cut middle": Fault("the connection is closed in the middle of the reply", True),
    "stall": Fault("half of the reply, then silence for `stall_s`", True),
    "slow": Fault("the reply comes `slow_s` late", True),
    "usage absent": Fault("no usage", True),
    "usage negative": Fault("usage of -1", True),
    "usage zero": Fault("usage of 0", True),
    "usage absurd": Fault("usage of a million million tokens", True),
    "long": Fault("5,000 tokens, whatever max_tokens allows", True),
    "long uncounted": Fault("5,000 tokens, whatever max_tokens allows, and no usage", True),
    "more": Fault("one choice more than asked for, drawn and billed", True),
    "fewer": Fault("one choice fewer than asked for, none for one", True),
    "shuffled": Fault("choices in reverse order", True),
    "same index": Fault("every choice has index 0", True),
    "null": Fault("content null", True),
    "finish null": Fault("finish_reason null", True),
    "finish eos": Fault("finish_reason eos", True),
    "finish filter": Fault("finish_reason content_filter, and no text", True),
    "logprob huge": Fault("log-probs of -1e308", True),
    "logprob integer": Fault("log-probs of 10**400", True),
    "logprob words": Fault("log-probs that are words", True),
}

# What a hostile or broken endpoint does, named like faults. Not every client goes on after it.
ATTACKS: Mapping[str, Fault] = {
    "429 huge": Fault("too many requests, Retry-After of a day", False, 429),
    "controls": Fault("a bad request, with escape sequences and zero bytes in its message", False, 400),
    "garbage": Fault("bytes that are no HTTP", False),
    "key 400": Fault("a bad request that repeats the key", False, 400),
    "key 200": Fault("an error object with status 200 that repeats the key; streamed, an event", False),
    "key choice": Fault("an error in every choice that repeats the key", True),
    "key text": Fault("the key in every text", True),
    "key redirect": Fault("a redirect whose location repeats the key", False, 307),
    "many choices": Fault("100,000 choices, billed", True),
    "gzip bomb": Fault("`bomb_mb` of blanks as a few kilobytes of gzip", False),
    "deflate bomb": Fault("the same as deflate", False),
    "endless text": Fault("a body without end", False),
    "endless stream": Fault("a stream of tokens without end", True),
    "endless line": Fault("a stream whose first line has no end", False),
    "endless comments": Fault("a stream of keep-alive comments without end", False),
}

CutReasoning = Literal["", "empty", "null", "text"]


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """How the endpoint behaves. By default it supports every feature, answers at once and has no faults.

    `ignores` and `refuses` name parameters that have no effect, or are answered with status 400. `plan` lists the
    faults of the first requests for completions in turn, "" for none; `faults` gives the probability of each fault for
    later requests, drawn from `seed`.
    """

    model: str = "toy"
    vocab: int = 12  # of the toy model, see engines/toy.py
    scale: float = 1.0
    seed: int = 5  # of the toy model, of draws without a seed, and of the faults; with 5 its greedy texts are long
    context: int = 4096  # tokens, prompt and completion
    latency_ms: float = 0.0  # before the first token
    token_ms: float = 0.0  # for each token
    ignores: tuple[Trait, ...] = ()
    refuses: tuple[Trait, ...] = ()
    lacks: tuple[Route, ...] = ()
    frozen: bool = False  # every draw of a prompt is the same, whatever its seed
    marks: bool = False  # each draw's text begins with a line that no other draw has, "<17>"
    reasoning: bool = False  # tokens of reasoning before each response, other ones each time, billed
    reasoning_tokens: int = 10
    reasoning_outside: bool = False  # reasoning is counted in total_tokens alone
    cut_reasoning: CutReasoning = ""  # reasoning takes all tokens; the content is "", null, or the reasoning's text
    num_cut: int = 1 << 30  # draws that `cut_reasoning` is about, the first ones
    answer: str = ""  # the text of every draw
    frozen_n: bool = False  # the choices of one request are all alike
    frozen_list: bool = False  # every request gets the same list of choices
    processed_logprobs: bool = False  # log-probs after temperature and filters, as vLLM's processed_logprobs
    odd_logprobs: float = 0.0  # nats by which log-probs at another temperature than 1 are wrong
    greedy_noise: float = 0.0  # probability with which a greedy token is another one
    overrun: int = 0  # tokens that every draw has beyond its end, whatever max_tokens says
    refusal: str = ""  # words of every refusal, which then names no parameter
    bomb_mb: int = 64
    api_key: str | None = None
    capacity: int | None = None  # requests at once; more are answered with 429
    max_n: int = 128
    max_top_logprobs: int = 20
    retry_after_s: float = 0.05
    stall_s: float = 30.0
    slow_s: float = 1.0
    plan: tuple[str, ...] = ()
    faults: Mapping[str, float] = field(default_factory=dict)
    batch_s: float = 0.0  # from the creation of a batch to its end; lines are drawn evenly
    batch_page: int = 100  # batches in a page of their list
    batch_listed_s: float = 0.0  # after which a batch that was created is in the list
    batch_faults: Mapping[BatchRoute, tuple[BatchFault, ...]] = field(default_factory=dict)  # of the first calls
    line_faults: tuple[str, ...] = ()  # statuses of the first lines of all batches, "" for none
    num_refused: int = 0  # batches that fail before they begin, the first ones
    num_expiring: int = 0  # batches that expire after `expires_after` lines, the first ones
    expires_after: int = 0

    def __post_init__(self) -> None:
        for known, names in ((TRAITS, (*self.ignores, *self.refuses)), (ROUTES, self.lacks)):
            for name in names:
                if name not in known:
                    raise ValueError(f"no such trait: {name!r}; known: {', '.join(known)}")
        for fault in (*filter(None, self.plan), *self.faults):
            if fault not in FAULTS and fault not in ATTACKS:
                raise ValueError(f"no such fault: {fault!r}; known: {', '.join((*FAULTS, *ATTACKS))}")
        for faults in self.batch_faults.values():
            if unknown := set(faults) - set(BATCH_FAULTS):
                raise ValueError(f"no such fault of the batch API: {sorted(unknown)[0]!r}; known: {BATCH_FAULTS}")
        if any(probability < 0 for probability in self.faults.values()) or sum(self.faults.values()) > 1:
            message = f"probabilities of faults must be 0 or more and sum to at most 1, got {dict(self.faults)}"
            raise ValueError(message)


@dataclass(slots=True)
class EndpointTally:
    """What happened, as the endpoint saw it. What was drawn is billed, whether or not it was received."""

    connections: int = 0
    requests: int = 0  # for completions, refused and faulty ones too
    draws: int = 0  # completions made; marks are 0 to draws - 1
    prompt_tokens: int = 0  # billed: once for each request that drew
    completion_tokens: int = 0  # billed, reasoning included
    disconnects: int = 0  # clients that left before their reply was complete
    aborted: int = 0  # of these, the ones before anything was drawn
    in_flight: int = 0
    most_in_flight: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    batch_calls: Counter[str] = field(default_factory=Counter)  # by route, refused and faulty ones too

    @property
    def tokens(self) -> int:
        """Return all billed tokens."""
        return self.prompt_tokens + self.completion_tokens

    def as_json(self) -> dict[str, Json]:
        """Return the tally as a JSON object."""
        counts = {"faults": dict(self.faults), "batch_calls": dict(self.batch_calls)}
        return {**asdict(self), "tokens": self.tokens, **counts}
