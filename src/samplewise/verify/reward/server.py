"""A verifier that scores with a reward model behind a server: vLLM and compatible ones (SGLang's classify, for one).

Three routes, and what is read from a reply:

    pooling    POST /pooling  {model, messages, use_activation}  {data: [{index, data: numbers}], usage}
    classify   POST /classify {model, messages, use_activation}  {data: [{index, probs: numbers}], usage}
    score      POST /score    {model, text_1, text_2}            {data: [{index, score}], usage}

The first two read a conversation, which the server puts into the model's own chat template: one request per response,
many at a time, and the server batches them. The third reads pairs of texts (cross-encoders), `BATCH` per request.

A score is one finite number of a reply that has exactly what was asked for, or it is nan with the reason: a reply with
another number of scores, nan, an error after `ATTEMPTS` tries, half of a reply. Nothing is guessed. Where the user must
change something (no such route or model, a refused key) it is a SetupError, and EngineUnavailable where nobody answers
at all, so that a resumed run scores what is missing.

Cost: no output tokens; L_q + L_s prompt tokens of the reward model for each distinct response, and one request to count
its tokens, which computes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, get_args
from weakref import WeakKeyDictionary

from samplewise.core.checks import check_choice, check_count, check_number
from samplewise.core.errors import AuthError, EngineError, EngineUnavailable, SamplewiseError, SetupError
from samplewise.core.retry import MAX_RETRIES, backoff_s
from samplewise.core.types import Candidate, Failure, Json, Message, OnRetry, Question, Score
from samplewise.engines.http.dialect.refusals import is_overflow
from samplewise.engines.http.dialect.replies import parse_token_ids
from samplewise.engines.http.transport.client import Client, Reply, was_sent
from samplewise.engines.http.transport.pace import retry_after_s
from samplewise.verify.reward.server_replies import Aggregate, Route, parse_scores

Item = tuple[tuple[Message, ...], str]  # a question's messages and a response, which determine a score
T = TypeVar("T")

ATTEMPTS = MAX_RETRIES + 1
MAX_WAIT_S = 20.0  # the longest wait, even if Retry-After asks for more
BATCH = 32  # pairs of texts per request
MAX_CACHED = 65_536  # scores
PER_MESSAGE = 16  # tokens that a template may put around a message
KEY_VARIABLE = "SAMPLEWISE_REWARD_API_KEY"


@dataclass(frozen=True, slots=True)
class RewardServerSettings:
    """How the server is asked; see `reward_server`."""

    model: str | None
    route: Route
    aggregate: Aggregate | None
    max_concurrency: int
    timeout_s: float
    api_key: str | None


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
    """Return a verifier that asks a server: reward_server("http://127.0.0.1:8001", model="a-reward-model").

    `route` is "pooling" (vLLM), "classify" (vLLM, SGLang) or "score" (cross-encoders). Without `aggregate` the model is
    an outcome model, whose score is its raw number, larger is better; "last", "min" or "product" combine the step
    probabilities of a process model (route "pooling"). `model` may be omitted if the server has one. `api_key` is
    SAMPLEWISE_REWARD_API_KEY by default. A score that cannot be had is nan, with the reason.
    """
    check_choice("route", route, get_args(Route))
    if aggregate is not None:
        check_choice("aggregate", aggregate, get_args(Aggregate))
        if route != "pooling":
            raise ValueError(f"aggregate needs route 'pooling', got {route!r}")
    check_count("max_concurrency", max_concurrency)
    check_number("timeout_s", timeout_s, 0.0, above=True)
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    return RewardServer(url, RewardServerSettings(model, route, aggregate, max_concurrency, timeout_s, key or None))


class _Failed(NamedTuple):
    """Why a request has no scores. `split`: parts of its batch may have some."""

    reason: str
    split: bool = False


class RewardServer:
    """A verifier that asks a server. Made by `reward_server(...)`; any thread may call it.

    A `RemoteVerifier`: a run awaits `count_tokens` and `score_pairs`; other calls block. Scores are cached, so a
    repeated response costs nothing. A failed score is not cached: the next call tries again.
    """

    def __init__(self, url: str, settings: RewardServerSettings) -> None:
        self._base = url.strip().rstrip("/").removesuffix("/v1")  # vLLM's own routes are above /v1
        self._settings = settings
        self.name = f"reward_server({settings.model or self._client().shown})"
        self._lock = threading.Lock()  # of the blocking calls
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        self._scores: dict[Item, Score] = {}
        self._num_tokens: dict[Item, int] = {}
        self._has_tokenizer = True  # a route to count tokens
        self._has_scored = False

    def __repr__(self) -> str:
        return self.name

    @property
    def batch_size(self) -> int:
        return BATCH if self._settings.route == "score" else 1

    def __call__(self, question: Question, candidate: Candidate) -> Score:
        return self._block(self.score_pairs([(question, candidate)]))[0]

    def score_all(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[float]:
        """Return the value of every pair, in order."""
        return [score.value for score in self._block(self.score_pairs(pairs))]

    def tokens_of(self, question: Question, candidate: Candidate) -> int:
        """Return the prompt tokens that scoring this reads, as the server's /tokenize counts them; else an upper bound,
        as a token has at least one byte."""
        return self._block(self.count_tokens([(question, candidate)]))[0]

    async def count_tokens(self, pairs: Sequence[tuple[Question, Candidate]]) -> list[int]:
        """Return `tokens_of` every pair, in order."""
        items = [(question.messages, candidate.text) for question, candidate in pairs]
        if new := [item for item in dict.fromkeys(items) if item not in self._num_tokens]:
            async with self._connected() as client:
                for item in new:
                    self._num_tokens[item] = await self._count(client, item)
        counted = [self._num_tokens[item] for item in items]
        _evict(self._num_tokens)
        return counted

    async def score_pairs(
        self, pairs: Sequence[tuple[Question, Candidate]], on_retry: OnRetry | None = None
    ) -> list[Score]:
        items = [(question.messages, candidate.text) for question, candidate in pairs]
        scores = {item: self._scores[item] for item in items if item in self._scores}
        if new := [item for item in dict.fromkeys(items) if item not in scores]:
            async with self._connected() as client:
                fresh = dict(zip(new, await self._ask(client, new, on_retry), strict=True))
            self._scores.update((item, score) for item, score in fresh.items() if not math.isnan(score.value))
            _evict(self._scores)
            scores.update(fresh)
        return [scores[item] for item in items]

    def _block(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in an event loop of its own in a thread: the caller may be inside a running loop."""
        with self._lock, ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(work)).result()

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        client = self._client()
        try:
            yield client
        finally:
            await client.close()

    def _client(self) -> Client:
        return Client(self._base, api_key=self._settings.api_key, timeout_s=self._settings.timeout_s)

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _ask(self, client: Client, items: Sequence[Item], on_retry: OnRetry | None) -> list[Score]:
        """Return a score for each item, in order. All calls of a loop have `max_concurrency` requests in flight."""
        size, loop = self.batch_size, asyncio.get_running_loop()
        slots = self._slots.setdefault(loop, asyncio.Semaphore(self._settings.max_concurrency))

        async def score(part: Sequence[Item]) -> list[Score]:
            async with slots:
                scores = await self._request(client, part, on_retry)
            if not isinstance(scores, _Failed):
                return scores
            if scores.split and len(part) > 1:  # one refused response must not fail the others
                singles = await asyncio.gather(*(score([item]) for item in part))
                return [single for scores in singles for single in scores]
            return [Score(math.nan, scores.reason)] * len(part)

        parts = [items[start : start + size] for start in range(0, len(items), size)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(score(part)) for part in parts]
        except BaseExceptionGroup as raised:
            own_errors = [error for error in raised.exceptions if isinstance(error, SamplewiseError)]
            raise (own_errors or raised.exceptions)[0] from None
        return [score for task in tasks for score in task.result()]

    async def _request(self, client: Client, part: Sequence[Item], on_retry: OnRetry | None) -> list[Score] | _Failed:
        """Return the scores of one request, retried while that may help."""
        settings, body = self._settings, self._body(part)
        reason, reached, wait_s = "", False, 0.0
        for attempt in range(ATTEMPTS):
            if attempt:
                if on_retry is not None:
                    on_retry(Failure("EngineUnavailable", reason, retryable=True), wait_s)
                await asyncio.sleep(wait_s)
            wait_s = backoff_s(attempt)
            try:
                reply = await client.post(settings.route, body)
            except EngineError as error:
                reason, reached = str(error), reached or was_sent(error)
                continue
            reached = True
            if reply.status == 200:
                try:
                    if reply.body is None:
                        raise ValueError("the reply breaks off, or is not JSON")
                    scores = parse_scores(reply.body, settings.route, len(part), settings.aggregate)
                except ValueError as error:
                    reason = f"{client.shown}: {error}"
                    continue
                self._has_scored = True
                return scores
            reason = f"{client.shown} answers with status {reply.status}: {reply.message}"
            if reply.status in (400, 401, 403, 404, 405, 413, 422):
                self._check_refusal(reply, reason)
                return _Failed(reason, split=True)
            wait_s = max(wait_s, min(MAX_WAIT_S, retry_after_s(reply.headers) or 0.0))
        if not reached:
            raise EngineUnavailable(reason, hint="start the reward model's server and run again; nothing is lost")
        if on_retry is not None:
            on_retry(Failure("EngineUnavailable", reason, retryable=True), None)
        return _Failed(reason)

    def _check_refusal(self, reply: Reply, reason: str) -> None:
        """Raise if the user must change something: the next response would be refused as well."""
        if reply.status in (401, 403):
            raise AuthError(reason, hint=f"set {KEY_VARIABLE}", status=reply.status)
        route, model = self._settings.route, self._settings.model
        if reply.status in (404, 405):
            other_route = next(name for name in ("classify", "pooling") if name != route)
            raise SetupError(
                f"{reason}: check that it serves {model or 'a reward model'}, or use route={other_route!r}"
            )
        if not self._has_scored and reply.status != 413 and not is_overflow(reply.body, reply.text):
            raise SetupError(f"{reason}: check that this is a reward model and route={route!r} the right one")

    def _body(self, part: Sequence[Item]) -> dict[str, Json]:
        body = self._model_field()
        # a probability near 1 is rounded to 1, and the best responses would tie: the raw number is asked for
        body["use_activation"] = self._settings.aggregate is not None
        if self._settings.route == "score":
            prompts = ["\n\n".join(m.content for m in messages) for messages, _ in part]
            return {**body, "text_1": prompts, "text_2": [text for _, text in part]}
        (item,) = part
        return {**body, "messages": _chat(*item)}

    def _model_field(self) -> dict[str, Json]:
        return {} if self._settings.model is None else {"model": self._settings.model}

    async def _count(self, client: Client, item: Item) -> int:
        """Return the tokens of a response with its question, or an upper bound."""
        chat = _chat(*item)
        if self._has_tokenizer:
            text = {"prompt": "\n".join(m["content"] for m in chat)}
            prompt = text if self._settings.route == "score" else {"messages": chat, "add_generation_prompt": False}
            for _ in range(2):
                try:
                    reply = await client.post("tokenize", {**prompt, **self._model_field()})
                    if reply.status == 200:
                        return len(parse_token_ids(reply.body))
                    if reply.status in (404, 405):
                        self._has_tokenizer = False
                        break
                except (EngineError, ValueError):
                    continue
        return sum(len(m["content"].encode(errors="replace")) + PER_MESSAGE for m in chat)


def _chat(messages: tuple[Message, ...], response: str) -> list[dict[str, str]]:
    """Return the conversation with the response, which continues a final assistant message."""
    chat = [{"role": m.role, "content": m.content} for m in messages]
    if chat and chat[-1]["role"] == "assistant":
        chat[-1]["content"] += response
    else:
        chat.append({"role": "assistant", "content": response})
    return chat


def _evict(cache: dict[Item, T]) -> None:
    """Drop the oldest entries of a full cache."""
    while len(cache) > MAX_CACHED:
        del cache[next(iter(cache))]
