"""When to stop: rules replayed on plain draws in many random orders, beside fixed numbers at equal tokens and seconds.

On code a rule sees the score of the tests that the question shows, or votes over what programs do; on maths it sees
votes, or the calibrated likelihood. Settings that are chosen, and calibrations, come from the other half of the
problems. A fixed number has one round; a rule that looks after every draw has as many as it draws.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.real.benchmarks import BENCHMARKS
from bench.real.figures import KEY, Difference, greedy_of, method
from bench.real.pools import Pools, Row, stored
from bench.stop_replay import AS_ACCURATE, NUM_ORDERS, Measured, at_equal_tokens, bootstrap, frontier, measured
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.registry import build
from samplewise.core.types import Pool, Selection
from samplewise.measure import mean_interval
from samplewise.measure.calibration import fit_calibration
from samplewise.recipe import parse_choice
from samplewise.runs.orders import StoredPool, replay_pools
from samplewise.select.base import Selector
from samplewise.stop.base import StopRule

CAP = 16
SIZES = (1, 2, 4, 8, 16)  # fixed numbers that are shown


class Family(NamedTuple):
    """A rule in several settings, of which one is chosen on the other half."""

    specs: tuple[str, ...]


class Way(NamedTuple):
    """Rules that see the same of a response, and the selector after them.

    `rivals` are pairs of ours and theirs, compared in accuracy, draws and rounds.
    """

    families: Mapping[str, Family]
    selector: str
    rivals: tuple[tuple[str, str], ...]


VOTES = {
    "asc .95": Family(("asc(0.95)",)),
    "esc 4": Family(("esc(4)",)),
    "agreement 2": Family(("agreement(2)",)),
    "lead 3": Family(("lead(3)",)),
    "vote_e .05": Family(("vote_e(0.05)",)),
    "asc, chosen": Family(tuple(f"asc({c})" for c in (0.6, 0.7, 0.8, 0.9, 0.95, 0.99))),
    "vote_plan, chosen": Family(
        tuple(
            f"vote_plan(price_round={r}, price_draw={d}, cap={CAP})"
            for r in (0.002, 0.01)
            for d in (0.001, 0.003, 0.01, 0.03)
        )
    ),
}
TESTS, CALIBRATED = "public_tests", "calibrated"
PASSES = {
    "first pass": Family((f"passed({TESTS}, cap={CAP})",)),
    "first pass, futile below .05": Family((f"passed({TESTS}, price=0.05, cap={CAP})",)),
    "optscale": Family((f"optscale(0.95, {TESTS}, target=1, cap={CAP})",)),
    "optscale, as in the paper": Family((f"optscale(0.95, {TESTS}, target=1, mode='paper', cap={CAP})",)),
    "optscale, released": Family((f"optscale(0.95, {TESTS}, target=1, mode='code', peek=4, cap={CAP})",)),
}
LIKELY = {
    "optscale by likelihood, chosen": Family(
        tuple(f"optscale(0.95, {CALIBRATED}, target={t}, cap={CAP})" for t in (0.2, 0.3, 0.4, 0.6))
    )
}
VOTING = (("vote_plan, chosen", "asc .95"), ("vote_plan, chosen", "esc 4"), ("vote_plan, chosen", "agreement 2"))
BY_TESTS = Way(PASSES, f"best({TESTS})", (("first pass", "optscale, released"),))
BY_BEHAVIOR = Way(
    {name: VOTES[name] for name in ("asc .95", "esc 4", "agreement 2", "vote_plan, chosen")}, "behaviour", VOTING
)
BY_VOTE = Way(VOTES, "vote", VOTING)
BY_LIKELIHOOD = Way(LIKELY, "best(likelihood)", ())


class Replays(NamedTuple):
    """One way on P problems: each family's settings as measured, by the half that they are scored on, and the line."""

    rows: Mapping[str, tuple[list[Measured], list[Measured]]]
    line: Sequence[Measured]  # fixed numbers, from 1
    sides: Any  # (P,) 0 or 1, the half of each problem
    draw_s: Floats  # (P,) processor seconds of a draw


def stop_part(pools: Mapping[str, Pools], console: Console) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the figures of each benchmark, and the claims' differences."""
    part: dict[str, Any] = {}
    claims: dict[str, Any] = {}
    for name, own in pools.items():
        plain = method(own, "plain")
        figures: dict[str, Any] = {}
        for way, rows in ways_of(name, plain.rows):
            if len(rows) < 2:  # none to choose settings on
                continue
            found, own_claims = score(console, f"{name}, {len(rows)} problems", way, rows, plain.seconds_per_token)
            figures |= found
            claims |= {f"{name}: {each}": value for each, value in own_claims.items()}
        if not figures:
            continue
        greedy = greedy_of(own, {row.question for row in plain.rows})
        if greedy is not None:
            figures["greedy"] = greedy.json()
        part[name] = {
            "problems": len(plain.rows),
            "draws": sum(len(row.grades) for row in plain.rows),
            "seconds": own.seconds("plain"),
            **figures,
        }
    return part, claims


