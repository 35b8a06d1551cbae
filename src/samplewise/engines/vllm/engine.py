"""The engine over vLLM: asks become requests, and what was drawn becomes completions.

A plain draw is vLLM's own: its sampler, its kernels, its log-probs. A draw is guided, so that the bridge in the worker
(bridge.py) draws it, where vLLM's sampler cannot do what the ask says or tell what it wants: log-probs under the
distribution drawn from, log Z, certainty, a rejection bound, a forbidden first token, exploration; filters that vLLM
applies one after the other; and temperatures that it rounds. A guided draw has the tokens that the local engine draws,
up to the rounding of logits.

What guided draws need of vLLM's internals is checked when the engine opens. Where it is missing, only plain draws are
left, and the notes say why.

Cost: a request each. `Usage` counts the prompt in full even where vLLM had it cached, as the local engine does.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import os
import string
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import vllm
from vllm import AsyncEngineArgs, SamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from samplewise.core.errors import BadRequest, ContextOverflow, EngineError, EngineUnavailable, SetupError
from samplewise.core.types import (
    Ask,
    Capability,
    Completion,
    Finish,
    Generate,
    Json,
    Likelihood,
    Sampling,
    Usage,
)
from samplewise.engines.base import GROUP_SCOPE, REASONING_MAX_TOKENS, Arrival, Engine, failed, joins_group
from samplewise.engines.local.exploring import too_few
from samplewise.engines.local.language import Language, checked_language
from samplewise.engines.local.prepared import (
    PreparedAsk,
    RowDraw,
    Shown,
    explore_settings,
    num_new,
    prepare,
    response,
    token_ids,
)
from samplewise.models.loading import CheckpointText, load_checkpoint_text

from .bridge import unfit
from .clients import EngineClient, ProcessClient, ThreadClient
from .guided import DESCRIBE, DROP, HELD, TAKE, GuidedDraw, RowRecord, encode_draw, guided_draw
from .meeting import MAX_TRIES, Meeting, Room, meeting_groups
from .versions import TESTED, version_note, version_refusal

WORKER = "samplewise.engines.vllm.worker.BridgedWorker"
PROCESSOR = "samplewise.engines.vllm.processor:GuidedProcessor"
OURS = "samplewise"
COLDEST = 0.01  # vLLM draws no colder than this, other than greedily
GUIDED = frozenset({Capability.LOGQ, Capability.LOGZ, Capability.CERTAINTY})
# Options that change how fast a model runs, and not what it draws.
NEUTRAL = frozenset(
    {
        *(
            "async_scheduling",
            "block_size",
            "compilation_config",
            "disable_log_stats",
            "dtype",
            "enforce_eager",
            "seed",
        ),
        *("enable_chunked_prefill", "enable_prefix_caching", "gpu_memory_utilization", "num_gpu_blocks_override"),
        *("max_model_len", "max_num_batched_tokens", "max_num_seqs"),
        *("data_parallel_size", "pipeline_parallel_size", "tensor_parallel_size"),
    }
)


class _Requested(NamedTuple):
    """An ask as vLLM gets it."""

    params: Any
    draw: GuidedDraw | None = None  # None: vLLM's own sampler draws


class Vllm(Engine):
    """A causal model that vLLM runs. Made by `vllm(...)`; it starts when it is opened."""

    def __init__(
        self,
        source: str,
        options: Mapping[str, Json],
        *,
        in_process: bool = False,
        seeded: bool = True,
        template: Mapping[str, Json] | None = None,
        text: CheckpointText | None = None,
    ) -> None:
        """`text` is the checkpoint's, where it has been loaded already."""
        self.text = load_checkpoint_text(source) if text is None else text
        self.name = f"vllm({self.text.name})"
        self._seeded, self._in_process, self._template = seeded, in_process, dict(template or {})
        self._user_options = dict(options)
        self._lacks = why_plain(options)  # why no draw can be guided, "" if they can
        self._options = engine_options(self.text.source, options, not self._lacks)
        self._set_identity(str(self._options["dtype"]), current_platform.device_type)
        self._language = checked_language(Language(self.text.tokenizer, self.text.vocab_size, template))
        self._client: EngineClient | None = None
        self._facts: dict[str, Any] = {}
        self._taking: dict[str, asyncio.Future[RowRecord | None]] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._num_requests = self._num_meetings = 0
        self._room = Room(self.max_concurrency)

    def _set_identity(self, dtype: str, device: str) -> None:
        chosen = {name: value for name, value in self._user_options.items() if name not in NEUTRAL}
        settings = {**({"template": self._template} if self._template else {}), **chosen}
        self.identity = f"vllm:{self.text.name}:{self.text.digest}:{dtype}:{device}"
        self.identity += f"?{json.dumps(settings, sort_keys=True, default=str)}" if settings else ""

    # ------------------------------------------------------------------------------------------------- what it can do

    async def open(self) -> None:
        """Start vLLM: a few seconds in process, up to a minute or more otherwise. Raises SetupError in one line."""
        if self._client is not None:
            return
        try:
            self._client = self._start()
        except Exception as error:  # vLLM and what it loads raise anything
            raise SetupError(f"vLLM cannot run {self.text.name}: {_line(error)}") from error
        if not self._lacks:
            self._facts = await self._client.call(DESCRIBE)
            self._lacks = self._facts["lacks"]
            self._set_identity(self._facts["dtype"], self._facts["device"].partition(":")[0])
            self.max_concurrency = self._facts["max_num_seqs"]
            self._room = Room(self.max_concurrency)
        if self._language.reasons:
            self.default_max_tokens = min(REASONING_MAX_TOKENS, self._max_context or REASONING_MAX_TOKENS)

    def _start(self) -> EngineClient:
        return (ThreadClient if self._in_process else ProcessClient)(self._options)

    @property
    def _max_context(self) -> int | None:
        return self._facts.get("max_model_len", self._options.get("max_model_len"))

    @property
    def can(self) -> frozenset[Capability]:
        can = {Capability.GENERATE, Capability.TOKENS, Capability.LOGP, Capability.PREFIX, Capability.LIKELIHOOD}
        can |= {Capability.SEED} if self._seeded else set()
        if not self._lacks:
            can |= GUIDED
            can |= set() if self._why_not_explore() else {Capability.EXPLORE}
            can |= {Capability.REJECT_BELOW} if self.text.stops else set()
            can |= {Capability.SCORE_FIRST} if all(map(self._language.tokens_of, string.ascii_uppercase)) else set()
        return frozenset(can)

    def _why_not_explore(self) -> str:
        if self._lacks:
            return self._lacks
        if self._facts.get("async_scheduling"):
            return "exploring needs to know which rows have ended: leave out async_scheduling=True"
        return ""

    @property
    def notes(self) -> tuple[str, ...]:
        notes = [version_note(vllm.__version__)]
        notes += [f"only plain draws: {self._lacks}"] if self._lacks else []
        if not self._lacks and (why := self._why_not_explore()):
            notes.append(f"no exploring: {why}")
        if no_shallow := self._facts.get("no_shallow"):
            notes.append(f"no esamp: {no_shallow}")
        if self.default_max_tokens is not None:
            limit = f"a draw has {self.default_max_tokens:,} tokens unless the recipe says max_tokens"
            notes.append(f"its model reasons: {limit}")
        return tuple(note for note in notes if note)

    def runtime(self) -> Mapping[str, str]:
        facts = self._facts
        runner = f"model runner {facts['runner']}" if facts else "not known"
        return {
            "vLLM": vllm.__version__,
            "tested": "; ".join(f"{version}: {how}" for version, how in TESTED.items()),
            "runs": f"{runner}, {facts['dtype']} on {facts['device']}" if facts else runner,
            "engine core": self._where(),
            "guided draws": self._lacks or "yes: log q, log Z, certainty, rejection bounds, forbidden first tokens",
            "exploring": self._why_not_explore() or "yes",
            "states after the first block": facts.get("no_shallow", self._lacks) or "yes",
        }

    def _where(self) -> str:
        return "in a thread of this process" if self._in_process else "in a process of its own"

    @property
    def digest(self) -> str:
        return self.text.digest

    def worst_case(self, ask: Ask) -> Usage:
        try:
            num_prompt = len(self._language.prompt(ask.messages)) + len(token_ids(ask))
        except EngineError:  # it fails, at no cost
            num_prompt = 0
        num = num_new(ask, num_prompt, self._max_context) if isinstance(ask, Generate) else 0
        return Usage(1, num_prompt, num)

    def may_bill(self, ask: Ask) -> bool:
        """Return False: this machine computes, so nobody bills what it is not asked to finish."""
        return False

    # ------------------------------------------------------------------------------------------------------- answering

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        arrivals: asyncio.Queue[Arrival] = asyncio.Queue()
        running: dict[int, asyncio.Task[None]] = {}  # by position
        most, started = 2 * self.max_concurrency, 0
        groups = meeting_groups(asks)
        refused = {name: why for name, group in groups.items() if (why := self._no_meeting(group))}
        meetings = {}
        for name, group in groups.items():
            self._num_meetings += 1
            meetings[name] = Meeting(group[0], f"{self._num_meetings}{GROUP_SCOPE}{name}", self._room, self._hold)

        async def one(position: int) -> None:
            ask = asks[position]
            name = ask.group if isinstance(ask, Generate) else ""
            if name in refused:
                completion = failed(BadRequest(refused[name]))
            else:
                completion = await self._answer(ask, meetings.get(name) if name else None)
            del running[position]  # before the arrival, at which the loop below looks for a free place
            arrivals.put_nowait(Arrival(position, completion))

        try:
            for _ in range(len(asks)):
                while started < len(asks) and (len(running) < most or joins_group(asks, started)):
                    running[started] = asyncio.create_task(one(started))
                    started += 1
                yield await arrivals.get()
        finally:
            left = list(running.values())
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _answer(self, ask: Ask, meeting: Meeting | None) -> Completion:
        """Answer an ask. What fails is a completion."""
        if self._client is None:
            return failed(EngineUnavailable(f"{self.name} is not open"))
        job = prepare(ask, None, self._language, self._max_context)
        if isinstance(job, Completion):
            return job
        self._num_requests += 1
        request_id = f"{OURS}-{os.getpid()}-{id(self)}-{self._num_requests}"
        try:
            requested = self._requested(job, request_id)
            try:
                if meeting is not None and requested.draw is not None:
                    tokens = await self._draw_with_group(job, requested.draw, meeting)
                    record = await self._take(request_id)
                    return self._guided(job, tokens, record, meeting)
                output = await self._send(job.ids, requested.params, request_id)
                if requested.draw is None:
                    return self._plain(job, output)
                return self._guided(job, _tokens(output), await self._take(request_id))
            except BaseException:
                if requested.draw is not None:
                    self._later(self._drop(request_id))
                raise
        except EngineError as error:
            return failed(error)
        except ValueError as error:  # vLLM refuses the request
            kind = ContextOverflow if "context length" in str(error) or "max_model_len" in str(error) else BadRequest
            return failed(kind(f"vLLM refuses the request: {_line(error)}"))
        except Exception as error:
            kind_ = EngineUnavailable if "Dead" in type(error).__name__ else EngineError
            return failed(kind_(f"vLLM failed: {type(error).__name__}: {_line(error)}"))

    async def _send(self, ids: Sequence[int], params: Any, request_id: str, *, has_seat: bool = False) -> Any:
        """Return the output of a request."""
        assert self._client is not None
        if not has_seat:
            await self._room.enter()
        try:
            output = await self._client.generate(list(ids), params, request_id)
        finally:
            self._room.leave()
        if output is None:
            raise EngineUnavailable("vLLM gave a request up")
        if (reason := output.outputs[0].finish_reason) not in ("stop", "length"):
            raise EngineUnavailable(f"vLLM ended a request with {reason!r}")
        return output

    def _requested(self, job: PreparedAsk, request_id: str) -> _Requested:
        """Return the parameters of a request. Raises BadRequest for an ask that this engine cannot answer."""
        ask = job.ask
        if isinstance(ask, Likelihood):
            return _Requested(SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False))
        if not _is_guided(ask):
            temperature, top_k, top_p, min_p, _ = ask.sampling
            seed = {"seed": ask.seed} if self._seeded and temperature > 0 else {}
            sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
            return _Requested(self._params(ask.max_tokens, ask.stop, **sampling, **seed, logprobs=0))
        if why := self._refusal(ask):
            raise BadRequest(why)
        first = tuple(token for text in ask.score_first for token in self._language.tokens_of(text))
        end = self.text.stops[0] if self.text.stops else -1
        draw = guided_draw(ask, request_id, len(job.ids), end, first)
        return _Requested(self._guided_params(draw, ask.max_tokens, ask.stop), draw)

    def _guided_params(self, draw: GuidedDraw, max_tokens: int, stop: Sequence[str]) -> Any:
        return self._params(max_tokens, stop, temperature=1.0, extra_args=encode_draw(draw))

    def _params(self, max_tokens: int, stop: Sequence[str], **sampling: Any) -> Any:
        return SamplingParams(
            max_tokens=max_tokens,
            stop=list(stop) or None,
            stop_token_ids=list(self.text.stops),
            detokenize=bool(stop),
            output_kind=RequestOutputKind.FINAL_ONLY,
            **sampling,
        )

    # --------------------------------------------------------------------------------------------------------- meeting

    def _no_meeting(self, group: Sequence[Generate]) -> str:
        """Return why the draws of a group cannot wait for one another, "" if they can."""
        ask = group[0]
        if len(group) < ask.group_size:
            return too_few(ask, len(group))
        if len(group) > self.max_concurrency:
            most = f"max_num_seqs={self.max_concurrency} of them fit"
            return f"{len(group)} draws answer together, and {most}; raise it"
        return ""

    async def _hold(self, seconds: float) -> None:
        if self._client is not None:
            await self._client.hold(seconds)

    async def _draw_with_group(self, job: PreparedAsk, draw: GuidedDraw, meeting: Meeting) -> list[int]:
        """Return the tokens of a draw that waits for the others of its group where it comes to their cue."""
        assert isinstance(job.ask, Generate)
        tokens: list[int] = []
        num_sent = 0

        async def go_on(draw: GuidedDraw, upto: int, stop: Sequence[str] = ()) -> bool:
            """Draw on, to `upto` tokens at most. Return whether the draw has ended."""
            nonlocal num_sent
            num_sent += 1
            params = self._guided_params(draw, upto - len(tokens), stop)
            name = f"{draw.uid}-{num_sent}"
            tokens.extend(_tokens(await self._send((*job.ids, *tokens), params, name, has_seat=draw.members > 0)))
            return tokens[-1] in self.text.stops

        apart = draw._replace(explore="", group="", draw=0, group_size=0)
        latest = job.ask.max_tokens - meeting.tokens_after  # with more tokens it could not answer with the others
        is_there, is_over = False, False
        try:
            while not is_there and not is_over and len(tokens) < latest:
                is_over = await go_on(apart, latest, (meeting.cue,))
                is_there = not is_over and self._language.ends_in(tokens, meeting.cue)
        except BaseException:
            meeting.leave()
            raise
        if not is_there:
            meeting.leave()
            if not is_over:
                await go_on(apart, job.ask.max_tokens)
            return tokens
        try:
            await self._answer_together(draw, tokens, meeting, go_on)
        finally:
            meeting.leave()
        return tokens

    async def _answer_together(
        self, draw: GuidedDraw, tokens: list[int], meeting: Meeting, go_on: Callable[..., Coroutine[Any, Any, bool]]
    ) -> None:
        """Draw the answer with the others of the group, from where all of them have come to their cue."""
        assert self._client is not None
        upto, is_again = len(tokens) + meeting.tokens_after, False
        while True:
            members = await meeting.wait(again=is_again)
            if not members:
                name = draw.group.rpartition(GROUP_SCOPE)[2]
                raise BadRequest(
                    f"vLLM did not draw the answer of group {name!r} in step, though it was sent "
                    f"{MAX_TRIES} times: raise max_num_batched_tokens, leave prefix caching on, or draw fewer at once"
                )
            num_before = len(tokens)
            met = draw._replace(group=meeting.name, members=members, group_size=members, num_before=num_before)
            is_over = await go_on(met, upto)
            if not is_over or not await self._client.call(HELD, [draw.uid]):
                return
            tokens.pop()  # the end token that it was ended by
            is_again = len(tokens) == num_before

    # -------------------------------------------------------------------------------------------------------- what came

    def _refusal(self, ask: Generate) -> str:
        """Return why a guided ask cannot be answered, "" if it can."""
        if self._lacks:
            return f"{self.name} draws plainly only: {self._lacks}"
        if ask.reject_below is not None and not self.text.stops:
            return f"{self.name} cannot give a draft up: its model has no end token"
        if not ask.sampling.explore:
            return ""
        settings = explore_settings(ask.sampling.explore)
        if why := self._why_not_explore():
            return f"{self.name} cannot explore: {why}"
        if ask.stop:
            return "vLLM notices stop strings some tokens late, so draws that explore take none: leave out stop"
        if settings.meets_at and not self.text.stops:
            return f"explore={ask.sampling.explore} cannot wait here: its model has no end token"
        if why := unfit(ask.sampling.explore, met=True):
            return why
        if settings.reads_shallow and (why := self._facts["no_shallow"]):
            return f"explore={ask.sampling.explore} reads the states after the first block: {why}"
        return ""

    def _plain(self, job: PreparedAsk, output: Any) -> Completion:
        """Return the completion of a draw by vLLM's own sampler, or of a likelihood."""
        if isinstance(job.ask, Likelihood):
            return self._likelihood(job, job.ask, output)
        tokens = _tokens(output)
        logp = [line[token].logprob for line, token in zip(output.outputs[0].logprobs, tokens, strict=True)]
        return self._response(job, RowDraw(tokens, logp, logp, []))

    def _guided(
        self, job: PreparedAsk, tokens: list[int], record: RowRecord | None, meeting: Meeting | None = None
    ) -> Completion:
        """Return the completion of a guided draw that vLLM returned as `tokens`."""
        ask, num = job.ask, len(tokens)
        assert isinstance(ask, Generate)
        if record is None:
            raise EngineError("the worker does not know the draw: the bridge was not reached")
        explored = record.explored if meeting is None else meeting.report(num, record.explored)
        if record.error:
            return failed(BadRequest(record.error))._replace(explored=explored)
        named = [text for text in ask.score_first for _ in self._language.tokens_of(text)]
        first = tuple(zip(named, record.score_first, strict=False))
        statistics = [tuple(row) for row in record.statistics]
        drawn = RowDraw(record.tokens, record.logp, record.logq, statistics, first).upto(num)
        end = record.end if record.end and record.end_at == num - 1 else ""
        if drawn.tokens[: num - bool(end)] != tokens[: num - bool(end)]:
            raise EngineError("vLLM returned other tokens than were drawn; do not use this version with guided draws")
        if end == "broken":
            raise EngineError("the model gave a probability that is not a number")
        if end == "stuck":
            raise BadRequest(f"nothing but the forbidden first token {ask.forbid_first} can be drawn")
        if end:
            kept = drawn.upto(num - 1) if end == "doomed" else drawn
            return response(job, kept, Shown(kept.tokens), "rejected", self._language)
        completion = self._response(job, drawn)
        if explored is not None:
            if problem := explored["problem"]:
                completion = failed(EngineError(str(problem)))
            completion = completion._replace(explored=explored)
        return completion

    def _response(self, job: PreparedAsk, drawn: RowDraw) -> Completion:
        """Return the completion of a draw that ended by itself."""
        ask = job.ask
        assert isinstance(ask, Generate)
        is_ended = bool(drawn.tokens) and drawn.tokens[-1] in self.text.stops
        shown = drawn.tokens[:-1] if is_ended else drawn.tokens
        stop = self._language.find_stop(ask.prefix, shown, ask.stop) if ask.stop else -1
        finish: Finish = "stop" if is_ended or stop >= 0 else "length"
        return response(job, drawn, Shown(shown, stop), finish, self._language)

    def _likelihood(self, job: PreparedAsk, ask: Likelihood, output: Any) -> Completion:
        lines = output.prompt_logprobs[-len(ask.completion) :]
        logp = tuple(float(line[token].logprob) for line, token in zip(lines, ask.completion, strict=True))
        text = self._language.texts([[token for token in ask.completion if token not in self.text.stops]])[0]
        return Completion(text, "stop", Usage(1, len(job.ids)), ask.completion, logp, logp, math.fsum(logp))

    # ------------------------------------------------------------------------------------------------------ the worker

    async def _take(self, uid: str) -> RowRecord | None:
        """Return what was drawn for a request. Those that end together are fetched together."""
        if not self._taking:
            self._later(self._take_all())
        future = self._taking[uid] = asyncio.get_running_loop().create_future()
        record: RowRecord | None = await future
        return record

    async def _take_all(self) -> None:
        await asyncio.sleep(0)
        taking, self._taking = self._taking, {}
        assert self._client is not None
        try:
            records = await self._client.call(TAKE, list(taking))
        except Exception as error:
            for future in taking.values():
                if not future.done():
                    future.set_exception(error)
            return
        for uid, future in taking.items():
            if not future.done():
                future.set_result(RowRecord(**records[uid]) if uid in records else None)

    async def _drop(self, uid: str) -> None:
        if self._client is not None:
            with contextlib.suppress(Exception):  # the engine is gone, and its rows with it
                await self._client.call(DROP, [uid])

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def close(self) -> None:
        await asyncio.gather(*self._background, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.close()


def _tokens(output: Any) -> list[int]:
    return [int(token) for token in output.outputs[0].token_ids]


def _is_guided(ask: Generate) -> bool:
    """Return whether vLLM's own sampler cannot draw this ask, or tell what it wants."""
    wants = not {"logq", "logz", "certainty"}.isdisjoint(ask.want) or bool(ask.score_first)
    bounds = ask.reject_below is not None or ask.forbid_first is not None
    return wants or bounds or bool(ask.sampling.explore) or _is_other(ask.sampling)


def _is_other(sampling: Sampling) -> bool:
    """Return whether vLLM would draw from another distribution: it applies filters to what others have kept, and
    rounds low temperatures up."""
    num_filters = (sampling.top_k > 0) + (sampling.top_p < 1) + (sampling.min_p > 0)
    return (num_filters > 1 and sampling.top_p < 1) or 0 < sampling.temperature < COLDEST


def why_plain(options: Mapping[str, Json]) -> str:
    """Return why no draw can be guided with these options of vLLM, "" if they can."""
    if options.get("speculative_config"):
        return "vLLM takes no logits processors with speculative decoding: leave out speculative_config"
    for name in ("pipeline_parallel_size", "tensor_parallel_size", "data_parallel_size"):
        if options.get(name, 1) != 1:
            return f"one worker draws, and {name}={options[name]} has several: leave it out"
    if options.get("worker_cls", "auto") != "auto":
        return f"the worker has to be samplewise's own: leave out worker_cls={options['worker_cls']}"
    return version_refusal(vllm.__version__)


def engine_options(source: str, options: Mapping[str, Json], is_bridged: bool) -> dict[str, Any]:
    """Return vLLM's engine arguments. Raises SetupError for one that it does not know, or that hides log-probs."""
    known = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    if unknown := sorted(options.keys() - known):
        raise SetupError(f"vLLM {vllm.__version__} has no engine argument {unknown[0]!r}")
    if options.get("logprobs_mode", "raw_logprobs") != "raw_logprobs":
        raise SetupError("log-probs have to be the model's own: leave out logprobs_mode")
    defaults: dict[str, Any] = {
        "model": source,
        "seed": 0,
        "dtype": "float32" if current_platform.is_cpu() else "auto",
        "async_scheduling": False,
        "disable_log_stats": True,
    }
    merged = {**defaults, **options}
    if is_bridged:
        merged["worker_cls"] = WORKER
        merged["logits_processors"] = [*(options.get("logits_processors") or []), PROCESSOR]
        # Part of the key of vLLM's cache of compiled models: with the bridge a model has one output more.
        merged["additional_config"] = {**(options.get("additional_config") or {}), OURS: 1}
    return {name: value for name, value in merged.items() if name in known}


def _line(error: Exception) -> str:
    """Return what an error says in one line. Pydantic says it after a title and a field's name."""
    lines = [line.strip() for line in str(error).splitlines()]
    if len(lines) > 1 and "validation error" in lines[0]:
        shown = next((line for line in lines[1:] if " " in line), lines[0])
        return shown.partition(" [type=")[0].removeprefix("Value error, ")
    return next(iter(lines), "") or type(error).__name__
