"""Pack problems and their draws for the page: 200 problems x 5 pools x 64 draws stay below 15 MB.

The page opens with an index: one short row per problem. The draws of a problem are a block of their own, which the page
unpacks when the problem is opened: columns instead of records, each text and answer once in a string table, the JSON
deflated and in base64 (which no hostile text can break out of). `problems.js` reads what is written here.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.core.types import Json
from samplewise.report import format as fmt
from samplewise.report.data import DrawView, ProblemView
from samplewise.report.json import finite

MAX_CHARS = 20_000  # of a draw's text; the middle of a longer one is left out, and the page says so
RIGHT = 1 - 1e-9  # the least grade that counts as right; a lower one above 0 is partly right


class PoolChoice(NamedTuple):
    """A selector on a pool: what a method comes to on one problem."""

    recipe: str
    selector: str


def problem_index(views: Sequence[ProblemView]) -> dict[str, Json]:
    """Return what the list of problems needs: texts to search, and which choices were right."""
    recipes = list(dict.fromkeys(name for view in views for name in pool_names(view)))
    choices = list(dict.fromkeys(choice for view in views for choice in _chosen_draws(view)))
    return {
        "recipes": recipes,
        "choices": [[recipes.index(choice.recipe), choice.selector] for choice in choices],
        "problems": [
            {
                "id": view.id,
                "prompt": view.prompt,
                "reference": fmt.reference(view.reference),
                "marks": choice_marks(view, choices),
                "tags": problem_tags(view),
                "num_right": sum(draw.grade >= RIGHT for pool in view.pools for draw in pool.draws),
                "num_draws": sum(len(pool.draws) for pool in view.pools),
            }
            for view in views
        ],
    }


def choice_marks(view: ProblemView, choices: Sequence[PoolChoice]) -> list[float | str | None]:
    """Return the grade of each choice's draw: None unknown, "none" where it chose no draw, "" where it was not run."""
    chosen = _chosen_draws(view)
    marks: list[float | str | None] = []
    for choice in choices:
        draw = chosen.get(choice)
        marks.append("" if choice not in chosen else "none" if draw is None else _short(draw.grade))
    return marks


def problem_tags(view: ProblemView) -> list[str]:
    """Return the filters that a problem passes.

    "solved": some choice is right; without any choice, some draw is. "unsolved": none is.
    "disagree": one choice is right and another is wrong. "missed": a right answer was drawn and never chosen.
    """
    drawn = any(draw.grade >= RIGHT for pool in view.pools for draw in pool.draws)
    chosen = [pool.draw_at(position) for pool in view.pools for position in pool.chosen.values()]
    right = any(draw is not None and draw.grade >= RIGHT for draw in chosen)
    wrong = any(draw is None or draw.grade < RIGHT for draw in chosen)  # an unknown grade is not wrong
    solved = right if chosen else drawn
    tags = ["solved" if solved else "unsolved"]
    if right and wrong:
        tags.append("disagree")
    if chosen and drawn and not solved:
        tags.append("missed")
    return tags


def pool_names(view: ProblemView) -> list[str]:
    """Return the recipe of each pool, numbered from the second of the same recipe (another seed or stop rule) on."""
    counts: dict[str, int] = {}
    names = []
    for pool in view.pools:
        counts[pool.recipe] = nth = counts.get(pool.recipe, 0) + 1
        names.append(pool.recipe if nth == 1 else f"{pool.recipe} ({nth})")
    return names


def pack_draws(view: ProblemView) -> str:
    """Return the draws of one problem as base64 of deflated JSON."""
    text = json.dumps(draw_columns(view), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"))).decode("ascii")


def draw_columns(view: ProblemView) -> dict[str, Json]:
    """Return the draws of one problem as columns, with texts as positions in a string table."""
    strings: dict[str, int] = {}

    def position(text: str | None) -> int | None:
        return None if text is None else strings.setdefault(text, len(strings))

    pools = []
    for name, pool in zip(pool_names(view), view.pools, strict=True):
        draws = pool.draws
        explored = any(not math.isnan(draw.logq) for draw in draws)
        scored = list(dict.fromkeys(verifier for draw in draws for verifier in draw.scores))
        pools.append(
            {
                "recipe": name,
                "chosen": list(pool.chosen.items()),
                "text": [position(_cut(draw.text)) for draw in draws],
                "answer": [position(draw.answer) for draw in draws],
                "arm": [position(draw.arm) for draw in draws],
                "finish": [position(draw.finish) for draw in draws],
                "grade": [_short(draw.grade) for draw in draws],
                "tokens": [draw.num_tokens for draw in draws],
                "logp": [_short(draw.logp) for draw in draws],
                "logq": [_short(draw.logq) for draw in draws] if explored else None,
                "scores": [[name, [_short(draw.scores.get(name, math.nan)) for draw in draws]] for name in scored],
            }
        )
    return {"pools": pools, "strings": list(strings)}


def _chosen_draws(view: ProblemView) -> dict[PoolChoice, DrawView | None]:
    return {
        PoolChoice(name, selector): pool.draw_at(position)
        for name, pool in zip(pool_names(view), view.pools, strict=True)
        for selector, position in pool.chosen.items()
    }


def _short(value: float) -> float | None:
    """Round to five significant digits: more than a page shows."""
    number = finite(value)
    return None if number is None else int(number) if number == int(number) else float(f"{number:.5g}")


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    half = MAX_CHARS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out of this page …]\n{text[-half:]}"
