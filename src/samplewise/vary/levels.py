"""How close what an arm adds is to the question: five levels, and 0 where its text is not touched.

The levels of the literature, with help said to be largest in the middle: 1 unrelated text of matched length, 2 advice
that fits the domain, 3 an idea for this very question, 4 the question in other words, 5 the question once more.
"""

from __future__ import annotations

from collections.abc import Mapping

LEVELS: Mapping[str, int] = {
    "direct": 0,
    "temperature": 0,
    "irrelevant": 1,
    "jabberwocky": 1,
    "remark": 1,
    "instruction": 2,
    "prefer": 2,
    "role": 2,
    "ssot": 2,
    "concept": 3,
    "idea": 3,
    "plan": 3,
    "random_step": 3,
    "step": 3,
    "verbalized": 3,
    "backtranslate": 4,
    "permute": 4,
    "rephrase": 4,
    "again": 5,
    "verbatim": 5,
}


def family_of(arm: str) -> str:
    """The family in an arm's id: "idea" of "idea.dual/5"; of a composition the families, joined by +."""
    return "+".join(part.partition("/")[0].partition(".")[0].partition("@")[0] for part in arm.split("+"))


def level_of(arm: str) -> int | None:
    """The level of an arm by its id, the largest in a composition; None where a family is not in the table."""
    levels = [LEVELS.get(family) for family in family_of(arm).split("+")]
    return None if None in levels else max(level for level in levels if level is not None)
