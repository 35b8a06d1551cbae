"""The stop rule protocol: looks at a scored pool and what was spent, says stop and why.

A rule is pure and is asked again after every completion. It never sees where a score came from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from samplewise.types import Pool, Stop, Usage


class Check(Protocol):
    def __call__(self, pool: Pool, answers: tuple[str | None, ...], spent: Usage) -> Stop | None: ...


@dataclass(frozen=True, slots=True)
class StopRule:
    """`answers` (N,) are the pool's candidates as the task's reader reads them. `verifiers` are those whose scores the
    rule looks at. `guarantee`: exact, anytime-valid, model-based or heuristic."""

    name: str
    check: Check
    verifiers: tuple[str, ...] = ()
    guarantee: str = "heuristic"
