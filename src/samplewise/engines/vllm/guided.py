"""A guided draw on its way to vLLM's worker and back, as plain data.

Guided draws are those that samplewise draws itself inside vLLM. Each is one vLLM request, whose `extra_args` carry the
draw as a JSON string under the name `samplewise`. Over HTTP `vllm_xargs` takes the same string. What was drawn stays in
the worker until it is fetched by the request's `uid`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from samplewise.core.types import Generate, Json, RejectionBound, Sampling

EXTRA_ARG = "samplewise"
# Methods of the worker.
TAKE, DROP, HELD, DESCRIBE = "samplewise_take", "samplewise_drop", "samplewise_held", "samplewise_describe"


class GuidedDraw(NamedTuple):
    """What the worker needs to know of a draw."""

    uid: str
    num_prompt: int  # tokens before the first one that is drawn: prompt and prefix
    seed: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    end: int = -1  # an id that ends the request: a draw that is given up is ended by it; -1: there is none
    bound: tuple[float, float] | None = None  # alpha and value of a RejectionBound
    forbid_first: int = -1  # -1: none
    exponents: tuple[float, ...] = ()  # at which log Z is wanted
    statistics: bool = False  # certainty, and log Z at the exponents, are wanted
    score_first: tuple[int, ...] = ()  # tokens whose log-probs are wanted at the first position
    explore: str = ""
    group: str = ""
    draw: int = 0
    group_size: int = 0
    members: int = 0  # of its group that draw together from here on (meeting.py); 0: it waits for nobody
    num_before: int = 0  # tokens of this draw that came with the request, of an earlier one

    def as_ask(self) -> Generate:
        """Return the draw as an ask without messages: what exploration looks at."""
        return Generate(
            (),
            sampling=Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.explore),
            seed=self.seed,
            group=self.group,
            draw=self.draw,
            group_size=self.group_size,
            exponents=self.exponents,
            reject_below=None if self.bound is None else RejectionBound(*self.bound),
        )


def guided_draw(ask: Generate, uid: str, num_prompt: int, end: int, score_first: tuple[int, ...]) -> GuidedDraw:
    """Return the draw of an ask whose prompt and prefix have `num_prompt` tokens."""
    temperature, top_k, top_p, min_p, explore = ask.sampling
    return GuidedDraw(
        uid=uid,
        num_prompt=num_prompt,
        seed=ask.seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        end=end,
        bound=None if ask.reject_below is None else (ask.reject_below.alpha, ask.reject_below.value),
        forbid_first=-1 if ask.forbid_first is None else ask.forbid_first,
        exponents=ask.exponents,
        statistics="logz" in ask.want or "certainty" in ask.want,
        score_first=score_first,
        explore=explore,
        group=ask.group,
        draw=ask.draw,
        group_size=ask.group_size,
    )


def encode_draw(draw: GuidedDraw) -> dict[str, str]:
    """Return the `extra_args` of a request. Defaults are left out."""
    defaults = GuidedDraw("", 0, 0)._asdict()
    values = {name: value for name, value in draw._asdict().items() if name in KEPT or value != defaults[name]}
    return {EXTRA_ARG: json.dumps(values)}


KEPT = frozenset({"uid", "num_prompt", "seed"})
LISTS = frozenset({"bound", "exponents", "score_first"})


def decode_draw(extra_args: Mapping[str, Any] | None) -> GuidedDraw | None:
    """Return the draw that a request carries, None for a request of somebody else.

    Raises ValueError if there is one that cannot be read.
    """
    text = (extra_args or {}).get(EXTRA_ARG)
    if text is None:
        return None
    try:
        values = json.loads(text)
        plain: dict[str, Any] = {name: tuple(v) if name in LISTS and v else v for name, v in values.items()}
        draw = GuidedDraw(**plain)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"extra_args[{EXTRA_ARG!r}] is no guided draw: {error}") from error
    return draw


class RowRecord(NamedTuple):
    """What the worker recorded of a draw. It may hold more tokens than the request returned: the first count."""

    tokens: list[int]
    logp: list[float]
    logq: list[float]
    statistics: list[list[float]]  # certainty and log Z of each token; [] where they were not wanted
    score_first: list[float]
    end: str = ""  # why the worker ended it: "rejected", "doomed", "stuck", "broken", "" if it did not
    end_at: int = -1  # index of the token at which it did
    error: str = ""  # what went wrong in the worker
    explored: Mapping[str, Json] | None = None  # the report of a group, with the draw that ended it
