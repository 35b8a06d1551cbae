"""Send requests until they are answered, and decide what each outcome means for the asks behind it.

What the server rejected (429, 503, a refused connection) cost nothing and is sent again here, until `patience_s` is
over. What it may have worked on (a timeout, a cut connection, a server error, half a reply) may have been billed: its
asks fail, are charged their worst case, and the loop decides. A request that is refused because of an unknown field is
sent again without the field. Choices that are missing from a reply are asked for again; surplus ones are dropped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn, cast

from samplewise.core.errors import BadRequest, EngineError, EngineUnavailable, RateLimited, Unsupported
from samplewise.core.prices import Price
from samplewise.core.reasoning import opening_tag, split_reasoning
from samplewise.core.text import find_stop
from samplewise.core.types import Ask, Completion, Failure, Finish, Generate, Json, Likelihood, Message, Usage
from samplewise.engines.base import Hear, failed, tell_reasoning
from samplewise.engines.http import billing
from samplewise.engines.http.batch.collect import BatchCollector
from samplewise.engines.http.dialect import failures, logq, refusals, replies, requests
from samplewise.engines.http.dialect.profile import LIMIT_NOTE, Api, Profile
from samplewise.engines.http.jobs import Recipient, RequestJob, group_asks
from samplewise.engines.http.memory import TokenMemory
from samplewise.engines.http.probe.evidence import DrawnText, RepeatDetector
from samplewise.engines.http.transport.client import MAX_BYTES, Client, Reply, error_text, mark_unbilled, was_sent
from samplewise.engines.http.transport.pace import Clock, retry_after_s
from samplewise.engines.http.transport.replicas import Replica, Router

MAX_CHANGES = 16  # of one request, after refusals
MAX_PROMPTS = 10_000  # whose token ids are cached
LONGEST = 131_072  # tokens of a response that are reckoned with once `max_tokens` was not kept
UNSEEN_TAG = "<think>"  # stands for the one that an endpoint's template writes
NAMES_BY_ID = "return_tokens_as_token_ids"  # the field by which tokens are named by their ids in lists of log-probs
MAX_TOP = 20  # likeliest tokens that are asked for
MAX_QUOTED = 100  # characters of a reply that is not JSON
PIECES_PER_TOKEN, MORE_PIECES = 8, 256  # of a stream: some proxies cut a token's text in several
TOKEN_BYTES, LOGP_BYTES, TOP_BYTES = 32, 256, 256  # of a reply's JSON: per token, per log-prob, per listed token
MAX_REPLY_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How the engine makes requests and counts costs; see `samplewise.engines.http.http`."""

    api: Api = "chat"
    probe: Literal["auto", "fresh", "never"] | Profile = "auto"
    max_n: int = 64  # draws per request; 1: every draw is a request with its own seed
    max_concurrency: int = 256  # requests in flight per replica
    patience_s: float = 120.0
    stream: bool = False
    idle_timeout_s: float = 120.0
    extra: Mapping[str, Json] | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    price: Price | None = None
    identity: str | None = None
    batch: bool = False  # requests go by the batch API
    batch_factor: float | None = None  # of the price; None: as is known of the endpoint
    batch_poll_s: float = 60.0


@dataclass(slots=True)
class QueuedRequest:
    """A request's position in the queue, which it keeps when it is sent again.

    The patience with it begins with the first rejection: waiting behind others is not a rejection.
    """

    ticket: int
    deadline: float = math.inf
    error: EngineError | None = None
    client: Client | None = None  # that sent it last


