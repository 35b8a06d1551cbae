"""A request as a run: its keys, its limits, its end.

All requests share the engines and the store. A run that was not answered, as its client left, it failed or its time was
up, is remembered for ten minutes: an identical request from the same key has the same keys for its draws, so those that
the store holds are not paid again.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from samplewise.core.errors import SamplewiseError, UsageError
from samplewise.core.events import Arrived, BrokenOff, Event, Retried
from samplewise.core.keys import Key
from samplewise.core.types import Capability, Completion, Failure, Generate, Question, Usage
from samplewise.engines.base import Engine
from samplewise.loop.bell import Bell
from samplewise.loop.context import Draws, RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.keys import run_key
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.loop.threads import Cancel, unless_cancelled
from samplewise.serve.calls import drawn_choice
from samplewise.serve.drawn import DrawLog, WantingEngine
from samplewise.serve.keys import Policy
from samplewise.serve.limits import Ticket
from samplewise.serve.live import ListeningEngine, LiveDraw
from samplewise.serve.plans import PLAIN, Plan, Planner, ServeSettings, raised_error, read_whole, shows_as_drawn
from samplewise.serve.relay import CallingEngine, Relayed, parse_choices
from samplewise.serve.replies import (
    Answer,
    FinalChoice,
    evidence_of,
    ranked_positions,
    relayed_evidence,
    token_logprobs,
)
from samplewise.serve.tracing import RequestSpan
from samplewise.serve.upstreams import Upstream
from samplewise.serve.wire import Call, RequestError

GRACE_S = 30.0  # that reading and scoring may take after the deadline of the draws
MAX_REMEMBERED = 1000  # different requests whose runs are remembered


class RunName(NamedTuple):
    """A run's name, and the number that its randomness comes from."""

    id: str
    entropy: int
    is_resumed: bool = False


class Asked(NamedTuple):
    """What tells requests apart: who asks, where, the body byte by byte, the headers that choose a recipe."""

    client: str
    route: str
    body: bytes
    headers: tuple[str | None, ...] = ()

    def fingerprint(self) -> bytes:
        """Return the same in 32 bytes."""
        about = "\0".join((self.client, self.route, *(header or "" for header in self.headers), ""))
        return hashlib.sha256(about.encode(errors="surrogatepass") + self.body).digest()


