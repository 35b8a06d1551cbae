"""Problems and their samples, small enough for a page of 200 problems x 5 pools x 64 samples.

The page opens with an index: one short row per problem. The samples of a problem are a block of their own, which the
page unpacks when the problem is opened: columns rather than records, texts and answers once each in a string table, the
JSON deflated and in base64 (which no hostile text can break out of). `problems.js` reads what is written here.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.report import format as fmt
from samplewise.report.data import Draws, Sample, View
from samplewise.report.json import finite
from samplewise.types import Json

MAX_CHARS = 20_000  # of one sample's text; the middle of a longer one is left out, and the page says so
RIGHT = 1 - 1e-9  # a grade from here on is right; between 0 and that it is partly right


class Choice(NamedTuple):
    """A selector on a pool: what the page calls a choice, and what a method comes to on one problem."""

    recipe: str
    selector: str


def index(views: Sequence[View]) -> dict[str, Json]:
    """What the list of problems needs: texts to search, and who was right."""
    recipes = list(dict.fromkeys(name for v in views for name in pool_names(v)))
    choices = list(dict.fromkeys(c for v in views for c in _made(v)))
    return {
        "recipes": recipes,
        "choices": [[recipes.index(c.recipe), c.selector] for c in choices],
        "problems": [
            {
                "id": v.id,
                "prompt": v.prompt,
                "reference": fmt.reference(v.reference),
                "marks": marks(v, choices),
                "tags": tags(v),
                "num_right": sum(s.grade >= RIGHT for d in v.draws for s in d.samples),
                "num_samples": sum(len(d.samples) for d in v.draws),
            }
            for v in views
        ],
    }


def marks(view: View, choices: Sequence[Choice]) -> list[float | str | None]:
    """The grade of what each choice chose: None unknown, "none" where it chose nothing, "" where it was not made."""
    made = _made(view)
    return [("" if c not in made else "none" if (s := made[c]) is None else _short(s.grade)) for c in choices]


def tags(view: View) -> list[str]:
    """The filters that a problem passes.

    "solved": some choice is right; without any choice, some sample is. "unsolved": none is.
    "disagree": one choice is right and another is not. "missed": a right answer was drawn and never chosen.
    """
    drawn = any(s.grade >= RIGHT for d in view.draws for s in d.samples)
    chosen = [_chosen(d, at) for d in view.draws for at in d.chosen.values()]
    right = [s is not None and s.grade >= RIGHT for s in chosen]
    known = [s is None or not math.isnan(s.grade) for s in chosen]
    solved = any(right) if chosen else drawn
    found = ["solved" if solved else "unsolved"]
    if any(right) and any(k and not r for k, r in zip(known, right, strict=True)):
        found.append("disagree")
    if chosen and drawn and not solved:
        found.append("missed")
    return found


def pool_names(view: View) -> list[str]:
    """The recipe of each pool; the second of the same recipe (another seed, another stop rule) says so."""
    seen: dict[str, int] = {}
    names = []
    for d in view.draws:
        seen[d.recipe] = nth = seen.get(d.recipe, 0) + 1
        names.append(d.recipe if nth == 1 else f"{d.recipe} ({nth})")
    return names


def pack(view: View) -> str:
    """The samples of one problem as base64 of deflated JSON."""
    text = json.dumps(_columns(view), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"))).decode("ascii")


def _columns(view: View) -> dict[str, Json]:
    strings: dict[str, int] = {}

    def at(text: str | None) -> int | None:
        return None if text is None else strings.setdefault(text, len(strings))

    draws = []
    for pool, d in zip(pool_names(view), view.draws, strict=True):
        names = list(dict.fromkeys(name for s in d.samples for name in s.scores))
        draws.append(
            {
                "recipe": pool,
                "chosen": list(d.chosen.items()),
                "text": [at(_cut(s.text)) for s in d.samples],
                "answer": [at(s.answer) for s in d.samples],
                "arm": [at(s.arm) for s in d.samples],
                "finish": [at(s.finish) for s in d.samples],
                "grade": [_short(s.grade) for s in d.samples],
                "tokens": [s.num_tokens for s in d.samples],
                "logp": [_short(s.logp_sum) for s in d.samples],
                "logq": [_short(s.logq_sum) for s in d.samples] if _known(d) else None,
                "scores": [[name, [_short(s.scores.get(name, math.nan)) for s in d.samples]] for name in names],
            }
        )
    return {"draws": draws, "strings": list(strings)}


def _known(draws: Draws) -> bool:
    """Whether some sample is known to have been drawn under a law of its own."""
    return any(not math.isnan(s.logq_sum) for s in draws.samples)


def _made(view: View) -> dict[Choice, Sample | None]:
    return {
        Choice(pool, selector): _chosen(d, at)
        for pool, d in zip(pool_names(view), view.draws, strict=True)
        for selector, at in d.chosen.items()
    }


def _chosen(draws: Draws, at: int | None) -> Sample | None:
    return draws.samples[at] if at is not None and 0 <= at < len(draws.samples) else None


def _short(value: float) -> float | None:
    """Five significant digits: more than a page shows."""
    known = finite(value)
    return None if known is None else int(known) if known == int(known) else float(f"{known:.5g}")


def _cut(text: str) -> str:
    if len(text) <= MAX_CHARS:
        return text
    half = MAX_CHARS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out of this page …]\n{text[-half:]}"
