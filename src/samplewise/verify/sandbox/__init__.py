"""Run programs that a model wrote, each isolated and bounded, and report what became of them.

    with Sandbox() as sandbox:
        sandbox.run(Program("def f(x): return x + 1", tests="assert f(1) == 2")).passed

Without bubblewrap it refuses, unless `use("none")` or SAMPLEWISE_SANDBOX=none explicitly allows programs to run as this
user. A warm worker forks each program from a running interpreter (inside/zygote.py), which costs a few milliseconds.
Programs have Python's standard library and nothing else.
"""

from __future__ import annotations

from samplewise.verify.sandbox.check import limits_here
from samplewise.verify.sandbox.isolation import chosen, use
from samplewise.verify.sandbox.pool import Numbered, Sandbox, shared_sandbox
from samplewise.verify.sandbox.programs import USUAL, Isolation, Level, Limits, Program, ProgramVerdict, Status

__all__ = [
    "USUAL",
    "Isolation",
    "Level",
    "Limits",
    "Numbered",
    "Program",
    "ProgramVerdict",
    "Sandbox",
    "Status",
    "chosen",
    "limits_here",
    "shared_sandbox",
    "use",
]
