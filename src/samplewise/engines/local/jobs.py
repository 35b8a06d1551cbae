"""An ask on its way through the engine: what is checked before it costs anything, and how its completion is made."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from samplewise.engines.base import failed
from samplewise.engines.law import check_exponents
from samplewise.errors import BadRequest, ContextOverflow, EngineError, EngineUnavailable, SamplewiseError
from samplewise.explore.settings import Settings
from samplewise.spec import build
from samplewise.types import Ask, Completion, Finish, Generate, Likelihood, Sampling, Usage

from .language import Language


class Job(NamedTuple):
    """An ask with the ids that it begins from: prompt and prefix, or prompt and completion."""

    ask: Ask
    ids: tuple[int, ...]
    tag: Any  # given back with the completion


class Done(NamedTuple):
    tag: Any
    completion: Completion


class Drawn(NamedTuple):
    """What a row drew, in numbers of Python."""

    tokens: list[int]
    logp: list[float]
    logq: list[float]
    marks: list[tuple[float, ...]]  # certainty and log Z of each token, where they were wanted

    def upto(self, num: int) -> Drawn:
        """The first `num` tokens."""
        return Drawn(self.tokens[:num], self.logp[:num], self.logq[:num], self.marks[:num])


def given(ask: Ask) -> tuple[int, ...]:
    """The token ids that an ask brings along."""
    return ask.prefix if isinstance(ask, Generate) else ask.completion


def prepare(ask: Ask, tag: Any, language: Language, max_context: int | None) -> Job | Completion:
    """The job of an ask, or its completion where nothing need be computed for it."""
    try:
        ids = language.prompt(ask.messages) + given(ask)
        _check(ask, len(ids), language.vocab_size, max_context)
    except EngineError as error:
        return failed(error)
    if isinstance(ask, Generate):
        ask = ask._replace(max_tokens=num_new(ask, len(ids), max_context))
    if isinstance(ask, Likelihood) and not ask.completion:
        return Completion("", "stop", Usage(1, len(ids)), (), (), (), 0.0)
    if isinstance(ask, Generate) and ask.max_tokens == 0:
        text = language.texts([ask.prefix])[0] if "whole" in ask.want else ""
        return completion(ask, 0, Drawn([], [], [], []), text, "length")  # nothing is computed, nothing is charged
    return Job(ask, ids, tag)


def _check(ask: Ask, num_tokens: int, vocab_size: int, max_context: int | None) -> None:
    wrong = [token for token in given(ask) if not 0 <= token < vocab_size]
    if wrong:
        raise BadRequest(f"token ids must be 0 to {vocab_size - 1}, got {wrong[0]}")
    if isinstance(ask, Generate):
        if ask.max_tokens < 0:
            raise BadRequest(f"max_tokens must be 0 or more, got {ask.max_tokens}")
        if ask.forbid_first is not None and not 0 <= ask.forbid_first < vocab_size:
            raise BadRequest(f"forbid_first must be 0 to {vocab_size - 1}, got {ask.forbid_first}")
        check_exponents(ask)
        _check_sampling(ask.sampling)
        check_explore(ask)
    full = num_tokens + (isinstance(ask, Generate) and ask.max_tokens > 0)
    if max_context is not None and full > max_context:
        raise ContextOverflow(f"{num_tokens} tokens of prompt do not fit into the model's context of {max_context}")


def num_new(ask: Generate, num_prompt: int, max_context: int | None) -> int:
    """The most tokens that an ask can draw: where the context ends, its response ends, with finish "length"."""
    return ask.max_tokens if max_context is None else max(0, min(ask.max_tokens, max_context - num_prompt))


@functools.lru_cache(maxsize=256)
def settings_of(explore: str) -> Settings:
    """What an ask's words for exploring name."""
    settings: Settings = build("explore", explore)
    return settings


def check_explore(ask: Generate) -> None:
    """Raises BadRequest where an ask explores and cannot."""
    how = ask.sampling.explore
    if not how:
        return
    if ask.sampling.temperature == 0 or ask.floor or ask.forbid_first is not None or ask.exponents or ask.prefix:
        raise BadRequest(f"explore={how} goes with no temperature of 0, prefix, floor, forbid_first or exponents")
    if not ask.group or ask.group_size < 1:
        raise BadRequest(f"explore={how} needs the name of a group and how many samples it has")
    try:
        settings_of(how)
    except SamplewiseError as error:
        raise BadRequest(str(error)) from error


def _check_sampling(sampling: Sampling) -> None:
    temperature, top_k, top_p, min_p, _ = sampling
    if not (0 <= temperature < math.inf and top_k >= 0 and 0 < top_p <= 1 and 0 <= min_p < 1):
        raise BadRequest(f"no law is drawn from with {sampling}")


def completion(ask: Generate, num_prompt: int, drawn: Drawn, text: str, finish: Finish) -> Completion:
    want = ask.want
    return Completion(
        text=text,
        finish=finish,
        usage=Usage(1, num_prompt, len(drawn.tokens)),
        tokens=tuple(drawn.tokens) if "tokens" in want else None,
        logp=tuple(drawn.logp) if "logp" in want else None,
        logq=tuple(drawn.logq) if "logq" in want else None,
        logp_sum=math.fsum(drawn.logp),
        logz=tuple(tuple(marks[1 : 1 + len(ask.exponents)]) for marks in drawn.marks) if "logz" in want else None,
        certainty=tuple(marks[0] for marks in drawn.marks) if "certainty" in want else None,
    )


def num_marks(ask: Generate) -> int:
    """How many numbers a token of this ask is marked with, beside its log-probabilities."""
    return 1 + len(ask.exponents) if "logz" in ask.want or "certainty" in ask.want else 0


def engine_error(error: Exception) -> EngineError:
    """An exception from inside the model as one of ours. Memory may be there the next time; a fault stays a fault."""
    if isinstance(error, EngineError):
        return error
    if isinstance(error, SamplewiseError):
        return EngineError(str(error))
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return EngineUnavailable(
            "the model ran out of memory", hint="fewer rows at once need less: local(..., max_rows=...)"
        )
    line = next(iter(str(error).splitlines()), "")
    return EngineError(f"the model failed: {type(error).__name__}: {line}")


def fail(jobs: Sequence[Job], error: Exception) -> list[Done]:
    return [Done(job.tag, failed(engine_error(error))) for job in jobs]
