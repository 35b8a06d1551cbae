"""Draw by several requests what the protocol cannot ask for in one: drafts that chains of power sampling propose.

A draft may be forbidden to begin with a token, and given up once it falls below a bound (`RejectionBound`). Where the
endpoint takes and lists token ids, and the draw has a `top_k` whose tokens it lists, both can be done exactly:

* The first token. The K + 1 likeliest tokens after a beginning, with their log-probs, are the whole distribution under
  top-k sampling. The token is drawn here, without the forbidden one; its log q stays the unconditioned one. An earlier
  reply has listed them nearly always, as the draft departs from a response that was drawn here. If none has, one
  request for a single token does, and that token is thrown away. (A `logit_bias` would forbid the token at every later
  position, and let the one of rank K + 1 in.)
* The bound. The draft is drawn in chunks of 16, 32, 64 ... tokens, and its sum is followed token by token. Tokens after
  the one at which it is given up are paid for and never used.
* Its end. A token drawn here may end the response, which no reply says. So the end tokens are learned from replies; of
  a token that none has shown yet, one request for two tokens asks, in which a logit bias makes it certain: does that
  draw go on after the first?
* Its text, prefix included, from the token ids: a request that draws nothing.

Cost: a request for each chunk, at most log2(T / 16) + 2, each of which counts the prompt again; sometimes one or two
more, of a token or two. A request that fails and may be tried again is the only one made again: drafts of many chunks
fail more often, and to draw them anew would favor short ones.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from samplewise.core.errors import BadRequest, EngineError, Unsupported
from samplewise.core.keys import Key
from samplewise.core.numerics import ratio_cannot_rise
from samplewise.core.types import Completion, Failure, Finish, Generate, Json, Sampling, Usage
from samplewise.engines.base import failed, tell_reasoning
from samplewise.engines.distribution import draw_token
from samplewise.engines.http.dialect import logq, requests
from samplewise.engines.http.dialect.refusals import OVERFLOW
from samplewise.engines.http.exchange import Exchange, failed_by
from samplewise.engines.http.jobs import Recipient, RequestJob
from samplewise.engines.http.memory import Listed

CHUNK = 16  # tokens of the first chunk; each is twice as long as the one before
CERTAIN = 100  # the largest logit bias of the protocol
MAX_UNFINISHED = 1000  # drafts that wait to be tried again
WANT = ("tokens", "logp", "logq")


class PieceSize(NamedTuple):
    """A request of a draft: the tokens before it, the prompt not counted, and the most that it draws."""

    num_before: int
    max_tokens: int


def piece_sizes(ask: Generate) -> Iterator[PieceSize]:
    """Yield the most that a draft can ask for, request by request."""
    num_before, left, size = len(ask.prefix), ask.max_tokens, ask.max_tokens
    if ask.forbid_first is not None:
        yield PieceSize(num_before, 1)  # lists the likeliest tokens
        yield PieceSize(num_before, 2)  # shows whether the one that was drawn ends a response
        num_before, left = num_before + 1, left - 1
    for index in itertools.count():
        if left <= 0:
            return
        size = chunk_size(ask, index, left)
        yield PieceSize(num_before, size)
        num_before, left = num_before + size, left - size


def chunk_size(ask: Generate, index: int, left: int) -> int:
    """Return how many tokens a draft's chunk may have, of those that are left."""
    return left if ask.reject_below is None else min(left, CHUNK << min(index, 32))


class PartialDraft:
    """A draft as far as it is drawn: tokens with log p and log q, and how it ended, None while it goes on."""

    def __init__(self, ask: Generate) -> None:
        self.tokens: list[int] = []
        self.logp: list[float] = []
        self.logq: list[float] = []
        self.finish: Finish | None = None
        self.num_chunks = 0
        self.max_size = ask.max_tokens  # of a chunk, where the model's context ends
        self._bound, self._temperature = ask.reject_below, ask.sampling.temperature
        self._max_tokens = ask.max_tokens
        self._running = 0.0
        bound = self._bound
        self._looks_ahead = bound is not None and ratio_cannot_rise(bound.alpha, self._temperature)

    def rejects(self, log_z: float) -> bool:
        """Return whether the draft is given up before the next token, whose log Z (nats) is known; end it if so."""
        if self._bound is not None and self._looks_ahead and self._running + log_z < self._bound.value:
            self.finish = "rejected"
        return self.finish == "rejected"

    def add(self, token: int, logp: float, log_q: float) -> None:
        """Add a token, unless the draft is given up before it, or by it."""
        if self.rejects(logp / self._temperature - log_q):
            return
        self.tokens.append(token)
        self.logp.append(logp)
        self.logq.append(log_q)
        if self._bound is not None:
            self._running += self._bound.alpha * logp - log_q
            if self._running < self._bound.value:
                self.finish = "rejected"

    def add_chunk(self, chunk: Completion, size: int) -> None:
        """Add what a request for `size` tokens gave. Raises ValueError if it came without a number that is needed."""
        tokens, logp, log_q = chunk.tokens, chunk.logp, chunk.logq
        if tokens is None or logp is None or log_q is None or not len(tokens) == len(logp) == len(log_q):
            raise ValueError("the reply does not give the id and the log-prob of every token")
        num_taken = 0
        for token, p, q in zip(tokens, logp, log_q, strict=True):
            if self.finish is not None or len(self.tokens) >= self._max_tokens:
                break
            self.add(token, p, q)
            num_taken += 1
        self.num_chunks += 1
        if self.finish is not None:
            return
        if chunk.finish == "stop" and num_taken == len(tokens):
            self.finish = "stop"
        elif len(self.tokens) >= self._max_tokens or len(tokens) < size:  # fewer: the model's context is full
            self.finish = "length"


