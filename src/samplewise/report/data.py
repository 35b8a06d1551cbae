"""What a report shows, as plain data. Made by `build.py`; drawn by the terminal, Markdown and HTML writers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from samplewise.measure import Estimate
from samplewise.types import Json

NAN = float("nan")


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
    seconds: float = NAN  # engine wall clock per problem, where it was measured


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


class Explored(NamedTuple):
    """How groups explored: means over the groups that measured a thing, nan where none did."""

    recipe: str  # the line's part that draws; "" outside of a run
    policy: str  # "esamp(beta=0.5)"
    num_groups: int
    num_samples: int  # of all groups
    guided: float = NAN  # share of tokens in which the policy had a say
    temperature: float = NAN  # effective: at which the plain law has the entropy of the one drawn from
    entropy_before: float = NAN  # nats a token, of the plain law
    entropy_after: float = NAN  # nats a token, of the law drawn from
    divergence: float = NAN  # nats a token, KL of the law drawn from against the plain one
    error_first: float = NAN  # of the prediction, squared, relative to the state's own square; at the first token
    error_last: float = NAN
    clipped: float = NAN  # share of the learner's updates
    remembered: float = NAN  # draws in a group's memory
    logp: float = NAN  # nats, of a whole sample under the model; mean over samples
    logq: float = NAN  # the same as drawn
    dependent: bool = True  # whether a group's samples depend on one another
    problems: tuple[str, ...] = ()  # of groups whose draws are not what was asked for


class Sample(NamedTuple):
    text: str
    answer: str | None
    grade: float  # 0 to 1; nan: could not be graded
    arm: str
    num_tokens: int
    logp_sum: float  # nats; nan where unknown
    finish: str
    scores: Mapping[str, float]
    logq_sum: float = NAN  # nats, under the law really drawn from, where it is not the model's


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
    explored: tuple[Explored, ...] = ()  # of the runs that explored