class Unfinished:
    """Runs that were not answered, by what was asked and by whom. `now` is any clock in seconds."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = seconds, now
        self._runs: OrderedDict[bytes, list[tuple[float, RunName]]] = OrderedDict()

    def put(self, asked: Asked, run: RunName) -> None:
        """Remember a run."""
        name = asked.fingerprint()
        self._runs.setdefault(name, []).append((self._now() + self._seconds, run))
        self._runs.move_to_end(name)
        if len(self._runs) > MAX_REMEMBERED:
            self._runs.popitem(last=False)

    def take(self, asked: Asked) -> RunName | None:
        """Return the run that goes on for this request, and forget it; None if there is none."""
        now = self._now()
        while self._runs and next(iter(self._runs.values()))[-1][0] <= now:
            self._runs.popitem(last=False)
        if not self._runs:  # as nearly always: the request needs no fingerprint
            return None
        name = asked.fingerprint()
        waiting = [(until, run) for until, run in self._runs.pop(name, []) if until > now]
        if not waiting:
            return None
        (_, run), *others = waiting
        if others:
            self._runs[name] = others
        return run._replace(is_resumed=True)


class Job:
    """One request on its way. Setting `cancel` ends its run: what is in flight is given up."""

    def __init__(
        self,
        call: Call,
        plan: Plan,
        run: RunName,
        policy: Policy,
        *,
        deadline: float,
        asked: Asked,
    ) -> None:
        self.call, self.plan, self.run, self.policy = call, plan, run, policy
        self.asked, self.deadline = asked, deadline
        self.slot_by = deadline  # when a free slot comes too late
        self.created = int(time.time())
        self.cancel = Cancel()
        self.admitted = asyncio.Event()  # a slot was free
        self.ended = Bell()  # rings when its run has
        self.result: Result | None = None
        self.paid = Usage()  # so far
        self.settled = Usage()  # by runs of it that have ended
        self.failure: Failure | None = None  # of the last request that failed
        self.num_arrived = 0
        self.is_answered = False  # to the last byte
        self.is_late = False  # its time was up before its draws
        self.is_stopped = False  # the server stops
        self.span: RequestSpan | None = None
        self.live: LiveDraw | None = None  # what a stream shows while it is drawn
        self.first_byte = math.nan  # when it was sent, on the monotonic clock
        self.error = ""  # the code of the one that a reply ended in after it had begun
        self.on_arrival: Callable[[int], None] | None = None  # is told how many draws have arrived

    @property
    def id(self) -> str:
        """The reply's id."""
        return f"{'chatcmpl' if self.call.route == 'chat' else 'cmpl'}-{self.run.id}"

    def head(self) -> Answer:
        """Return an answer without choices, from which the head of a chunk is made."""
        return Answer(self.id, self.created, self.call.model, (), Usage(), {})

    def stop(self) -> None:
        """End the run with what it has, as the server stops."""
        self.is_stopped = True
        self.cancel.set()

    def note(self, event: Event) -> None:
        """Take an event of the run."""
        if isinstance(event, Retried):
            self.failure = event.failure or self.failure
        elif isinstance(event, BrokenOff):
            self.paid = self.settled.plus(event.paid)
        elif isinstance(event, Arrived):
            self.num_arrived += event.failure is None
            if event.source != "store":
                self.paid = self.paid.plus(event.usage)
            if event.failure is not None:
                self.failure = event.failure
            elif self.on_arrival is not None:
                self.on_arrival(self.num_arrived)

    @property
    def saved(self) -> int:
        """Tokens that the stop rule saved, reckoned by the mean draw; 0 where none ended the run."""
        result, most = self.result, self.plan.size
        if result is None or most is None or result.stop.reason in ("finished", "budget", "cancelled"):
            return 0
        costs = result.bill.draws
        mean = sum(cost.tokens for cost in costs) / len(costs) if costs else 0.0
        return round(max(0, most - len(costs)) * mean)


