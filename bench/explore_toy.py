"""What exploring is worth where the truth is known: the branching-paths world, every policy and control.

A group is one prompt and K samples; every method draws the same number of tokens. Scored per group: `valid`, the share
of samples that are a path of their prompt; `coverage`, the distinct paths; `rare`, the share of the two rarest that
were found. Independent draws from the true law have a coverage in closed form, which stands beside. Settings were
chosen in world 0 and are scored in others; intervals are over prompts, differences paired, the
groups of a prompt kept together. `matched` is the plain law at the one temperature that gives as much entropy a token
as the policy had: what heat alone would do.

Limits: twelve steps, a memorised world, one model size. It tests mechanisms; it is no evidence about language models.
Samples of one group are not independent: coverage at K is that of groups of K, not of K out of more. What exploring is
worth to a language model of puzzles is in bench/explore_game24.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from training.branches.decode import Sampled, decode
from training.branches.train import made
from training.branches.world import LENGTH, PATHS, PROMPTS, RARE, World, independent_coverage, paths_of, world

from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.explore import controls
from samplewise.explore import settings as explore
from samplewise.explore.settings import ExploreSettings
from samplewise.measure import mean_interval, paired_difference

SEED = 0
CHOSEN_IN, SCORED_IN = (0,), (1, 2)  # worlds
KS = (8, 16)
HEATS = (0.6, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0)  # at which the plain law's entropy is measured
MIN_VALID = 0.95  # a policy that draws more junk is not chosen


class Way(NamedTuple):
    """How a row is drawn. `wave` 1: one sample after another; 4: a quarter at a time."""

    settings: ExploreSettings | None = None
    heat: float = 1.0
    min_p: float = 0.0
    waves: int = 1  # of equal size


class Row(NamedTuple):
    """Scores (prompts,), the mean over a prompt's groups."""

    valid: Floats
    coverage: Floats
    rare: Floats
    entropy: float  # nats a token, minus the mean of logq
    heat: float  # told by the policy itself, nan where it tells none


class Place(NamedTuple):
    """A world and its model."""

    number: int
    world: World
    model: Any
    groups: int = 6  # of each prompt


WAYS: dict[str, Way] = {
    "plain": Way(),
    "plain, T .8": Way(heat=0.8),
    "plain, T 1.25": Way(heat=1.25),
    "plain, min-p": Way(min_p=0.05),
    "plain, min-p, T 1.5": Way(min_p=0.05, heat=1.5),
    "plain, min-p, T 2": Way(min_p=0.05, heat=2.0),
    "top-n-sigma": Way(controls.top_sigma(1.5)),
    "top-H": Way(controls.top_entropy(0.8)),
    "arithmetic": Way(explore.arithmetic()),
    "zero .25": Way(controls.zero(0.25)),
    "zero 1": Way(controls.zero(1.0)),
    "frozen .25": Way(controls.frozen_distiller(0.25)),
    "frozen 1": Way(controls.frozen_distiller(1.0)),
    "noise .25": Way(controls.noise(0.25)),
    "esamp .25": Way(explore.esamp(0.25)),
    "esamp 1": Way(explore.esamp(1.0)),
    "esamp .25, one by one": Way(explore.esamp(0.25), waves=0),
    "esamp .25, 4 waves": Way(explore.esamp(0.25), waves=4),
    "esamp .25, gate, 4 waves": Way(explore.esamp(0.25, compensate="gate"), waves=4),
    "esamp .25, forks only": Way(explore.esamp(0.25, forking=0.25)),
    "ridge .25, 4 waves": Way(explore.esamp(0.25, learner="ridge"), waves=4),
    "frozen full, min-p": Way(controls.frozen_distiller(1.0, compensate="full"), min_p=0.05),
    "noise full, min-p": Way(controls.noise(1.0, compensate="full"), min_p=0.05),
    "esamp full, min-p": Way(explore.esamp(1.0, compensate="full"), min_p=0.05),
    "esamp full, 10x rate, 4 steps, min-p": Way(explore.esamp(1.0, compensate="full", rate=4e-3, steps=4), min_p=0.05),
    "ridge full, min-p, 4 waves": Way(
        explore.esamp(1.0, learner="ridge", penalty=0.1, compensate="full"), min_p=0.05, waves=4
    ),
    "ridge entropy, min-p, 4 waves": Way(
        explore.esamp(1.0, learner="ridge", penalty=0.1, compensate="entropy"), min_p=0.05, waves=4
    ),
    "css": Way(explore.css()),
    "css, vocabulary order": Way(explore.css(order="vocabulary")),
    "css, min-p": Way(explore.css(), min_p=0.05),
    "css, min-p, T 1.5": Way(explore.css(), min_p=0.05, heat=1.5),
    "lss": Way(explore.lss()),
    "lss 8": Way(explore.lss(8.0)),
    "lss, lag": Way(explore.lss(lag=True)),
    "lss, one by one": Way(explore.lss(), waves=0),
    "lss, min-p": Way(explore.lss(), min_p=0.05),
    "lss 8, min-p": Way(explore.lss(8.0), min_p=0.05),
    "lss, min-p, T 1.5": Way(explore.lss(), min_p=0.05, heat=1.5),
}
MATCHED = (
    "noise .25",
    "esamp .25",
    "frozen full, min-p",
    "noise full, min-p",
    "esamp full, min-p",
    "esamp full, 10x rate, 4 steps, min-p",
    "ridge full, min-p, 4 waves",
    "lss",
    "lss, min-p",
)

