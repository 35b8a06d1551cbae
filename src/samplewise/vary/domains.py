"""Guess the domain of a question from its facts and from plain signs in its text."""

from __future__ import annotations

import re

from samplewise.core.types import Question
from samplewise.vary.slots import wording

DOMAINS = ("reasoning", "maths", "code", "puzzles", "general")

_CODE = re.compile(
    r"^[ \t]*(?:def \w+\(|class \w+[(:]|import \w+$|from \w+ import\b)|```"
    r"|\b(?:python|javascript)\b|\bwrite a (?:\w+ )?(?:function|program)\b",
    re.MULTILINE | re.I,
)
_MATHS = re.compile(
    r"\\(?:frac|sqrt|boxed|cdot|left|sum|int|angle)\b|\$[^$\n]+\$"
    r"|\b(?:equation|integers?|triangle|polynomial|probability|per ?cent|remainder|how (?:many|much))\b",
    re.I,
)
_MAKE = re.compile(r"\bmake \d+ from \d", re.I)
_PUZZLE = re.compile(r"\b(?:puzzle|riddle)\b", re.I)  # looked for last: sums about jigsaw puzzles are sums
_OPTIONS = re.compile(r"^[ \t]*\(?A[.):]\s.*\n\s*\(?B[.):]\s", re.MULTILINE)


def domain_of(question: Question) -> str:
    """Return one of DOMAINS. Facts decide first, then the text; "general" if neither tells."""
    facts, text = question.facts, wording(question)
    if "entry_point" in facts or "tests" in facts:
        return "code"
    if "numbers" in facts and "target" in facts:
        return "puzzles"
    if "options" in facts:
        return "reasoning"
    signs = (("puzzles", _MAKE), ("reasoning", _OPTIONS), ("code", _CODE), ("maths", _MATHS), ("puzzles", _PUZZLE))
    for domain, sign in signs:
        if sign.search(text):
            return domain
    return "general"


def checked_domain(name: str) -> str:
    """Return the name of a domain, or "auto". ValueError for anything else."""
    if name not in (*DOMAINS, "auto"):
        raise ValueError(f"domain must be auto, {', '.join(DOMAINS)}; got {name!r}")
    return name


def chosen_domain(name: str, question: Question) -> str:
    """Return the named domain, or for "auto" the domain of the question."""
    return domain_of(question) if name == "auto" else name
