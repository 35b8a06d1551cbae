"""The tables and pictures of docs/evidence.md, made from the figures of the parts.

The page is written by hand around blocks that begin with `<!-- name -->` and end with `<!-- end -->`; `renew` fills
them in. A test renews a copy and expects no difference.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench.real.claims import Verdict
from bench.real.claims import table as claims_table
from bench.real.figures import Difference

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PICTURES = DOCS / "evidence.md", DOCS / "evidence"
EMPTY = "Not drawn yet."  # of a block whose pools are not recorded
OVER = ("equal draws", "equal tokens", "equal seconds")
MEASURED = {
    "temperature": "temperature",
    "divergence": "nats from plain",
    "entropy_before": "entropy before",
    "entropy_after": "after",
    "error_first": "error, first token",
    "error_last": "last",
    "clipped": "updates clipped",
}
BLOCK = re.compile(r"(?P<head><!-- (?P<name>[\w: ,.-]+) -->\n)(?P<content>.*?)(?P<end><!-- end -->)", re.DOTALL)


def figure_table(figures: Mapping[str, Any], draws: bool = False) -> str:
    """Return a part's figures on one benchmark as a Markdown table, with the number of draws if wanted."""
    lines = _head(["method", "accuracy", *(["draws"] if draws else []), "tokens", "rounds", "s"], 2)
    for name, data in figures.items():
        if isinstance(data, dict) and "accuracy" in data:
            accuracy = f"{data['accuracy']:.3f} [{data['low']:.3f}, {data['high']:.3f}]"
            costs = [f"{data['tokens']:,.0f}", f"{data['rounds']:.1f}", f"{data['seconds']:.1f}"]
            lines.append(_row([name, accuracy, *([f"{data['draws']:.1f}"] if draws else []), *costs]))
    return "\n".join(lines)


def arms_table(figures: Mapping[str, Any]) -> str:
    """Return pass@k of each arm, and by how much it is above direct draws at its largest k."""
    names = [name.rpartition(" pass@") for name in figures if " pass@" in name]
    ks = sorted({int(k) for _, _, k in names})
    heads = [f"pass@{k}" for k in ks]
    lines = _head(["arm", *heads, "tokens", *OVER], 1)
    for arm in dict.fromkeys(arm for arm, _, _ in names):
        own = [k for k in ks if f"{arm} pass@{k}" in figures]
        means = [f"{figures[f'{arm} pass@{k}']['accuracy']:.3f}" if k in own else "" for k in ks]
        gaps = figures["over direct"].get(f"{arm} at {own[-1]}", {})
        tokens = f"{figures[f'{arm} pass@{own[-1]}']['tokens']:,.0f}"
        lines.append(_row([arm, *means, tokens, *(_gap(gaps.get(column)) for column in OVER)]))
    refused = [f"{arm}: {share:.0%}" for arm, share in figures["direct instead of arm"].items() if share]
    if refused:
        lines += ["", f"Direct draws that stand in for an arm's whose helper's text was refused: {', '.join(refused)}."]
    return "\n".join(lines)


def choices_table(figures: Mapping[str, Any]) -> str:
    """Return what selectors make of direct draws and of the mix, "" where that was not decided."""
    lines = _head(["chosen by", "direct", "mix", *OVER, "over vote, on the mix"], 1)
    for word, gaps in figures["over direct"].items():
        if "mix" in gaps:
            cells = [_interval(gaps[source]) for source in ("direct", "mix")]
            lines.append(_row([word, *cells, *(_gap(gaps.get(c)) for c in (*OVER, "over vote, on the mix"))]))
    return "\n".join(lines) if len(lines) > 2 else ""


