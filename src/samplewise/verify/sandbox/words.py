"""What goes into the sandbox and what comes out of it, as data."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Status = Literal["passed", "failed", "timeout", "memory", "output", "disk", "crashed", "broken"]
Level = Literal["apart", "together"]
Isolation = Literal["bubblewrap", "none"]


class Limits(NamedTuple):
    """What one program, with all that it starts, may use. Megabytes and kilobytes are of 2**20 and 2**10 bytes.

    Memory is limited twice: the address space of each process by the kernel, and what all of them hold together by a
    look every 10 to 30 ms, which ends the program. What it may overshoot is what it can touch between two looks.
    """

    wall_s: float = 3.0
    cpu_s: int | None = None  # of each process; None: `wall_s`, rounded up
    memory_mb: int = 512
    processes: int = 16  # and threads, counted together
    file_mb: int = 16  # the largest file
    disk_mb: int = 32  # the whole folder, which is in memory
    files: int = 1000
    open_files: int = 64
    output_kb: int = 256  # of standard output, and of standard error

    def check(self) -> None:
        """ValueError unless every limit is one."""
        for name, value in zip(self._fields, self, strict=True):
            if value is not None and (not math.isfinite(value) or value <= 0):
                raise ValueError(f"{name} must be more than 0, got {value}")


USUAL = Limits()


class Program(NamedTuple):
    """A Python program. Without tests it runs as a script on `stdin`, and passes if it ends with exit status 0.

    With `tests` (Python that raises if the program is wrong) its verdict is that of the tests, at one of two levels:

    - "apart": the tests run in a process of their own, and call the program's functions over a socket; only plain data
      crosses. No code of the program can touch the tests. For tests that call functions and look at what they return.
    - "together": the tests run in the program's process, after it, and a secret is written when the last has passed.
      Needed where tests make objects of the program's own classes. A known weaker level: a program that goes to the
      length of searching its own process for the secret finds it.
    """

    source: str
    tests: str = ""
    stdin: str = ""
    level: Level = "apart"
    entry_point: str = ""  # the function under test, which alone may have the name of a builtin
    imports: tuple[str, ...] = ()  # standard modules that the tests use without importing them


class Verdict(NamedTuple):
    """What became of a program.

    passed, failed      it ran to its end: exit status 0, or all tests; failed otherwise
    timeout, memory, output, disk    it went past that limit and was stopped
    crashed             a signal ended it, or it took its worker with it, twice
    broken              the sandbox has failed, not the program: nothing is known about it
    """

    status: Status
    stdout: str = ""  # at most `output_kb`
    stderr: str = ""
    seconds: float = math.nan  # wall clock
    reason: str = ""  # one line; of the tests, where they say one
    level: Level | None = None  # None: no tests
    isolation: Isolation = "bubblewrap"

    @property
    def passed(self) -> bool:
        return self.status == "passed"
