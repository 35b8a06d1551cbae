"""Runs programs that a model wrote, each shut in and bounded, and says what became of them.

    with Sandbox() as sandbox:
        sandbox.run(Program("def f(x): return x + 1", tests="assert f(1) == 2")).passed

Without bubblewrap it refuses, unless `use("none")` or SAMPLEWISE_SANDBOX=none says in words that programs may run as
this user. A warm worker forks each program from an interpreter that is already there (inside/zygote.py), which costs a
few milliseconds. Programs have Python's standard library and nothing else.
"""

from __future__ import annotations

from samplewise.verify.sandbox.isolation import chosen, use
from samplewise.verify.sandbox.pool import Numbered, Sandbox, shared
from samplewise.verify.sandbox.words import USUAL, Isolation, Level, Limits, Program, Status, Verdict

__all__ = [
    "USUAL",
    "Isolation",
    "Level",
    "Limits",
    "Numbered",
    "Program",
    "Sandbox",
    "Status",
    "Verdict",
    "chosen",
    "shared",
    "use",
]
