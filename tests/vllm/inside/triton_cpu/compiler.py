"""The compiler, which the interpreter never calls."""

from __future__ import annotations

from typing import Any

from triton.backends.compiler import BaseBackend


class CpuBackend(BaseBackend):
    @staticmethod
    def supports_target(target: Any) -> bool:
        return target.backend == "cpu"


CpuBackend.__abstractmethods__ = frozenset()
