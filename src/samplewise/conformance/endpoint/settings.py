"""How the endpoint behaves, what can go wrong with it, and what it counts. Plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple, get_args

from samplewise.types import Json

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
    "token_ids_in",  # no parameter: a prompt given as token ids
]
Route = Literal["chat", "completions", "models", "tokenize"]
TRAITS: tuple[Trait, ...] = get_args(Trait)
ROUTES: tuple[Route, ...] = get_args(Route)


class Fault(NamedTuple):
    """One way in which one request goes wrong. `drawn`: the completion was made, and billed, before that."""

    about: str
    drawn: bool
    status: int = 200


FAULTS: Mapping[str, Fault] = {
    "400": Fault("a bad request, for no reason that is named", False, 400),
    "429": Fault("too many requests, Retry-After in seconds", False, 429),
    "429 date": Fault("too many requests, Retry-After as an HTTP date", False, 429),
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
    "more": Fault("one choice more than asked for, drawn and billed", True),
    "fewer": Fault("one choice fewer than asked for, none for one", True),
    "shuffled": Fault("choices in reverse order", True),
    "same index": Fault("every choice has index 0", True),
    "null": Fault("content null", True),
    "finish null": Fault("finish_reason null", True),
    "finish eos": Fault("finish_reason eos", True),
    "finish filter": Fault("finish_reason content_filter, and no text", True),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What the endpoint is like. As it comes it does all that it knows, at once and without a fault.

    `ignores` and `refuses` name parameters that have no effect, or are answered with status 400. `plan` gives the fault
    of the first requests for completions in turn, "" for none; `faults` the odds of each for those that follow, drawn
    from `seed`.
    """

    model: str = "toy"
    vocab: int = 12  # of the toy model, see engines/toy.py
    scale: float = 1.0
    seed: int = 5  # of the toy model, of draws that name no seed, and of the faults; with 5 its greedy texts are long
    context: int = 4096  # tokens, prompt and completion
    latency_ms: float = 0.0  # before the first token
    token_ms: float = 0.0  # for each token
    ignores: tuple[Trait, ...] = ()
    refuses: tuple[Trait, ...] = ()
    lacks: tuple[Route, ...] = ()
    frozen: bool = False  # every draw of a prompt is the same, whatever its seed
    marks: bool = False  # each draw's text begins with a line that no other draw has, "<17>"
    reasoning: bool = False  # ten tokens of reasoning before each response, billed
    api_key: str | None = None
    capacity: int | None = None  # requests at once; more are answered with 429
    max_n: int = 128
    max_top_logprobs: int = 20
    retry_after_s: float = 0.05
    stall_s: float = 30.0
    slow_s: float = 1.0
    plan: tuple[str, ...] = ()
    faults: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for known, given in ((TRAITS, (*self.ignores, *self.refuses)), (ROUTES, self.lacks)):
            for name in given:
                if name not in known:
                    raise ValueError(f"no such trait: {name!r}; known: {', '.join(known)}")
        for fault in (*filter(None, self.plan), *self.faults):
            if fault not in FAULTS:
                raise ValueError(f"no such fault: {fault!r}; known: {', '.join(FAULTS)}")
        if any(odds < 0 for odds in self.faults.values()) or sum(self.faults.values()) > 1:
            raise ValueError(f"the odds of faults are 0 or more and sum to at most 1, got {dict(self.faults)}")


@dataclass(slots=True)
class Tally:
    """What really happened, as the endpoint saw it. Billed is what was drawn, whether or not it was received."""

    connections: int = 0
    requests: int = 0  # for completions, refused and faulty ones too
    draws: int = 0  # completions made; the marks are 0 to draws - 1
    prompt_tokens: int = 0  # billed: once for each request that drew
    completion_tokens: int = 0  # billed, reasoning included
    disconnects: int = 0  # clients that left before their reply was complete
    aborted: int = 0  # of these, before anything was drawn
    in_flight: int = 0
    most_in_flight: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def as_json(self) -> dict[str, Json]:
        return {**asdict(self), "tokens": self.tokens, "faults": dict(self.faults)}
