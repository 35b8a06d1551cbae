"""An ask on its way through the engine: what is checked before it costs anything, and how its completion is made."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from samplewise.core.errors import BadRequest, ContextOverflow, EngineError, EngineUnavailable, SamplewiseError
from samplewise.core.registry import build
from samplewise.core.types import Ask, Completion, Finish, Generate, Likelihood, Sampling, Usage
from samplewise.engines.base import failed, tell_reasoning
from samplewise.engines.distribution import check_exponents
from samplewise.explore.settings import ExploreSettings

from .language import Language


class PreparedAsk(NamedTuple):
    """An ask with the ids that it begins with: prompt and prefix, or prompt and completion."""

    ask: Ask
    ids: tuple[int, ...]
    tag: Any  # given back with the completion


class Done(NamedTuple):
    """A completion, with the tag of its ask."""

    tag: Any
    completion: Completion


class RowDraw(NamedTuple):
    """What a row drew, as Python numbers."""

    tokens: list[int]
    logp: list[float]
    logq: list[float]
    statistics: list[tuple[float, ...]]  # certainty and log Z of each token, where they were wanted
    first: tuple[tuple[str, float], ...] = ()  # log-probs of the ask's `score_first` at the first position

    def upto(self, num: int) -> RowDraw:
        """Return the first `num` tokens."""
        return RowDraw(self.tokens[:num], self.logp[:num], self.logq[:num], self.statistics[:num], self.first)


def token_ids(ask: Ask) -> tuple[int, ...]:
    """Return the token ids that an ask brings along."""
    return ask.prefix if isinstance(ask, Generate) else ask.completion


def prepare(ask: Ask, tag: Any, language: Language, max_context: int | None) -> PreparedAsk | Completion:
    """Prepare an ask, or return its completion where nothing needs to be computed."""
    try:
        ids = language.prompt(ask.messages) + token_ids(ask)
        _check(ask, len(ids), language.vocab_size, max_context)
    except EngineError as error:
        return failed(error)
    if isinstance(ask, Generate):
        ask = ask._replace(max_tokens=num_new(ask, len(ids), max_context))
    if isinstance(ask, Likelihood) and not ask.completion:
        return Completion("", "stop", Usage(1, len(ids)), (), (), (), 0.0)
    if isinstance(ask, Generate) and ask.max_tokens == 0:
        text = language.texts([ask.prefix])[0] if "whole" in ask.want else ""
        nothing = completion(ask, 0, RowDraw([], [], [], []), text, "length")  # nothing is computed or charged
        return tell_reasoning(nothing, ask, language.opening_tag(ask.messages))
    return PreparedAsk(ask, ids, tag)


def _check(ask: Ask, num_tokens: int, vocab_size: int, max_context: int | None) -> None:
    unknown = [token for token in token_ids(ask) if not 0 <= token < vocab_size]
    if unknown:
        raise BadRequest(f"token ids must be 0 to {vocab_size - 1}, got {unknown[0]}")
    if isinstance(ask, Generate):
        if ask.max_tokens < 0:
            raise BadRequest(f"max_tokens must be 0 or more, got {ask.max_tokens}")
        if ask.forbid_first is not None and not 0 <= ask.forbid_first < vocab_size:
            raise BadRequest(f"forbid_first must be 0 to {vocab_size - 1}, got {ask.forbid_first}")
        check_exponents(ask)
        _check_sampling(ask.sampling)
        _check_explore(ask)
    num_needed = num_tokens + (isinstance(ask, Generate) and ask.max_tokens > 0)
    if max_context is not None and num_needed > max_context:
        raise ContextOverflow(f"{num_tokens} tokens of prompt do not fit into the model's context of {max_context}")


def num_new(ask: Generate, num_prompt: int, max_context: int | None) -> int:
    """Return the most tokens that an ask can draw. A response that fills the context ends with finish "length"."""
    return ask.max_tokens if max_context is None else max(0, min(ask.max_tokens, max_context - num_prompt))


@functools.lru_cache(maxsize=256)
def explore_settings(explore: str) -> ExploreSettings:
    """Build the settings that the `explore` text of an ask names."""
    settings: ExploreSettings = build("explore", explore)
    return settings


def _check_explore(ask: Generate) -> None:
    explore = ask.sampling.explore
    if not explore:
        return
    if ask.sampling.temperature == 0 or ask.reject_below or ask.forbid_first is not None or ask.exponents or ask.prefix:
        raise BadRequest(
            f"explore={explore} goes with no temperature of 0, prefix, reject_below, forbid_first or exponents"
        )
    if not ask.group or ask.group_size < 1:
        raise BadRequest(f"explore={explore} needs the name of a group and how many samples it has")
    try:
        settings = explore_settings(explore)
    except SamplewiseError as error:
        raise BadRequest(str(error)) from error
    if settings.meets_at and ask.max_tokens <= settings.tokens_after:
        raise BadRequest(
            f"explore={explore} keeps {settings.tokens_after} tokens for the answer, and max_tokens={ask.max_tokens} "
            "leaves none to reason with"
        )


def _check_sampling(sampling: Sampling) -> None:
    temperature, top_k, top_p, min_p, _ = sampling
    if not (0 <= temperature < math.inf and top_k >= 0 and 0 < top_p <= 1 and 0 <= min_p < 1):
        allowed = "temperature and top_k at least 0, top_p in (0, 1], min_p in [0, 1)"
        raise BadRequest(f"cannot draw with {sampling}: needs {allowed}")


def completion(ask: Generate, num_prompt: int, drawn: RowDraw, text: str, finish: Finish) -> Completion:
    """Make the completion of an ask from what its row drew, with the arrays that it wants."""
    want, num_exponents = ask.want, len(ask.exponents)
    return Completion(
        text=text,
        finish=finish,
        usage=Usage(1, num_prompt, len(drawn.tokens)),
        tokens=tuple(drawn.tokens) if "tokens" in want else None,
        logp=tuple(drawn.logp) if "logp" in want else None,
        logq=tuple(drawn.logq) if "logq" in want else None,
        logp_sum=math.fsum(drawn.logp),
        logz=tuple(tuple(row[1 : 1 + num_exponents]) for row in drawn.statistics) if "logz" in want else None,
        certainty=tuple(row[0] for row in drawn.statistics) if "certainty" in want else None,
        top=(drawn.first,) if drawn.first else None,
    )


class Shown(NamedTuple):
    """Where the text of a response ends."""

    tokens: list[int]  # those that have a text
    stop: int = -1  # where in it a stop string begins; -1: nowhere


def response(
    job: PreparedAsk, drawn: RowDraw, shown: Shown, finish: Finish, language: Language, text: str | None = None
) -> Completion:
    """Make the completion of a Generate job with its text, which may be given as decoded without a prefix."""
    ask = job.ask
    assert isinstance(ask, Generate)
    text = language.continued(ask.prefix, shown.tokens) if text is None else text
    num_cut = 0 if shown.stop < 0 else len(text) - shown.stop  # characters, from the stop string on
    if "whole" in ask.want and ask.prefix:
        text = language.texts([[*ask.prefix, *shown.tokens]])[0]
    text = text[: len(text) - num_cut]
    return tell_reasoning(completion(ask, len(job.ids), drawn, text, finish), ask, language.opening_tag(ask.messages))


def num_statistics(ask: Generate) -> int:
    """Return how many numbers are kept of each token of an ask beside its log-probabilities."""
    return 1 + len(ask.exponents) if "logz" in ask.want or "certainty" in ask.want else 0


def engine_error(error: Exception) -> EngineError:
    """Turn an exception from inside the model into one of ours. Lack of memory is retryable; a fault is not."""
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


def failed_jobs(jobs: Sequence[PreparedAsk], error: Exception) -> list[Done]:
    """Return a failed completion for each job."""
    return [Done(job.tag, failed(engine_error(error))) for job in jobs]
