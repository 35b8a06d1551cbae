"""A request as a run: which recipe on which engine, with what limits, and what comes of it.

All requests share the engines and the store. A run that was not answered, as its client left, it failed or its time was
up, is remembered for ten minutes: an identical request from the same key has the same keys for its draws, so those that
the store holds are not paid again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from samplewise.core.errors import EngineError, SamplewiseError, SetupError, StoreError, Unsupported, UsageError
from samplewise.core.events import Arrived, Event
from samplewise.core.registry import build
from samplewise.core.spec import Spec
from samplewise.core.types import Failure, Generate, Question, Reader, Usage
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.keys import run_key
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.loop.threads import in_thread
from samplewise.recipe import Recipe, Stages, from_stages
from samplewise.serve.names import DEFAULT_PRESETS, check_free, split_name, stages_of
from samplewise.serve.replies import Answer, FinalChoice, evidence_of, ranked_positions
from samplewise.serve.upstreams import Upstream
from samplewise.serve.wire import Call, DrawFields, RequestError
from samplewise.store.database import Store
from samplewise.verify.auto import read_auto

PLAIN = "plain"  # the recipe label of a model without a strategy
CUSTOM = "custom"  # of a recipe that a client wrote
NEUTRAL_DRAW = DrawFields(temperature=1.0, top_p=1.0, top_k=0, min_p=0.0)
COMPLETIONS_MAX_TOKENS = 16  # of the older route, by its API
GRACE_S = 30.0  # that reading and scoring may take after the deadline of the draws
MAX_REMEMBERED, MAX_RECIPES = 1000, 256


class AccessPolicy(Protocol):
    """What a key may do."""

    @property
    def name(self) -> str: ...

    @property
    def recipes(self) -> str: ...


class Allowance(Protocol):
    """What one running request may spend at most, None without a limit, and where it says what it has spent."""

    tokens: int | None
    usd: float | None

    def spend(self, tokens: int, usd: float = 0.0) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """How requests are served.

    `presets` maps names to recipe lines. A request whose fields a recipe cannot honour gets a plain draw
    (`aside="plain"`) or status 400 ("refuse"); so does one that asks for fewer than `plain_below` tokens, such as a
    title for a chat. `max_tokens` is the limit of a draw where nobody names one, `seconds` that of a request.
    `heartbeat_s` is the time between two signs of life, `quiet_s` that before the first one of a reply that is not
    streamed, None for none. An unfinished run is remembered for `resume_s`.
    """

    presets: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_PRESETS))
    aside: Literal["plain", "refuse"] = "plain"
    plain_below: int = 0
    max_tokens: int = 2048
    seconds: float = 600.0
    heartbeat_s: float = 5.0
    quiet_s: float | None = 15.0
    resume_s: float = 600.0


class Plan(NamedTuple):
    """What is run for a request. `aside` names the field for which the recipe stepped aside."""

    upstream: Upstream
    recipe: Recipe
    label: str  # the preset's name, PLAIN or CUSTOM
    read: Reader
    aside: str | None = None

    @property
    def verifier(self) -> str | None:
        """The verifier that the selector chooses by."""
        return next(iter(self.recipe.selector.verifiers), None)


class RunName(NamedTuple):
    """A run's name, and the number that its randomness comes from."""

    id: str
    entropy: int
    is_resumed: bool = False


