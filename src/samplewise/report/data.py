"""A report as plain data. `build.py` makes it; the terminal, Markdown, JSON and HTML writers show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

from samplewise.core.types import Json
from samplewise.measure import Estimate
from samplewise.runs.bills import CostParts
from samplewise.runs.passk import PassTable

NAN = float("nan")
ComparedAt = Literal["equal tokens", "own cost", "draws end"]
Basis = Literal["subsets", "orders", "one run"]


class MethodRow(NamedTuple):
    """One way to spend tokens: a row of the table.

    `compared_at` says what `difference` holds equal. "equal tokens": this method and the baseline cost at most the
    report's tokens. "own cost": this method costs more, because its draws cannot be had in part. "draws end": the
    stored draws of this method or of the baseline end where the tokens would pay for more, and there is no difference.

    `basis` says what the figures are means over. "subsets": all subsets of the stored draws. "orders": runs of a stop
    rule on random orders of the stored draws. "one run": nothing; the figures are those of a single run.
    """

    name: str  # as people call it: "direct, majority vote"
    recipe: str  # the line that gives it at this cost: "repeat(23) | vote"
    num_draws: int  # per problem, at these tokens
    tokens: float  # mean per problem of running `recipe`, prompt and completion, helpers and verifiers included
    accuracy: Estimate  # of the chosen answer
    coverage: Estimate  # at least one right answer among the draws: the ceiling
    difference: Estimate | None  # accuracy minus the baseline's, paired by problem; None for the baseline itself
    p_value: float  # that the difference is 0: paired t test over problems, Holm-adjusted; nan for the baseline
    seconds: float = NAN  # engine wall clock per problem, where it was measured
    compared_at: ComparedAt = "equal tokens"
    parts: CostParts | None = None  # of `tokens`; None where the tokens pay for no draw
    least_tokens: float = NAN  # the least that the method can be had for
    ends: bool = False  # whether its own draws end where the report's tokens would pay for more
    short: tuple[str, ...] = ()  # problems with fewer draws, which stand with all that they have
    basis: Basis = "subsets"
    run_deviation: float = NAN  # standard deviation of the accuracy of one run, over orders; nan for another basis


class CurvePoint(NamedTuple):
    """A value at a number of draws, with its 95 % interval, clustered by problem."""

    num_draws: int
    tokens: float  # mean per problem
    value: float
    low: float
    high: float


class Series(NamedTuple):
    """A curve. Coverage is pass@k; accuracy is that of the chosen answer."""

    name: str
    kind: Literal["coverage", "accuracy"]
    points: tuple[CurvePoint, ...]


class ExplorationSummary(NamedTuple):
    """How groups of diverse draws explored: means over the groups that measured a quantity, nan where none did."""

    recipe: str  # the part of the line that draws; "" outside of a run
    policy: str  # "esamp(beta=0.5)"
    num_groups: int
    num_draws: int  # of all groups
    guided: float = NAN  # share of tokens at which the policy changed the distribution
    temperature: float = NAN  # effective: at which the model's distribution has the entropy of the one drawn from
    entropy_before: float = NAN  # nats a token, of the model's distribution
    entropy_after: float = NAN  # nats a token, of the distribution drawn from
    divergence: float = NAN  # nats a token, KL of the distribution drawn from against the model's
    error_first: float = NAN  # squared prediction error relative to the state's squared norm, at the first token
    error_last: float = NAN
    clipped: float = NAN  # share of the learner's updates
    remembered: float = NAN  # draws in a group's memory
    members: float = NAN  # draws of a group that decoded one answer together
    logp: float = NAN  # nats, of a whole draw under the model; mean over draws
    logq: float = NAN  # nats, of the same draws under the distribution drawn from
    dependent: bool = True  # whether the draws of a group depend on one another
    problems: tuple[str, ...] = ()  # what went wrong, for each group whose draws are not what was asked for


class DrawView(NamedTuple):
    """One draw, as the page shows it."""

    text: str
    answer: str | None
    grade: float  # 0 to 1; nan: could not be graded
    arm: str
    num_tokens: int
    logp: float  # nats, of the whole draw under the model; nan where unknown
    finish: str
    scores: Mapping[str, float]
    logq: float = NAN  # nats, under the distribution drawn from, where that is not the model's


class PoolView(NamedTuple):
    """One pool of one problem, and what each selector chose from it."""

    recipe: str
    draws: tuple[DrawView, ...]
    chosen: Mapping[str, int | None]  # selector -> position in draws

    def draw_at(self, position: int | None) -> DrawView | None:
        """Return the draw at a position, None where nothing was chosen."""
        return self.draws[position] if position is not None and 0 <= position < len(self.draws) else None


class ProblemView(NamedTuple):
    """A problem with every pool that was drawn for it."""

    id: str
    prompt: str
    reference: Json
    pools: tuple[PoolView, ...]


class RunPasses(NamedTuple):
    """pass@k and maj@k of a run whose draws are independent."""

    recipe: str  # the part of the line that draws
    table: PassTable


class Report(NamedTuple):
    """Methods compared on the same problems. `tokens` is nan where every method stands at its own cost."""

    title: str
    facts: Mapping[str, str]  # "engine" -> ..., "task", "seed", "version", "machine", "command"
    tokens: float  # the common budget of the table, mean tokens per problem
    baseline: str  # name of the method that differences are taken from
    methods: tuple[MethodRow, ...]
    series: tuple[Series, ...]
    views: tuple[ProblemView, ...]
    notes: tuple[str, ...] = ()  # what a reader must know before quoting a figure
    explored: tuple[ExplorationSummary, ...] = ()  # of the runs that explored
    passes: tuple[RunPasses, ...] = ()  # of the runs with several independent draws
    choices: tuple[str, ...] = ()  # methods some of whose choices rest on nothing

    @property
    def cost_notes(self) -> tuple[str, ...]:
        """Say which differences are not at equal tokens, and why some are missing; nothing where all are at them."""
        costly = [row for row in self.methods if row.compared_at == "own cost"]
        if math.isnan(self.tokens) and costly:
            return ("Every method stands at its own cost: these differences are not at equal tokens.",)
        at = f"{self.tokens:,.0f} tokens per problem"
        notes = [
            f"{row.name} costs {row.tokens:,.0f} tokens per problem and cannot be had in part: "
            "its difference is not at equal tokens."
            for row in costly
        ]
        for row in self.methods:
            if row.ends:
                whose = "any method" if row.name == self.baseline else "it"
                notes.append(
                    f"The draws of {row.name} end at {row.tokens:,.0f} tokens per problem, and {at} would pay for "
                    f"more: no difference is claimed for {whose}."
                )
            elif not row.num_draws:
                notes.append(f"{at} pay for no draw of {row.name}, which costs at least {row.least_tokens:,.0f}.")
        return tuple(notes)

    @property
    def basis_notes(self) -> tuple[str, ...]:
        """Say which figures are means over orders, with the spread of one run, and which are those of one run alone."""
        over_orders = [row for row in self.methods if row.basis == "orders"]
        alone = [row.name for row in self.methods if row.basis == "one run"]
        notes = []
        if over_orders:
            spreads = ", ".join(f"{row.name} {row.run_deviation:.3f}" for row in over_orders)
            notes.append(
                "Rows with a stop rule are means over random orders of the stored draws; the accuracy of one run has "
                f"a standard deviation of: {spreads}."
            )
        if alone:
            notes.append(f"The figures of one run, whose luck is not averaged out: {', '.join(alone)}.")
        return tuple(notes)
