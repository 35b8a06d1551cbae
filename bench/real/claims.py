"""What the papers claim, and what we claim of our own parts, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from bench.real.figures import Difference, pooled

Differences = Mapping[str, Mapping[str, Difference]]  # by "benchmark: method", then by what it is compared with


class Claim(NamedTuple):
    """A claim that has a direction: one method's difference from another, in two ways of counting."""

    text: str
    part: str
    method: str
    measures: tuple[str, ...]  # names of differences: each that is known is a row


def rival(name: str) -> tuple[str, ...]:
    """Return the differences from another rule: in accuracy, and in shares of its draws and rounds."""
    return (f"accuracy over {name}", f"share of draws saved, {name}", f"share of rounds saved, {name}")


EQUAL = ("equal draws", "equal tokens", "equal seconds")
COSTS = ("equal tokens", "equal seconds")
CLAIMS = (
    Claim("diversity over direct draws, pass@16 (2502.11027)", "vary", "mix at 16", EQUAL),
    Claim("diversity over direct draws, pass@32", "vary", "mix at 32", EQUAL),
    Claim("diversity without helpers over direct draws, pass@16", "vary", "mix without helpers at 16", EQUAL),
    Claim("diversity over direct draws, 16 voted on", "vary", "vote of 16", EQUAL),
    Claim("diversity over direct draws, best of 16 by the tests shown", "vary", "best(public_tests) of 16", EQUAL),
    Claim(
        "power sampling over a low temperature, one response (2510.14901)",
        "power",
        "power",
        ("over low temperature",),
    ),
    Claim(
        "power sampling as published over a low temperature, one response",
        "power",
        "power, published",
        ("over low temperature",),
    ),
    Claim("ESamp over plain draws, pass@16 (2604.24927)", "explore", "esamp", COSTS),
    Claim("ESamp over plain draws, pass@8", "explore", "esamp of 8", COSTS),
    Claim("lss over plain draws, pass@8", "explore", "lss of 8", COSTS),
    Claim("lss over ESamp, pass@8", "explore", "lss of 8", ("over esamp",)),
    Claim("lss over ESamp, pass@16", "explore", "lss", ("over esamp",)),
    Claim("css over ESamp, pass@16", "explore", "css", ("over esamp",)),
    Claim("lss over plain draws, pass@16", "explore", "lss", COSTS),
    Claim("css over plain draws, pass@16", "explore", "css", COSTS),
    Claim(
        "power sampling over a vote of plain draws",
        "power",
        "power",
        ("over vote at equal tokens", "over vote at equal seconds"),
    ),
    Claim(
        "power sampling over the likeliest of plain draws",
        "power",
        "power",
        ("over best(likelihood) at equal tokens", "over best(likelihood) at equal seconds"),
    ),
    Claim(
        "power sampling over the likeliest of draws at temperature .6",
        "power",
        "power",
        ("over best(likelihood), T .6 at equal tokens", "over best(likelihood), T .6 at equal seconds"),
    ),
    Claim(
        "power sampling over the likeliest of 4 at temperature .25, which costs fewer tokens",
        "power",
        "power",
        ("over best(likelihood), T .25 of 4",),
    ),
    Claim("our power kernel over the published one, one response", "power", "power", ("over published",)),
    Claim(
        "our power kernel cheaper than the published one",
        "power",
        "power",
        ("share of tokens saved", "share of seconds saved"),
    ),
    Claim("first pass over a fixed N (2506.22376)", "stop", "first pass", COSTS),
    Claim("OptScale as released over a fixed N", "stop", "optscale, released", COSTS),
    Claim("OptScale by likelihood over a fixed N", "stop", "optscale by likelihood, chosen", COSTS),
    Claim("first pass over OptScale as released", "stop", "first pass", rival("optscale, released")),
    Claim("vote_plan over a fixed N", "stop", "vote_plan, chosen", COSTS),
    Claim("vote_plan over ASC", "stop", "vote_plan, chosen", rival("asc .95")),
    Claim("vote_plan over agreement(2)", "stop", "vote_plan, chosen", rival("agreement 2")),
    Claim("ASC over a fixed N", "stop", "asc .95", COSTS),
    Claim("agreement(2) over a fixed N", "stop", "agreement 2", COSTS),
    Claim("log-pool over a vote, 16 of the mix", "vary", "log-pool of 16", ("over vote, on the mix",)),
    Claim("softsat over a vote, 16 of the mix", "vary", "softsat of 16", ("over vote, on the mix",)),
    Claim("a vote over behaviors over a vote, 16 of the mix", "vary", "behaviour of 16", ("over vote, on the mix",)),
    Claim("softsat over a vote, 16 plain draws", "select", "softsat of 16", ("over vote",)),
    Claim("a vote over behaviors over a vote over texts", "select", "behaviour of 16", ("over vote",)),
)


class Verdict(NamedTuple):
    """A claim on one benchmark, by one way of counting."""

    claim: str
    benchmark: str
    measure: str
    difference: Difference


def verdicts(found: Mapping[str, Differences]) -> list[Verdict]:
    """Return each claim's verdict on each benchmark where it was measured, `found` by part.

    Where those are several, a verdict on all of their problems together follows.
    """
    rows = []
    for claim in CLAIMS:
        own = []
        for name, differences in found.get(claim.part, {}).items():
            benchmark, _, method = name.partition(": ")
            if method == claim.method:
                own += [
                    Verdict(claim.text, benchmark, measure, differences[measure])
                    for measure in claim.measures
                    if measure in differences
                ]
        rows += own
        for measure in claim.measures:
            together = pooled([row.difference for row in own if row.measure == measure])
            if together is not None:
                num = sum(row.measure == measure for row in own)
                rows.append(Verdict(claim.text, f"all {num}", measure, together))
    return rows


def claims_json(rows: list[Verdict]) -> dict[str, Any]:
    """Return "confirmed", "not seen" or "opposite" for each claim, benchmark and way of counting."""
    return {f"{row.claim}; {row.benchmark}, {row.measure}": row.difference.word for row in rows}


def table(rows: list[Verdict]) -> str:
    """Return the claims as a Markdown table."""
    lines = ["| claim | on | counted | difference | verdict |", "| --- | --- | --- | ---: | --- |"]
    lines += [
        f"| {row.claim} | {row.benchmark} | {row.measure} | {row.difference} | {row.difference.word} |" for row in rows
    ]
    return "\n".join(lines)