class _PieceFailed(Exception):
    """A request of a draft failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class _Replies:
    """Stands for a call: holds the completion of the one ask that a job is about."""

    def __init__(self, job: RequestJob) -> None:
        self.completion: Completion | None = None
        self.jobs = deque([job])

    def deliver(self, position: int, completion: Completion) -> None:
        self.completion = completion

    def add(self, job: RequestJob) -> None:
        self.jobs.append(job)


class DraftExchange:
    """Serve drafts through the exchange of one model."""

    def __init__(self, exchange: Exchange, name: str, extra: Mapping[str, Json]) -> None:
        self._exchange, self._name = exchange, name
        self._has_stop = "stop" in extra
        self._unfinished: dict[Generate, PartialDraft] = {}  # that failed, and may be asked for again

    def worst_case(self, ask: Generate) -> Usage:
        """Return the most that a draft can cost."""
        total = Usage()
        for num_before, max_tokens in piece_sizes(ask):
            total = total.plus(self._exchange.worst_case_of(ask.messages, num_before, max_tokens))
        return total

    def why_unsupported(self, ask: Generate) -> str:
        """Return why the endpoint cannot draw the draft, or ""."""
        profile = self._exchange.profile
        if lacks := logq.why_no_drafts(profile):
            return f"reject a draft early, forbid a first token, or give a whole text: it is not known to {lacks}"
        if ask.stop or self._has_stop:
            return "reject a draft early, or forbid a first token, with stop strings, which two chunks may share"
        if "top" in ask.want:
            return "reject a draft early, or forbid a first token, and give the likeliest tokens"
        plain = ask._replace(reject_below=None, forbid_first=None, want=(*ask.want, *WANT))
        why = requests.why_unsupported(plain, profile) or logq.why_no_logq(plain, profile)
        if not why and ask.forbid_first is not None and not ask.sampling.top_k:
            return f"forbid a first token for {ask.sampling}: it does not list all tokens, so use top_k"
        return why

    async def serve(self, job: RequestJob, call: Recipient) -> None:
        """Deliver the completion of the job's draft. Raises Unsupported, and SetupError as `Exchange.serve` does."""
        (position,), (ask,) = job.positions, job.asks
        assert isinstance(ask, Generate)
        if why := self.why_unsupported(ask):
            raise Unsupported(f"{self._name} cannot {why}")
        drawing = _Drawing(self._exchange, ask, self._unfinished.pop(ask, PartialDraft(ask)))
        try:
            completion = await drawing.run()
        except _PieceFailed as error:
            completion = Completion("", "error", drawing.usage, failure=error.failure)
        except EngineError as error:
            completion = failed_by(error, drawing.usage)
        except ValueError as error:
            completion = failed(BadRequest(f"{self._name}: {error}"), drawing.usage)
        except BaseException:  # cancelled: what was sent may be billed
            if drawing.was_sent:
                self._exchange.cut[id(ask)] = ask
            raise
        if completion.failure is not None and completion.failure.retryable:
            if len(self._unfinished) >= MAX_UNFINISHED:
                self._unfinished.clear()
            self._unfinished[ask] = drawing.draft
        call.deliver(position, completion)