class Unfinished:
    """Runs that were not answered, by what was asked and by whom. `now` is any clock in seconds."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._now = seconds, now
        self._runs: OrderedDict[bytes, list[tuple[float, RunName]]] = OrderedDict()

    def put(self, asked: bytes, run: RunName) -> None:
        """Remember a run."""
        self._runs.setdefault(asked, []).append((self._now() + self._seconds, run))
        self._runs.move_to_end(asked)
        if len(self._runs) > MAX_REMEMBERED:
            self._runs.popitem(last=False)

    def take(self, asked: bytes) -> RunName | None:
        """Return the run that goes on for this request, and forget it; None if there is none."""
        waiting = [(until, run) for until, run in self._runs.pop(asked, []) if until > self._now()]
        if not waiting:
            return None
        (_, run), *others = waiting
        if others:
            self._runs[asked] = others
        return run._replace(is_resumed=True)


def fingerprint(name: str, route: str, body: bytes) -> bytes:
    """Return what tells requests apart: who asks, where, and the body byte by byte."""
    return hashlib.sha256(b"\0".join([name.encode(), route.encode(), body])).digest()


class Job:
    """One request on its way. Setting `cancel` ends its run: what is in flight is given up."""

    def __init__(
        self, call: Call, plan: Plan, run: RunName, policy: AccessPolicy, *, asked: bytes = b"", deadline: float
    ) -> None:
        self.call, self.plan, self.run, self.policy = call, plan, run, policy
        self.asked, self.deadline = asked, deadline
        self.created = int(time.time())
        self.cancel = asyncio.Event()
        self.admitted = asyncio.Event()  # a slot was free
        self.result: Result | None = None
        self.paid = Usage()  # so far
        self.failure: Failure | None = None  # of the last request that failed
        self.num_arrived = 0
        self.is_answered = False  # to the last byte

    @property
    def id(self) -> str:
        """The reply's id."""
        return f"{'chatcmpl' if self.call.route == 'chat' else 'cmpl'}-{self.run.id}"

    def head(self) -> Answer:
        """Return an answer without choices, from which the head of a chunk is made."""
        return Answer(self.id, self.created, self.call.model, (), Usage(), {})

    def note(self, event: Event) -> None:
        """Take an event of the run."""
        if not isinstance(event, Arrived):
            return
        self.num_arrived += event.failure is None
        if event.source != "store":
            self.paid = self.paid.plus(event.usage)
        if event.failure is not None:
            self.failure = event.failure