# Ways that must beat another at the same filter and temperature.
AGAINST = {
    "lss": "css",
    "lss 8": "css",
    "lss, min-p": "css, min-p",
    "lss 8, min-p": "css, min-p",
    "lss, min-p, T 1.5": "css, min-p, T 1.5",
}

CANDIDATES: Mapping[str, tuple[Way, ...]] = {  # tried in the worlds of CHOSEN_IN
    "ridge": tuple(
        Way(explore.esamp(1.0, learner="ridge", penalty=penalty, compensate=how), min_p=0.05, waves=4)
        for penalty in (0.01, 0.1, 1.0)
        for how in ("entropy", "full")
    ),
    "css": tuple(
        Way(explore.css(cosine, width=width, centre=centre))
        for cosine in (0.8, 0.9, 0.98)
        for width, centre in ((0, False), (32, False), (32, True))
    ),
    "lss": tuple(
        Way(explore.lss(strength, sigma=sigma, width=width, centre=centre))
        for strength in (2.0, 4.0, 8.0)
        for sigma in (0.02, 0.05, 0.1)
        for width, centre in ((32, False), (32, True))
    ),
    "esamp": tuple(
        Way(explore.esamp(beta, rate=rate, steps=steps, compensate=how), min_p=0.05)
        for beta in (0.25, 1.0)
        for rate, steps in ((4e-4, 1), (4e-3, 4))
        for how in ("none", "entropy", "full")
    ),
}


