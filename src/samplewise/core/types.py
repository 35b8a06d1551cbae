"""The types that flow between the parts of the package. Imports nothing else of it.

All are immutable, comparable, and survive a JSON round trip. Logs are natural (nats), times are in seconds, money in US
dollars. Unknown is `None` or `nan`, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from operator import add, sub
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

Json = Any  # what json.loads can give; a recursive alias would cost more than it tells
Finish = Literal["stop", "length", "rejected", "error"]


class Message(NamedTuple):
    """One message of a conversation. `role` is "system", "user" or "assistant"."""

    role: str
    content: str


class Question(NamedTuple):
    """What a model is asked. `facts` holds public data about it (a puzzle's numbers), never the reference answer."""

    id: str
    messages: tuple[Message, ...]
    facts: Mapping[str, Json] = {}


class Problem(NamedTuple):
    """A question with its reference answer. Only graders hold one."""

    question: Question
    reference: Json = None


class Capability(StrEnum):
    """What an engine can do. A sampler names what it needs; a mismatch is an error before anything is paid."""

    GENERATE = "generate"  # draw a completion
    SEED = "seed"  # the same ask, the same completion
    TOKENS = "tokens"  # token ids of what was drawn
    LOGP = "logp"  # per-token log-probability under the model at temperature 1
    LOGQ = "logq"  # per-token log-probability under the distribution drawn from
    PREFIX = "prefix"  # continue a given prefix of the response, by token ids
    REJECT_BELOW = "reject_below"  # give up early, and forbid a first token
    LOGZ = "logz"  # per-token log of the sum of p ** e over the vocabulary, at any exponents e
    CERTAINTY = "certainty"  # per-token KL divergence of the model's distribution from the uniform one
    EXPLORE = "explore"  # diverse sampling: the draws of a group depend on one another
    TOP = "top"  # the likeliest tokens at each position, with their log-probs
    SCORE_FIRST = "score_first"  # log-probs of given tokens at the first position, or of those among its likeliest
    LIKELIHOOD = "likelihood"  # log-probs of a given text
    ENUMERATE = "enumerate"  # list every response with its probability


class Sampling(NamedTuple):
    """How a token is drawn: temperature first, then the filters top-k, top-p and min-p, then renormalization.

    `temperature` 0 is greedy, ties to the lowest id. `top_k` 0, `top_p` 1 and `min_p` 0 are off. `explore` is the
    canonical text of the policy by which the draws of a group explore, "css" or "esamp(beta=0.5)"; "" for none.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    explore: str = ""


class RejectionBound(NamedTuple):
    """Give up, with finish "rejected", once the running sum of alpha * logp - logq falls below `value` (nats).

    Where 1 <= 1 / temperature <= alpha, with or without filters, a token adds at most log Z = log sum p ** (1 /
    temperature) over the tokens that pass, as alpha * logp - logq = (alpha - 1 / temperature) * logp + log Z, and
    log Z <= 0. So the sum can only fall, and an engine gives up as soon as it would be below `value` with the next
    position's log Z: that token is neither drawn nor counted, and a draft rejected from the start has no tokens.
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
    group: str = ""  # draws of one group share an exploration state
    reject_below: RejectionBound | None = None
    forbid_first: int | None = None  # a token id not to draw first
    engine: str = ""  # the member of a team that answers: a helper or judge by name, "" for the solver
    draw: int = 0  # index of this draw among its question's, which selects a recorded draw
    exponents: tuple[float, ...] = ()  # (E,) each above 0, at which "logz" is returned
    group_size: int = 0  # draws of its group, if it explores: the group ends when this many have ended
    # Texts of tokens whose log-probs are wanted at the first position, in "top". An engine that shows no likeliest
    # tokens returns these alone, and that position alone.
    score_first: tuple[str, ...] = ()


class Likelihood(NamedTuple):
    """A request for the log-probabilities of a given response, token by token."""

    messages: tuple[Message, ...]
    completion: tuple[int, ...]  # token ids


Ask = Generate | Likelihood


def explores(ask: Ask) -> bool:
    """Return whether the ask is one of a group's draws, which depend on one another."""
    return isinstance(ask, Generate) and bool(ask.sampling.explore)


class Usage(NamedTuple):
    """What requests cost. Sums of usages are usages.

    `cached_tokens` is the part of the prompt tokens that an endpoint bills as cached, `reasoning_tokens` the part of
    the completion tokens that it does not show.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    usd: float = 0.0
    seconds: float = 0.0  # engine time, summed over asks; asks in flight together overlap

    @property
    def tokens(self) -> int:
        """Return prompt plus completion tokens: what every comparison at equal tokens counts."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: Usage) -> Usage:
        """Return the sum of two usages."""
        return Usage._make(map(add, self, other))

    def minus(self, other: Usage) -> Usage:
        """Return the difference of two usages: what was added since `other`."""
        return Usage._make(map(sub, self, other))


class Failure(NamedTuple):
    """Why an ask has no answer: a class name of errors.py, whether a retry may help, and the seconds to wait."""

    kind: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None


class Completion(NamedTuple):
    """What an engine returned for an ask. Arrays that were not wanted, or are unknown, are None.

    `text` is what the model says and `reasoning` what it thought before; token ids and log-probs cover both. Where the
    reasoning never ended, `text` is "". What continues a prefix is only a piece, whose reasoning stays in its text.
    """

    text: str
    finish: Finish
    usage: Usage = Usage()
    tokens: tuple[int, ...] | None = None  # (T,) new tokens only, a stop token included
    logp: tuple[float, ...] | None = None  # (T,) nats, under the model at temperature 1
    logq: tuple[float, ...] | None = None  # (T,) nats, under the distribution drawn from
    logp_sum: float = math.nan  # nats, of the whole completion; nan where the engine gives no log-probs
    failure: Failure | None = None
    top: tuple[tuple[tuple[str, float], ...], ...] | None = None  # (T, k) likeliest tokens' texts and log-probs (nats)
    logz: tuple[tuple[float, ...], ...] | None = None  # (T, E) nats, log sum_v p(v)**e over the whole vocabulary
    certainty: tuple[float, ...] | None = None  # (T,) nats, KL(uniform || p) = -mean_v log p(v) - log V; inf: p(v) = 0
    # Of the draw that ended a group that explores: what the policy reports, "policy", "samples", "numbers" (by name),
    # "problem" ("" for none).
    explored: Mapping[str, Json] | None = None
    reasoning: str = ""
    # Where token ids were wanted and reasoning was cut out: the text with it, behind the tag that the prompt ended in.
    raw: str | None = None


class Candidate(NamedTuple):
    """A response in the pool. `text` is what is read, scored and compared; the reasoning before it is shown alone."""

    text: str
    finish: Finish = "stop"
    arm: str = "direct"
    log_weight: float = 0.0  # nats; 0 for exchangeable draws
    num_tokens: int = 0
    logp_sum: float = math.nan  # nats
    scores: Mapping[str, float] = {}  # verifier name -> score; nan: could not judge
    reasoning: str = ""

    @property
    def is_unanswered(self) -> bool:
        """Whether the response ended while reasoning: it has no text, and reasoning or a limit stands before it."""
        return not self.text.strip() and (bool(self.reasoning) or self.finish == "length")


class Pool(NamedTuple):
    """The candidates so far (N,), in the order of their asks. Failed asks are counted, not listed."""

    candidates: tuple[Candidate, ...] = ()
    num_failed: int = 0


class Score(NamedTuple):
    """A verifier's or grader's verdict. `value` nan: could not judge."""

    value: float
    reason: str = ""


class Stop(NamedTuple):
    """Why a run ended: "finished", "budget", "cancelled", or a stop rule's reason ("success", "settled", "futile",
    "cap"). `evidence` is plain data: which rule it was, its guarantee, and the numbers that it rests on."""

    reason: str
    evidence: Mapping[str, Json] = {}


class Selection(NamedTuple):
    """The chosen answer, the position of a candidate that gave it, and the weight of every candidate's answer."""

    answer: str | None
    position: int | None
    weights: tuple[float, ...] = ()  # (N,) weight of each candidate's answer
    info: Mapping[str, Json] = {}


class Reader(Protocol):
    """Reads the answer out of a response, None if there is none. Equal answers give equal strings."""

    def __call__(self, question: Question, text: str) -> str | None: ...


class Verifier(Protocol):
    """Scores a candidate without the reference."""

    def __call__(self, question: Question, candidate: Candidate) -> Score: ...


@runtime_checkable
class BatchVerifier(Protocol):
    """A verifier that computes tokens, such as a reward model: it scores many candidates at once, and is charged."""

    def __call__(self, question: Question, candidate: Candidate) -> Score: ...

    def score_all(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[float]: ...

    def tokens_of(self, question: Question, candidate: Candidate) -> int:
        """Return the prompt tokens that scoring reads. They count in every comparison at equal tokens."""
        ...


class OnRetry(Protocol):
    """Called before a failed request is sent again, after `wait_s` seconds. None: it is given up, and a later run may
    have an answer."""

    def __call__(self, failure: Failure, wait_s: float | None, /) -> None: ...


@runtime_checkable
class RemoteVerifier(BatchVerifier, Protocol):
    """A batch verifier behind a server. The loop awaits it, counts its requests, and cancels them with the run."""

    @property
    def batch_size(self) -> int:
        """Pairs that one request scores."""
        ...

    async def count_tokens(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[int]:
        """Return the prompt tokens that scoring each pair reads."""
        ...

    async def score_pairs(
        self, pairs: Sequence[tuple[Question, Candidate]], on_retry: OnRetry | None = None
    ) -> list[Score]:
        """Return the score of every pair, nan with the reason if there is none.

        Retries with the back-off of `core.retry`. Raises EngineUnavailable if nobody answers, SetupError or AuthError
        if the user must change something.
        """
        ...


@runtime_checkable
class NeedsSetup(Protocol):
    """A grader or a verifier that needs something of this machine, such as a sandbox."""

    def check_setup(self) -> None:
        """Raise SetupError where it is missing. A run asks before anything is drawn."""


class Grader(Protocol):
    """Scores an answer with the reference; 0 to 1. An answer of None is wrong, not unknown."""

    def __call__(self, problem: Problem, answer: str | None) -> Score: ...
