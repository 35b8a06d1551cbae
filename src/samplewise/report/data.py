"""What a report shows, as plain data. Made by `build.py`; drawn by the terminal, Markdown and HTML writers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from samplewise.measure import Estimate
from samplewise.types import Json


class Method(NamedTuple):
    """One way to spend tokens: a row of the table. All rows of a report stand at (at most) the same tokens, but for
    those that cannot be had in part and cost more."""

    name: str  # for people: "direct, majority vote"
    recipe: str  # the line that gives it at this cost: "repeat(23) | vote"
    samples: int  # draws per problem at these tokens
    tokens: float  # mean tokens per problem, prompt and completion, everything counted
    accuracy: Estimate  # of the chosen answer
    coverage: Estimate  # at least one right answer among the draws: the ceiling
    difference: Estimate | None  # accuracy less the baseline's, paired by problem; None for the baseline itself
    p_value: float  # that the difference is 0, paired t test over problems, Holm-adjusted; nan for the baseline
    seconds: float = float("nan")  # engine wall clock per problem, where it was measured


class Point(NamedTuple):
    samples: int
    tokens: float  # mean per problem
    value: float
    low: float  # 95 % interval, clustered by problem
    high: float


class Series(NamedTuple):
    """A curve. `kind` is "coverage" (pass@k) or "accuracy" (of the chosen answer)."""

    name: str
    kind: str
    points: tuple[Point, ...]


class Sample(NamedTuple):
    text: str
    answer: str | None
    grade: float  # 0 to 1; nan: could not be graded
    arm: str
    num_tokens: int
    logp_sum: float  # nats; nan where unknown
    finish: str
    scores: Mapping[str, float]


class Draws(NamedTuple):
    """One pool of one problem, and what each selector chose from it."""

    recipe: str
    samples: tuple[Sample, ...]
    chosen: Mapping[str, int | None]  # selector -> position in samples


class View(NamedTuple):
    """A problem with every pool that was drawn for it."""

    id: str
    prompt: str
    reference: Json
    draws: tuple[Draws, ...]


class Report(NamedTuple):
    title: str
    facts: Mapping[str, str]  # "engine" -> ..., "task", "seed", "version", "machine", "command"
    tokens: float  # the common budget of the table, mean tokens per problem
    baseline: str  # name of the method that differences are taken from
    methods: tuple[Method, ...]
    series: tuple[Series, ...]
    views: tuple[View, ...]
    notes: tuple[str, ...] = ()  # what a reader must know before quoting a figure
