"""Which versions of vLLM were tried, and how. `samplewise doctor` prints this table."""

from __future__ import annotations

import re
from collections.abc import Mapping

OLDEST, BEFORE = (0, 29), (0, 34)  # guided draws are tried from and up to here, without the second
TESTED: Mapping[str, str] = {  # what tests/vllm ran with these versions
    "0.32.0": "model runners V1 and V2 on a CPU, in float32",
    "0.29.0": "model runner V1 on a CPU, in float32",
}


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def version_refusal(version: str) -> str:
    """Return why guided draws are not tried with a version, "" where they are."""
    if OLDEST <= _numbers(version) < BEFORE:
        return ""
    low, high = (".".join(map(str, bound)) for bound in (OLDEST, BEFORE))
    return f"vLLM {version} is outside of {low} to {high}, where samplewise knows its internals"


def version_note(version: str) -> str:
    """Return what a user should know about a version, "" for one that was tested."""
    if version in TESTED:
        return ""
    return f"vLLM {version} was not tested with samplewise; tested: {', '.join(TESTED)}"