class Jobs:
    """Makes jobs of requests, and runs them."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        settings: ServeSettings | None = None,
        store: Draws | None = None,
        *,
        new_entropy: Callable[[], int] = lambda: int.from_bytes(os.urandom(8)),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the engines and what keeps draws. Raises UsageError where two models have one name, or there is none."""
        self.settings = settings or ServeSettings()
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        if not upstreams or len(self.upstreams) < len(upstreams):
            raise UsageError("give each model that is served a name of its own, as NAME=ENGINE, and at least one")
        self._planner = Planner(self.upstreams, self.settings)
        self._store, self._new_entropy = store, new_entropy
        self._unfinished = Unfinished(self.settings.resume_s, now)
        self._refuted: set[tuple[str, bool]] = set()  # models, and whether with stop texts: see `LiveDraw`

    async def prepare(self) -> None:
        """Build the parts of all presets. Raises UsageError."""
        await self._planner.prepare()

    async def start(
        self,
        call: Call,
        body: bytes,
        policy: Policy,
        deadline: float,
        *,
        headers: tuple[str | None, ...] = (),
    ) -> Job:
        """Return the job of a request. `deadline` is on the monotonic clock. Raises RequestError."""
        plan = await self._planner.plan(call, policy.recipes == "free")
        asked = Asked(policy.name, call.route, body, headers)
        run = self._unfinished.take(asked) if self._store is not None else None
        if run is None:
            entropy = self._new_entropy()
            run = RunName(f"{entropy:016x}", entropy)
        job = Job(call, plan, run, policy, deadline=deadline, asked=asked)
        if shows_as_drawn(call, plan) and _live_kind(job) not in self._refuted:
            job.live = LiveDraw(waits_for_reasoning=plan.upstream.engine.default_max_tokens is not None)
        return job

    async def answer(self, job: Job, ticket: Ticket | None = None) -> Answer:
        """Run a job and return its answer. Raises RequestError. What was paid is told to the ticket.

        Where the task itself is cancelled, nobody knows what is in flight: the ticket is then charged its reservation.
        """
        is_cut = False
        try:
            async with asyncio.timeout(max(0.0, job.deadline - time.monotonic()) + GRACE_S):
                return await (self._relay(job, ticket) if job.plan.is_relayed else self._run(job, ticket))
        except TimeoutError:
            message = "the answer could not be read and scored in time"
            raise RequestError(message, status=504, code="timeout", retry=False) from None
        except SamplewiseError as error:
            raise raised_error(error, job.paid) from None
        except asyncio.CancelledError:
            is_cut = job.result is None and not job.plan.is_relayed
            raise
        finally:
            if ticket is not None and not is_cut:
                ticket.spend(job.paid.tokens, job.paid.usd)

    async def _run(self, job: Job, ticket: Ticket | None) -> Answer:
        call, plan = job.call, job.plan
        entropy = job.run.entropy if call.seed is None else call.seed % (1 << 64)
        key = run_key(entropy).fold("serve", job.policy.name)
        wants_logprobs = (
            call.logprobs is not None and not plan.has_calls
        )  # those of calls come as the endpoint has them
        has_log = wants_logprobs or (call.n > 1 and plan.recipe.stop is not None)
        log = DrawLog(self._store) if has_log else None
        async with plan.upstream.lend({} if plan.has_calls else call.passed) as engine:
            if plan.has_calls:
                assert plan.upstream.relay is not None
                engine = CallingEngine(engine, plan.upstream.relay, call)
            if job.span is not None:
                engine = job.span.watch(engine)
            if job.live is not None:
                engine = ListeningEngine(engine, job.live)
            if wants_logprobs:
                engine = WantingEngine(engine, _wanted(engine))
            store = self._store if log is None else log
            is_fresh = log is None and call.seed is None and not job.run.is_resumed
            context = RunContext(
                engine, store, _budget(job, ticket), job.note, job.cancel, plan.upstream.trial, is_fresh
            )
            result = await run_question(
                asked_question(call), plan.recipe, context, key, read=plan.read, reads_at_once=plan.read is read_whole
            )
            job.result, job.paid, job.settled = result, result.paid, result.paid
            job.is_late = result.stop.reason == "budget" and time.monotonic() >= job.deadline
            if not result.pool.candidates:
                raise no_candidate(job, result)
            more = await self._more(job, result, context, key) if log is not None else None
        return make_answer(job, result, more, log)

    async def _relay(self, job: Job, ticket: Ticket | None) -> Answer:
        """Pass a request on to the endpoint as it stands. One that is cut off is charged at its most."""
        call, relay, max_tokens = job.call, job.plan.upstream.relay, job.plan.max_tokens
        assert relay is not None
        worst = relay.worst_case(call, max_tokens)
        budget = _budget(job, ticket)
        if budget.seconds == 0:
            raise RequestError("no time was left to pass the request on", status=504, code="timeout", retry=False)
        if not budget.admits(worst):
            raise _too_small(worst)
        job.paid = worst
        sent = asyncio.wait_for(relay.send(call, max_tokens), budget.seconds)
        span = None if job.span is None else job.span.begin_relay(call.n, max_tokens)
        relayed: Relayed | None = None
        try:
            relayed = await unless_cancelled(sent, job.cancel)
        except TimeoutError:
            raise RequestError("no response came in time", status=504, code="timeout", retry=False) from None
        finally:
            if job.span is not None:
                job.span.end_ask(span, None if relayed is None else _relayed_completion(relayed))
        if relayed is None:
            raise _stopped(retry=False) if job.is_stopped else _cancelled()
        job.paid = relayed.usage
        if relayed.error is not None:
            raise relayed.error
        evidence = relayed_evidence(job.run.id, job.plan.recipe.line, len(relayed.choices), job.paid, job.plan.aside)
        return Answer(job.id, job.created, call.model, relayed.choices, job.paid, evidence)

    async def _more(self, job: Job, result: Result, context: RunContext, key: Key) -> Result | None:
        """Draw what a stop rule left out, where a request wants more choices than there are candidates.

        The draws of the first run are its first ones, and not paid again.
        """
        recipe, n = job.plan.recipe, job.call.n
        is_ended = result.stop.reason in ("finished", "budget", "cancelled")
        if is_ended or recipe.sampler.name != "repeat" or len(result.pool.candidates) >= n:
            return None
        # the second run counts what the first one used as its own, but not what that dropped
        dropped, budget = result.bill.total.minus(result.spent), context.budget
        left = budget._replace(
            tokens=None if budget.tokens is None else max(0, budget.tokens - dropped.tokens),
            usd=None if budget.usd is None else max(0.0, budget.usd - dropped.usd),
            seconds=max(0.0, job.deadline - time.monotonic()),
        )
        again = dataclasses.replace(context, budget=left, is_fresh=False)
        whole = recipe.with_stop(None).with_draws(n + result.pool.num_failed)
        more = await run_question(asked_question(job.call), whole, again, key, read=job.plan.read)
        job.paid = result.paid.plus(more.paid)
        return more

    def close(self, job: Job) -> None:
        """Note that a job has ended. A run that was not answered, or whose time was up, is remembered."""
        has_draws = job.num_arrived or job.run.is_resumed  # which has some, though it may have been refused a slot
        if self._store is not None and has_draws and (job.is_late or not job.is_answered):
            self._unfinished.put(job.asked, job.run)
        if job.live is not None and job.live.is_refuted:
            self._refuted.add(_live_kind(job))

    async def close_engines(self) -> None:
        """Close all engines, when nothing runs any more."""
        for upstream in self.upstreams.values():
            await upstream.close()