class Jobs:
    """Makes jobs of requests, and runs them."""

    def __init__(
        self,
        upstreams: Sequence[Upstream],
        settings: ServeSettings | None = None,
        store: Store | None = None,
        *,
        new_entropy: Callable[[], int] = lambda: secrets.randbits(64),
    ) -> None:
        """Take the engines and the open store. Raises UsageError where two models have one name, or there is none."""
        self.settings = settings or ServeSettings()
        self.upstreams = {upstream.name: upstream for upstream in upstreams}
        if not upstreams or len(self.upstreams) < len(upstreams):
            raise UsageError("give each model that is served a name of its own, and at least one")
        self._store, self._new_entropy = store, new_entropy
        self._recipes: OrderedDict[str, Recipe] = OrderedDict()
        self._unfinished = Unfinished(self.settings.resume_s)

    # --- what is run --------------------------------------------------------------------------------------------------

    async def plan(self, call: Call, is_free: bool) -> Plan:
        """Return what is run for a request. `is_free`: it may name a recipe of its own. Raises RequestError."""
        settings = self.settings
        upstream, stages, label = self._stages(call, is_free)
        max_tokens = self._max_tokens(call, upstream)
        aside = unhonored_field(call, stages, settings.plain_below) if label != PLAIN else None
        if aside is None:
            recipe = await self._recipe(with_request(stages, call, max_tokens))
            aside = None if _keeps_temperature(recipe, call.fields) else "temperature"
        if aside is not None:
            if settings.aside == "refuse":
                raise RequestError(f"{stages.line} cannot honour {aside}", param=aside, code="unsupported_parameter")
            label = PLAIN
            recipe = await self._recipe(with_request(plain_stages(call.n), call, max_tokens))
        if call.passed and upstream.variants is None:
            name = next(iter(call.passed))
            raise RequestError(
                f"{name} cannot be honoured: {upstream.name} is no endpoint that it could be passed to",
                param=name,
                code="unsupported_parameter",
            )
        return Plan(upstream, recipe, label, self._reader(call), aside)

    def _stages(self, call: Call, is_free: bool) -> tuple[Upstream, Stages, str]:
        presets, wishes = self.settings.presets, call.wishes
        name = split_name(call.model, self.upstreams, presets)
        upstream = self.upstreams.get(name.model)
        if upstream is None:
            raise self._no_model(call.model, name.model)
        text = wishes.recipe if wishes.recipe is not None else name.recipe
        param = "samplewise.recipe" if wishes.recipe is not None else "model"
        if text in presets:
            label, stages = str(text), stages_of(presets[str(text)])
        elif text is None:
            label, stages = PLAIN, plain_stages(call.n)
        else:
            label, stages = CUSTOM, self._custom(text, param, is_free)
        if wishes.draws is not None:
            if not is_free:
                raise _not_free("X-ITS-Budget")
            if label == PLAIN:
                label, stages = CUSTOM, stages_of(f"repeat({wishes.draws}) | vote")
            elif stages.sampler.name != "repeat":
                raise RequestError(f"{stages.sampler} has no number of draws to set", param="X-ITS-Budget")
            stages = with_draws(stages, wishes.draws)
        return upstream, stages, label

    def _custom(self, text: str, param: str, is_free: bool) -> Stages:
        if not is_free:
            raise _not_free(param)
        try:
            stages = stages_of(text)
        except SamplewiseError as error:
            raise RequestError(str(error), param=param, code="invalid_recipe") from None
        check_free(stages)
        return stages

    def _no_model(self, whole: str, model: str) -> RequestError:
        known = ", ".join(self.upstreams)
        hint = ""
        left, at, right = whole.partition("@")
        if at and right.strip() in self.upstreams:
            try:
                stages_of(left.strip())
            except SamplewiseError as error:
                hint = f" ({error})"
        return RequestError(
            f"no model is called {model!r}{hint}; there are {known}, and RECIPE@MODEL",
            status=404,
            param="model",
            code="model_not_found",
        )

    def _max_tokens(self, call: Call, upstream: Upstream) -> int:
        if call.fields.max_tokens is not None:
            return call.fields.max_tokens
        if call.route == "completions":
            return COMPLETIONS_MAX_TOKENS
        return upstream.engine.default_max_tokens or self.settings.max_tokens

    async def _recipe(self, stages: Stages) -> Recipe:
        """Return the recipe of stages, built once: a reward model is loaded with it, so in a thread."""
        line = stages.line
        if line not in self._recipes:
            try:
                self._recipes[line] = await in_thread(from_stages, stages)
            except SamplewiseError as error:
                raise RequestError(str(error), param="model", code="invalid_recipe") from None
            if len(self._recipes) > MAX_RECIPES:
                self._recipes.popitem(last=False)
        else:
            self._recipes.move_to_end(line)
        return self._recipes[line]

    def _reader(self, call: Call) -> Reader:
        if call.wishes.read is not None:
            try:
                reader: Reader = build("reader", call.wishes.read)
            except SamplewiseError as error:
                raise RequestError(str(error), param="samplewise.read") from None
            return reader
        return read_canonical_json if "response_format" in call.passed else read_auto

    # --- running it ---------------------------------------------------------------------------------------------------

    async def start(self, call: Call, body: bytes, policy: AccessPolicy, deadline: float) -> Job:
        """Return the job of a request. `deadline` is on the monotonic clock. Raises RequestError."""
        plan = await self.plan(call, policy.recipes == "free")
        asked = fingerprint(policy.name, call.route, body)
        run = self._unfinished.take(asked) if self._store is not None else None
        if run is None:
            entropy = self._new_entropy()
            run = RunName(f"{entropy:016x}", entropy)
        return Job(call, plan, run, policy, asked=asked, deadline=deadline)

    async def answer(self, job: Job, allowance: Allowance | None = None) -> Answer:
        """Run a job and return its answer. Raises RequestError. What was paid is told to `allowance`."""
        try:
            async with asyncio.timeout(max(0.0, job.deadline - time.monotonic()) + GRACE_S):
                result = await self._run(job, allowance)
        except TimeoutError:
            message = "the answer could not be read and scored in time"
            raise RequestError(message, status=504, code="timeout", retry=False) from None
        except SamplewiseError as error:
            raise run_error(error, job.paid) from None
        finally:
            if job.result is None and allowance is not None and not job.cancel.is_set():
                allowance.spend(job.paid.tokens, job.paid.usd)
        if not result.pool.candidates:
            raise _no_candidate(job, result)
        return make_answer(job, result)

    async def _run(self, job: Job, allowance: Allowance | None) -> Result:
        call, plan = job.call, job.plan
        tokens, usd = (None, None) if allowance is None else (allowance.tokens, allowance.usd)
        limits = call.wishes.limits
        budget = Budget(
            tokens=_least(tokens, limits.tokens),
            usd=_least(usd, limits.usd),
            seconds=max(0.0, job.deadline - time.monotonic()),
        )
        entropy = job.run.entropy if call.seed is None else call.seed % (1 << 64)
        key = run_key(entropy).fold("serve", job.policy.name)
        async with plan.upstream.lend(call.passed) as engine:
            context = RunContext(engine, self._store, budget, job.note, job.cancel, plan.upstream.trial)
            job.result = result = await run_question(asked_question(call), plan.recipe, context, key, read=plan.read)
        job.paid = result.paid
        if allowance is not None:
            allowance.spend(result.paid.tokens, result.paid.usd)
        return result

    async def close_engines(self) -> None:
        """Close all engines, when nothing runs any more."""
        for upstream in self.upstreams.values():
            await upstream.close()

    def close(self, job: Job) -> None:
        """Note that a job has ended: a run that was not answered, or not to its end, is remembered."""
        is_cut = job.result is not None and job.result.stop.reason in ("budget", "cancelled")
        if self._store is not None and (not job.is_answered or is_cut) and job.num_arrived:
            self._unfinished.put(job.asked, job.run)


