"""Makes requests until they are answered, and decides what each outcome means for the asks behind it.

What the server rejected (429, 503, a refused connection) cost nothing and is sent again here, until the patience is
over. What it may have worked on (a time-out, a cut connection, a server error, half a reply) may have been billed: its
asks fail, are charged their worst case, and the loop decides. What it refuses for a field that it does not know is sent
again without the field. Choices that are missing from a reply are asked for again; what is left over is dropped.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple, NoReturn, cast

from samplewise.engines.base import failed
from samplewise.engines.http import endings, kept, meter, refusals, wire
from samplewise.engines.http.client import Client, Reply, free, was_sent
from samplewise.engines.http.forms import Forms
from samplewise.engines.http.jobs import Call, Job, grouped
from samplewise.engines.http.pace import Clock, retry_after_s
from samplewise.engines.http.prices import Price
from samplewise.engines.http.profile import Profile
from samplewise.engines.http.repeats import Repeats
from samplewise.engines.http.replicas import Replica, Router
from samplewise.errors import BadRequest, EngineError, EngineUnavailable, RateLimited, Unsupported
from samplewise.types import Ask, Completion, Failure, Finish, Generate, Json, Likelihood, Message, Usage

MAX_CHANGES = 16  # of one request, after refusals
MAX_PROMPTS = 10_000  # whose token ids are kept
MAX_TOP = 20  # likeliest tokens that are asked for


class Settings(NamedTuple):
    """What a user may set of how requests are made."""

    patience_s: float = 120.0
    max_n: int = 64
    stream: bool = False
    idle_timeout_s: float = 120.0
    extra: dict[str, Json] | None = None


@dataclass(slots=True)
class Turn:
    """A request's place in the queue, which it keeps when it is sent again. The patience with it begins with the first
    rejection: what it waits behind others is no complaint."""

    ticket: int
    until: float = math.inf
    error: EngineError | None = None
    client: Client | None = None  # that it was sent by, the last time


class Exchange:
    """Serves jobs. `profile` is what is known of the endpoint, and grows."""

    def __init__(
        self, name: str, model: str, profile: Profile, router: Router, price: Price, settings: Settings, clock: Clock
    ) -> None:
        self.profile, self.price = profile, price
        self.prompts, self.repeats = meter.Prompts(), Repeats()
        self._watch = endings.Watch(settings.patience_s)
        self.max_n = settings.max_n
        self.num_estimated = self.num_lost = 0
        self._name, self._model, self._router, self._clock = name, model, router, clock
        self._settings, self._stream = settings, settings.stream
        self._ids: dict[tuple[Message, ...], tuple[int, ...]] = {}
        self._forms = Forms(settings.extra)
        self._tickets = itertools.count()

    def most(self, ask: Ask) -> Usage:
        """The most that an ask can cost."""
        num_prompt = self.prompts.most(ask.messages)
        if isinstance(ask, Likelihood):  # a token is drawn and thrown away
            return meter.most(num_prompt + len(ask.completion), 1, self.price)
        return meter.most(num_prompt + len(ask.prefix), ask.max_tokens, self.price)

    async def serve(self, job: Job, call: Call) -> None:
        """Raises Unsupported where the endpoint cannot draw as asked, SetupError where it answers nobody any more (see
        `endings`): no other ask of the recipe could be answered."""
        try:
            await self._serve(job, call)
        except EngineError as error:
            self._fail(job, call, error, charged=was_sent(error))

    async def _serve(self, job: Job, call: Call) -> None:
        turn = Turn(next(self._tickets))
        room = None
        for _ in range(MAX_CHANGES):
            if len(job.asks) > self._num_together():
                return self._add(job, call)
            before = self.profile
            request = (self._forms.get(job, self.profile) if room is None else None) or await self._request(
                job, room, turn
            )
            reply = await self._answered(request, job.asks[0].messages, turn)
            if reply.status < 300:
                return self._deliver(job, call, request, reply)
            if (smaller := self._roomier(reply, request, room)) is not None:
                room = smaller
            elif not self._learns(job, request, reply, before):
                break
        charged = reply.status >= 500 or reply.status == 408
        if not charged:
            self._watch.is_there()
            client = turn.client or self._router.replicas[0].client
            end = await endings.ended(self._name, reply, client, self._model, self.profile.api, self._watch.spoke)
            if end is not None:
                raise end
        return self._fail(job, call, endings.meaning(self._name, reply), charged=charged)

    def _add(self, job: Job, call: Call) -> None:
        """A job's asks as new jobs of a size that the endpoint takes."""
        for part in grouped(job.asks, self._num_together()):
            call.add(Job(tuple(job.positions[i] for i in part.positions), part.asks))

    async def _answered(self, request: wire.Request, messages: tuple[Message, ...], turn: Turn) -> Reply:
        """The reply to a request, which is sent again while it is rejected. Raises what befell it, or GaveUp."""
        while True:
            reply = await self._send(self._router.choose(messages, self._clock()), request, turn)
            if reply is not None:
                return reply

    async def _send(self, replica: Replica, request: wire.Request, turn: Turn) -> Reply | None:
        """One attempt. None: it was rejected, or the connection was refused, and there is time to try again."""
        gate = replica.gate
        if not gate.enters():
            self._bear(turn, gate.pace.resumes)
            await gate.enter(turn.ticket)
        turn.client, sent = replica.client, self._clock()
        self._watch.sent(turn.ticket, sent)
        try:
            if "stream" in request.body:
                reply = await replica.client.stream(
                    request.path, request.data or request.body, self._settings.idle_timeout_s
                )
            else:
                reply = await replica.client.post(request.path, request.data or request.body)
        except EngineError as error:
            gate.pace.complained(sent, self._clock())
            if was_sent(error):
                raise
            self._until(turn, None, error)
            return None
        else:
            return reply if self._paced(replica, reply, sent, turn) else None
        finally:
            self._watch.landed(turn.ticket)
            gate.leave()

    def _paced(self, replica: Replica, reply: Reply, sent: float, turn: Turn) -> bool:
        """Whether the reply is an answer, be it a bad one. Where it is a rejection, as `_until`."""
        if refusals.is_rejected(reply.status, reply.body):
            wait_s = retry_after_s(reply.headers)
            replica.gate.pace.complained(sent, self._clock(), wait_s)
            if not endings.is_out_of_money(reply):
                self._until(turn, wait_s, RateLimited(endings.says(self._name, reply), status=reply.status))
                return False
        elif reply.status >= 500 or reply.body is None:
            replica.went_badly(sent, self._clock())
        else:
            replica.went_well()
        return True

    def _until(self, turn: Turn, wait_s: float | None, error: EngineError) -> None:
        """Raises GaveUp when there is no time to try again, SetupError where that is the end of the run."""
        now = self._clock()
        turn.until, turn.error = min(turn.until, now + self._settings.patience_s), error
        self._watch.troubled(now)
        if now + (wait_s or 0.0) >= turn.until:
            self._give_up(error, now, wait_s)

    def _bear(self, turn: Turn, resumes: float) -> None:
        """As `_until`, where the replica is to be left alone for longer than the patience lasts."""
        now = self._clock()
        if resumes > min(turn.until, now + self._settings.patience_s):
            paused = EngineUnavailable(f"{self._name} is left alone for {resumes - now:.0f} s after its complaints")
            self._give_up(turn.error or paused, now, resumes - now)

    def _give_up(self, error: EngineError, now: float, wait_s: float | None) -> NoReturn:
        resumes = min(replica.resumes for replica in self._router.replicas)
        raise self._watch.ended(error, now, resumes) or GaveUp(error, wait_s)

    # --- requests -----------------------------------------------------------------------------------------------------

    def _num_together(self) -> int:
        """How many draws a request may ask for."""
        return 1 if self.profile.n is False else max(self.max_n, 1)

    async def _request(self, job: Job, room: int | None, turn: Turn) -> wire.Request:
        ask = job.asks[0]
        if isinstance(ask, Likelihood):
            return wire.likelihood(ask, self._model, await self._prompt_ids(ask.messages, turn))
        if why := wire.unsupported(ask, self.profile) or kept.unsupported(ask, self.profile):
            raise Unsupported(f"{self._name} cannot {why}")
        if ask.prefix or room is not None:
            ids = await self._prompt_ids(ask.messages, turn) if ask.prefix else None
            return self._generate(ask, len(job.asks), room, ids)
        return self._forms.keep(job, self._generate(ask, len(job.asks), None, None), ask.seed)

    def _generate(self, ask: Generate, num: int, room: int | None, ids: tuple[int, ...] | None) -> wire.Request:
        listed = min(self.profile.top_logprobs or MAX_TOP, MAX_TOP) if "top" in ask.want else 0
        request = wire.generate(
            ask,
            self._model,
            self.profile,
            num=num,
            prompt_ids=ids,
            logprobs=self.profile.logprobs is True or (self.profile.logprobs is None and "logp" in ask.want),
            top=max(listed, kept.num_top(ask)),
            max_tokens=room,
            extra=self._settings.extra,
        )
        if kept.is_wanted(ask) and request.path == "completions" and not listed and self.profile.token_ids_out:
            request.body["return_tokens_as_token_ids"] = True  # by its text, one token could hide another
        if self._stream:
            request.body["stream"] = True
            if "stream_options" not in self.profile.refused:
                request.body["stream_options"] = {"include_usage": True}
        return request

    async def _prompt_ids(self, messages: tuple[Message, ...], turn: Turn) -> tuple[int, ...]:
        """Token ids of a prompt, its template included. Costs a request that draws nothing. Raises EngineError."""
        if messages not in self._ids:
            try:
                reply = await self._answered(wire.tokenize(messages, self._model, self.profile), messages, turn)
                if reply.status != 200:
                    raise endings.meaning(self._name, reply)
                self._know(messages, wire.read_ids(reply.body))
            except ValueError as error:
                raise free(BadRequest(f"{self._name} cannot be asked for token ids: {error}")) from None
            except EngineError as error:
                raise free(error) from None
        return self._ids[messages]

    def _know(self, messages: tuple[Message, ...], ids: tuple[int, ...]) -> None:
        if len(self._ids) >= MAX_PROMPTS:
            self._ids.clear()
        self._ids[messages] = ids
        self.prompts.learn(messages, len(ids))

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _roomier(self, reply: Reply, request: wire.Request, room: int | None) -> int | None:
        """Fewer new tokens, where prompt and response did not fit together but the prompt does."""
        if reply.status != 400 or room is not None or not refusals.is_overflow(reply.body, reply.text):
            return None
        left = refusals.room_left(wire.error_text(reply.body, reply.text, most=2000))
        return left if left is not None and 0 < left < _limit(request) else None

    def _learns(self, job: Job, request: wire.Request, reply: Reply, before: Profile) -> bool:
        """Whether something was learned from a refusal since `before`, what was known when the request was made, and it
        is worth making again. Raises Unsupported."""
        ask = job.asks[0]
        if reply.status not in refusals.REFUSALS or not isinstance(ask, Generate):
            return False
        if refusals.is_overflow(reply.body, reply.text):
            return False
        if self.profile != before:  # another request has learned it meanwhile, or something else
            return True
        field = refusals.refused_field(reply.body, reply.text, request.body)
        if field is None or field in (self._settings.extra or {}):
            return False
        if field == "n":
            self.max_n = min(self.max_n, len(job.asks) // 2)
            note = f"draws at most {self.max_n} at once" if self.max_n > 1 else "refuses n: one request for each draw"
            self.profile = self.profile._replace(n=None if self.max_n > 1 else False).noting(note)
            return True
        message = wire.error_text(reply.body, reply.text)
        self.profile, again = refusals.learned(field, ask, request.body, self.profile, message)
        return again

    # --- replies ------------------------------------------------------------------------------------------------------

    def _deliver(self, job: Job, call: Call, request: wire.Request, reply: Reply) -> None:
        """Hand over what came; add a job for what is missing."""
        ask = job.asks[0]
        if isinstance(ask, Likelihood):
            return call.deliver(job.positions[0], self._scored(ask, reply))
        try:
            reading = wire.read(reply.body)
            if not reading.choices:
                raise ValueError("the reply has no choices")
        except ValueError as error:
            says = wire.error_text(reply.body) or str(error) if reply.body is not None else "the reply broke off"
            return self._fail(job, call, EngineUnavailable(f"{self._name}: {says}"), charged=True)
        self._watch.answered()
        num = len(job.asks)
        num_given = len(ask.prefix)
        limit = _limit(request)
        bill = meter.bill(reading, ask.messages, num_given, num, limit, self.prompts, self.price, reply.seconds)
        if reading.prompt_ids is not None and not num_given:
            self._know(ask.messages, reading.prompt_ids)
        self.num_estimated += bill.estimated
        for position, asked, choice, usage in zip(job.positions, job.asks, reading.choices, bill.usages, strict=False):
            call.deliver(position, self._completion(cast(Generate, asked), choice, usage, limit))
        if num > 1 or reading.num_listed > 1:
            self._count(num, reading)
        if len(reading.choices) < num:
            self._add(job.cut(len(reading.choices))[1], call)

    def _count(self, num: int, reading: wire.Reading) -> None:
        """What the number of choices says about `n`."""
        listed, different = reading.num_listed, len(reading.choices)
        if listed > different:
            self.profile = self.profile._replace(n=False).noting(
                "numbers its choices wrongly: one request for each draw"
            )
        elif listed > num:
            self.profile = self.profile.noting("gives more choices than asked for, which are paid for and dropped")
        elif listed == 1:
            self.profile = self.profile._replace(n=False).noting("ignores n: one request for each draw")
        elif listed < num:
            self.profile = self.profile.noting("gives fewer choices than asked for; the others are asked for again")
        elif self.profile.n is None:
            self.profile = self.profile._replace(n=True)

    def _completion(self, ask: Generate, choice: wire.Choice, usage: Usage, limit: int) -> Completion:
        if choice.finish == "error":
            return failed(EngineUnavailable(f"{self._name}: {choice.error or 'the draw was broken off'}"), usage)
        text, finish = choice.text, choice.finish
        if ask.stop and (cut := min((at for stop in ask.stop if (at := text.find(stop)) >= 0), default=-1)) >= 0:
            text, finish = text[:cut], "stop"  # it ignores the stop strings, or leaves them in
        if not finish:
            finish = "length" if usage.completion_tokens >= limit else "stop"
        logp = choice.logp if choice.logp or not text else None
        logp_sum = math.nan if logp is None else math.fsum(logp)
        self.repeats.add(ask.messages, ask.sampling.temperature, text, usage.completion_tokens, logp_sum)
        if self.repeats.frozen and self.profile.frozen_seed is not True:
            self.profile = self.profile._replace(frozen_seed=True)
        if not ask.want:
            return Completion(text, cast(Finish, finish), usage, None, None, None, logp_sum)
        try:
            logq = kept.logq(ask.sampling, logp, choice.top) if kept.is_wanted(ask) else logp
        except ValueError as error:
            return failed(BadRequest(f"{self._name}: {error}"), usage)
        return Completion(
            text,
            cast(Finish, finish),
            usage,
            choice.tokens if "tokens" in ask.want else None,
            logp if "logp" in ask.want else None,
            logq if "logq" in ask.want else None,
            logp_sum,
            top=choice.top if "top" in ask.want else None,
        )

    def _scored(self, ask: Likelihood, reply: Reply) -> Completion:
        num_prompt = self.prompts.most(ask.messages) + len(ask.completion)
        usage = Usage(1, num_prompt, 1, usd=self.price.usd(num_prompt, 0, 1), seconds=reply.seconds)
        try:
            logp = wire.read_likelihood(reply.body, ask)
        except ValueError as error:
            return failed(BadRequest(f"{self._name}: {error}"), usage)
        self._watch.answered()
        return Completion("", "stop", usage, ask.completion, logp, None, math.fsum(logp))

    def _fail(self, job: Job, call: Call, error: EngineError, *, charged: bool) -> None:
        """Every ask of the job failed, charged where it may have been billed. Raises SetupError if that is the end."""
        self.num_lost += charged
        if charged and not isinstance(error, GaveUp):
            now = self._clock()
            self._watch.troubled(now)
            if end := self._watch.ended(error, now):
                raise end
        for position, ask in zip(job.positions, job.asks, strict=True):
            completion = failed(error, self.most(ask) if charged else Usage(requests=1))
            if isinstance(error, GaveUp):
                completion = completion._replace(failure=error.failure)
            call.deliver(position, completion)


class GaveUp(EngineError):
    """The patience is over. What the loop is told is the last error, and not to try again: that was done here."""

    sent = False

    def __init__(self, error: EngineError, wait_s: float | None) -> None:
        super().__init__(str(error), status=error.status)
        self.failure = Failure(type(error).__name__, str(error), False, wait_s)


def _limit(request: wire.Request) -> int:
    """The most tokens that a draw may have."""
    return int(request.body.get("max_tokens") or request.body.get("max_completion_tokens") or 0)