def ways_of(name: str, rows: Sequence[Row]) -> list[tuple[Way, list[Row]]]:
    """Return what rules can see on a benchmark, with the rows that show it."""
    if not BENCHMARKS[name].is_code:
        return [(BY_VOTE, list(rows)), (BY_LIKELIHOOD, list(rows))]
    tested = [row for row in rows if row.scores.get(TESTS)]
    return [(BY_TESTS, tested), (BY_BEHAVIOR, [behaving(row) for row in rows if row.scores.get("outputs")])]


def behaving(row: Row) -> Row:
    """Return a row whose answers are the names of what its programs do, None for one that returns nothing."""
    return row._replace(answers=tuple(None if value is None else f"{value:g}" for value in row.scores["outputs"]))


def score(
    console: Console, title: str, way: Way, rows: Sequence[Row], token_s: float
) -> tuple[dict[str, Any], dict[str, dict[str, Difference]]]:
    """Return each family's figures, and what it gains over fixed numbers at equal tokens and at equal seconds."""
    played = replayed(way, rows, token_s)
    figures: dict[str, Any] = {}
    claims: dict[str, dict[str, Difference]] = {}
    columns = ("accuracy", "draws", "tokens", "rounds", "s", "over fixed, equal tokens", "equal seconds", "setting")
    table = Table(title, *columns, box=None)
    for name, family in way.families.items():
        picks = [
            int(np.argmax([above(row, played, played.sides != s).mean() for row in played.rows[name][s]]))
            for s in (0, 1)
        ]
        chosen = halves(played, name, picks)
        settings = " / ".join(dict.fromkeys(family.specs[pick] for pick in picks))
        claims[name] = {
            f"equal {by}": mean_of(gains(chosen, played, by), rows, f"{name}, {by}") for by in ("tokens", "seconds")
        }
        figures[name] = {**as_json(chosen, played.draw_s), "settings": settings}
        shown = settings if len(family.specs) > 1 else ""
        table.add_row(name, *cells(figures[name]), *map(str, claims[name].values()), shown)
    for ours, theirs in way.rivals:
        claims[ours] |= against(played, ours, theirs, rows)
    for num in SIZES:
        name = f"{way.selector} of {num}"
        figures[name] = as_json(played.line[num - 1], played.draw_s, rounds=1.0)
        table.add_row(name, *cells(figures[name]))
    console.print(table, "")
    return figures, claims


def replayed(way: Way, rows: Sequence[Row], token_s: float) -> Replays:
    """Replay a way's rules and fixed numbers on the first `CAP` draws of each problem."""
    pools = [pool.first(CAP) for pool in stored(rows)]
    key, selector = KEY.fold("stop"), remembering(parse_choice(way.selector)[1])
    sides = np.arange(len(pools)) % 2

    def play(spec: str, own: Sequence[StoredPool]) -> Measured:
        rule: StopRule[Any] = build("stop", spec)
        found = replay_pools([rule] * len(own), selector, own, key, caps=[CAP], num_orders=NUM_ORDERS)
        return measured(found[0])

    seen = [calibrated(pools, sides != side) if way is BY_LIKELIHOOD else pools for side in (0, 1)]
    played: dict[str, tuple[list[Measured], list[Measured]]] = {}
    for name, family in way.families.items():
        first = [play(spec, seen[0]) for spec in family.specs]
        played[name] = (first, first if seen[0] is seen[1] else [play(spec, seen[1]) for spec in family.specs])
    draw_s = token_s * np.array([np.mean(row.tokens[:CAP]) for row in rows])
    return Replays(played, frontier(selector, pools, CAP, key), sides, draw_s)


def remembering(selector: Selector) -> Selector:
    """Return a selector that chooses once for each key and number of draws: what all rules see of one order."""
    known: dict[tuple[Key, int], Selection] = {}

    def choose(key: Key, pool: Pool, answers: tuple[str | None, ...]) -> Selection:
        place = (key, len(answers))
        if place not in known:
            known[place] = selector.choose(key, pool, answers)
        return known[place]

    return dataclasses.replace(selector, choose=choose)