# --- pure parts -------------------------------------------------------------------------------------------------------


def plain_stages(n: int) -> Stages:
    """Return the stages of a plain model: n draws, the first of which is the answer."""
    return Stages(None, Spec("repeat", (n,)), None, Spec("first"))


def num_draws(stages: Stages) -> int | None:
    """Return the number of draws of `repeat`, None for another sampler."""
    if stages.sampler.name != "repeat":
        return None
    num = stages.sampler.args[0] if stages.sampler.args else dict(stages.sampler.kwargs).get("num_samples")
    return num if isinstance(num, int) else None


def with_draws(stages: Stages, num: int) -> Stages:
    """Return stages of `repeat` with this number of draws."""
    kwargs = tuple((key, value) for key, value in stages.sampler.kwargs if key != "num_samples")
    return stages._replace(sampler=stages.sampler._replace(args=(num, *stages.sampler.args[1:]), kwargs=kwargs))


def unhonored_field(call: Call, stages: Stages, plain_below: int = 0) -> str | None:
    """Return the field for which a recipe must step aside, None if it can honour all of them.

    Only `repeat` draws as the fields say. Other samplers set their own temperatures, as that is what they are. Greedy
    draws are copies of one another, so there is nothing to choose among.
    """
    fields = call.fields
    if fields.max_tokens is not None and fields.max_tokens < plain_below:
        return "max_tokens"
    if fields.temperature == 0 and num_draws(stages) != 1:
        return "temperature"
    if stages.sampler.name == "repeat":
        return None
    if call.logprobs is not None:
        return "logprobs"
    for name in ("temperature", "top_p", "top_k", "min_p", "stop"):
        value = getattr(fields, name)
        if value not in (None, getattr(NEUTRAL_DRAW, name)):
            return name
    return None


def with_request(stages: Stages, call: Call, max_tokens: int) -> Stages:
    """Return the stages with the request's fields: how `repeat` draws, the limit of a draw, at least n draws.

    A limit in the recipe and one in the request both hold.
    """
    settings = dict(stages.sampler.kwargs)
    named = settings.get("max_tokens")
    if not isinstance(named, int):
        settings["max_tokens"] = max_tokens
    elif call.fields.max_tokens is not None:
        settings["max_tokens"] = min(named, call.fields.max_tokens)
    if stages.sampler.name == "repeat":
        for name in ("temperature", "top_p", "top_k", "min_p", "stop"):
            if (value := getattr(call.fields, name)) not in (None, ()):
                settings[name] = value
        if call.logprobs is not None and call.logprobs > 0:
            settings["top"] = True
    changed = stages._replace(sampler=stages.sampler._replace(kwargs=tuple(settings.items())))
    num = num_draws(changed)
    return with_draws(changed, call.n) if num is not None and num < call.n else changed


def _keeps_temperature(recipe: Recipe, fields: DrawFields) -> bool:
    """Return whether the draws have the temperature asked for; arms such as `ladder` set their own."""
    if fields.temperature is None or recipe.stages.vary is None:
        return True
    return all(sampling.temperature == fields.temperature for sampling in recipe.samplings)


