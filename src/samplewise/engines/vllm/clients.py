"""The two forms of vLLM's engine behind one protocol: in a process of its own, and in a thread of this one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

from samplewise.core.errors import EngineUnavailable

T = TypeVar("T")


class EngineClient(Protocol):
    """What the engine needs of vLLM."""

    async def generate(self, ids: list[int], params: Any, request_id: str) -> Any:
        """Return the final output of a request. Cancelling the call aborts the request."""
        ...

    async def call(self, method: str, *args: Any) -> Any:
        """Call a method of the worker by name, and return what the first worker returns."""
        ...

    async def hold(self, seconds: float) -> None:
        """See to it that what is asked for at once from here on begins in one step.

        Where it takes time until requests come in, no step begins for so many seconds."""
        ...

    async def close(self) -> None: ...


class ProcessClient:
    """`AsyncLLM`: the engine core is a process of its own. Made inside a running event loop."""

    _resuming: asyncio.Task[None] | None = None

    def __init__(self, options: dict[str, Any]) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**options))

    async def generate(self, ids: list[int], params: Any, request_id: str) -> Any:
        stream = self._engine.generate({"prompt_token_ids": ids}, params, request_id)
        output = None
        async for output in stream:  # noqa: B007
            pass
        return output

    async def call(self, method: str, *args: Any) -> Any:
        return (await self._engine.collective_rpc(method, args=args))[0]

    async def hold(self, seconds: float) -> None:
        if self._resuming is not None:
            await self._resuming
        await self._engine.pause_generation(mode="keep", clear_cache=False)
        self._resuming = asyncio.create_task(self._resume(seconds))

    async def _resume(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._engine.resume_generation()

    async def close(self) -> None:
        self._engine.shutdown()


class ServedClient(ProcessClient):
    """The `AsyncLLM` of vLLM's server, which closes it itself."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    async def close(self) -> None:
        """The server's own requests go on."""


class _Request(NamedTuple):
    ids: list[int]
    params: Any
    request_id: str
    output: asyncio.Future[Any]


class ThreadClient:
    """`LLMEngine` in a thread of this process. What is asked for before a step joins with it."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="vllm")
        self._new: list[_Request] = []
        self._aborted: list[str] = []
        self._requests: dict[str, _Request] = {}
        self._running: asyncio.Task[None] | None = None
        self._engine: Any = self._thread.submit(self._start, options).result()

    @staticmethod
    def _start(options: dict[str, Any]) -> Any:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # vLLM takes this from nowhere else
        from vllm import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        return LLMEngine.from_engine_args(EngineArgs(**options))

    async def generate(self, ids: list[int], params: Any, request_id: str) -> Any:
        request = _Request(ids, params, request_id, asyncio.get_running_loop().create_future())
        self._new.append(request)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            return await request.output
        except asyncio.CancelledError:
            self._aborted.append(request_id)
            raise

    async def call(self, method: str, *args: Any) -> Any:
        def rpc() -> Any:
            return self._engine.collective_rpc(method, args=args)[0]

        return await self._on_thread(rpc)

    async def hold(self, seconds: float) -> None:
        """Do nothing: requests are added between steps, all that there are."""

    async def _on_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _run(self) -> None:
        """Step while there are requests."""
        while self._new or self._requests or self._aborted:
            new, self._new = self._new, []
            aborted, self._aborted = self._aborted, []
            self._requests.update((request.request_id, request) for request in new)
            try:
                outputs = await self._on_thread(lambda: list(self._step(new, aborted)))  # noqa: B023
            except Exception as error:  # the engine cannot go on
                self._fail(error)
                return
            for request_id in aborted:
                self._requests.pop(request_id, None)
            for request_id, output in outputs:
                if (ended := self._requests.pop(request_id, None)) is None or ended.output.done():
                    continue
                if isinstance(output, Exception):
                    ended.output.set_exception(output)
                else:
                    ended.output.set_result(output)

    def _fail(self, error: Exception) -> None:
        for request in [*self._requests.values(), *self._new]:
            if not request.output.done():
                request.output.set_exception(error)
        self._requests.clear()
        self._new = []

    def _step(self, new: list[_Request], aborted: list[str]) -> Iterator[tuple[str, Any]]:
        for request in new:
            try:
                self._engine.add_request(request.request_id, {"prompt_token_ids": request.ids}, request.params)
            except ValueError as error:
                yield request.request_id, error
        if aborted:
            self._engine.abort_request(aborted)
        if self._engine.has_unfinished_requests():
            yield from ((output.request_id, output) for output in self._engine.step() if output.finished)

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
        self._fail(EngineUnavailable("the engine was closed"))
        await self._on_thread(self._end)
        self._thread.shutdown()

    def _end(self) -> None:
        self._engine.engine_core.shutdown()
        del self._engine