def calibrated(pools: Sequence[StoredPool], some: Any) -> list[StoredPool]:
    """Return the pools with the probability of being right, by a map of likelihoods fitted on some of them."""
    fitted = [pool for pool, is_in in zip(pools, some, strict=True) if is_in]
    scores = [c.logp_sum for pool in fitted for c in pool.candidates]
    names = [pool.question.id for pool in fitted for _ in pool.candidates]
    to_right = fit_calibration(scores, [grade for pool in fitted for grade in pool.grades], names, "platt")
    whole = []
    for pool in pools:
        right = to_right([c.logp_sum for c in pool.candidates]).tolist()
        scored = [c._replace(scores={**c.scores, CALIBRATED: p}) for c, p in zip(pool.candidates, right, strict=True)]
        whole.append(pool._replace(candidates=tuple(scored)))
    return whole


def halves(played: Replays, name: str, picks: Sequence[int]) -> Measured:
    """Return a family with the setting `picks[0]` on the first half of the problems, `picks[1]` on the other."""
    first, second = (played.rows[name][side][picks[side]] for side in (0, 1))
    return Measured(*(np.where(played.sides == 0, a, b) for a, b in zip(first, second, strict=True)))


def timed(row: Measured, draw_s: Floats) -> Measured:
    """Return a row whose costs are seconds instead of tokens."""
    return row._replace(tokens=row.samples * draw_s)


def above(row: Measured, played: Replays, some: Any, by: str = "tokens") -> Floats:
    """Return by how much a rule is above fixed numbers at equal tokens or seconds, for some problems."""
    own, line = row, played.line
    if by == "seconds":
        own, line = timed(row, played.draw_s), [timed(each, played.draw_s) for each in line]
    part = [Measured(*(column[some] for column in each)) for each in line]
    found: Floats = own.accuracy[some] - at_equal_tokens(part, float(own.tokens[some].mean()))
    return found


def gains(row: Measured, played: Replays, by: str) -> Floats:
    """Return by how much a rule is above fixed numbers (P,), each half at its own cost."""
    found = np.zeros(len(played.sides))
    for side in (0, 1):
        found[played.sides == side] = above(row, played, played.sides == side, by)
    return found


def against(played: Replays, ours: str, theirs: str, rows: Sequence[Row]) -> dict[str, Difference]:
    """Return what we gain over a rule in accuracy, and which share of its draws and rounds we do without.

    Of our settings that are as accurate on the other half, up to `AS_ACCURATE`, it is the one whose larger ratio to the
    rule's, of draws or of rounds, is the smallest there; where none is as accurate, the most accurate one.
    """
    rival = halves(played, theirs, (0, 0))
    picks = []
    for side in (0, 1):
        some, own = played.sides != side, played.rows[ours][side]
        accuracy = [float(row.accuracy[some].mean()) for row in own]
        enough = min(float(rival.accuracy[some].mean()) - AS_ACCURATE, max(accuracy))
        ratios = [
            max(
                row.samples[some].mean() / rival.samples[some].mean(),
                row.rounds[some].mean() / rival.rounds[some].mean(),
            )
            for row in own
        ]
        picks.append(min((i for i, value in enumerate(accuracy) if value >= enough), key=ratios.__getitem__))
    row = halves(played, ours, picks)
    pairs = {"draws": (row.samples, rival.samples), "rounds": (row.rounds, rival.rounds)}
    found = {f"accuracy over {theirs}": row.accuracy - rival.accuracy}
    found |= {f"share of {what} saved, {theirs}": (b - a) / b.mean() for what, (a, b) in pairs.items()}
    return {what: mean_of(values, rows, f"{ours}, {what}") for what, values in found.items()}


def mean_of(values: Floats, rows: Sequence[Row], name: str) -> Difference:
    """Return the mean over problems of (P,), with its interval."""
    return Difference(float(values.mean()), *bootstrap(values, [row.question for row in rows], KEY.fold("stop", name)))


def as_json(row: Measured, draw_s: Floats, rounds: float | None = None) -> dict[str, Any]:
    """Return what the bench prints of a rule; seconds are a processor's, by the length of each problem's draws."""
    estimate = mean_interval(row.accuracy)
    return {
        "accuracy": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "draws": float(row.samples.mean()),
        "tokens": float(row.tokens.mean()),
        "rounds": float(row.rounds.mean()) if rounds is None else rounds,
        "seconds": float(timed(row, draw_s).tokens.mean()),
    }


def cells(data: Mapping[str, Any]) -> list[str]:
    """Return a table's cells."""
    return [
        f"{data['accuracy']:.3f} [{data['low']:.3f}, {data['high']:.3f}]",
        f"{data['draws']:.2f}",
        f"{data['tokens']:,.0f}",
        f"{data['rounds']:.2f}",
        f"{data['seconds']:.1f}",
    ]
