"""The http engine: asks answered by an endpoint that speaks the OpenAI protocol, or by several replicas of one.

Draws of one step that differ in their seeds alone are sent as one request for n draws where the endpoint supports that,
so the prompt is computed once. The request then carries the first draw's seed, from which the endpoint makes the
others, and SEED is not claimed; with `n="never"` every draw is a request with its own seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import math
import sys
import time
from collections.abc import AsyncIterator, Sequence

from samplewise.core.errors import AuthError, EngineError, EngineTimeout, EngineUnavailable, SetupError
from samplewise.core.prices import FREE, ListedPrice, Price, batch_discount, listed_price
from samplewise.core.secrets import hide_fields
from samplewise.core.types import Ask, Capability, Generate, Json, Sampling, Usage
from samplewise.engines.base import MAX_CONCURRENCY, REASONING_MAX_TOKENS, Arrival, Engine, Hear
from samplewise.engines.http.batch.collect import BatchCollector, NotThere, WantedOnly
from samplewise.engines.http.batch.remote import RemoteBatches
from samplewise.engines.http.dialect import logq, requests
from samplewise.engines.http.dialect.failures import format_names, model_names
from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.drafts import DraftExchange
from samplewise.engines.http.exchange import LONGEST, Exchange, HttpSettings, engine_name
from samplewise.engines.http.jobs import AnswerCall, Recipient, RequestJob, group_asks, is_draft
from samplewise.engines.http.probe.cache import load_profile, save_profile
from samplewise.engines.http.transport.client import Client, Reply, is_loopback
from samplewise.engines.http.transport.pace import Pace, RequestGate
from samplewise.engines.http.transport.replicas import Replica, Router
from samplewise.store.database import Store

try:
    import resource
except ImportError:  # no POSIX system
    resource = None  # type: ignore[assignment]

LIVE = frozenset({Capability.PREFIX, Capability.REJECT_BELOW, Capability.LIKELIHOOD})  # take requests with no draw
UNLIMITED = 1 << 20  # asks that a batch has room for
OTHER_FILES = 96  # descriptors that are left to the store, to sandboxes and to modules that are imported late
PROMISE_S = 0.05  # how long reported free slots are kept from other callers


class HttpEngine(Engine):
    """An engine for one model behind one or more base URLs. Made by `http(...)`.

    Use it within one event loop at a time: once that is closed, as after `asyncio.run`, in another.
    """

    def __init__(self, model: str | None, clients: Sequence[Client], settings: HttpSettings) -> None:
        clock = time.monotonic
        self.clients = tuple(clients)
        self._settings, self._clock = settings, clock
        limit = min(settings.max_concurrency, _connections_allowed() // len(clients) or 1)
        self._router = Router([Replica(client, RequestGate(Pace(limit), clock)) for client in clients])
        self._num_workers = limit * len(clients)
        self.max_concurrency = min(MAX_CONCURRENCY, limit) * len(clients)  # a guess: nothing has been sent yet
        self._lock, self._opened = asyncio.Lock(), False
        self._num_open = 0  # asks received and not yet answered
        self._calls: dict[int, tuple[AnswerCall, int]] = {}  # by id of an ask: its call, and its position there
        self._num_promised, self._promised_at = 0, -math.inf  # slots that `free_slots` reported as free
        self._known: tuple[tuple[Profile, bool], frozenset[Capability]] | None = None  # `can`, and what it rests on
        self._set_model(model, settings.probe if isinstance(settings.probe, Profile) else Profile(api=settings.api))

    def _set_model(self, model: str | None, profile: Profile) -> None:
        """Start afresh as an engine for this model."""
        settings = self._settings
        self.model = model
        self.name = engine_name(model or "") + (" in batches" if settings.batch else "")
        extra = f"?{json.dumps(hide_fields(settings.extra), sort_keys=True)}" if settings.extra else ""
        self.identity = settings.identity or f"http:{model or '?'}:{settings.api}@{self.clients[0].shown}{extra}"
        self._saved_profile = profile
        self._reasons = profile.reasons is True  # as it was when the engine was opened: constant during a run
        self._batches = self._collector() if settings.batch else None
        price = self._price_of(model)
        if settings.batch:
            price = price.in_batch(self._batch_factor())
        self._exchange = Exchange(model or "", profile, self._router, price, settings, self._clock, self._batches)
        self._drafts = DraftExchange(self._exchange, self.name, settings.extra or {})

    def _price_of(self, model: str | None) -> Price:
        self._listed: ListedPrice | None = None
        if self._settings.price is not None:
            return self._settings.price
        if (price := self._settings.prices.get(model or "")) is not None:
            return price
        if all(is_loopback(client.shown) for client in self.clients):
            return FREE
        self._listed = listed_price(self.clients[0].shown, model or "") if len(self.clients) == 1 else None
        return Price() if self._listed is None else self._listed.price

    def _collector(self) -> BatchCollector:
        settings = self._settings
        remote = RemoteBatches(self.clients[0], settings.patience_s, self._clock)
        return BatchCollector(self.identity, self.name, remote, settings.batch_poll_s, self._clock)

    def _batch_factor(self) -> float:
        """Return the factor of the price in a batch: as given, else as is known of the endpoint, else 1."""
        if self._settings.batch_factor is not None:
            return self._settings.batch_factor
        discount = batch_discount(self.clients[0].shown)
        return 1.0 if discount is None else discount.factor

    @property
    def is_batched(self) -> bool:  # type: ignore[override]  # as it was made
        """Return whether draws go by the batch API."""
        return self._batches is not None

    def remember(self, store: Store) -> None:
        """Note batches in this store, and find there what an earlier process submitted."""
        if self._batches is not None:
            self._batches.remember(store)

    async def call_off(self) -> None:
        """Cancel the batches that are waited for."""
        if self._batches is not None:
            await self._batches.call_off()

    def waits_for(self) -> str:
        """Return which batches are waited for, and how far they are."""
        return "" if self._batches is None else self._batches.waits_for()

    @property
    def profile(self) -> Profile:
        """Return what is known of the endpoint so far."""
        return self._exchange.profile

    def findings(self) -> dict[str, Json]:
        """Return the profile as a JSON object."""
        return self.profile.to_json()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a user should know of the endpoint and of this run, one line each."""
        exchange, notes = self._exchange, list(self.profile.notes)
        notes += exchange.repeats.notes
        if exchange.longest:
            notes.append(
                f"does not keep max_tokens (a draw of {exchange.longest:,} tokens where {exchange.allowed:,} were "
                f"allowed): each request is now reckoned at up to {LONGEST:,}, so a limit ends the run early"
            )
        if exchange.num_estimated:
            what = "charged a bound or an estimate from the text"
            notes.append(f"{exchange.num_estimated} replies without a plausible token count: {what}")
        if self._reasons:
            notes.append(
                f"its model reasons: a draw has {REASONING_MAX_TOKENS:,} tokens unless the recipe says max_tokens"
            )
        if self._listed is not None:
            notes.append(self._listed.note(datetime.date.today()))
        if self._batches is not None:
            notes += self._batches.notes
            notes += [self._price_note()] if exchange.price.output > 0 else []
        if math.isnan(exchange.price.output):
            notes.append("its price is unknown, so money is not counted: give price= or set SAMPLEWISE_PRICES")
        if exchange.num_lost:
            notes.append(f"{exchange.num_lost} requests may have been billed without an answer: charged in full")
        return tuple(notes)

    def _price_note(self) -> str:
        """Return what batches are priced at."""
        factor, discount = self._batch_factor(), batch_discount(self.clients[0].shown)
        if self._settings.batch_factor is None and discount is None:
            return "no discount is known for its batches, so they count in full: give batch_factor="
        known = "" if discount is None or discount.factor != factor else f", as {discount.source} said {discount.as_of}"
        return f"batches count at {factor:g} of the price{known}"

    @property
    def can(self) -> frozenset[Capability]:
        """Return the capabilities that the endpoint is known to have."""
        rests_on = (self.profile, self._is_frozen())
        if self._known is None or self._known[0] != rests_on:
            self._known = (rests_on, self._capabilities())
        return self._known[1]

    def _capabilities(self) -> frozenset[Capability]:
        profile = self.profile
        ids_in = profile.token_ids_in is True and profile.tokenize is True
        claims = {
            Capability.GENERATE: True,
            Capability.SEED: profile.seed is True and not self._is_frozen() and not self._shares_requests(),
            Capability.TOKENS: profile.token_ids_out is True,
            Capability.LOGP: profile.logprobs is True,
            Capability.LOGQ: profile.logprobs is True and (profile.top_logprobs or 0) > 1,  # top_k: dialect/logq.py
            Capability.TOP: profile.logprobs is True and bool(profile.top_logprobs),
            Capability.SCORE_FIRST: profile.logprobs is True and (profile.top_logprobs or 0) > 1,
            Capability.PREFIX: ids_in,
            Capability.REJECT_BELOW: not logq.why_no_drafts(profile),  # top_k: dialect/logq.py
            Capability.LIKELIHOOD: ids_in and profile.likelihood is True,
        }
        claimed = frozenset(capability for capability, is_claimed in claims.items() if is_claimed)
        return claimed - LIVE if self._batches is not None else claimed

    @property
    def default_max_tokens(self) -> int | None:  # type: ignore[override]  # known once it is probed
        """Return the limit of a draw that names none: a model that reasons needs a larger one than the samplers'."""
        return REASONING_MAX_TOKENS if self._reasons else None

    def why_no_logp(self, sampling: Sampling) -> str:
        """Return why draws at this temperature and filter come without the model's log-probs, "" if they have them."""
        return requests.why_no_logp(sampling, self.profile)

    def why_missing(self, capability: Capability) -> str:
        """Return what the endpoint is not known to do, and how to find out."""
        if capability is not Capability.REJECT_BELOW or not (lacks := logq.why_no_drafts(self.profile)):
            return ""
        return (
            f"it is not known to {lacks}; samplewise doctor asks it, and where it can do all that chains take, give "
            "the recipe top_k="
        )

    def _is_frozen(self) -> bool:
        """Return whether draws repeat whatever their seed, by the probe or as far as this run has seen."""
        return self.profile.frozen_seed is True or self._exchange.repeats.frozen

    def _shares_requests(self) -> bool:
        """Return whether draws may share a request."""
        return self._settings.max_n > 1 and self.profile.n is not False

    async def open(self) -> None:
        """Find the model if none was named, and what the endpoint supports: from the cache, or by a dozen requests.

        Raises SetupError, also where the engine is in use in another event loop, EngineUnavailable, EngineTimeout,
        AuthError.
        """
        for client in self.clients:
            await client.enter_loop()
        if self._opened:
            return
        async with self._lock:
            if self._opened:
                return
            model = self.model or await self._only_model()
            self._set_model(model, await self._find_profile(model))
            self._opened = True

    async def _find_profile(self, model: str) -> Profile:
        settings, url = self._settings, self.clients[0].shown
        if isinstance(settings.probe, Profile):
            return settings.probe
        if settings.probe == "never":
            return Profile(api=settings.api)
        profile = None if settings.probe == "fresh" else load_profile(url, model, settings.api)
        if profile is None:
            from samplewise.engines.http.probe.prober import probe_endpoint

            for client in self.clients:
                try:
                    profile = await probe_endpoint(client, model, settings.api)
                    break
                except (EngineUnavailable, EngineTimeout):
                    if client is self.clients[-1]:
                        raise
            assert profile is not None
            save_profile(url, model, settings.api, profile)
        return profile

    async def _only_model(self) -> str:
        """Return the model that the endpoint serves. Raises SetupError unless there is exactly one."""
        client = self.clients[0]
        reply = await client.get("models")
        if reply.status in (401, 403):
            raise AuthError(f"{client.shown} does not list its models: {reply.message}", hint="give api_key=")
        if reply.status != 200:
            message = f"{client.shown} does not list its models ({reply.status}): name one"
            raise EngineUnavailable(message, hint=reply.message)
        names = model_names(reply.body) or []
        if len(names) != 1:
            raise SetupError(f"{client.shown} serves {len(names)} models, name one of them: {format_names(names)}")
        return names[0]

    def worst_case(self, ask: Ask) -> Usage:
        """Return the most that an ask can cost."""
        if isinstance(ask, Generate) and is_draft(ask):
            return self._drafts.worst_case(ask)
        return self._exchange.worst_case(ask)

    @property
    def is_worst_case_known(self) -> bool:  # type: ignore[override]  # it is learned from the replies
        """Return whether a reply, or probing, has shown if the endpoint keeps `max_tokens`."""
        return self._exchange.is_worst_case_known

    def may_bill(self, ask: Ask) -> bool:
        """Return whether an ask was on the wire when it was cut off."""
        return self._exchange.cut.pop(id(ask), None) is not None

    def has_arrived(self, ask: Ask) -> bool:
        """Return whether an ask's draw came, perhaps with others of its request, and has not been taken."""
        call, position = self._calls.get(id(ask), (None, 0))
        return call is not None and position in call.undelivered

    def bill_relayed(self, reply: Reply, worst: Usage) -> Usage:
        """Return what a request cost that another made through one of `clients`; `worst` where nobody knows."""
        return self._exchange.bill_relayed(reply, worst)

    def free_slots(self) -> int:
        """Return how many asks could be sent at once now: the replicas' current limits, less the open asks.

        Questions that run side by side ask before any of them sends. Slots reported to one are therefore kept from the
        others until asks come, or for `PROMISE_S`.
        """
        if self._batches is not None:
            return UNLIMITED
        now = self._clock()
        if now - self._promised_at > PROMISE_S:
            self._num_promised = 0
        num_free = max(0, self._router.capacity(now) - self._num_open - self._num_promised)
        if num_free:
            self._num_promised, self._promised_at = self._num_promised + num_free, now
        return num_free

    def listen(self, ask: Ask, hear: Hear) -> None:
        """Have the pieces of an ask's draw told as they come, where it has a request of its own."""
        self._exchange.listeners[id(ask)] = hear

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        """Yield completions as they arrive. Raises SetupError if the endpoint cannot answer any ask."""
        max_size = self._exchange.max_n if self._shares_requests() else 1
        jobs = group_asks(asks, max_size) if self._batches is None else self._batches.jobs(asks, max_size)
        num_workers = self._num_workers if self._batches is None else len(asks)  # all of them wait
        call = AnswerCall(self._serve, jobs, len(asks), num_workers)
        self._calls.update((id(ask), (call, position)) for position, ask in enumerate(asks))
        num_left = len(asks)
        self._num_open, self._num_promised = self._num_open + num_left, max(0, self._num_promised - num_left)
        try:
            await call.begin()
            while (arrival := await call.next()) is not None:
                num_left, self._num_open = num_left - 1, self._num_open - 1
                yield arrival
        finally:
            try:
                await call.close()
            finally:
                self._forget(asks, call, num_left)

    def _forget(self, asks: Sequence[Ask], call: AnswerCall, num_left: int) -> None:
        """Forget a call that is over, but for what may have been billed and nobody has taken."""
        self._exchange.cut.update((id(asks[position]), asks[position]) for position in call.undelivered)
        self._num_open -= num_left
        for ask in asks:
            self._exchange.listeners.pop(id(ask), None)
            self._calls.pop(id(ask), None)
        self._save_profile()

    async def _serve(self, job: RequestJob, call: Recipient) -> None:
        """Serve a job: drafts take several requests each. What an earlier batch does not have is asked anew."""
        if self._batches is not None:
            recipient = WantedOnly(call)
            try:
                await self._exchange.serve(job, recipient)
            except NotThere:
                recipient.add(job)
            return
        await (self._drafts if is_draft(job.asks[0]) else self._exchange).serve(job, call)

    def _save_profile(self) -> None:
        """Cache what was learned of the endpoint for the next run."""
        if self._settings.probe in ("auto", "fresh") and self.profile != self._saved_profile and self.model is not None:
            self._saved_profile = self.profile
            save_profile(self.clients[0].shown, self.model, self._settings.api, self.profile)

    async def close(self) -> None:
        """Close all connections."""
        if self._batches is not None:
            await self._batches.close()
        for client in self.clients:
            with contextlib.suppress(EngineError):
                await client.close()

    def __repr__(self) -> str:
        return f"<{self.identity}>"


def _connections_allowed() -> int:
    """Return how many connections fit into this process's limit of open files (`ulimit -n`), at least 1."""
    if resource is None:
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else max(1, soft - OTHER_FILES)