class _Drawing:
    """One attempt at a draft. `usage` is what it has cost so far."""

    def __init__(self, exchange: Exchange, ask: Generate, draft: PartialDraft) -> None:
        self._exchange, self._ask, self._key = exchange, ask, Key(ask.seed)
        self.draft, self.usage, self.was_sent = draft, Usage(), False

    async def run(self) -> Completion:
        """Draw what is missing, and return the draft as a completion.

        Raises _PieceFailed, EngineError, and ValueError for a reply without what is needed.
        """
        ask, draft = self._ask, self.draft
        if ask.forbid_first is not None and not draft.tokens and draft.finish is None:
            await self._draw_first(ask.forbid_first)
        while draft.finish is None:
            await self._draw_chunk()
        rejected = draft.finish == "rejected"
        text = "" if rejected else await self._text()
        want = ask.want
        completion = Completion(
            text,
            draft.finish,
            self.usage,
            tuple(draft.tokens) if "tokens" in want else None,
            tuple(draft.logp) if "logp" in want else None,
            tuple(draft.logq) if "logq" in want else None,
            math.fsum(draft.logp),
        )
        return completion if rejected else self._without_reasoning(completion)

    async def _draw_first(self, forbidden: int) -> None:
        """Draw the first token, without the forbidden one."""
        ask, draft = self._ask, self.draft
        listed = await self._listed()
        logp = [value for _, value in listed[: ask.sampling.top_k]]
        log_z = logq.log_normalizer(ask.sampling, [value for _, value in listed])
        if draft.rejects(log_z):
            return
        log_q = [value / ask.sampling.temperature - log_z for value in logp]
        allowed = [-math.inf if listed[i][0] == forbidden else value for i, value in enumerate(log_q)]
        if not any(map(math.isfinite, allowed)):
            raise ValueError(f"nothing but the forbidden first token {forbidden} can be drawn")
        index = draw_token(allowed, float(self._key.fold("first").generator().random()))
        token = listed[index][0]
        draws_end = await self._is_end(token)
        draft.add(token, logp[index], log_q[index])
        if draft.finish is None and (draws_end or ask.max_tokens <= 1):
            draft.finish = "stop" if draws_end else "length"

    async def _listed(self) -> Listed:
        """Return the likeliest tokens after the prefix, as many as top_k needs."""
        ask, memory, num = self._ask, self._exchange.memory, self._ask.sampling.top_k + 1
        if (listed := memory.listed(ask.messages, ask.prefix, num)) is not None:
            return listed
        await self._piece(max_tokens=1, want=WANT, seed=self._key.fold("list").seed())
        if (listed := memory.listed(ask.messages, ask.prefix, num)) is not None:
            return listed
        raise ValueError(f"it does not list {num} likely tokens by their ids")

    async def _is_end(self, token: int) -> bool:
        """Return whether a token ends a response: as draws have shown, else by a request that draws it."""
        memory = self._exchange.memory
        if (is_end := memory.is_end(token)) is not None:
            return is_end
        try:
            piece = await self._forced(token, 2)
        except _PieceFailed as error:
            if not OVERFLOW.search(error.failure.message):
                raise
            piece = await self._forced(token, 1)
        if (piece.tokens or ())[:1] != (token,):
            raise ValueError(f"it draws {piece.tokens} where a logit_bias of {CERTAIN} asks for token {token}")
        return memory.is_end(token) is True  # unknown still: the context has no room for a second token

    async def _forced(self, token: int, max_tokens: int) -> Completion:
        """Return a draw from the draft's beginning in which every token is this one."""
        bias = {"logit_bias": {str(token): CERTAIN}}
        return await self._piece(bias, max_tokens=max_tokens, sampling=Sampling(0.0), want=("tokens",), seed=0)

    async def _draw_chunk(self) -> None:
        """Draw the next chunk."""
        ask, draft = self._ask, self.draft
        size = min(draft.max_size, chunk_size(ask, draft.num_chunks, ask.max_tokens - len(draft.tokens)))
        seed = self._key.fold("chunk", draft.num_chunks).seed()
        try:
            chunk = await self._piece(prefix=(*ask.prefix, *draft.tokens), max_tokens=size, want=WANT, seed=seed)
        except _PieceFailed as error:
            if not OVERFLOW.search(error.failure.message) or (size == 1 and not draft.tokens):
                raise
            if size > 1:  # the endpoint does not say how many would fit
                draft.max_size = size // 2
            else:
                draft.finish = "length"  # the model's context is full
            return
        draft.add_chunk(chunk, size)

    async def _piece(self, fields: Mapping[str, Json] = {}, **changes: Json) -> Completion:
        """Return the completion of one request of the draft, which differs from it as said. Raises _PieceFailed."""
        piece = self._ask._replace(reject_below=None, forbid_first=None, **changes)
        replies = _Replies(RequestJob((0,), (piece,), by_ids=True, fields=fields))
        try:
            while replies.completion is None:
                await self._exchange.serve(replies.jobs.popleft(), replies)
        finally:
            is_cut = self._exchange.cut.pop(id(piece), None) is not None
            self.was_sent = self.was_sent or is_cut or replies.completion is not None
        completion = replies.completion
        self.usage = self.usage.plus(completion.usage)
        if completion.failure is not None:
            raise _PieceFailed(completion.failure)
        return completion

    async def _text(self) -> str:
        """Return the text of the draft, its end token left out; with "whole" that of its prefix before it."""
        ask, draft = self._ask, self.draft
        tokens = draft.tokens[:-1] if draft.finish == "stop" else draft.tokens
        prefix = ask.prefix if "whole" in ask.want else ()
        return await self._exchange.text_of(ask.messages, (*prefix, *tokens))

    def _without_reasoning(self, completion: Completion) -> Completion:
        """Return the completion with its reasoning told apart from its text."""
        tag = self._exchange.opening_tag(self._ask, completion.finish == "length")
        return tell_reasoning(completion, self._ask, tag)
