"""Collect the requests of all questions into batches, and hand out their results.

A request waits until nothing has been added for `COLLECT_S`; all that wait are then one batch (or several, where they
are too many for one file). So the draws of a step of all questions are one batch, and a step that needs the results of
another is the next.

Nothing is paid twice, whenever the process is killed. The store notes what is about to be submitted, under a name, and
then the id that the endpoint gave. The name is in the metadata of the batch, so one whose id was never noted is found
by it; as an endpoint may be late, it is looked for until the patience has passed since the note. The next process asks
for the same draws, finds them in a noted batch, and fetches or awaits that one. Draws are known by the digests that
they are stored under; those of one request are noted together, in the order of its choices.

Results of an earlier process's batch are used if they are draws. Whatever else became of it (failed, expired,
cancelled, no longer there), what is missing is submitted anew. A batch of which nobody waits for anything is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from samplewise.core.errors import EngineError, EngineUnavailable, RateLimited, SetupError
from samplewise.core.text import as_one_line
from samplewise.core.types import Ask, Completion, Generate, Json
from samplewise.engines.http.batch.remote import BatchState, RemoteBatches
from samplewise.engines.http.dialect import failures, refusals, requests
from samplewise.engines.http.jobs import Recipient, RequestJob, group_asks
from samplewise.engines.http.transport.client import MAX_TEXT, Reply, error_text, mark_unbilled
from samplewise.engines.http.transport.pace import Clock
from samplewise.store.database import Store
from samplewise.store.digests import digest_of

COLLECT_S = 1.0  # without a new request, after which a batch is submitted
FIRST_POLL_S = 1.0  # after the submission; each further pause is half as long again, up to `poll_s`
MAX_REQUESTS, MAX_BYTES = 50_000, 190 << 20  # of one file
NOTE = "batch"  # the kind of note in the store
UNWANTED = -1  # the position of a draw that an earlier process asked for and this one does not
SHOWN = 3  # batches that are named to people

DrawNames = tuple[str, ...]  # the digests of a request's draws, hexadecimal, in the order of its choices


class NotThere(Exception):
    """An earlier process's batch has no draws for a request: it must be made anew."""


@dataclass(eq=False, slots=True)
class BatchRequest:
    """A request, and all that wait for its result."""

    names: DrawNames
    asks: tuple[Ask, ...]
    request: requests.HttpRequest
    waiting: list[asyncio.Future[Reply]] = field(default_factory=list)

    @property
    def custom_id(self) -> str:
        """What the endpoint calls the request."""
        return custom_id(self.names)


