"""A few warm child processes that do the symbolic step of maths grading, and their limits.

A child that hangs, dies or runs out of memory costs its own request alone: the outcome is unknown (None) and counted,
and the next request gets a new child. Children are started by `subprocess` when first needed (about a second each) and
speak JSON lines over pipes: nothing is unpickled. They end with this process, however it ends.

The limit of a request is **processor** time, so that a verdict does not depend on the load of the machine. The wall
clock only guards against a child that waits forever.

Replies are cached, so that equal questions get equal replies within a process, and a hang is waited for once.
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

from samplewise.core.errors import MissingExtra, SetupError

MAX_CHILDREN = min(max(2, os.cpu_count() or 2), 8)
LIMIT_S = 2.0  # processor time, for one request
WALL_S = 10.0  # wall clock, for one request
START_S = 60.0  # for a child to load its libraries, on a busy machine
MEMORY_BYTES = 1 << 30  # address space of a child
MAX_REPLIES = 100_000  # remembered
MAX_LINE = 1 << 20  # bytes of a reply
_KEPT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "HOME")  # no keys, no tokens


class ChildCounts(NamedTuple):
    """What happened so far. Requests that ended in a hang or a crash are unknown outcomes."""

    asked: int = 0
    hung: int = 0
    crashed: int = 0
    started: int = 0  # children


class _Lost(Exception):
    """A child gave no reply: it hung, or crashed."""

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
            reply = self._read(START_S)
        except _Lost as lost:
            self.close()
            reason = f"did not start within {START_S:g} s" if lost.hung else "died while it was starting"
            raise SetupError(f"maths grading: the child process {reason}") from None
        if "missing" in reply:
            self.close()
            raise MissingExtra("maths grading", "eval")

    def ask(self, request: dict[str, str], wall_s: float) -> dict[str, Any]:
        """Return the reply, or raise _Lost."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
        except OSError:
            raise _Lost(hung=False) from None
        return self._read(wall_s)

    def _read(self, wall_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + wall_s
        reply = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not reply.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise _Lost(hung=True)
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                reply += chunk
                if not chunk:
                    raise _Lost(hung=self._ended_by() == -signal.SIGPROF)
                if len(reply) > MAX_LINE:
                    raise _Lost(hung=False)
        try:
            parsed: dict[str, Any] = json.loads(reply)
        except ValueError:
            raise _Lost(hung=False) from None
        return parsed

    def _ended_by(self) -> int | None:
        """Return the exit status of a process that has just closed its pipe; None if it lives on."""
        try:
            return self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """End the process at once."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


class Children:
    """Up to `max_children` processes, started when needed. For any number of threads."""

    def __init__(
        self,
        max_children: int = MAX_CHILDREN,
        *,
        limit_s: float = LIMIT_S,
        wall_s: float = WALL_S,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._limit_s, self._wall_s, self._memory_bytes = limit_s, wall_s, memory_bytes
        self._free = threading.BoundedSemaphore(max_children)
        self._lock = threading.Lock()
        self._idle: list[Child] = []
        self.counts = ChildCounts()

    def ask(self, request: dict[str, str]) -> dict[str, Any] | None:
        """Return the reply, None if the child hung or crashed. MissingExtra if the library is missing."""
        with self._free:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                child = Child(self._limit_s, self._memory_bytes)
                self._count(started=1)
            try:
                reply = child.ask(request, self._wall_s)
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
            return reply

    def _count(self, **more: int) -> None:
        with self._lock:
            self.counts = self.counts._replace(**{k: getattr(self.counts, k) + v for k, v in more.items()})

    def close(self) -> None:
        """End the idle children; more may be started afterwards."""
        with self._lock:
            idle, self._idle = self._idle, []
        for child in idle:
            child.close()


@lru_cache(maxsize=1)
def _children(process: int) -> Children:
    """Return the children of this process. After a fork the parent's children are not ours."""
    children = Children()
    atexit.register(lambda: children.close() if os.getpid() == process else None)
    return children


def require_math_verify() -> None:
    """Raise MissingExtra if the library is not installed, before anything is paid for answers to compare with it."""
    if importlib.util.find_spec("math_verify") is None:
        raise MissingExtra("maths grading", "eval")


def child_counts() -> ChildCounts:
    """Return what the children of this process have done so far."""
    return _children(os.getpid()).counts


@lru_cache(maxsize=MAX_REPLIES)
def ask_equal(left: str, right: str) -> bool | None:
    """Return whether two LaTeX expressions are equal in both directions; None if unknown."""
    reply = _children(os.getpid()).ask({"do": "equal", "left": left, "right": right})
    verdict = None if reply is None else reply.get("equal")
    return verdict if isinstance(verdict, bool) else None


@lru_cache(maxsize=MAX_REPLIES)
def ask_key(latex: str) -> str | None:
    """Return the expression in a standard form, as LaTeX; None if unknown."""
    reply = _children(os.getpid()).ask({"do": "key", "left": latex})
    key = None if reply is None else reply.get("key")
    return key if isinstance(key, str) else None