def mixing_table(exactness: Mapping[str, float]) -> str:
    """Return how well power samplers mixed."""
    names = ("acceptance", "changed", "swapped", "ess")
    lines = _head(["sampler", "proposals that differ, taken", "steps that change it", "swaps", "effective draws"], 1)
    for sampler in dict.fromkeys(key.rpartition(": ")[0] for key in exactness if not key.startswith("log_z")):
        values = [exactness.get(f"{sampler}: {name}") for name in names]
        lines.append(_row([sampler, *("" if value is None else f"{value:.2f}" for value in values)]))
    if "log_z: smc - sir" in exactness:
        gap, low, high = (exactness[f"log_z: {name}"] for name in ("smc - sir", "low", "high"))
        lines += ["", f"log Z by `smc` less log Z by the weights of `sir`: {gap:.1f} nats [{low:.1f}, {high:.1f}]."]
    return "\n".join(lines)


def groups_table(figures: Mapping[str, Any]) -> str:
    """Return what groups hold, and what the policies measured of themselves."""
    lines = _head(["policy", "pass@1", "different right ones", *MEASURED.values()], 1)
    for policy, one in figures["pass@1"].items():
        own = figures["groups"].get(policy, {})
        values = [f"{own[name]:.2f}" if name in own else "" for name in MEASURED]
        lines.append(_row([policy, f"{one:.3f}", f"{figures['different_right'][policy]:.2f}", *values]))
    return "\n".join(lines)


def _head(columns: Sequence[str], num_names: int) -> list[str]:
    return [_row(columns), _row(["---"] * num_names + ["---:"] * (len(columns) - num_names))]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _gap(data: Mapping[str, float] | None) -> str:
    return "" if data is None else str(Difference(data["value"], data["low"], data["high"]))


def _interval(data: Mapping[str, float]) -> str:
    return f"{data['value']:.3f} [{data['low']:.3f}, {data['high']:.3f}]"


def block(part: str, name: str, figures: Mapping[str, Any]) -> str:
    """Return a part's picture and tables on one benchmark, and what they were made from."""
    tables = (
        [arms_table(figures), choices_table(figures)] if part == "vary" else [figure_table(figures, part == "stop")]
    )
    tables += [mixing_table(figures["exactness"])] if part == "power" else []
    tables += [groups_table(figures)] if part == "explore" else []
    file = f"evidence/{part}-{name}"
    size = f"{figures['problems']} problems, {figures['draws']:,} draws, {figures['seconds']:,.0f} s of a core"
    return "\n\n".join(
        [
            f"![{name}: accuracy against tokens]({file}-tokens.svg)",
            *filter(None, tables),
            f"{size}; [the picture against seconds]({file}-seconds.svg).",
        ]
    )


def blocks(parts: Mapping[str, Mapping[str, Any]], verdicts: Mapping[str, list[Verdict]]) -> dict[str, str]:
    """Return each block of the page by its name, such as `power: gsm8k` or `claims: power`."""
    found = {
        f"{part}: {name}": block(part, name, figures) for part, own in parts.items() for name, figures in own.items()
    }
    return {**found, **{f"claims: {part}": claims_table(rows) for part, rows in verdicts.items() if rows}}


def renewed(text: str, contents: Mapping[str, str]) -> str:
    """Return the page with each named block filled in; a block that is not known stays as it is."""

    def fill(match: re.Match[str]) -> str:
        content = contents.get(match["name"])
        return match[0] if content is None else f"{match['head']}\n{content}\n\n{match['end']}"

    return BLOCK.sub(fill, text)


def renew(parts: Mapping[str, Mapping[str, Any]], verdicts: Mapping[str, list[Verdict]]) -> None:
    """Fill in the page's tables, and draw its pictures."""
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), blocks(parts, verdicts)), encoding="utf-8")
    PICTURES.mkdir(exist_ok=True)
    for part, own in parts.items():
        for name, figures in own.items():
            for by in ("tokens", "seconds"):
                (PICTURES / f"{part}-{name}-{by}.svg").write_text(
                    picture(f"{part}, {name}", figures, by), encoding="utf-8"
                )


