"""One warm sandbox with one worker for a whole file: what a program leaves behind meets the next one."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from samplewise.core.errors import SetupError
from samplewise.verify.sandbox import Program, Sandbox


@functools.cache
def why_not() -> str:
    """Why bubblewrap cannot run here; empty where it can."""
    try:
        with Sandbox(1, "bubblewrap") as sandbox:
            verdict = sandbox.run(Program("print(1)"))
    except SetupError as error:
        # a hole that the self-check has found is a failure, not a reason to skip
        return "" if "not tight" in str(error) else str(error)
    return "" if verdict.passed else verdict.reason


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    if reason := why_not():
        pytest.skip(reason)
    with Sandbox(1, "bubblewrap") as made:
        yield made
