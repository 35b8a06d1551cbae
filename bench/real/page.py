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

DOCS = Path(__file__).parents[2] / "docs"
PAGE, PICTURES = DOCS / "evidence.md", DOCS / "evidence"
BLOCK = re.compile(r"(<!-- (?P<name>[\w: ,.-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def figure_table(figures: Mapping[str, Any]) -> str:
    """Return a part's figures on one benchmark as a Markdown table."""
    lines = ["| method | accuracy | tokens | rounds | s |", "| --- | --- | ---: | ---: | ---: |"]
    for name, data in figures.items():
        if isinstance(data, dict) and "accuracy" in data:
            accuracy = f"{data['accuracy']:.3f} [{data['low']:.3f}, {data['high']:.3f}]"
            lines.append(
                f"| {name} | {accuracy} | {data['tokens']:,.0f} | {data['rounds']:.1f} | {data['seconds']:.1f} |"
            )
    return "\n".join(lines)


def blocks(parts: Mapping[str, Mapping[str, Any]], verdicts: list[Verdict]) -> dict[str, str]:
    """Return each block of the page by its name, such as `power: gsm8k`."""
    found = {f"{part}: {name}": figure_table(figures) for part, own in parts.items() for name, figures in own.items()}
    return {**found, "claims": claims_table(verdicts)}


def renewed(text: str, contents: Mapping[str, str]) -> str:
    """Return the page with each named block filled in; a block that is not known stays as it is."""

    def fill(match: re.Match[str]) -> str:
        content = contents.get(match["name"])
        return match[0] if content is None else f"{match[1]}\n{content}\n\n{match[3]}"

    return BLOCK.sub(fill, text)


def renew(parts: Mapping[str, Mapping[str, Any]], verdicts: list[Verdict]) -> None:
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