@dataclass(eq=False, slots=True)
class SubmittedBatch:
    """A batch of this process or of an earlier one. `id` is "" until the endpoint has given it one."""

    name: str
    id: str = ""
    is_earlier: bool = False
    noted: float = -math.inf  # clock time at which an earlier process was about to submit it
    requests: dict[str, BatchRequest] = field(default_factory=dict)  # by custom id: those that somebody waits for
    state: BatchState | None = None
    since: float = math.nan  # when this process began to wait
    is_called_off: bool = False
    task: asyncio.Task[None] | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether anybody waits for a result. Asked for each request that is given up, so it must take no time."""
        return bool(self.requests)


class _Noted(NamedTuple):
    """A request of a batch that was submitted: its batch, and the digests and seeds of its draws."""

    batch: SubmittedBatch
    names: DrawNames
    seeds: tuple[int, ...]


class BatchCollector:
    """Makes the requests of one engine in batches."""

    def __init__(self, identity: str, name: str, remote: RemoteBatches, poll_s: float, clock: Clock) -> None:
        self._identity, self._name, self._remote = identity, name, remote
        self._poll_s, self._clock = poll_s, clock
        self.cut: dict[int, Ask] = {}  # asks whose request is submitted and not answered, by id
        self.num_submitted = self.num_expired = self.num_found = 0
        self.missing: list[str] = []  # the names of batches of earlier processes that the endpoint does not list
        self._store: Store | None = None
        self._noted: dict[str, _Noted] = {}  # by the digest of each of its draws
        self._num_noted = 0
        self._earlier: dict[str, _Noted] = {}  # by custom id: requests of `_noted` that are about to be waited for
        self._pending: dict[str, BatchRequest] = {}  # by custom id
        self._added_at = -math.inf
        self._collecting: asyncio.Task[None] | None = None
        self._batches: list[SubmittedBatch] = []  # somebody waits for
        self._ending: set[asyncio.Task[None]] = set()

    # --- what the store knows -----------------------------------------------------------------------------------------

    def remember(self, store: Store) -> None:
        """Note batches in this store from now on, and learn what an earlier process noted there."""
        if self._store is store:
            return
        self._store = store
        batches: dict[str, SubmittedBatch] = {}
        for at, kind, data in store.events(self._identity):
            if kind == NOTE:
                batch = batches.setdefault(data["name"], SubmittedBatch(data["name"], is_earlier=True, noted=at))
                batch.id = data.get("id") or batch.id
                self._num_noted += "draws" in data
                for pairs in data.get("draws", ()):
                    self._learn(batch, tuple(name for name, _ in pairs), tuple(seed for _, seed in pairs))

    def _learn(self, batch: SubmittedBatch, names: DrawNames, seeds: tuple[int, ...]) -> None:
        """Remember where draws are to be found. Of two batches with the same draw, the later one has it."""
        for name in names:
            self._noted[name] = _Noted(batch, names, seeds)

    # --- asks ---------------------------------------------------------------------------------------------------------

    def jobs(self, asks: Sequence[Ask], max_size: int) -> Iterator[RequestJob]:
        """Yield jobs for asks: as they were submitted before, else grouped anew.

        A draw of an earlier request that is not asked for has the position `UNWANTED`.
        """
        new: list[int] = []
        submitted: dict[DrawNames, dict[str, int]] = {}  # the positions of its draws that are asked for
        for position, name in enumerate(self._names(asks)):
            noted = self._noted.get(name)
            if noted is None or name in submitted.get(noted.names, ()):
                new.append(position)
            else:
                submitted.setdefault(noted.names, {})[name] = position
        for names, positions in submitted.items():
            noted = self._earlier[custom_id(names)] = self._noted[next(iter(positions))]
            for name in positions:  # once: a draw that cannot be read is made anew
                del self._noted[name]
            ask = asks[next(iter(positions.values()))]
            assert isinstance(ask, Generate)
            parts = tuple(
                asks[positions[name]] if name in positions else ask._replace(seed=seed)
                for name, seed in zip(names, noted.seeds, strict=True)
            )
            yield RequestJob(tuple(positions.get(name, UNWANTED) for name in names), parts, is_sent=True)
        for part in group_asks([asks[position] for position in new], max_size):
            yield RequestJob(tuple(new[index] for index in part.positions), part.asks)

    def _names(self, asks: Sequence[Ask]) -> DrawNames:
        return tuple(digest_of(self._identity, ask).hex() for ask in asks)

    async def send(self, request: requests.HttpRequest, asks: Sequence[Ask]) -> Reply:
        """Return the reply to a request for draws, hours later.

        Raises NotThere, EngineError for what failed and is not billed, SetupError if the endpoint cannot batch, and
        StoreError.
        """
        if self._store is None:
            raise SetupError("batch=True needs a store, in which a killed run finds what it submitted: give store=")
        names = self._names(asks)
        key = custom_id(names)
        noted = self._earlier.pop(key, None)
        if noted is not None:
            waited = noted.batch.requests.setdefault(key, BatchRequest(names, tuple(asks), request))
            self._follow(noted.batch)
        else:
            waited = self._pending.setdefault(key, BatchRequest(names, tuple(asks), request))
            self._added_at = self._clock()
            if self._collecting is None:
                self._collecting = asyncio.ensure_future(self._collect())
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        waited.waiting.append(reply)
        try:
            return await reply
        except asyncio.CancelledError:
            waited.waiting.remove(reply)
            self._give_up(waited)
            raise

    def _give_up(self, request: BatchRequest) -> None:
        """Drop a request that nobody waits for any more; cancel the batch if it was its last."""
        if request.waiting:
            return
        if self._pending.get(request.custom_id) is request:  # it has cost nothing
            del self._pending[request.custom_id]
            return
        for batch in self._batches:
            if batch.requests.get(request.custom_id) is request:
                self._learn(batch, request.names, _seeds(request.asks))  # whoever asks again finds it
                del batch.requests[request.custom_id]
                if not batch.is_wanted:
                    self._end(batch)
                return

    def _end(self, batch: SubmittedBatch) -> None:
        """Stop following a batch and cancel it."""
        self._batches.remove(batch)
        batch.is_earlier = True
        task = asyncio.ensure_future(self._cancel(batch, batch.task))
        batch.task = None
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _cancel(self, batch: SubmittedBatch, task: asyncio.Task[None] | None) -> None:
        if task is not None and not batch.id:  # it is being submitted: only its id can cancel it
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task), COLLECT_S)
        if task is not None:
            task.cancel()
        await self._call_off(batch)

    async def _call_off(self, batch: SubmittedBatch) -> None:
        if batch.id and not batch.is_called_off and not (batch.state is not None and batch.state.is_over):
            batch.is_called_off = True
            with contextlib.suppress(EngineError, SetupError):
                await self._remote.cancel(batch.id)

    async def call_off(self) -> None:
        """Cancel all batches at once, before those that wait for them know it: there may be thousands of them."""
        await asyncio.gather(*(self._call_off(batch) for batch in self._batches))

    # --- batches ------------------------------------------------------------------------------------------------------

    async def _collect(self) -> None:
        """Submit what is pending once nothing more is added."""
        while (left_s := self._added_at + COLLECT_S - self._clock()) > 0:
            await asyncio.sleep(left_s)
        self._collecting = None
        pending, self._pending = sorted(self._pending.values(), key=lambda each: each.request.path), {}
        for _, group in itertools.groupby(pending, key=lambda each: each.request.path):
            for part in _in_files(list(group)):
                self._follow(SubmittedBatch("", requests={request.custom_id: request for request in part}))

    def _follow(self, batch: SubmittedBatch) -> None:
        if batch.task is None:
            self._batches.append(batch)
            batch.since = self._clock()
            batch.task = asyncio.ensure_future(self._work(batch))

    async def _work(self, batch: SubmittedBatch) -> None:
        """See a batch through to its end. What ends it ends all that wait for it."""
        try:
            if not batch.is_earlier:
                await self._submit(batch)
            elif not batch.id and batch.name:
                await self._look_for(batch)
            if not batch.is_wanted and batch.id:  # given up meanwhile
                return
            self.cut.update((id(ask), ask) for request in batch.requests.values() for ask in request.asks)
            state = await self._wait(batch) if batch.id else None
            results = {} if state is None else await self._remote.results(state)
            self._hand_out(batch, state, results)
        except Exception as error:
            for request in batch.requests.values():
                self._settle(request, error)
        finally:
            if batch in self._batches:
                self._batches.remove(batch)
            batch.task = None

    async def _look_for(self, batch: SubmittedBatch) -> None:
        """Find the id of a batch that an earlier process was about to submit, if it came to that."""
        asked_s_ago = max(0.0, time.time() - batch.noted)  # by another machine's clock, perhaps
        batch.id = await self._remote.find(batch.name, asked_s_ago) or ""
        if not batch.id:
            self.missing.append(batch.name)

    async def _submit(self, batch: SubmittedBatch) -> None:
        assert self._store is not None
        asked = list(batch.requests.values())
        lines = b"".join(_line(request) for request in asked)
        draws = [list(zip(request.names, _seeds(request.asks), strict=True)) for request in asked]
        batch.name = f"{hashlib.blake2b(lines, digest_size=12).hexdigest()}-{self._num_noted}"
        self._num_noted += 1
        file = await self._remote.upload(batch.name, lines)
        self._store.note(self._identity, NOTE, {"name": batch.name, "draws": draws})  # before it can cost anything
        batch.id = await self._remote.create(batch.name, file, asked[0].request.path)
        self._store.note(self._identity, NOTE, {"name": batch.name, "id": batch.id})
        self.num_submitted += 1

    async def _wait(self, batch: SubmittedBatch) -> BatchState:
        """Return the state of a batch at its end."""
        pause_s = FIRST_POLL_S
        while True:
            state = await self._remote.state(batch.id)
            batch.state = state
            if state.is_over:
                return state
            await asyncio.sleep(min(pause_s, self._poll_s))
            pause_s = min(1.5 * pause_s, self._poll_s)

    def _hand_out(self, batch: SubmittedBatch, state: BatchState | None, results: dict[str, Json]) -> None:
        """Give each request its reply, or the reason why it has none."""
        has_expired = state is not None and state.status == "expired"
        has_any = any(_reply(line, 0.0) is not None for line in results.values())
        for key, request in batch.requests.items():
            reply = _reply(results.get(key), self._clock() - batch.since)
            is_drawn = reply is not None and reply.status < 300 and not refusals.is_rejected(reply.status, reply.body)
            self.num_expired += has_expired and reply is None
            if not is_drawn and (batch.is_earlier or (has_expired and reply is None and has_any)):
                self._settle(request, NotThere())
                continue
            self.num_found += batch.is_earlier
            if reply is None:
                self._settle(request, self._failure(batch, state, results.get(key)))
            else:
                self._settle(request, self._rejection(reply) or reply)
        batch.requests.clear()

    def _failure(self, batch: SubmittedBatch, state: BatchState | None, line: Json) -> Exception:
        """Return what a request of this process's batch failed of that has no reply."""
        assert state is not None
        where = f"{self._name}: batch {batch.id}"
        if state.status == "failed":
            return SetupError(f"{where} was refused: {as_one_line(state.why) or 'no reason given'} ({failures.RESUME})")
        if state.status == "expired":
            return SetupError(f"{where} expired without a result ({failures.RESUME})")
        if state.status == "cancelled":
            return SetupError(f"{where} was cancelled at the endpoint ({failures.RESUME})")
        why = error_text(line) if isinstance(line, dict) else ""
        return mark_unbilled(EngineUnavailable(f"{where} has no result for a request{f': {why}' if why else ''}"))

    def _rejection(self, reply: Reply) -> EngineError | None:
        """Return the error of a request that was not worked on and may be made again; it is not billed."""
        if failures.is_out_of_money(reply):
            return None
        message = failures.describe(self._name, reply)
        if refusals.is_rejected(reply.status, reply.body):
            return mark_unbilled(RateLimited(message, status=reply.status))
        if reply.status >= 500:
            return mark_unbilled(EngineUnavailable(message, status=reply.status))
        return None

    def _settle(self, request: BatchRequest, outcome: Reply | Exception) -> None:
        for ask in request.asks:
            self.cut.pop(id(ask), None)
        waiting, request.waiting = request.waiting, []
        for future in waiting:
            if not future.done():
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

    # --- for people ---------------------------------------------------------------------------------------------------

    def waits_for(self) -> str:
        """Return what is being waited for, "" for nothing."""
        parts = []
        for batch in self._batches[:SHOWN]:
            if not batch.id and batch.is_earlier:
                parts.append(f"looking for batch {batch.name}, which an earlier start was about to submit")
                continue
            if not batch.id:
                parts.append(f"submitting a batch of {len(batch.requests):,} requests")
                continue
            state = batch.state
            counts = f", {state.num_done:,} of {state.num_total:,} requests done" if state and state.num_total else ""
            again = " (submitted by an earlier start)" if batch.is_earlier else ""
            parts.append(f"waiting for batch {batch.id}{again}: {state.status if state else 'submitted'}{counts}")
        if len(self._batches) > SHOWN:
            parts.append(f"{len(self._batches) - SHOWN} more batches")
        return "; ".join(parts)

    @property
    def notes(self) -> Iterator[str]:
        """Yield what a user should know after a run, one line each."""
        if self.num_expired:
            yield f"{self.num_expired} requests were not done when their batch expired, and were submitted again"
        for name in self.missing:
            yield (
                f"batch {name}, which an earlier start was about to submit, is not at the endpoint: its requests were "
                "submitted again; should it appear there yet, cancel it"
            )
        if self.num_found:
            yield f"{self.num_found} requests were answered by batches of earlier starts"

    async def close(self) -> None:
        """Wait until what was given up is cancelled, and stop."""
        tasks = [batch.task for batch in self._batches if batch.task is not None]
        tasks += [self._collecting] if self._collecting is not None else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)


