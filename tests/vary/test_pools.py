"""The wordings that arms draw from: complete, all different, and free of what would give them away."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from samplewise.measure.texts import cosines
from samplewise.models import TINY
from samplewise.vary.domains import DOMAINS
from samplewise.vary.pools.instructions import INSTRUCTIONS
from samplewise.vary.pools.requests import (
    CONCEPTS,
    IDEAS,
    PIVOTS,
    PLANS,
    REPHRASINGS,
    SSOT,
    SUPPLIED,
    TUTORS,
    VERBALIZED,
)
from samplewise.vary.pools.roles import ROLES
from samplewise.vary.pools.unrelated import NONSENSE, POEM, REMARKS
from samplewise.vary.puzzles import REMARKS as TINY_REMARKS

POOLS = {
    **{f"role/{name}": texts for name, texts in ROLES.items()},
    **{f"instruction/{name}": texts for name, texts in INSTRUCTIONS.items()},
    "irrelevant": REMARKS,
    "poem": POEM,
    "nonsense": NONSENSE,
}
IN_WORDS = ("role", "instruction", "irrelevant")  # of 12 to 30 words
FORMAT = re.compile(
    r"\d|\b[A-J]\b|\b(?:answers?|boxed|options?|letters?|choices?|formats?|json|final|digits?|multiple)\b"
)
NAMED = re.compile(
    r"gsm|mmlu|gpqa|aime|humaneval|mbpp|apps\b|math-?500|gpt|llama|qwen|gemma|claude|mistral|deepseek|\bai\b|model",
    re.I,
)
pools = pytest.mark.parametrize("name", POOLS)


def test_every_domain_is_complete() -> None:
    assert set(ROLES) == set(INSTRUCTIONS) == set(TUTORS) == set(DOMAINS)
    assert {len(texts) for texts in (*ROLES.values(), *INSTRUCTIONS.values(), POEM, NONSENSE)} == {12}
    assert len(REMARKS) == 24
    sizes = [len(texts) for texts in (IDEAS, REPHRASINGS, CONCEPTS, PLANS, VERBALIZED, SSOT)]
    assert sizes == [4, 6, 2, 2, 2, 4]
    assert len(SUPPLIED) == len(SSOT)
    assert len(set(PIVOTS)) == 6


@pytest.mark.parametrize("family", sorted({name.partition("/")[0] for name in POOLS}))
def test_no_two_texts_are_alike(family: str) -> None:
    texts = [text for name, pool in POOLS.items() if name.partition("/")[0] == family for text in pool]
    likeness = cosines(texts)
    assert np.max(likeness - 2 * np.eye(len(texts))) < 0.6
    assert len(set(texts)) == len(texts)


@pools
def test_texts_say_nothing_of_formats_data_sets_or_models(name: str) -> None:
    for text in POOLS[name]:
        assert not FORMAT.search(text), text
        assert not NAMED.search(text), text
        assert text == text.strip()
        assert "  " not in text


@pools
def test_lengths_and_persons(name: str) -> None:
    for text in POOLS[name]:
        family = name.partition("/")[0]
        if family in IN_WORDS:
            assert 12 <= len(text.split()) <= 30, text
            assert text.endswith((".", "?"))
        else:
            assert text.count("\n") == 1, "a couplet has two lines"
        if family in ("role", "instruction"):
            assert re.search(r"\byou", text, re.I), text


def test_the_checks_above_can_fail() -> None:
    assert FORMAT.search("Pick B.")
    assert FORMAT.search("the final answer")
    assert NAMED.search("like GSM8K")
    assert cosines(["You are a careful judge.", "You are a careful judge!"])[0, 1] > 0.6


def test_the_bundled_model_knows_every_word_of_its_remarks() -> None:
    known = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert "river" in known
    assert len(set(TINY_REMARKS)) == 12
    assert {word for text in TINY_REMARKS for word in text.split()} <= set(known)
