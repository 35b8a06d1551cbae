"""The http engine: asks answered by an endpoint that speaks the OpenAI protocol, or by several replicas of one.

Draws of one step that differ in their seeds alone go out as one request for n draws where the endpoint honours that,
which computes the prompt once. The request then carries the first draw's seed, the endpoint makes the others of it, and
SEED is not claimed; with `n="never"` every draw is a request with its own seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Sequence
from typing import Literal

from samplewise.engines.base import APPETITE, Arrival
from samplewise.engines.http import endings
from samplewise.engines.http.client import Client, is_loopback
from samplewise.engines.http.exchange import Exchange, Settings
from samplewise.engines.http.jobs import Call, grouped
from samplewise.engines.http.pace import Gate, Pace
from samplewise.engines.http.prices import FREE, Price
from samplewise.engines.http.profile import Profile
from samplewise.engines.http.replicas import Replica, Router
from samplewise.engines.http.wire import error_text
from samplewise.errors import AuthError, EngineError, EngineTimeout, EngineUnavailable, SetupError
from samplewise.types import Ask, Capability, Usage

PROMISE_S = 0.05  # how long room that was told is kept from others

Probing = Literal["auto", "fresh", "never"] | Profile


class Http:
    """Made by `http(...)`. Used within one event loop."""

    def __init__(
        self,
        model: str | None,
        clients: Sequence[Client],
        *,
        api: Literal["chat", "completions"],
        probe: Probing,
        together: bool,
        max_concurrency: int,
        prices: dict[str, Price],
        price: Price | None,
        identity: str | None,
        settings: Settings,
    ) -> None:
        clock = time.monotonic
        self.clients = tuple(clients)
        self._router = Router([Replica(client, Gate(Pace(max_concurrency), clock)) for client in clients])
        self._num_workers = max_concurrency * len(clients)
        self._api, self._probe, self._together = api, probe, together
        self._prices, self._price, self._identity = prices, price, identity
        self._settings, self._clock = settings, clock
        self._lock, self._opened = asyncio.Lock(), False
        self._most = max_concurrency
        self._num_open = 0  # asks here, answered not yet
        self._told, self._told_at = 0, -math.inf  # room that `idle` has promised of late
        self._become(model, probe if isinstance(probe, Profile) else Profile(api=api))

    def _become(self, model: str | None, profile: Profile) -> None:
        """Start afresh as an engine for this model."""
        self.model = model
        self.name = f"http({model or '?'})"
        extra = f"?{json.dumps(self._settings.extra, sort_keys=True)}" if self._settings.extra else ""
        made = f"http:{model or '?'}:{self._api}@{self.clients[0].shown}{extra}"
        self.identity = self._identity or made
        self._kept = profile
        self._exchange = Exchange(
            self.name, model or "", profile, self._router, self._price_of(model), self._settings, self._clock
        )

    def _price_of(self, model: str | None) -> Price:
        if self._price is not None:
            return self._price
        if model in self._prices:
            return self._prices[model]
        return FREE if all(is_loopback(client.shown) for client in self.clients) else Price()

    @property
    def profile(self) -> Profile:
        """What is known of the endpoint so far."""
        return self._exchange.profile

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the endpoint and of this run, one line each."""
        exchange, notes = self._exchange, list(self.profile.notes)
        if exchange.repeats.note:
            notes.append(exchange.repeats.note)
        if exchange.num_estimated:
            notes.append(f"{exchange.num_estimated} replies without a believable count of tokens: charged at the most")
        if math.isnan(exchange.price.output):
            notes.append("its price is not known, so money is not counted: give price= or SAMPLEWISE_PRICES")
        if exchange.num_lost:
            notes.append(f"{exchange.num_lost} requests may have been billed without an answer: charged at the most")
        return tuple(notes)

    @property
    def can(self) -> frozenset[Capability]:
        known = self.profile
        ids_in = known.token_ids_in is True and known.tokenize is True
        claims = {
            Capability.GENERATE: True,
            Capability.SEED: known.seed is True and known.frozen_seed is not True and not self._joins(),
            Capability.TOKENS: known.token_ids_out is True,
            Capability.LOGP: known.logprobs is True,
            Capability.LOGQ: known.logprobs is True and (known.top_logprobs or 0) > 1,  # with top_k: kept.py
            Capability.TOP: known.logprobs is True and bool(known.top_logprobs),
            Capability.PREFIX: ids_in,
            Capability.LIKELIHOOD: ids_in and known.likelihood is True,
        }
        return frozenset(capability for capability, claimed in claims.items() if claimed)

    def _joins(self) -> bool:
        """Whether draws may share a request."""
        return self._together and self.profile.n is not False

    async def open(self) -> None:
        """Finds the model where none was named, and what the endpoint honours: from the cache, or by a dozen tiny
        requests. Raises SetupError, EngineUnavailable, AuthError."""
        if self._opened:
            return
        async with self._lock:
            if self._opened:
                return
            model = self.model or await self._only_model()
            self._become(model, await self._known(model))
            self._opened = True

    async def _known(self, model: str) -> Profile:
        if isinstance(self._probe, Profile):
            return self._probe
        if self._probe == "never":
            return Profile(api=self._api)
        from samplewise.engines.http import probe

        profile = None if self._probe == "fresh" else probe.load(self.clients[0].shown, model, self._api)
        if profile is None:
            for client in self.clients:
                try:
                    profile = await probe.probe(client, model, self._api)
                    break
                except (EngineUnavailable, EngineTimeout):
                    if client is self.clients[-1]:
                        raise
            assert profile is not None
            with contextlib.suppress(OSError):  # a cache that cannot be written costs a few requests the next time
                probe.save(self.clients[0].shown, model, self._api, profile)
        return profile

    async def _only_model(self) -> str:
        """The model that the endpoint serves. Raises SetupError where it serves none or several."""
        client = self.clients[0]
        reply = await client.get("models")
        says = error_text(reply.body, reply.text)
        if reply.status in (401, 403):
            raise AuthError(f"{client.shown} does not list its models: {says}", hint="give api_key=")
        if reply.status != 200:
            raise EngineUnavailable(f"{client.shown} does not list its models ({reply.status}): name one", hint=says)
        names = endings.listed(reply.body) or []
        if len(names) != 1:
            raise SetupError(f"{client.shown} serves {len(names)} models, name one of them: {endings.shown(names)}")
        return names[0]

    def worst_case(self, ask: Ask) -> Usage:
        return self._exchange.most(ask)

    @property
    def appetite(self) -> int:
        """Asks that it answers at once without slowing, before anything is known of it: a guess, the user's limit in
        mind. It must not change while a run is under way."""
        return min(APPETITE, self._most) * len(self.clients)

    def idle(self) -> int:
        """Asks that would go out at once: as many requests as the replicas bear now, less the asks that are here.

        Questions ask side by side, before the asks of any are here: what one was told is kept from the others until
        asks come, or for a moment."""
        now = self._clock()
        if now - self._told_at > PROMISE_S:
            self._told = 0
        room = max(0, self._router.room(now) - self._num_open - self._told)
        if room:
            self._told, self._told_at = self._told + room, now
        return room

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        most = self._exchange.max_n if self._joins() else 1
        call = Call(self._exchange.serve, grouped(asks, most), len(asks), self._num_workers)
        left = len(asks)
        self._num_open, self._told = self._num_open + left, max(0, self._told - left)
        try:
            async with contextlib.aclosing(call.arrivals()) as arrivals:
                async for arrival in arrivals:
                    left, self._num_open = left - 1, self._num_open - 1
                    yield arrival
        finally:
            self._num_open -= left
            self._keep()

    def _keep(self) -> None:
        """What was learned of the endpoint is not learned again by the next run."""
        if self._probe not in ("auto", "fresh") or self.profile == self._kept or self.model is None:
            return
        from samplewise.engines.http import probe

        self._kept = self.profile
        with contextlib.suppress(OSError):
            probe.save(self.clients[0].shown, self.model, self._api, self.profile)

    async def close(self) -> None:
        for client in self.clients:
            with contextlib.suppress(EngineError):
                await client.close()

    def __repr__(self) -> str:
        return f"<{self.identity}>"
