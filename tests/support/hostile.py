"""Programs that attack the sandbox they run in, each with what it tries, and a host that notices harm.

Every program is asked for `add`, whose hidden tests are `TESTS`. None of them solves the task: an attack that works
makes `add` right, or claims that it is. So a program that passes has got through, and one is contained if it does not
pass and the host is as it was: its files, its processes, its listening sockets. `HONEST` runs in between and must pass,
each time in a folder as empty as the first.

The table is for the tests, for `bench/sandbox.py`, and for whoever runs programs by another sandbox.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tempfile
import textwrap
from pathlib import Path
from typing import NamedTuple

from samplewise.verify.sandbox import Level, Limits, Program, ProgramVerdict

TESTS = "assert add(2, 3) == 5\nassert add(-1, 1) == 0\nassert [add(n, n) for n in range(3)] == [0, 2, 4]"
LIMITS = Limits(wall_s=0.8, memory_mb=256, processes=12, disk_mb=16, file_mb=8, files=200, output_kb=64)

HONEST = """
import os, re, json, math, builtins
assert os.listdir("/tmp") == [] and os.listdir(".") == [], os.listdir("/tmp")
assert len([1, 2]) == 2 and math.sqrt(4) == 2 and json.loads("[1]") == [1] and not os.environ
open("mine", "w").write("x" * 1000)
pid = os.fork()
if pid == 0:
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
def add(a, b):
    return a + b
"""


class Hostile(NamedTuple):
    """A program, what it attacks, and at which levels it must be contained."""

    group: str
    name: str
    source: str
    levels: tuple[Level, ...] = ("apart", "together")

    def program(self, level: Level, site: Site) -> Program:
        """Return the program, with this site's paths filled in, and the tests."""
        return Program(site.fill(self.source), TESTS, level=level, entry_point="add")


WRONG = "def add(a, b):\n    return None\n"
ATTEMPT = """
def attack():
{body}
try:
    attack()
    worked = True
except BaseException:
    worked = False
def add(a, b):
    return a + b if worked else None
"""


def hostile() -> tuple[Hostile, ...]:
    """Return the whole table, in the order of its file."""
    _, *parts = re.split(r"^=== ", Path(__file__).with_suffix(".txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return tuple(map(_hostile, parts))


def _hostile(part: str) -> Hostile:
    head, _, code = part.partition("\n")
    group, _, name = head.partition(": ")
    name, *marks = re.split(r"\s*\((attack|apart)\)", name)
    if "attack" in marks:
        code = ATTEMPT.format(body=textwrap.indent(code.strip(), "    "))
    elif not re.search(r"^def add\(", code, re.MULTILINE):
        code = f"{code}\n{WRONG}"
    return Hostile(group, name, code, ("apart",) if "apart" in marks else ("apart", "together"))


# --- the host ---------------------------------------------------------------------------------------------------------


class Site:
    """A corner of the host that programs know of: a file, listening sockets, an environment variable."""

    def __enter__(self) -> Site:
        self._held = contextlib.ExitStack()
        self._folder = Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix="samplewise-site-")))
        self.canary = self._folder / "canary"
        self.canary.write_text("alive")
        self._abstract = f"samplewise-{os.getpid()}"
        self._listening = [
            self._listen(socket.AF_INET, ("127.0.0.1", 0)),
            self._listen(socket.AF_UNIX, str(self._folder / "socket")),
            self._listen(socket.AF_UNIX, f"\0{self._abstract}"),
        ]
        os.environ["SAMPLEWISE_CANARY"] = "alive"
        self._others = set(descendants())  # which have nothing to do with it
        return self

    def __exit__(self, *exc: object) -> None:
        os.environ.pop("SAMPLEWISE_CANARY", None)
        self._held.close()

    def _listen(self, family: int, address: tuple[str, int] | str) -> socket.socket:
        listening = self._held.enter_context(socket.socket(family, socket.SOCK_STREAM))
        listening.bind(address)
        listening.listen(1)
        listening.setblocking(False)
        return listening

    def fill(self, source: str) -> str:
        """Return the source with this site's paths filled in."""
        paths = {
            "@CANARY@": str(self.canary),
            "@HOME@": str(Path.home()),
            "@PORT@": str(self._listening[0].getsockname()[1]),
            "@SOCKET@": str(self._folder / "socket"),
            "@ABSTRACT@": self._abstract,
            "@PID@": str(os.getpid()),
        }
        for name, path in paths.items():
            source = source.replace(name, path)
        return source

    def harm(self) -> list[str]:
        """What a program has done to the host, in words; empty: nothing that is seen here."""
        found = []
        if self.canary.read_text() != "alive" or sorted(p.name for p in self._folder.iterdir()) != ["canary", "socket"]:
            found.append("files were changed")
        for listening in self._listening:
            with contextlib.suppress(BlockingIOError):
                listening.accept()[0].close()
                found.append("a socket was reached")
        if os.environ.get("SAMPLEWISE_CANARY") != "alive":
            found.append("the environment was changed")
        if left := [pid for pid in descendants() if pid not in self._others and not _is_worker(pid)]:
            found.append(f"processes are left: {left}")
        return found


def contained(verdict: ProgramVerdict, site: Site) -> str | None:
    """None if a hostile program was held, else what went wrong."""
    if verdict.passed:
        return "it passed"
    if verdict.status == "broken":
        return f"the sandbox broke: {verdict.reason}"
    return "; ".join(site.harm()) or None


def descendants() -> list[int]:
    """Every process that this one has started, and that these have, where /proc tells."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def _is_worker(pid: int) -> bool:
    """bubblewrap, or the zygote: pid 1 of its name space, whose parent is bubblewrap."""
    with contextlib.suppress(OSError, ValueError):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return status["Name"].strip() == "bwrap" or status.get("NSpid", "").split()[-1:] == ["1"]
    return True  # it has ended meanwhile
