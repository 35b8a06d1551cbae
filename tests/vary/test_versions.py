"""Changed words are another arm: a digest of every family's words beside its version."""

from __future__ import annotations

import hashlib
import json

import pytest

from samplewise.core.keys import Key
from samplewise.core.types import Message, Question
from samplewise.vary.base import as_arm
from samplewise.vary.helpers import family_id
from samplewise.vary.levels import family_of, level_of
from samplewise.vary.pools import instructions, requests, roles, unrelated, versions
from samplewise.vary.prompts import role, ssot
from samplewise.vary.puzzles import OPERATIONS, REMARKS, prefer, remark

WORDS = {
    "backtranslate": [requests.PIVOTS, requests.THERE, requests.BACK],
    "concept": [requests.CONCEPTS, requests.CONCEPT, requests.TUTORS],
    "idea": [requests.IDEAS, requests.IDEA, requests.OTHER, requests.TUTORS],
    "instruction": [instructions.INSTRUCTIONS],
    "irrelevant": [unrelated.REMARKS],
    "jabberwocky": [unrelated.POEM, unrelated.NONSENSE],
    "plan": [requests.PLANS, requests.PLAN, requests.TUTORS],
    "prefer": [OPERATIONS],
    "remark": [REMARKS],
    "rephrase": [requests.REPHRASINGS, requests.OTHER_WORDING],
    "role": [roles.ROLES],
    "ssot": [requests.SSOT, requests.SUPPLIED],
    "step": ["first step to", "start with"],  # written where they are used
    "verbalized": [requests.VERBALIZED, requests.IDEA, requests.TUTORS],
}
SEEN = {  # the family's version, and the digest of its words
    "backtranslate": (1, "c6c36c4c0807"),
    "concept": (1, "d5b0412b46b6"),
    "idea": (1, "5c1e536eddb7"),
    "instruction": (1, "c24c484ffc62"),
    "irrelevant": (1, "76421bb54755"),
    "jabberwocky": (1, "d40fa71e8a62"),
    "plan": (1, "8c8ee5db5768"),
    "prefer": (1, "b09926c7fa2b"),
    "remark": (1, "a4aabe0d1e88"),
    "rephrase": (1, "478903b92652"),
    "role": (1, "ffac7b6f10a5"),
    "ssot": (1, "ce711ba8d8ce"),
    "step": (1, "35034d0fd5c7"),
    "verbalized": (1, "dc8681119944"),
}


def digest(family: str) -> str:
    return hashlib.blake2b(json.dumps(WORDS[family]).encode(), digest_size=6).hexdigest()


def test_words_change_with_their_version_alone() -> None:
    """Raise the family's number in pools/versions.py, then put the new digest here. For a text that is added at the end
    of a pool the digest alone is renewed: no id comes to mean other words."""
    found = {family: (versions.VERSIONS[family], digest(family)) for family in sorted(WORDS)}
    assert found == SEEN
    assert versions.VERSIONS.keys() == WORDS.keys()


@pytest.mark.parametrize("family", sorted(WORDS))
def test_a_new_version_is_in_the_id_and_in_no_name(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions.versioned(family) == family
    monkeypatch.setattr(versions, "VERSIONS", {**versions.VERSIONS, family: 2})
    assert versions.versioned(f"{family}.single") == f"{family}.single~2"
    arm = f"{versions.versioned(family)}/03@after"
    assert family_of(f"direct+{arm}") == f"direct+{family}"
    assert level_of(arm) == level_of(f"{family}/03") is not None


def test_arms_take_it_from_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS", dict.fromkeys(versions.VERSIONS, 3))
    question = Question("q", (Message("user", "make 24 from 4 6 7 8"),), {"numbers": [4, 6, 7, 8], "target": 24})

    def ids(arm: object) -> list[str]:
        return [variant.arm for variant in as_arm(arm).make(Key(0), question, ()).variants]  # type: ignore[arg-type]

    assert ids(role(1, pick="maths/03")) == ["role~3/maths/03"]
    assert ids(ssot(1, supplied=True))[0].startswith("ssot.supplied~3/")
    assert ids(prefer("*")) == ["prefer~3/times"]
    assert ids(remark(1))[0].startswith("remark~3/")
    assert family_id("idea", ("", "strong")) == "idea.diverse~3"