# ------------------------------------------------------------------------------------------------------------- pictures

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 680, 380, 60, 200, 34, 44
DARK, GRAY, PALE = "#1f2933", "#52606d", "#e4e7eb"
UNITS = {"tokens": "tokens a question (log scale)", "seconds": "processor seconds a question (log scale)"}


class Point(NamedTuple):
    """One method at one size."""

    name: str
    cost: float
    value: float
    low: float
    high: float


class Scale(NamedTuple):
    """Where a cost and an accuracy lie in the picture: costs by their logarithm."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, cost: float) -> float:
        """Return the distance from the left edge."""
        return LEFT + (math.log10(cost) - self.low_x) / (self.high_x - self.low_x) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Return the distance from the top."""
        return HEIGHT - BOTTOM - (value - self.low_y) / (self.high_y - self.low_y) * (HEIGHT - TOP - BOTTOM)


def picture(title: str, figures: Mapping[str, Any], by: str) -> str:
    """Return accuracy against tokens or seconds as an SVG: a mark a method, sizes of one method joined."""
    points = [
        Point(name, data[by], data["accuracy"], data["low"], data["high"])
        for name, data in figures.items()
        if isinstance(data, dict) and data.get("accuracy") is not None and data.get(by, 0) > 0
    ]
    if not points:
        return ""
    logs = [math.log10(point.cost) for point in points]
    lowest, highest = max(0.0, min(p.low for p in points) - 0.02), min(1.0, max(p.high for p in points) + 0.02)
    scale = Scale(min(logs) - 0.1, max(logs) + 0.1, lowest, highest)
    families: dict[str, list[Point]] = {}
    for point in points:
        families.setdefault(re.sub(r"( of|\s+pass@)\s*\d+(?=,|$)", "", point.name), []).append(point)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', '<rect width="100%" height="100%" fill="#ffffff"/>']
    lines += [_text(LEFT, 20, f"{title}: accuracy against {by}", DARK), *_axes(scale, UNITS[by])]
    for index, (name, own) in enumerate(families.items()):
        color = f"hsl({index * 360 // len(families)}, 65%, 42%)"
        lines += _marks(sorted(own, key=lambda point: point.cost), scale, color)
        top = TOP + 6 + index * 14
        lines += [_dot(WIDTH - RIGHT + 14, top - 4, color), _text(WIDTH - RIGHT + 24, top, name, DARK)]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _axes(scale: Scale, unit: str) -> Iterator[str]:
    for step in range(5):
        value = scale.low_y + (scale.high_y - scale.low_y) * step / 4
        yield f'<path d="M{LEFT} {scale.y(value):.1f}H{WIDTH - RIGHT}" stroke="{PALE}"/>'
        yield _text(LEFT - 8, scale.y(value) + 4, f"{value:.2f}", GRAY, "end")
    for power in range(math.floor(scale.low_x), math.ceil(scale.high_x) + 1):
        for cost in (10.0**power, 2 * 10.0**power, 5 * 10.0**power):
            if scale.low_x <= math.log10(cost) <= scale.high_x:
                yield _text(scale.x(cost), HEIGHT - BOTTOM + 16, f"{cost:g}", GRAY, "middle")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, unit, GRAY, "middle")


def _marks(points: Sequence[Point], scale: Scale, color: str) -> Iterator[str]:
    if len(points) > 1:
        corners = " ".join(f"{scale.x(point.cost):.1f},{scale.y(point.value):.1f}" for point in points)
        yield f'<polyline points="{corners}" fill="none" stroke="{color}" stroke-width="1.5"/>'
    for point in points:
        x = scale.x(point.cost)
        bar = f"M{x:.1f} {scale.y(point.low):.1f}V{scale.y(point.high):.1f}"
        yield f'<path d="{bar}" stroke="{color}" stroke-opacity=".35"/>'
        yield _dot(x, scale.y(point.value), color)


def _dot(x: float, y: float, color: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{color}"/>'


def _text(x: float, y: float, text: str, color: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{html.escape(text)}</text>'