def drawn(place: Place, way: Way, size: int) -> Sampled:
    """All groups of a world: prompt 0 .. 11, and so on again."""
    wave = None if way.waves == 1 else 1 if way.waves == 0 else max(1, size // way.waves)
    seed = Key(SEED).fold("groups", place.number, size).seed()
    return decode(
        place.model,
        list(range(PROMPTS)) * place.groups,
        size,
        LENGTH,
        way.settings,
        seed=seed,
        temperature=way.heat,
        min_p=way.min_p,
        wave=wave,
    )


def scored(places: Iterable[Place], way: Way, size: int) -> Row:
    """The scores of a way, prompts of all worlds one after another."""
    columns: list[Floats] = []
    entropy, heats = [], []
    for place in places:
        sampled = drawn(place, way, size)
        problems = {report.problem for report in sampled.reports} - {""}
        assert not problems, problems
        found = np.zeros((place.groups * PROMPTS, 3))
        for group, tokens in enumerate(sampled.tokens.numpy()):
            paths = paths_of(place.world, group % PROMPTS, tokens)
            names = set(paths[paths >= 0].tolist())
            found[group] = (paths >= 0).mean(), len(names), len(names & set(range(PATHS - RARE, PATHS))) / RARE
        columns.append(found.reshape(place.groups, PROMPTS, 3).mean(0))
        entropy.append(-float(sampled.logq.mean()))
        heats += [report.numbers.get("effective_temperature", float("nan")) for report in sampled.reports]
    valid, coverage, rare = np.concatenate(columns).T
    told = np.array(heats)[np.isfinite(heats)] if heats else np.array([])
    return Row(valid, coverage, rare, float(np.mean(entropy)), float(told.mean()) if len(told) else float("nan"))


def matching(places: list[Place], entropy: float, min_p: float, size: int, known: dict[float, list[float]]) -> float:
    """The temperature at which plain draws have so much entropy a token; nan where none of HEATS is near."""
    if min_p not in known:
        known[min_p] = [scored(places, Way(heat=heat, min_p=min_p), size).entropy for heat in HEATS]
    if not known[min_p][0] <= entropy <= known[min_p][-1]:
        return float("nan")
    return float(np.interp(entropy, known[min_p], HEATS))


def compare(places: list[Place], size: int, console: Console) -> dict[str, Any]:
    """The table at one K, and its figures."""
    found: dict[str, Any] = {}
    rows: dict[str, Row] = {}
    known: dict[float, list[float]] = {}
    num = sum(place.groups for place in places) * PROMPTS
    independent = independent_coverage(places[0].world.weights, size)
    table = Table(title=f"K = {size}: {num} groups; independent draws from the true law cover {independent:.3f}")
    for column in ("policy", "valid", "coverage", "rare", "entropy", "difference in coverage from plain at its filter"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    ways = dict(WAYS)
    for name in list(ways):
        rows[name] = scored(places, ways[name], size)
        show(table, found, name, rows, ways[name].min_p)
        if name in MATCHED:
            heat = matching(places, rows[name].entropy, ways[name].min_p, size, known)
            if np.isfinite(heat):
                matched = f"  matched: plain, T {heat:.2f}"
                rows[f"{name}, matched"] = scored(places, Way(heat=heat, min_p=ways[name].min_p), size)
                show(table, found, f"{name}, matched", rows, ways[name].min_p, shown=matched)
    console.print(table)
    twice = independent_coverage(places[0].world.weights, 2 * size)
    for name, other in AGAINST.items():
        apart = paired_difference(rows[name].coverage / PATHS, rows[other].coverage / PATHS)
        value, low, high = (PATHS * each for each in (apart.value, apart.low, apart.high))
        found[name] |= {"over_css": value, "over_css_low": low, "over_css_high": high}
        own = found[name]
        console.print(
            f"{name}: {value:+.2f} [{low:+.2f}, {high:+.2f}] over {other}; covers {own['coverage']:.2f} "
            f"[{own['coverage_low']:.2f}, {own['coverage_high']:.2f}], {2 * size} independent draws {twice:.2f}"
        )
    return {"independent": independent, "rows": found}


def show(table: Table, found: dict[str, Any], name: str, rows: dict[str, Row], min_p: float, shown: str = "") -> None:
    """One more line of the table and of the figures."""
    row = rows[name]
    base = "plain, min-p" if min_p else "plain"
    told = {"valid": row.valid.mean(), "coverage": row.coverage.mean(), "rare": row.rare.mean(), "entropy": row.entropy}
    difference = ""
    if base in rows and name != base:
        apart = paired_difference(row.coverage / PATHS, rows[base].coverage / PATHS)
        low, high = PATHS * apart.low, PATHS * apart.high
        told |= {"difference": PATHS * apart.value, "low": low, "high": high}
        difference = f"{PATHS * apart.value:+.2f} [{low:+.2f}, {high:+.2f}]"
    spread = mean_interval(row.coverage / PATHS)
    told |= {"coverage_low": PATHS * spread.low, "coverage_high": PATHS * spread.high, "told_temperature": row.heat}
    found[name] = told
    table.add_row(
        shown or name,
        f"{row.valid.mean():.3f}",
        f"{row.coverage.mean():.2f}",
        f"{row.rare.mean():.2f}",
        f"{row.entropy:.3f}",
        difference,
    )


def choose(places: list[Place], console: Console) -> dict[str, Any]:
    """What CANDIDATES are worth at K = 16, the best of each family by coverage first."""
    told: dict[str, Any] = {}
    for family, ways in CANDIDATES.items():
        table = Table(title=f"{family}, in world {', '.join(str(place.number) for place in places)}")
        for column in ("settings", "valid", "coverage", "rare"):
            table.add_column(column)
        rows = [(way, scored(places, way, max(KS))) for way in ways]
        rows.sort(key=lambda pair: (pair[1].valid.mean() < MIN_VALID, -pair[1].coverage.mean()))
        for way, row in rows:
            table.add_row(str(way.settings), *(f"{v.mean():.3f}" for v in (row.valid, row.coverage, row.rare)))
        told[family] = {str(way.settings): float(row.coverage.mean()) for way, row in rows}
        console.print(table)
    return told


def toy(console: Console, *, choosing: bool, models: Path, groups: int, sizes: Sequence[int] = KS) -> dict[str, Any]:
    """The tables, and the figures by K; with `choosing` what the candidates are worth, by family."""
    numbers = CHOSEN_IN if choosing else SCORED_IN
    places = [Place(number, world(number), made(number, models), groups) for number in numbers]
    if choosing:
        return choose(places, console)
    return {str(size): compare(places, size, console) for size in sizes}