def asked_question(call: Call) -> Question:
    """Return what is asked, its id made of its text."""
    digest = hashlib.blake2b(repr(call.messages).encode(), digest_size=8).hexdigest()
    return Question(digest, call.messages)


def read_canonical_json(question: Question, text: str) -> str | None:
    """Return a JSON text in one canonical form, so that equal objects are one answer; None if it is not JSON."""
    try:
        return json.dumps(json.loads(text), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        return None


def make_answer(job: Job, result: Result) -> Answer:
    """Return the answer that a result gives to a request."""
    call, plan = job.call, job.plan
    positions = ranked_positions(
        result.pool, result.answers, result.selection, call.n, verifier=plan.verifier, in_order=plan.label == PLAIN
    )
    is_cut = result.stop.reason == "budget"
    choices = []
    for position in positions:
        drawn = result.pool.candidates[position]
        finish = "length" if is_cut or drawn.finish == "length" else "stop"
        choices.append(FinalChoice(drawn.text, finish, drawn.reasoning))
    evidence = evidence_of(
        result,
        run=job.run.id,
        recipe=plan.recipe.line,
        returned=call.wishes.returned,
        verifier=plan.verifier,
        aside=plan.aside,
        resumed=job.run.is_resumed or None,
        missing_choices=call.n - len(choices) or None,
    )
    return Answer(job.id, job.created, call.model, tuple(choices), result.bill.total, evidence)


def run_error(error: SamplewiseError, paid: Usage) -> RequestError:
    """Return what a client is answered when a run raised. After tokens were paid it is not to try again by itself."""
    retry = False if paid.tokens else None
    if isinstance(error, Unsupported | UsageError):
        return RequestError(str(error), param="model", code="unsupported_recipe", retry=retry)
    if isinstance(error, EngineError | StoreError):
        return RequestError(str(error), status=503, code="engine_unavailable", retry=retry)
    assert isinstance(error, SamplewiseError)
    message = str(error) if isinstance(error, SetupError) else "the run failed"
    return RequestError(message, status=502, code="engine_misconfigured", retry=False)


FAILURES: Mapping[str, tuple[int, str]] = {
    "BadRequest": (400, "engine_refused"),
    "ContextOverflow": (400, "context_length_exceeded"),
    "RateLimited": (429, "rate_limit_exceeded"),
    "AuthError": (502, "engine_misconfigured"),
    "EngineTimeout": (504, "timeout"),
    "EngineUnavailable": (502, "engine_unavailable"),
}


def _no_candidate(job: Job, result: Result) -> RequestError:
    """Return why a run has no candidate."""
    retry = False if result.paid.tokens else None
    if job.failure is not None and result.stop.reason != "budget":
        status, code = FAILURES.get(job.failure.kind, (502, "engine_unavailable"))
        param = "messages" if code == "context_length_exceeded" else None
        wait_s = job.failure.retry_after_s if status == 429 else None
        return RequestError(
            job.failure.message, status=status, code=code, param=param, retry=retry, retry_after_s=wait_s
        )
    if time.monotonic() >= job.deadline:
        return RequestError("no response was drawn in time", status=504, code="timeout", retry=False)
    if result.stop.reason == "budget":
        least = job.plan.upstream.engine.worst_case(Generate(job.call.messages, max_tokens=_limit_of(job.plan.recipe)))
        message = f"the budget does not admit a draw, which may cost {least.tokens:,} tokens: give a smaller max_tokens"
        return RequestError(message, param="max_tokens", code="budget_too_small")
    return RequestError("no response was drawn", status=502, code="engine_unavailable", retry=retry)


def _limit_of(recipe: Recipe) -> int:
    return int(dict(recipe.stages.sampler.kwargs).get("max_tokens", 0))


def _not_free(param: str) -> RequestError:
    message = "this key may use plain models and the presets that GET /v1/models lists, not recipes of its own"
    return RequestError(message, status=403, param=param, code="recipe_not_allowed")


def _least(*limits: Any) -> Any:
    """Return the least of the limits that there are."""
    return min((limit for limit in limits if limit is not None), default=None)