# --- pure parts -------------------------------------------------------------------------------------------------------


def asked_question(call: Call) -> Question:
    """Return what is asked, its id made of its text."""
    digest = hashlib.blake2b(repr(call.messages).encode(), digest_size=8).hexdigest()
    return Question(digest, call.messages)


def _live_kind(job: Job) -> tuple[str, bool]:
    """Return what decides whether the text that a draw shows first is its beginning."""
    return job.plan.upstream.name, bool(job.call.fields.stop)


def _wanted(engine: Engine) -> tuple[str, ...]:
    """Return the arrays from which a draw's log-probs are shown, as far as the engine has them."""
    wants = (Capability.LOGP, Capability.TOKENS, Capability.TOP)
    return tuple(capability.value for capability in wants if capability in engine.can)


def _budget(job: Job, ticket: Ticket | None) -> Budget:
    """Return what a run may spend: the least of what the key and the request allow."""
    tokens, usd = (None, None) if ticket is None else (ticket.tokens, ticket.usd)
    limits = job.call.wishes.limits
    return Budget(
        tokens=_least(tokens, limits.tokens),
        usd=_least(usd, limits.usd),
        seconds=max(0.0, job.deadline - time.monotonic()),
    )


def _relayed_completion(relayed: Relayed) -> Completion:
    """Return what became of a request that was passed on, as of a draw."""
    error = relayed.error
    if error is None:
        return Completion("", "stop", relayed.usage)
    kind = (error.code or error.kind) if isinstance(error, RequestError) else type(error).__name__
    return Completion("", "error", relayed.usage, failure=Failure(kind, ""))