class WantedOnly:
    """A recipient that takes the draws that are asked for, of a request that holds others too."""

    def __init__(self, behind: Recipient) -> None:
        self._behind = behind

    def deliver(self, position: int, completion: Completion) -> None:
        if position != UNWANTED:
            self._behind.deliver(position, completion)

    def add(self, job: RequestJob) -> None:
        pairs = [pair for pair in zip(job.positions, job.asks, strict=True) if pair[0] != UNWANTED]
        if pairs:
            positions, asks = zip(*pairs, strict=True)
            self._behind.add(job._replace(positions=positions, asks=asks, is_sent=False))


def custom_id(names: DrawNames) -> str:
    """Return what the endpoint calls a request for these draws: the digest of a single one, else one of theirs."""
    return names[0] if len(names) == 1 else hashlib.blake2b(" ".join(names).encode(), digest_size=16).hexdigest()


def _seeds(asks: Sequence[Ask]) -> tuple[int, ...]:
    return tuple(ask.seed for ask in asks if isinstance(ask, Generate))


def _line(request: BatchRequest) -> bytes:
    """Return the line of a request in the file."""
    path, fields, data = request.request
    body = data.decode() if data else json.dumps(fields)
    head = json.dumps({"custom_id": request.custom_id, "method": "POST", "url": f"/v1/{path}"})
    return f'{head[:-1]}, "body": {body}}}\n'.encode()


def _in_files(asked: Sequence[BatchRequest]) -> Iterator[list[BatchRequest]]:
    """Yield requests in parts that fit into one file each."""
    part: list[BatchRequest] = []
    size = 0
    for request in asked:
        length = len(_line(request))
        if part and (len(part) >= MAX_REQUESTS or size + length > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(request)
        size += length
    if part:
        yield part


def _reply(line: Json, seconds: float) -> Reply | None:
    """Return a line of the results as the reply that it stands for, None if the request got none."""
    response = line.get("response") if isinstance(line, dict) else None
    if not isinstance(response, dict) or type(response.get("status_code")) is not int:
        return None
    body = response.get("body")
    text = "" if body is None else json.dumps(body)[:MAX_TEXT]
    return Reply(response["status_code"], {}, body, text, seconds)