class Exchange:
    """Serve jobs for one model. `profile` is what is known of the endpoint, and grows."""

    def __init__(
        self,
        model: str,
        profile: Profile,
        router: Router,
        price: Price,
        settings: HttpSettings,
        clock: Clock,
        batches: BatchCollector | None = None,
    ) -> None:
        self.profile, self.price = profile, price
        self.prompts, self.repeats, self.memory = billing.PromptLengths(), RepeatDetector(), TokenMemory()
        self.max_n = settings.max_n
        self.num_estimated = self.num_lost = 0
        self.longest = 0  # tokens of the longest draw that exceeded its max_tokens
        self.allowed = 0  # that it was allowed
        self.has_billed = False
        self.cut: dict[int, Ask] = {} if batches is None else batches.cut  # by id: on the wire, or cut off there
        self.listeners: dict[int, Hear] = {}  # by id of an ask: who hears its draw
        self._outage = failures.OutageWatch(settings.patience_s)
        self._name, self._model, self._router, self._clock = engine_name(model), model, router, clock
        self._settings, self._batches = settings, batches
        self._ids: dict[tuple[Message, ...], tuple[int, ...]] = {}
        self._templates = requests.TemplateCache(settings.extra)
        self._tickets = itertools.count()
        self._opens = False  # replies begin inside the reasoning: one held a closing tag alone

    def worst_case(self, ask: Ask) -> Usage:
        """Return the most that an ask can cost."""
        if isinstance(ask, Likelihood):  # a token is drawn and discarded
            num_prompt = self.prompts.upper_bound(ask.messages)
            return billing.worst_case_usage(num_prompt + len(ask.completion), 1, self.price)
        return self.worst_case_of(ask.messages, len(ask.prefix), ask.max_tokens)

    def worst_case_of(self, messages: tuple[Message, ...], num_prefix: int, max_tokens: int) -> Usage:
        """Return the most that a request for one draw can cost."""
        num_new = max(max_tokens, LONGEST, self.longest) if self.exceeds else max_tokens
        return billing.worst_case_usage(self.prompts.upper_bound(messages) + num_prefix, num_new, self.price)

    def bill_relayed(self, reply: Reply, worst: Usage) -> Usage:
        """Return what a request cost that another made through a client: nothing if it was refused."""
        if is_refused(reply):
            return Usage(requests=1)
        listed = reply.body.get("choices") if isinstance(reply.body, dict) else None
        num_choices = len(listed) if isinstance(listed, list) else 1
        return billing.bill_counts(replies.reported_usage(reply.body), num_choices, worst, self.price, reply.seconds)

    @property
    def exceeds(self) -> bool:
        """Whether the endpoint draws more tokens than `max_tokens` allows: then only `LONGEST` is a bound."""
        return self.longest > 0 or LIMIT_NOTE in self.profile.notes

    @property
    def is_worst_case_known(self) -> bool:
        """Whether a reply, or probing, has shown if the endpoint keeps `max_tokens`."""
        return self.has_billed or self.exceeds or self.profile.max_tokens_field is not None

    async def serve(self, job: RequestJob, call: Recipient) -> None:
        """Deliver the job's completions.

        Raises Unsupported if the endpoint cannot draw as asked, and SetupError if it cannot answer any ask of the
        recipe (see `dialect/failures.py`).
        """
        try:
            await self._serve(job, call)
        except EngineError as error:
            self._fail(job, call, error, charged=was_sent(error))

    async def _serve(self, job: RequestJob, call: Recipient) -> None:
        queued = QueuedRequest(next(self._tickets))
        max_tokens = None  # fewer than the ask's, where prompt and response do not fit together
        for _ in range(MAX_CHANGES):
            if len(job.asks) > self._draws_per_request() and not job.is_sent:
                return self._add(job, call)
            before = self.profile
            is_plain = max_tokens is None and not job.by_ids and not job.fields
            request = self._templates.get(job.asks, self.profile) if is_plain else None
            request = request or await self._request(job, max_tokens, queued)
            if self._listener(job.asks) is not None and "stream" not in request.body:
                request = requests.streamed(request, self.profile)
            reply = await self._answer(request, job.asks[0].messages, queued, job.asks)
            if reply.status < 300:
                return self._deliver(job, call, request, reply)
            if max_tokens is None and (max_tokens := self._fitting(reply, request)) is not None:
                continue
            if self._learns(job, request, reply, before):
                continue
            if (single := await self._single(job, call, reply, queued)) is None:
                return None
            reply = single
            break
        charged = not is_refused(reply)
        if not charged:
            self._outage.record_refusal()
            client = queued.client or self._router.replicas[0].client
            has_answered = self._outage.has_answered
            error = await failures.fatal_error(self._name, reply, client, self._model, self.profile.api, has_answered)
            if error is not None:
                raise error
        return self._fail(job, call, failures.error_of(self._name, reply), charged=charged)

    async def _single(self, job: RequestJob, call: Recipient, reply: Reply, queued: QueuedRequest) -> Reply | None:
        """After a refusal of several draws that names no field, ask for the first of them alone.

        If that is answered, `n` was meant: deliver it, add the others one by one, and return None. Otherwise return
        what the draws fail with.
        """
        if len(job.asks) < 2 or reply.status not in refusals.REFUSALS or self._is_of_prompt(reply):
            return reply
        first = RequestJob(job.positions[:1], job.asks[:1])
        request = await self._request(first, None, queued)
        alone = await self._answer(request, job.asks[0].messages, queued, first.asks)
        if alone.status >= 300:
            return reply
        note = f"refuses several draws per request ({reply.message}): one request for each draw"
        self.profile = self.profile._replace(n=False).with_note(note)
        self._deliver(first, call, request, alone)
        self._add(job.after(1), call)
        return None

    def _is_of_prompt(self, reply: Reply) -> bool:
        """Return whether a refusal is about the prompt, or the whole endpoint, whatever the number of draws."""
        return (
            reply.status == 404
            or refusals.is_overflow(reply.body, reply.text)
            or failures.ABOUT_PROMPT.search(reply.message) is not None
        )

    def _add(self, job: RequestJob, call: Recipient) -> None:
        """Add a job's asks as new jobs of a size that the endpoint takes."""
        for part in group_asks(job.asks, self._draws_per_request()):
            call.add(RequestJob(tuple(job.positions[i] for i in part.positions), part.asks))

    async def _answer(
        self,
        request: requests.HttpRequest,
        messages: tuple[Message, ...],
        queued: QueuedRequest,
        asks: tuple[Ask, ...] = (),
    ) -> Reply:
        """Send a request, again while it is rejected, and return the reply. `asks` are billed once it is on the wire.

        Raises EngineError, and GaveUp.
        """
        if self._batches is not None:
            return await self._batches.send(request, asks)
        while True:
            reply = await self._send(self._router.choose(messages, self._clock()), request, queued, asks)
            if reply is not None:
                return reply

    async def _send(
        self, replica: Replica, request: requests.HttpRequest, queued: QueuedRequest, asks: tuple[Ask, ...]
    ) -> Reply | None:
        """Send once. None if it was rejected, or the connection refused, and there is time to try again."""
        gate = replica.gate
        if not gate.try_enter():
            self._check_pause(queued, gate.pace.resumes_at)
            await gate.enter(queued.ticket)
        queued.client, sent = replica.client, self._clock()
        self._outage.record_sent(queued.ticket, sent)
        body = request.data or request.body
        self.cut.update((id(ask), ask) for ask in asks)
        max_bytes = _max_bytes(request)
        try:
            if "stream" in request.body:
                idle_s, max_pieces = self._settings.idle_timeout_s, PIECES_PER_TOKEN * _limit(request) + MORE_PIECES
                hear = self._listener(asks)
                reply = await replica.client.stream(request.path, body, idle_s, max_bytes, max_pieces, hear)
            else:
                reply = await replica.client.post(request.path, body, max_bytes)
        except EngineError as error:
            self._take_off(asks)
            gate.pace.record_overload(sent, self._clock())
            if was_sent(error):
                raise
            self._check_patience(queued, None, error)
            return None
        else:
            self._take_off(asks)
            return reply if self._is_answer(replica, reply, sent, queued) else None
        finally:
            self._outage.record_done(queued.ticket)
            gate.leave()

    def _listener(self, asks: Sequence[Ask]) -> Hear | None:
        """Return who hears the draw of the one ask of a request."""
        return self.listeners.get(id(asks[0])) if len(asks) == 1 else None

    def _take_off(self, asks: tuple[Ask, ...]) -> None:
        """Note that asks are no longer on the wire. Those of a request that was cancelled stay in `cut`."""
        for ask in asks:
            self.cut.pop(id(ask), None)

    def _is_answer(self, replica: Replica, reply: Reply, sent: float, queued: QueuedRequest) -> bool:
        """Return whether the reply is an answer, possibly a bad one, and pace the replica by it.

        Raises as `_check_patience` if it is a rejection.
        """
        if refusals.is_rejected(reply.status, reply.body):
            wait_s = retry_after_s(reply.headers)
            replica.gate.pace.record_overload(sent, self._clock(), wait_s)
            if not failures.is_out_of_money(reply):
                error = RateLimited(failures.describe(self._name, reply), status=reply.status)
                self._check_patience(queued, wait_s, error)
                return False
        elif reply.status >= 500 or reply.body is None:
            replica.record_server_error(sent, self._clock())
        else:
            replica.record_success()
        return True

    def _check_patience(self, queued: QueuedRequest, wait_s: float | None, error: EngineError) -> None:
        """Raise GaveUp if there is no time to try again, SetupError if that must end the run."""
        now = self._clock()
        queued.deadline, queued.error = min(queued.deadline, now + self._settings.patience_s), error
        self._outage.record_trouble(now)
        if now + (wait_s or 0.0) >= queued.deadline:
            self._give_up(error, now, wait_s)

    def _check_pause(self, queued: QueuedRequest, resumes_at: float) -> None:
        """Raise as `_check_patience` if the replica is paused for longer than the patience lasts."""
        now = self._clock()
        if resumes_at > min(queued.deadline, now + self._settings.patience_s):
            paused = EngineUnavailable(f"{self._name} is paused for {resumes_at - now:.0f} s after rejected requests")
            self._give_up(queued.error or paused, now, resumes_at - now)

    def _give_up(self, error: EngineError, now: float, wait_s: float | None) -> NoReturn:
        resumes_at = min(replica.resumes_at for replica in self._router.replicas)
        raise self._outage.fatal_error(error, now, resumes_at) or GaveUp(error, wait_s)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _draws_per_request(self) -> int:
        return 1 if self.profile.n is False else max(self.max_n, 1)

    async def _request(self, job: RequestJob, max_tokens: int | None, queued: QueuedRequest) -> requests.HttpRequest:
        ask = job.asks[0]
        if isinstance(ask, Likelihood):
            return requests.likelihood_request(ask, self._model, await self._prompt_ids(ask.messages, queued))
        if why := requests.why_unsupported(ask, self.profile) or logq.why_no_logq(ask, self.profile):
            raise Unsupported(f"{self._name} cannot {why}")
        if ask.prefix or job.by_ids or job.fields or max_tokens is not None:
            ids = await self._prompt_ids(ask.messages, queued) if ask.prefix or job.by_ids else None
            request = self._draw_request(ask, len(job.asks), max_tokens, ids)
            request.body.update(job.fields)
            return request
        return self._templates.add(job.asks, self._draw_request(ask, len(job.asks), None, None), ask.seed)

    def _draw_request(
        self, ask: Generate, num_draws: int, max_tokens: int | None, ids: tuple[int, ...] | None
    ) -> requests.HttpRequest:
        top = min(self.profile.top_logprobs or MAX_TOP, MAX_TOP) if "top" in ask.want else 0
        options = requests.DrawOptions(
            num_draws=num_draws,
            prompt_ids=ids,
            logprobs=self.profile.logprobs is True or (self.profile.logprobs is None and "logp" in ask.want),
            top=max(top, logq.num_top_needed(ask)),
            max_tokens=max_tokens,
            extra=self._settings.extra,
        )
        request = requests.draw_request(ask, self._model, self.profile, options)
        takes_names = self.profile.token_ids_out if request.path == "completions" else self.profile.top_ids
        if logq.needs_logq(ask) and not top and takes_names and NAMES_BY_ID not in self.profile.refused:
            request.body[NAMES_BY_ID] = True  # two tokens may have the same text
        if self._settings.stream:
            request.body["stream"] = True
            if "stream_options" not in self.profile.refused:
                request.body["stream_options"] = {"include_usage": True}
        return request

    async def _prompt_ids(self, messages: tuple[Message, ...], queued: QueuedRequest) -> tuple[int, ...]:
        """Return a prompt's token ids, template included. Costs a request that draws nothing. Raises EngineError."""
        if messages not in self._ids:
            request = requests.tokenize_request(messages, self._model, self.profile)
            try:
                reply = await self._answer(request, messages, queued)
                if reply.status != 200:
                    raise failures.error_of(self._name, reply)
                self._learn_ids(messages, replies.parse_token_ids(reply.body))
            except ValueError as error:
                raise mark_unbilled(BadRequest(f"{self._name} gives no token ids of a prompt: {error}")) from None
            except EngineError as error:
                raise mark_unbilled(error) from None
        return self._ids[messages]

    async def text_of(self, messages: tuple[Message, ...], tokens: tuple[int, ...]) -> str:
        """Return the text of a response's token ids. Costs a request that draws nothing. Raises EngineError."""
        if not tokens:
            return ""
        request = requests.detokenize_request(tokens, self._model)
        try:
            reply = await self._answer(request, messages, QueuedRequest(next(self._tickets)))
            if reply.status != 200:
                raise failures.error_of(self._name, reply)
            return replies.parse_text(reply.body)
        except ValueError as error:
            raise mark_unbilled(BadRequest(f"{self._name} gives no text of token ids: {error}")) from None
        except EngineError as error:
            raise mark_unbilled(error) from None

    def _learn_ids(self, messages: tuple[Message, ...], ids: tuple[int, ...]) -> None:
        if len(self._ids) >= MAX_PROMPTS:
            self._ids.clear()
        self._ids[messages] = ids
        self.prompts.learn(messages, len(ids))

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _fitting(self, reply: Reply, request: requests.HttpRequest) -> int | None:
        """Return how many new tokens fit, if prompt and response did not fit together but the prompt does."""
        if reply.status != 400 or not refusals.is_overflow(reply.body, reply.text):
            return None
        left = refusals.tokens_left(error_text(reply.body, reply.text, 2000))
        return left if left is not None and 0 < left < _limit(request) else None

    def _learns(self, job: RequestJob, request: requests.HttpRequest, reply: Reply, before: Profile) -> bool:
        """Learn from a refusal, and return whether the request is worth making again.

        `before` is the profile that the request was made by. Raises Unsupported.
        """
        ask = job.asks[0]
        if reply.status not in refusals.REFUSALS or not isinstance(ask, Generate):
            return False
        if refusals.is_overflow(reply.body, reply.text):
            return False
        if self.profile != before:  # another request has learned it meanwhile, or something else
            return True
        name = refusals.refused_field(reply.body, reply.text, request.body)
        if name is None or name in (self._settings.extra or {}):
            return False
        if name == "n":
            most = refusals.max_choices(reply.message, len(job.asks))
            self.max_n = min(self.max_n, len(job.asks) // 2 if most is None else most)
            several = self.max_n > 1
            note = f"draws at most {self.max_n} per request" if several else "refuses n: one request for each draw"
            self.profile = self.profile._replace(n=None if several else False).with_note(note)
            return True
        self.profile, retry = refusals.learn_refusal(name, ask, request.body, self.profile, reply.message)
        return retry

    # --- replies ------------------------------------------------------------------------------------------------------

    def _deliver(self, job: RequestJob, call: Recipient, request: requests.HttpRequest, reply: Reply) -> None:
        """Deliver what the reply holds; add a job for what is missing."""
        ask = job.asks[0]
        if isinstance(ask, Likelihood):
            return call.deliver(job.positions[0], self._likelihood(ask, reply))
        try:
            parsed = replies.parse_reply(reply.body)
            if not parsed.choices:
                raise ValueError("the reply has no choices")
        except ValueError as error:
            if reply.body is not None:
                message = error_text(reply.body) or str(error)
            elif reply.text and reply.text.lstrip()[:1] not in ("{", "["):
                message = f"the reply is not JSON: {error_text(None, reply.text, MAX_QUOTED)}"
            else:
                message = "the reply broke off"
            return self._fail(job, call, EngineUnavailable(f"{self._name}: {message}"), charged=True)
        self._outage.record_answer()
        num_draws = len(job.asks)
        limit = _limit(request) or ask.max_tokens
        sent = billing.SentRequest(ask.messages, len(ask.prefix), num_draws, limit)
        bill = billing.bill_reply(parsed, sent, self.prompts, self.price, reply.seconds)
        if parsed.prompt_ids is not None and not ask.prefix:
            self._learn_ids(ask.messages, parsed.prompt_ids)
        self.num_estimated += bill.estimated
        self.has_billed = True
        self._watch_limit(parsed, bill, limit, num_draws)
        if not ask.prefix:  # the end of a response may hold a closing tag alone, and repeat whatever its seed
            if self.profile.reasons is None or not self._opens:
                self._learn_reasoning(parsed.choices)
            self._watch(ask, parsed, bill)
        for position, drawn, choice, usage in zip(job.positions, job.asks, parsed.choices, bill.usages, strict=False):
            call.deliver(position, self._completion(cast(Generate, drawn), choice, usage, limit))
        if num_draws > 1 or parsed.num_listed > 1:
            self._learn_n(num_draws, parsed)
        if len(parsed.choices) < num_draws:
            self._add(job.after(len(parsed.choices)), call)

    def _learn_reasoning(self, choices: Sequence[replies.ReplyChoice]) -> None:
        """Learn from draws whether the model reasons, and whether it opens its reasoning with a tag."""
        texts = [split_reasoning(choice.text) for choice in choices if not choice.reasoning]
        if self.profile.reasons is None and (
            len(texts) < len(choices) or any(text.reasoning or not text.closed for text in texts)
        ):
            self.profile = self.profile._replace(reasons=True)
        self._opens = self._opens or any(text.opened for text in texts)

    def _watch_limit(self, parsed: replies.ParsedReply, bill: billing.Bill, limit: int, num_draws: int) -> None:
        """Note a draw that is longer than it was allowed. What a surplus choice cost is on another's bill, and is none,
        unless there are more of those than of what was asked for."""
        drawn = [usage.completion_tokens for usage in bill.usages]
        if sum(drawn) > limit * min(parsed.num_listed, 2 * num_draws) and max(drawn) > max(limit, self.longest):
            self.longest, self.allowed = max(drawn), limit

    def _watch(self, ask: Generate, parsed: replies.ParsedReply, bill: billing.Bill) -> None:
        """Watch for draws that repeat. Nothing of it is kept in the profile: it may pass, as a cache does."""
        drawn = [
            DrawnText(
                choice.text,
                choice.reasoning,
                usage.completion_tokens if billing.num_tokens(choice) is None else billing.num_tokens(choice) or 0,
                math.fsum(choice.logp) if choice.logp else math.nan,
            )
            for choice, usage in zip(parsed.choices, bill.usages, strict=False)
        ]
        self.repeats.add(ask.messages, ask.sampling.temperature, drawn)
        if self.repeats.alike or self.repeats.frozen:
            self.max_n = 1

    def _learn_n(self, num_draws: int, parsed: replies.ParsedReply) -> None:
        """Learn from the number of choices whether `n` is supported."""
        listed, profile = parsed.num_listed, self.profile
        if listed > len(parsed.choices):
            profile = profile._replace(n=False).with_note("numbers its choices wrongly: one request for each draw")
        elif listed > num_draws:
            profile = profile.with_note("gives more choices than asked for, which are paid for and dropped")
        elif listed == 1:
            profile = profile._replace(n=False).with_note("ignores n: one request for each draw")
        elif listed < num_draws:
            profile = profile.with_note("gives fewer choices than asked for; the others are asked for again")
        elif profile.n is None:
            profile = profile._replace(n=True)
        self.profile = profile

    def _completion(self, ask: Generate, choice: replies.ReplyChoice, usage: Usage, limit: int) -> Completion:
        if choice.finish == "error":
            return failed(EngineUnavailable(f"{self._name}: {choice.error or 'the draw was broken off'}"), usage)
        text, finish = choice.text, choice.finish
        if ask.stop and (cut := find_stop(text, ask.stop)) >= 0:
            text, finish = text[:cut], "stop"  # it ignores the stop strings, or leaves them in
        if not finish:
            finish = "length" if usage.completion_tokens >= limit else "stop"
        if finish == "length" and choice.tokens and self.memory.is_end(choice.tokens[-1]):
            finish = "stop"  # it looks at the limit first
        logp = choice.logp if choice.logp or not text else None
        is_own = requests.gives_model_logp(ask.sampling, self.profile)
        logp_sum = math.fsum(logp) if logp is not None and is_own else math.nan
        tag = self.opening_tag(ask, finish == "length" and not choice.reasoning)
        if choice.tokens and not ask.stop:
            self.memory.learn_end(choice.tokens, finish == "stop")
        if not ask.want:
            drawn = Completion(text, cast(Finish, finish), usage, None, None, None, logp_sum)
            return tell_reasoning(drawn, ask, tag, choice.reasoning)
        if logp is None and ("logp" in ask.want or "logq" in ask.want):
            return failed(BadRequest(f"{self._name}: the reply has no log-probs, or such that cannot be"), usage)
        try:
            q = logq.compute_logq(ask.sampling, logp, choice.top) if logq.needs_logq(ask) else logp
        except ValueError as error:
            return failed(BadRequest(f"{self._name}: {error}"), usage)
        if self.profile.top_ids and logq.needs_logq(ask) and choice.tokens and choice.top:
            self.memory.add(ask.messages, ask.prefix, choice.tokens, choice.top)
        drawn = Completion(
            text,
            cast(Finish, finish),
            usage,
            choice.tokens if "tokens" in ask.want else None,
            logp if "logp" in ask.want else None,
            q if "logq" in ask.want else None,
            logp_sum,
            top=choice.top if "top" in ask.want else None,
        )
        return tell_reasoning(drawn, ask, tag, choice.reasoning)

    def opening_tag(self, ask: Generate, is_cut: bool) -> str:
        """Return the tag that a response begins behind, "" for none. `is_cut`: a closing tag may be what is missing."""
        tag = opening_tag(ask.messages[-1].content) if ask.messages else ""
        return tag or (UNSEEN_TAG if self._opens and is_cut else "")

    def _likelihood(self, ask: Likelihood, reply: Reply) -> Completion:
        num_prompt = self.prompts.upper_bound(ask.messages) + len(ask.completion)
        usage = Usage(1, num_prompt, 1, usd=self.price.usd(num_prompt, 0, 1), seconds=reply.seconds)
        try:
            logp = replies.parse_likelihood(reply.body, ask)
        except ValueError as error:
            return failed(BadRequest(f"{self._name}: {error}"), usage)
        self._outage.record_answer()
        return Completion("", "stop", usage, ask.completion, logp, None, math.fsum(logp))

    def _fail(self, job: RequestJob, call: Recipient, error: EngineError, *, charged: bool) -> None:
        """Fail every ask of the job, charged if it may have been billed. Raises SetupError if that ends the run."""
        self.num_lost += charged
        if charged and not isinstance(error, GaveUp):
            now = self._clock()
            self._outage.record_trouble(now)
            if fatal := self._outage.fatal_error(error, now):
                raise fatal
        for position, ask in zip(job.positions, job.asks, strict=True):
            call.deliver(position, failed_by(error, self.worst_case(ask) if charged else Usage(requests=1)))


class GaveUp(EngineError):
    """The patience is over. The loop gets the last error, as one not to be retried: that was done here."""

    sent = False

    def __init__(self, error: EngineError, wait_s: float | None) -> None:
        super().__init__(str(error), status=error.status)
        self.failure = Failure(type(error).__name__, str(error), False, wait_s)


def is_refused(reply: Reply) -> bool:
    """Return whether a request was not worked on, so that it is not billed."""
    is_error = 300 <= reply.status < 500 and reply.status != 408
    return is_error or refusals.is_rejected(reply.status, reply.body)


def failed_by(error: EngineError, usage: Usage) -> Completion:
    """Return the failed completion of an ask."""
    completion = failed(error, usage)
    return completion._replace(failure=error.failure) if isinstance(error, GaveUp) else completion


def engine_name(model: str) -> str:
    """Return the engine's name for people."""
    return f"http({model or '?'})"


def _max_bytes(request: requests.HttpRequest) -> int:
    """Return the most bytes that the reply is read for: twice what it can need, and as much as any reply may have."""
    body = request.body
    num_tokens = _limit(request) * int(body.get("n") or 1)
    top = body.get("top_logprobs") or (body.get("logprobs") or 0)
    per_token = TOKEN_BYTES + (LOGP_BYTES + TOP_BYTES * int(top) if body.get("logprobs") else 0)
    return min(MAX_REPLY_BYTES, MAX_BYTES + 2 * num_tokens * per_token)


def _limit(request: requests.HttpRequest) -> int:
    """Return the most tokens that a draw may have."""
    return int(request.body.get("max_tokens") or request.body.get("max_completion_tokens") or 0)
