"""The version of an arm's texts, which its id states; an id without a version means version 1.

Draws of an old wording and of a new one must not be pooled, so a change of texts is another arm: raise the family's
number here, and its ids become `idea.single~2/1` or `role~2/maths/03`. A test keeps a digest of every family's texts
and fails if texts changed and the number did not. A text added at the end of a pool changes no other.
"""

from __future__ import annotations

from collections.abc import Mapping

VERSIONS: Mapping[str, int] = {
    "backtranslate": 1,
    "concept": 1,
    "idea": 1,
    "instruction": 1,
    "irrelevant": 1,
    "jabberwocky": 1,
    "plan": 1,
    "prefer": 1,
    "remark": 1,
    "rephrase": 1,
    "role": 1,
    "ssot": 1,
    "step": 1,
    "verbalized": 1,
}


def versioned(family: str) -> str:
    """Return the family as ids have it: "idea.single" at version 1, "idea.single~2" at version 2."""
    version = VERSIONS[family.partition(".")[0]]
    return family if version == 1 else f"{family}~{version}"
