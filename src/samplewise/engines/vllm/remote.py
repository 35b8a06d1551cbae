"""The engine over `samplewise vllm`, the server that speaks the whole ask (wire.py). It imports neither torch nor vLLM.

A call of `answer` becomes requests of up to `MAX_ASKS` asks, and a group that explores is never cut in two. Completions
come as a stream, each as soon as it is drawn. Closing the iterator closes the connections, which ends the draws in
vLLM.

What was rejected (429, 503, a refused connection) cost nothing and is sent again here for `patience_s`. Where a stream
breaks off, what has come is kept; what is missing may have been drawn, is charged at its worst case, and the loop
decides whether to ask for it again. Every request names the engine that it believes to ask, so a server that was
started again with another model refuses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from samplewise.core.errors import EngineError, EngineUnavailable, RateLimited, SetupError
from samplewise.core.prices import FREE, Price
from samplewise.core.retry import backoff_s
from samplewise.core.types import Ask, Capability, Completion, Generate, Json, Usage
from samplewise.engines.base import Arrival, Engine, joins_group
from samplewise.engines.http import billing
from samplewise.engines.http.dialect.failures import OutageWatch, describe, error_of
from samplewise.engines.http.dialect.refusals import is_rejected
from samplewise.engines.http.exchange import GaveUp, failed_by, is_refused
from samplewise.engines.http.jobs import AnswerCall, Recipient, RequestJob
from samplewise.engines.http.transport.client import Client, Reply, is_loopback, was_sent
from samplewise.engines.http.transport.pace import retry_after_s

from . import wire

MAX_ASKS = 256  # of a request; a group may exceed it
MAX_REQUESTS = 64  # of a call of `answer` at once
IDLE_TIMEOUT_S = 120.0  # without even a sign of life, of which the server gives several a minute
LONGEST_PAUSE_S = 30.0
NO_KEY = "give api_key=, or set VLLM_API_KEY"
HOW = "start it by: samplewise vllm MODEL"


@dataclass(frozen=True, slots=True)
class RemoteSettings:
    """How the server is asked; see `samplewise.engines.vllm.vllm`."""

    draws: wire.DrawSettings = field(default_factory=wire.DrawSettings)
    patience_s: float = 120.0
    price: Price | None = None


@dataclass(slots=True)
class _Progress:
    """What has come of a request."""

    missing: set[int]  # indices of its asks
    problem: str = ""  # what was wrong with an event
    sent_at: float = field(default_factory=time.monotonic)


class RemoteVllm(Engine):
    """The engine behind one server. Made by `vllm(url)`; use it within one event loop at a time."""

    def __init__(self, client: Client, settings: RemoteSettings) -> None:
        self.client = client
        self._settings = settings
        self.name = self._where = f"vllm({client.shown})"
        self.identity = f"vllm@{client.shown}"
        self.price = settings.price or (FREE if is_loopback(client.shown) else Price())
        self._facts: wire.ServerFacts | None = None
        self._lock = asyncio.Lock()
        self._session = uuid.uuid4().hex
        self._prompts = billing.PromptLengths()
        self._outage = OutageWatch(settings.patience_s)
        self._tickets = itertools.count()
        self._calls: dict[int, tuple[AnswerCall, int]] = {}  # by id of an ask: its call, and its position there
        self._cut: dict[int, Ask] = {}  # by id: on the wire, or cut off there
        self._num_lost = 0

    # ------------------------------------------------------------------------------------------------- what it can do

    async def open(self) -> None:
        """Ask the server what it is: one request. Raises SetupError and EngineUnavailable in one line."""
        await self.client.enter_loop()
        async with self._lock:
            if self._facts is not None:
                return
            reply = await self.client.post(wire.DESCRIBE_PATH, wire.encode_describe(self._settings.draws))
            if error := self._fatal(reply):
                raise error
            if reply.status >= 300:
                raise error_of(self._where, reply)
            if not isinstance(reply.body, dict) or "wire" not in reply.body:
                raise SetupError(f"{self._where} is no server of samplewise ({HOW})")
            try:
                facts = wire.decode_facts(reply.body)
            except ValueError as wrong:
                raise SetupError(f"{self._where} does not say what it is: {wrong}") from None
            self._facts = facts
            self.name, self.identity = facts.name, facts.identity
            self.max_concurrency, self.default_max_tokens = facts.max_concurrency, facts.default_max_tokens
            self._prompts.learn(wire.SHORTEST, facts.prompt_tokens)

    def _fatal(self, reply: Reply) -> SetupError | None:
        """Return the error that must end the run after a reply, or None."""
        version = reply.body.get("wire") if isinstance(reply.body, dict) else None
        message = describe(self._where, reply)
        if reply.status in (401, 403):
            return SetupError(f"{message} ({NO_KEY})")
        if version is None and reply.status in (404, 405):
            return SetupError(f"{self._where} has no route of samplewise, only vLLM's own ({HOW})")
        if version is not None and (why := wire.wire_refusal(version, self._where)):
            return SetupError(why)
        if reply.status == 409:
            return SetupError(f"{message} (run again: what is in the store stays under the model that drew it)")
        return None

    @property
    def can(self) -> frozenset[Capability]:
        return frozenset({Capability.GENERATE}) if self._facts is None else self._facts.can

    @property
    def notes(self) -> tuple[str, ...]:
        notes = [] if self._facts is None else [*self._facts.notes]
        if math.isnan(self.price.output):
            notes.append("its price is unknown, so money is not counted: give price=")
        if self._num_lost:
            notes.append(f"{self._num_lost} draws may have been computed without an answer: charged in full")
        return tuple(notes)

    @property
    def digest(self) -> str | None:
        return None if self._facts is None else self._facts.digest

    def runtime(self) -> Mapping[str, str]:
        facts = self._facts
        return {} if facts is None else {**facts.runtime, "server": f"{self.client.shown}, wire format {wire.WIRE}"}

    def worst_case(self, ask: Ask) -> Usage:
        """Return the most that an ask can cost: exact where the server has counted the prompt, else a bound."""
        given = ask.prefix if isinstance(ask, Generate) else ask.completion
        num_prompt = self._prompts.upper_bound(ask.messages) + len(given)
        num_new = ask.max_tokens if isinstance(ask, Generate) else 0
        context = None if self._facts is None else self._facts.max_context
        if context is not None:
            least = (self._prompts.count(ask.messages) or 0) + len(given)
            num_new = max(0, min(num_new, context - least))
        return billing.worst_case_usage(num_prompt, num_new, self.price)

    def may_bill(self, ask: Ask) -> bool:
        """Return whether an ask was on the wire when it was cut off."""
        return self._cut.pop(id(ask), None) is not None

    def has_arrived(self, ask: Ask) -> bool:
        """Return whether an ask's draw came, perhaps with others of its request, and has not been taken."""
        call, position = self._calls.get(id(ask), (None, 0))
        return call is not None and position in call.undelivered

    # ------------------------------------------------------------------------------------------------------- answering

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        """Yield completions as they arrive. Raises SetupError if the server cannot answer any ask."""
        call = AnswerCall(self._serve, _jobs(asks), len(asks), MAX_REQUESTS)
        self._calls.update((id(ask), (call, position)) for position, ask in enumerate(asks))
        try:
            async with contextlib.aclosing(call.arrivals()) as arrivals:
                async for arrival in arrivals:
                    yield arrival
        finally:
            self._cut.update((id(asks[position]), asks[position]) for position in call.undelivered)
            for ask in asks:
                self._calls.pop(id(ask), None)

    async def _serve(self, job: RequestJob, call: Recipient) -> None:
        """Deliver a completion for each ask of a request. Raises SetupError."""
        progress = _Progress(set(range(len(job.asks))))
        try:
            reply = await self._send(job, call, progress)
        except EngineError as error:
            return self._fail(job, call, progress, error, charged=was_sent(error))
        if fatal := self._fatal(reply):
            raise fatal
        if reply.status >= 300:
            return self._fail(job, call, progress, error_of(self._where, reply), charged=not is_refused(reply))
        if progress.missing:
            why = (
                progress.problem
                or f"the stream broke off with {len(progress.missing)} of {len(job.asks)} draws missing"
            )
            return self._fail(job, call, progress, EngineUnavailable(f"{self._where}: {why}"), charged=True)
        return None

    async def _send(self, job: RequestJob, call: Recipient, progress: _Progress) -> Reply:
        """Send a request, again while it is rejected, and return the reply. Raises EngineError, and GaveUp."""
        request = wire.AnswerRequest(self._settings.draws, self.identity, self._session, job.asks)
        body = wire.encode_request(request)
        ticket, patience_s, until = next(self._tickets), self._settings.patience_s, math.inf
        for retry in itertools.count():
            progress.sent_at = time.monotonic()
            self._outage.record_sent(ticket, progress.sent_at)
            self._cut.update((id(ask), ask) for ask in job.asks)
            wait_s: float | None = None
            try:
                reply = await self.client.events(
                    wire.ANSWER_PATH, body, lambda event: self._hear(event, job, call, progress), IDLE_TIMEOUT_S
                )
                if not is_rejected(reply.status, reply.body):
                    return reply
                error: EngineError = RateLimited(describe(self._where, reply), status=reply.status)
                wait_s = retry_after_s(reply.headers)
            except EngineError as raised:
                if was_sent(raised):
                    raise
                error = raised
            finally:
                self._outage.record_done(ticket)
            self._take_off(job)
            now = time.monotonic()
            self._outage.record_trouble(now)
            wait_s = wait_s or backoff_s(retry, longest_s=LONGEST_PAUSE_S)
            until = min(until, now + patience_s)
            if now + wait_s >= until:
                raise self._outage.fatal_error(error, now, now + wait_s) or GaveUp(error, None)
            await asyncio.sleep(wait_s)
        raise AssertionError

    def _hear(self, event: Json, job: RequestJob, call: Recipient, progress: _Progress) -> None:
        """Deliver the completion of an event. One that came before, or was not asked for, is dropped."""
        try:
            position, completion = wire.decode_arrival(event)
        except ValueError as error:
            progress.problem = progress.problem or str(error)
            return
        if position not in progress.missing:
            return
        progress.missing.discard(position)
        self._outage.record_answer()
        ask = job.asks[position]
        self._cut.pop(id(ask), None)
        call.deliver(job.positions[position], self._billed(ask, completion, time.monotonic() - progress.sent_at))

    def _billed(self, ask: Ask, completion: Completion, seconds: float) -> Completion:
        usage = completion.usage
        if completion.failure is None and usage.prompt_tokens:
            given = ask.prefix if isinstance(ask, Generate) else ask.completion
            self._prompts.learn(ask.messages, usage.prompt_tokens - len(given))
        usd = self.price.usd(usage.prompt_tokens, 0, usage.completion_tokens)
        return completion._replace(usage=usage._replace(usd=usd, seconds=seconds))

    def _take_off(self, job: RequestJob) -> None:
        """Note that the asks of a request are no longer on the wire. Those of one that is cancelled stay in `_cut`."""
        for ask in job.asks:
            self._cut.pop(id(ask), None)

    def _fail(
        self, job: RequestJob, call: Recipient, progress: _Progress, error: EngineError, *, charged: bool
    ) -> None:
        """Fail the asks of a request that nothing has come of. Raises SetupError if nothing was answered for long."""
        self._take_off(job)
        if charged and not isinstance(error, GaveUp):
            self._num_lost += len(progress.missing)
            now = time.monotonic()
            self._outage.record_trouble(now)
            if fatal := self._outage.fatal_error(error, now):
                raise fatal
        for index in sorted(progress.missing):
            usage = self.worst_case(job.asks[index]) if charged else Usage(requests=1)
            call.deliver(job.positions[index], failed_by(error, usage))

    async def close(self) -> None:
        with contextlib.suppress(EngineError):
            await self.client.close()

    def __repr__(self) -> str:
        return f"<{self.identity}>"


def _jobs(asks: Sequence[Ask]) -> Iterator[RequestJob]:
    """Yield requests of up to `MAX_ASKS` asks; one that belongs to the group of the one before it stays with it."""
    start = 0
    for position in range(1, len(asks) + 1):
        is_full = position - start >= MAX_ASKS and not (position < len(asks) and joins_group(asks, position))
        if position == len(asks) or is_full:
            yield RequestJob(tuple(range(start, position)), tuple(asks[start:position]))
            start = position
