"""A few warm child processes that do the symbolic step of maths grading, and the limits that they live under.

A child that hangs, dies or runs out of memory costs its own request alone: the outcome is unknown (None), it is
counted, and the next request gets a new child. Children are started when they are first needed (about a second each),
by `subprocess`, and talk JSON lines over pipes: nothing is unpickled. They end with this process, whatever becomes of
it.

A request may take so much **processor** time, so that a verdict does not depend on what else the machine is doing; the
wall clock only guards against a child that waits for ever.

Replies are remembered, so that equal questions get equal replies within a process, and a hang is waited for once.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from samplewise.errors import MissingExtra, SetupError

MAX_CHILDREN = 2
LIMIT_S = 2.0  # processor time, for one request
WALL_S = 10.0  # wall clock, for one request
START_S = 60.0  # for a child to load its libraries, on a busy machine
MEMORY_BYTES = 1 << 30  # address space of a child
MAX_REPLIES = 100_000  # remembered
MAX_LINE = 1 << 20  # bytes of a reply
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "HOME")  # no keys, no tokens


class Counts(NamedTuple):
    """What happened so far. Requests that ended in a hang or a crash are unknown outcomes."""

    asked: int = 0
    hung: int = 0
    crashed: int = 0
    started: int = 0  # children


class _Lost(Exception):
    """A child gave no reply. `hung` or crashed."""

    def __init__(self, hung: bool) -> None:
        super().__init__("no reply")
        self.hung = hung


class Child:
    """One process. Not for several threads at a time."""

    def __init__(self, limit_s: float, memory_bytes: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("child.py")), str(memory_bytes), str(limit_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # a Ctrl-C at the terminal is for us, not for it
            env={
                **{name: os.environ[name] for name in _KEPT if name in os.environ},
                "PYTHONHASHSEED": "0",  # the order in which terms are printed must not differ between children
                "PYTHONIOENCODING": "utf-8",
            },
        )
        try:
            said = self._read(START_S)
        except _Lost as lost:
            self.close()
            why = f"did not start within {START_S:g} s" if lost.hung else "died while it was starting"
            raise SetupError(f"maths grading: the child process {why}") from None
        if "missing" in said:
            self.close()
            raise MissingExtra("maths grading", "eval")

    def ask(self, request: dict[str, str], wall_s: float) -> dict[str, Any]:
        """The reply, or _Lost."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError:
            raise _Lost(hung=False) from None
        return self._read(wall_s)

    def _read(self, wall_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + wall_s
        said = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not said.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise _Lost(hung=True)
                more = os.read(self._process.stdout.fileno(), 1 << 16)
                said += more
                if not more:
                    raise _Lost(hung=self._ended_by() == -signal.SIGPROF)
                if len(said) > MAX_LINE:
                    raise _Lost(hung=False)
        try:
            found: dict[str, Any] = json.loads(said)
        except ValueError:
            raise _Lost(hung=False) from None
        return found

    def _ended_by(self) -> int | None:
        """The exit status of a process that has just closed its pipe; None if it lives on."""
        try:
            return self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Ends the process at once."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


class Children:
    """Up to `max_children` of them, started when needed. For any number of threads."""

    def __init__(
        self,
        max_children: int = MAX_CHILDREN,
        *,
        limit_s: float = LIMIT_S,
        wall_s: float = WALL_S,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._limit_s, self._wall_s, self._memory_bytes = limit_s, wall_s, memory_bytes
        self._places = threading.BoundedSemaphore(max_children)
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self.counts = Counts()

    def ask(self, request: dict[str, str]) -> dict[str, Any] | None:
        """The reply, None where the child hung or crashed. Raises MissingExtra where the library is missing."""
        with self._places:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                child = Child(self._limit_s, self._memory_bytes)
                self._count(started=1)
            try:
                said = child.ask(request, self._wall_s)
            except _Lost as lost:
                child.close()
                self._count(asked=1, hung=int(lost.hung), crashed=int(not lost.hung))
                return None
            except BaseException:  # interrupted between question and answer: its reply would go to the next one
                child.close()
                raise
            self._count(asked=1)
            with self._lock:
                self._idle.append(child)
            return said

    def _count(self, **more: int) -> None:
        with self._lock:
            self.counts = self.counts._replace(**{k: getattr(self.counts, k) + v for k, v in more.items()})

    def close(self) -> None:
        """Ends the children that are idle; more may be started afterwards."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()


@lru_cache(maxsize=1)
def _children(process: int) -> Children:
    """The children of this process. After a fork they are the parent's, and ours are others."""
    children = Children()
    atexit.register(lambda: children.close() if os.getpid() == process else None)
    return children


def require() -> None:
    """Raise MissingExtra where the library is not installed: before anything is paid for answers to compare with it."""
    if importlib.util.find_spec("math_verify") is None:
        raise MissingExtra("maths grading", "eval")


def counts() -> Counts:
    """What the children of this process have done so far."""
    return _children(os.getpid()).counts


@lru_cache(maxsize=MAX_REPLIES)
def equal(left: str, right: str) -> bool | None:
    """Whether two LaTeX expressions are equal in both directions; None: unknown."""
    said = _children(os.getpid()).ask({"do": "equal", "left": left, "right": right})
    found = None if said is None else said.get("equal")
    return found if isinstance(found, bool) else None


@lru_cache(maxsize=MAX_REPLIES)
def key(latex: str) -> str | None:
    """The expression in a standard form, as LaTeX; None: unknown."""
    said = _children(os.getpid()).ask({"do": "key", "left": latex})
    found = None if said is None else said.get("key")
    return found if isinstance(found, str) else None