def _least(*limits: Any) -> Any:
    """Return the least of the limits that there are."""
    return min((limit for limit in limits if limit is not None), default=None)


def make_answer(job: Job, result: Result, more: Result | None = None, log: DrawLog | None = None) -> Answer:
    """Return the answer that a result gives to a request. `more` has further candidates, behind those of `result`."""
    call, plan = job.call, job.plan
    drawn = list(result.pool.candidates)
    positions = ranked_positions(
        result.pool, result.answers, result.selection, call.n, verifier=plan.verifier, in_order=plan.label == PLAIN
    )
    shown = [drawn[position] for position in positions]
    usage = result.bill.total
    if more is not None:
        shown += more.pool.candidates[len(drawn) : len(drawn) + call.n - len(shown)]
        usage = usage.plus(more.paid)
    is_cut = result.stop.reason in ("budget", "cancelled")
    choices = []
    for candidate in shown:
        if plan.has_calls:
            (choice,) = parse_choices({"choices": [drawn_choice(candidate.text)]})
            choices.append(choice._replace(finish="length") if is_cut else choice)
            continue
        completion = log.completion_of(candidate) if log is not None and call.logprobs is not None else None
        logprobs = None if completion is None else token_logprobs(completion, call.logprobs or 0)
        finish = "length" if is_cut or candidate.finish == "length" else "stop"
        choices.append(FinalChoice(candidate.text, finish, candidate.reasoning, logprobs))
    evidence = evidence_of(
        result,
        run=job.run.id,
        recipe=plan.recipe.line,
        usage=usage,
        paid=job.paid,
        returned=call.wishes.returned,
        verifier=plan.verifier,
        is_plain=plan.label == PLAIN and call.wishes.read is None,
        aside=plan.aside,
        resumed=job.run.is_resumed or None,
        missing_choices=call.n - len(choices) or None,
    )
    return Answer(job.id, job.created, call.model, tuple(choices), usage, evidence)


FAILURES: Mapping[str, tuple[int, str]] = {
    "BadRequest": (400, "engine_refused"),
    "ContextOverflow": (400, "context_length_exceeded"),
    "RateLimited": (429, "rate_limit_exceeded"),
    "AuthError": (502, "engine_misconfigured"),
    "EngineTimeout": (504, "timeout"),
    "EngineUnavailable": (502, "engine_unavailable"),
}


def no_candidate(job: Job, result: Result) -> RequestError:
    """Return why a run has no candidate, as what a client is answered."""
    retry = False if result.paid.tokens else None
    if job.is_stopped:
        return _stopped(retry)
    if job.failure is not None:
        status, code = FAILURES.get(job.failure.kind, (502, "engine_unavailable"))
        param = "messages" if code == "context_length_exceeded" else None
        wait_s = job.failure.retry_after_s if status == 429 else None
        return RequestError(
            job.failure.message, status=status, code=code, param=param, retry=retry, retry_after_s=wait_s
        )
    if time.monotonic() >= job.deadline:
        return RequestError("no response was drawn in time", status=504, code="timeout", retry=False)
    if result.stop.reason == "budget":
        least = job.plan.upstream.engine.worst_case(Generate(job.call.messages, max_tokens=job.plan.max_tokens))
        return _too_small(least, retry)
    return RequestError("no response was drawn", status=502, code="engine_unavailable", retry=retry)


def _stopped(retry: bool | None) -> RequestError:
    return RequestError("the server is shutting down", status=503, code="shutting_down", retry=retry)


def _cancelled() -> RequestError:
    return RequestError("the request was cancelled", status=499, code="cancelled")


def _too_small(least: Usage, retry: bool | None = None) -> RequestError:
    message = f"the budget does not admit a draw, which may cost {least.tokens:,} tokens: give a smaller max_tokens"
    return RequestError(message, param="max_tokens", code="budget_too_small", retry=retry)
