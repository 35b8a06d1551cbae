"""A reward model behind a server, as a verifier: vLLM and what speaks as it does (SGLang's classify, for one).

Three routes, as the server has them, and what is read out of a reply:

    pooling    POST /pooling  {model, messages, use_activation}  {data: [{index, data: numbers}], usage}
    classify   POST /classify {model, messages, use_activation}  {data: [{index, probs: numbers}], usage}
    score      POST /score    {model, text_1, text_2}            {data: [{index, score}], usage}

The first two read a conversation, which the server puts into the model's own chat template: a request each, many at a
time, and the server batches them. The third reads pairs of texts (cross-encoders), `BATCH` in a request.

A score is one finite number of a reply that has just what was asked for, or it is nan, with the reason: a reply with
another number of scores, nan, an error after `ATTEMPTS` tries, half of a reply. Nothing is guessed. Where the user must
change something (no such route or model, a refused key) it is a SetupError, and EngineUnavailable where nobody answers
at all, so that a run that goes on later scores what is missing.

Cost: no output tokens; L_q + L_s prompt tokens of the reward model for each different response, and one request for its
tokens, which compute nothing.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar, NamedTuple, TypeVar, get_args

from samplewise.engines.http.client import Client, Reply, was_sent
from samplewise.engines.http.pace import retry_after_s
from samplewise.engines.http.refusals import is_overflow
from samplewise.engines.http.scores import Aggregate, Route, read_scores
from samplewise.engines.http.wire import error_text, read_ids
from samplewise.errors import AuthError, EngineError, EngineUnavailable, SamplewiseError, SetupError
from samplewise.types import Candidate, Json, Message, Question, Score

Item = tuple[tuple[Message, ...], str]  # a question's messages and a response: what a score follows from
T = TypeVar("T")
W = TypeVar("W")

ATTEMPTS = 4
BACKOFF_S = 0.2  # before the second attempt, twice as long before each further one
MAX_WAIT_S = 20.0  # whatever Retry-After says
BATCH = 32  # pairs of texts in a request
MAX_KNOWN = 65_536  # scores that are kept
PER_MESSAGE = 16  # tokens that a template may put around a message
KEY_VARIABLE = "SAMPLEWISE_REWARD_API_KEY"


def reward_server(
    url: str,
    *,
    model: str | None = None,
    route: Route = "pooling",
    aggregate: Aggregate | None = None,
    max_concurrency: int = 32,
    timeout_s: float = 60.0,
    api_key: str | None = None,
) -> RewardServer:
    """Scores by a reward model behind a server: reward_server("http://127.0.0.1:8001", model="a-reward-model").

    `route` is "pooling" (vLLM), "classify" (vLLM, SGLang) or "score" (cross-encoders). Without `aggregate` it is an
    outcome model, whose score is its raw number, larger is better; "last", "min" or "product" make one of the steps'
    probabilities that a process model gives by /pooling. `model` may be left out where the server has one. `api_key`
    is SAMPLEWISE_REWARD_API_KEY by default. nan where nothing can be said, with the reason.
    """
    if route not in get_args(Route):
        raise ValueError(f"route must be one of {', '.join(get_args(Route))}, got {route!r}")
    if aggregate is not None and (aggregate not in get_args(Aggregate) or route != "pooling"):
        raise ValueError(f"aggregate is one of {', '.join(get_args(Aggregate))}, by route pooling; got {aggregate!r}")
    if not isinstance(max_concurrency, int) or max_concurrency < 1 or not timeout_s > 0:
        raise ValueError(
            f"max_concurrency must be at least 1 and timeout_s above 0: {max_concurrency!r}, {timeout_s!r}"
        )
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    return RewardServer(url, model, route, aggregate, max_concurrency, timeout_s, key)


class _Failed(NamedTuple):
    """Why a request has no scores. `split` says that a part of its batch may have some."""

    reason: str
    split: bool = False


class RewardServer:
    """A verifier that asks a server. Made by `reward_server(...)`; any thread may call it.

    Calls wait for the server. Scores are kept, so a response that comes again costs nothing, and `score_all` has many
    requests under way at once. A score that failed is not kept: the next call tries again.
    """

    waits: ClassVar[bool] = True  # for a server: whoever has an event loop to keep going calls it in a thread

    def __init__(
        self,
        url: str,
        model: str | None,
        route: Route,
        aggregate: Aggregate | None,
        max_concurrency: int,
        timeout_s: float,
        api_key: str | None,
    ) -> None:
        self._base = url.strip().rstrip("/").removesuffix("/v1")  # vLLM's own routes are above /v1
        self.name = f"reward_server({model or self._client(api_key, timeout_s).shown})"
        self._model, self._route, self._aggregate = model, route, aggregate
        self._max_concurrency, self._timeout_s, self._api_key = max_concurrency, timeout_s, api_key
        self._lock = threading.Lock()
        self._known: dict[Item, Score] = {}
        self._num_tokens: dict[Item, int] = {}
        self._tokenizes = True  # has a route for it
        self._speaks = False  # has given a score

    def __repr__(self) -> str:
        return self.name

    def __call__(self, question: Question, candidate: Candidate) -> Score:
        return self._scores([(question.messages, candidate.text)])[0]

    def score_all(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[float]:
        """The value of every pair, in order."""
        return [score.value for score in self._scores([(q.messages, candidate.text) for q, candidate in pairs])]

    def tokens_of(self, question: Question, candidate: Candidate) -> int:
        """Prompt tokens that scoring this reads: as the server's /tokenize counts them, else at most so many, as a
        token has a byte or more."""
        item = (question.messages, candidate.text)
        with self._lock:
            if item not in self._num_tokens:
                self._num_tokens[item] = self._waited(self._count, item)
                _forget(self._num_tokens)
            return self._num_tokens[item]

    def _scores(self, items: Sequence[Item]) -> list[Score]:
        with self._lock:
            found = {item: self._known[item] for item in items if item in self._known}
            if new := [item for item in dict.fromkeys(items) if item not in found]:
                fresh = dict(zip(new, self._waited(self._ask, new), strict=True))
                self._known.update((item, score) for item, score in fresh.items() if not math.isnan(score.value))
                _forget(self._known)
                found.update(fresh)
        return [found[item] for item in items]

    def _waited(self, ask: Callable[[Client, W], Awaitable[T]], what: W) -> T:
        """What `ask` gives, by a client and an event loop of its own in a thread: the caller may be within a loop."""

        async def go() -> T:
            client = self._client(self._api_key, self._timeout_s)
            try:
                return await ask(client, what)
            finally:
                await client.close()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(go())).result()

    def _client(self, api_key: str | None, timeout_s: float) -> Client:
        return Client(self._base, api_key=api_key or None, timeout_s=timeout_s)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _ask(self, client: Client, items: Sequence[Item]) -> list[Score]:
        """A score for each item, in order, with at most `max_concurrency` requests under way."""
        size = BATCH if self._route == "score" else 1
        gate = asyncio.Semaphore(self._max_concurrency)

        async def scored(part: Sequence[Item]) -> list[Score]:
            async with gate:
                found = await self._request(client, part)
            if not isinstance(found, _Failed):
                return found
            if found.split and len(part) > 1:  # one that the server refuses takes no other with it
                singly = await asyncio.gather(*(scored([item]) for item in part))
                return [score for scores in singly for score in scores]
            return [Score(math.nan, found.reason)] * len(part)

        parts = [items[start : start + size] for start in range(0, len(items), size)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(scored(part)) for part in parts]
        except BaseExceptionGroup as raised:
            ours = [error for error in raised.exceptions if isinstance(error, SamplewiseError)]
            raise (ours or raised.exceptions)[0] from None
        return [score for task in tasks for score in task.result()]

    async def _request(self, client: Client, part: Sequence[Item]) -> list[Score] | _Failed:
        """The scores of one request, tried again while that may help."""
        path, body = self._route, self._body(part)
        reason, reached, wait_s = "", False, 0.0
        for attempt in range(ATTEMPTS):
            await asyncio.sleep(wait_s)
            wait_s = BACKOFF_S * 2**attempt
            try:
                reply = await client.post(path, body)
            except EngineError as error:
                reason, reached = str(error), reached or was_sent(error)
                continue
            reached = True
            if reply.status == 200:
                try:
                    if reply.body is None:
                        raise ValueError("the reply breaks off, or is no JSON")
                    found = read_scores(reply.body, self._route, len(part), self._aggregate)
                except ValueError as error:
                    reason = f"{client.shown}: {error}"
                    continue
                self._speaks = True
                return found
            reason = f"{client.shown} answers with status {reply.status}: {error_text(reply.body, reply.text)}"
            if reply.status in (400, 401, 403, 404, 405, 413, 422):
                self._must_change(reply, reason)
                return _Failed(reason, split=True)
            wait_s = max(wait_s, min(MAX_WAIT_S, retry_after_s(reply.headers) or 0.0))
        if not reached:
            raise EngineUnavailable(reason, hint="start the reward model's server, and run again: nothing is lost")
        return _Failed(reason)

    def _must_change(self, reply: Reply, reason: str) -> None:
        """Raise where a refusal is the user's to mend: the next response would be refused as well."""
        if reply.status in (401, 403):
            raise AuthError(reason, hint=f"set {KEY_VARIABLE}", status=reply.status)
        if reply.status in (404, 405):
            other = next(route for route in ("classify", "pooling") if route != self._route)
            raise SetupError(f"{reason}: does it serve {self._model or 'a reward model'}, or is it route={other!r}?")
        if not self._speaks and reply.status != 413 and not is_overflow(reply.body, reply.text):
            raise SetupError(f"{reason}: is this a reward model, and route={self._route!r} the right one?")

    def _body(self, part: Sequence[Item]) -> dict[str, Json]:
        body: dict[str, Json] = {} if self._model is None else {"model": self._model}
        # a probability near 1 is rounded to 1, and the best responses would tie: the raw number is asked for
        body["use_activation"] = self._aggregate is not None
        if self._route == "score":
            texts = [("\n\n".join(m.content for m in messages), text) for messages, text in part]
            return {**body, "text_1": [asked for asked, _ in texts], "text_2": [text for _, text in texts]}
        (item,) = part
        return {**body, "messages": _chat(*item)}

    async def _count(self, client: Client, item: Item) -> int:
        """Tokens of a response with its question, or at most so many."""
        chat = _chat(*item)
        if self._tokenizes:
            whole = {"prompt": "\n".join(m["content"] for m in chat)}
            asked = whole if self._route == "score" else {"messages": chat, "add_generation_prompt": False}
            body = {**asked, **({} if self._model is None else {"model": self._model})}
            for _ in range(2):
                try:
                    reply = await client.post("tokenize", body)
                    if reply.status == 200:
                        return len(read_ids(reply.body))
                    if reply.status in (404, 405):
                        self._tokenizes = False
                        break
                except (EngineError, ValueError):
                    continue
        return sum(len(m["content"].encode(errors="replace")) + PER_MESSAGE for m in chat)


def _chat(messages: tuple[Message, ...], response: str) -> list[dict[str, str]]:
    """The conversation with the response; one that was begun for the model goes on."""
    chat = [{"role": m.role, "content": m.content} for m in messages]
    if chat and chat[-1]["role"] == "assistant":
        chat[-1]["content"] += response
    else:
        chat.append({"role": "assistant", "content": response})
    return chat


def _forget(kept: dict[Item, T]) -> None:
    """The oldest go where there are too many."""
    while len(kept) > MAX_KNOWN:
        del kept[next(iter(kept))]
