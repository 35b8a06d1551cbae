"""The inputs and outputs of the sandbox, as data."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

Status = Literal["passed", "failed", "timeout", "memory", "output", "disk", "crashed", "unknown", "broken"]
Level = Literal["apart", "together"]
Isolation = Literal["bubblewrap", "none"]


class Limits(NamedTuple):
    """Limits of one program, with all processes that it starts.

    Megabytes and kilobytes are of 2**20 and 2**10 bytes. Memory is limited twice: the address space of each process by
    the kernel, and the sum over all of them by a check every 10 to 30 ms, which ends the program. It can exceed the
    limit by what it can touch between two checks. The sum counts what is resident or swapped out, and for each process
    what the kernel may hold in the buffers of `open_files` files (about 13 MB by default). Memory that no process shows
    cannot be made: the system calls for it are refused. Without isolation only the first limit holds.
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
        """Raise ValueError unless every limit is a finite number above 0."""
        for name, value in zip(self._fields, self, strict=True):
            if value is not None and (not math.isfinite(value) or value <= 0):
                raise ValueError(f"{name} must be more than 0, got {value}")


USUAL = Limits()


class Program(NamedTuple):
    """A Python program. Without tests it runs as a script on `stdin`, and passes if it ends with exit status 0.

    With `tests` (Python that raises if the program is wrong) its verdict is that of the tests, at one of two levels:

    - "apart": the tests run in a process of their own, and call the program's functions over a socket; only plain data
      crosses. No code of the program can touch the tests, and no process that it runs in or was forked from ever held
      them. For tests that call functions and look at what they return. "unknown" if they need what cannot cross.
    - "together": the tests run in the program's process, after it, and a secret is written when the last has passed.
      Needed if tests make objects of the program's own classes. This level is weaker: a program that searches its own
      process for the secret finds it.
    """

    source: str
    tests: str = ""
    stdin: str = ""
    level: Level = "apart"
    entry_point: str = ""  # the function under test, which alone may have the name of a builtin
    imports: tuple[str, ...] = ()  # standard modules that the tests use without importing them
    separate_tests: tuple[str, ...] = ()  # run one by one after `tests`; the verdict says which passed
    test_s: float = 0.0  # time limit of one call of the program in them; 0: none of its own


class ProgramVerdict(NamedTuple):
    """The outcome of running a program.

    passed, failed      it ran to its end: exit status 0, or all of `tests`; failed otherwise
    timeout, memory, output, disk    it exceeded that limit and was stopped
    crashed             a signal ended it, or it took its worker with it, twice
    unknown             the tests need a value that cannot be handed from one process to the other
    broken              the sandbox failed, not the program: nothing is known about it
    """

    status: Status
    stdout: str = ""  # the program's, at most `output_kb`; what tests apart print is dropped
    stderr: str = ""
    seconds: float = math.nan  # wall clock
    reason: str = ""  # one line, from the tests if they give one
    level: Level | None = None  # None: no tests
    isolation: Isolation = "bubblewrap"
    separate: tuple[bool, ...] = ()  # which of `separate_tests` passed; empty unless they were run to the last

    @property
    def passed(self) -> bool:
        return self.status == "passed"

    @property
    def is_known(self) -> bool:
        """Return whether the verdict says anything about the program."""
        return self.status not in ("unknown", "broken")
