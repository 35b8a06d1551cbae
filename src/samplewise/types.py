"""The words of the package, as data. Imports nothing of ours.

Everything that flows between the parts is one of these: immutable, comparable, and plain enough to survive a JSON round
trip. Logs are natural (nats), times are seconds, money is US dollars. Unknown is `None` or `nan`, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

Json = Any  # what json.loads can give; a recursive alias would cost more than it tells
Finish = Literal["stop", "length", "floor", "error"]


class Message(NamedTuple):
    role: str
    content: str


class Question(NamedTuple):
    """What a model is asked. `facts` is public data about the question (a puzzle's numbers); no reference in sight."""

    id: str
    messages: tuple[Message, ...]
    facts: Mapping[str, Json] = {}


class Problem(NamedTuple):
    """A question with its reference answer. Only graders hold one."""

    question: Question
    reference: Json = None


class Capability(StrEnum):
    """What an engine can do. A sampler names those it needs; a mismatch is an error before the first token is paid."""

    GENERATE = "generate"  # draw a completion
    SEED = "seed"  # the same ask, the same completion
    TOKENS = "tokens"  # token ids of what was drawn
    LOGP = "logp"  # per-token log-probability under the model at temperature 1
    LOGQ = "logq"  # per-token log-probability under the law really drawn from
    PREFIX = "prefix"  # continue a given prefix of the response, by token ids
    FLOOR = "floor"  # give up early, and forbid a first token
    LOGZ = "logz"  # per-token log of the sum of the law's powers, at any exponents
    CERTAINTY = "certainty"  # per-token distance of the model's law from the uniform one
    EXPLORE = "explore"  # let the samples of a group keep out of each other's way
    TOP = "top"  # the likeliest tokens at each place, with their log-probs
    LIKELIHOOD = "likelihood"  # log-probs of a given text
    ENUMERATE = "enumerate"  # list every response with its probability


class Sampling(NamedTuple):
    """How a token is drawn: temperature first, then top-k, top-p and min-p cut the law, then it is renormalised.

    `temperature` 0 is greedy, ties to the lowest id. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `explore` is the
    canonical text of how the samples of a group explore, "css" or "esamp(beta=0.5)"; "" is not at all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    explore: str = ""


class Floor(NamedTuple):
    """Give up, with finish "floor", once the running sum of alpha * logp - logq falls below `value` (nats).

    Where 1 <= 1 / temperature <= alpha, cuts or not, a token adds at most log Z = log sum p ** (1 / temperature) over
    what is kept, as alpha * logp - logq = (alpha - 1 / temperature) * logp + log Z, and log Z <= 0. So the sum can
    only fall, and an engine gives up as soon as it would be below `value` with the next position's log Z: that token
    is neither drawn nor counted, and a response that was doomed from the start has no tokens at all.
    """

    alpha: float
    value: float


class Generate(NamedTuple):
    """A request to draw one completion."""

    messages: tuple[Message, ...]
    prefix: tuple[int, ...] = ()  # token ids the response must begin with; the completion holds what follows
    sampling: Sampling = Sampling()
    max_tokens: int = 256  # new tokens, the prefix not counted; fewer where the model's context ends
    stop: tuple[str, ...] = ()  # strings that end the response; the text is cut before them
    seed: int = 0  # in [0, 2**53)
    # Per-token arrays to return: "tokens", "logp", "logq", "logz", "certainty", "top". And "whole": the text is that of
    # the whole response, the prefix's included, which the joined token ids have and the joined texts may not.
    want: tuple[str, ...] = ()
    group: str = ""  # whose exploration state it shares
    floor: Floor | None = None
    forbid_first: int | None = None  # a token id not to draw first
    engine: str = ""  # who answers, where several engines work together: the solver, or a thinker or judge by name
    draw: int = 0  # which of its question's draws this is, from 0: recorded draws are dealt out by it
    exponents: tuple[float, ...] = ()  # (E,) each above 0: what "logz" is wanted at
    group_size: int = 0  # samples of its group, where it explores: the group ends when so many have ended


class Likelihood(NamedTuple):
    """A request for the log-probabilities of a given response, token by token."""

    messages: tuple[Message, ...]
    completion: tuple[int, ...]  # token ids


Ask = Generate | Likelihood


def explores(ask: Ask) -> bool:
    """Whether it is one of a group's samples, which depend on one another."""
    return isinstance(ask, Generate) and bool(ask.sampling.explore)


class Usage(NamedTuple):
    """What was spent. `cached_tokens` is the part of the prompt tokens that an endpoint bills as cached, and
    `reasoning_tokens` the part of the completion tokens that it does not show."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0  # engine time, summed over asks; asks in flight together overlap

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together: what every comparison at equal tokens counts."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: Usage) -> Usage:
        return Usage._make(a + b for a, b in zip(self, other, strict=True))


class Failure(NamedTuple):
    """Why an ask has no answer: a class name of errors.py, whether to try again, and after how many seconds."""

    kind: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None


class Completion(NamedTuple):
    """What an engine gave back for an ask. Arrays that were not wanted, or are not known, are None."""

    text: str
    finish: Finish
    usage: Usage = Usage()
    tokens: tuple[int, ...] | None = None  # (T,) new tokens only, a stop token included
    logp: tuple[float, ...] | None = None  # (T,) nats, under the model at temperature 1
    logq: tuple[float, ...] | None = None  # (T,) nats, under the law really drawn from
    logp_sum: float = math.nan  # nats, of the whole completion; nan where the engine gives no log-probs
    failure: Failure | None = None
    top: tuple[tuple[tuple[str, float], ...], ...] | None = None  # (T, k) likeliest tokens' texts and log-probs (nats)
    logz: tuple[tuple[float, ...], ...] | None = None  # (T, E) nats, log sum_v p(v)**e over the whole vocabulary
    certainty: tuple[float, ...] | None = None  # (T,) nats, KL(uniform || p) = -mean_v log p(v) - log V; inf: p(v) = 0
    # Where it ended a group that explores, what the group has to say of itself: "policy", "samples", "numbers" (known
    # ones, by name), "problem" ("": none).
    explored: Mapping[str, Json] | None = None


class Candidate(NamedTuple):
    """A response in the pool."""

    text: str
    finish: Finish = "stop"
    arm: str = "direct"
    log_weight: float = 0.0  # nats; 0 for an exchangeable draw
    num_tokens: int = 0
    logp_sum: float = math.nan  # nats
    scores: Mapping[str, float] = {}  # verifier name -> score; nan: could not judge


class Pool(NamedTuple):
    """The candidates so far, in the order of their asks. Failed asks are counted, not listed."""

    candidates: tuple[Candidate, ...] = ()
    num_failed: int = 0


class Score(NamedTuple):
    """A verifier's or grader's verdict. `value` nan: could not judge."""

    value: float
    reason: str = ""


class Stop(NamedTuple):
    """Why a run ended: "finished", "budget", "cancelled", or a stop rule's reason ("success", "settled", "futile",
    "cap") with its evidence, plain data that says which rule it was and what it rests on."""

    reason: str
    evidence: Mapping[str, Json] = {}


class Selection(NamedTuple):
    """The chosen answer, the position of a candidate that holds it, and the weight of every candidate's answer."""

    answer: str | None
    position: int | None
    weights: tuple[float, ...] = ()  # (N,) one per candidate, the share that its answer got
    info: Mapping[str, Json] = {}


class Reader(Protocol):
    """Reads the answer out of a response; None where there is none to be read. Equal answers give equal strings."""

    def __call__(self, question: Question, text: str) -> str | None: ...


class Verifier(Protocol):
    """Scores a candidate without the reference."""

    def __call__(self, question: Question, candidate: Candidate) -> Score: ...


@runtime_checkable
class BatchVerifier(Protocol):
    """A verifier that computes tokens: better asked about many candidates at once, and not free."""

    def __call__(self, question: Question, candidate: Candidate) -> Score: ...

    def score_all(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[float]: ...

    def tokens_of(self, question: Question, candidate: Candidate) -> int:
        """Prompt tokens that scoring reads. They count in every comparison at equal tokens."""
        ...


class Grader(Protocol):
    """Scores an answer with the reference; 0 to 1. An answer of None is wrong, not unknown."""

    def __call__(self, problem: Problem, answer: str | None) -> Score: ...
