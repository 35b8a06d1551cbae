"""Whether the isolation really holds: a program that tries to get out runs in every new worker before all others."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from samplewise.errors import SetupError
from samplewise.verify.sandbox.words import Limits, Program
from samplewise.verify.sandbox.worker import Worker, WorkerLost

LIMITS = Limits(wall_s=20.0, processes=4)  # patient: the machine may be busy

_PROGRAM = """
import json, os, socket

PLACES = {places}
CANARY = {canary}


def works(act):
    try:
        act()
    except Exception:
        return False
    return True


def listed(path):
    try:
        return os.listdir(path)
    except OSError:
        return []


print(json.dumps({{
    "uid": os.getuid() * os.geteuid() * os.getgid(),
    "network": works(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
    "writes": [p for p in ("/", "/usr/lib", "/dev", "/samplewise", "/proc") if works(lambda: open(p + "/x", "w"))],
    "reads": [p for p in ("/etc/passwd", "/proc/1/environ", "/bin/sh", CANARY) if works(lambda: open(p).read(1))],
    "listed": sorted({{name for place in PLACES for name in listed(place)}}),
    "becomes_root": works(lambda: os.setuid(0)),
    "environment": dict(os.environ),
    "own": works(lambda: open("/tmp/own", "w")),
}}))
"""


def check(worker: Worker) -> None:
    """Raise SetupError, which names the hole, unless a program in this worker is shut in."""
    with tempfile.NamedTemporaryFile(prefix="samplewise-canary-") as canary:
        here = [str(path) for path in (Path.home(), Path.cwd()) if not _is_shown(path)]
        places = [*here, "/root", "/home", "/mnt", "/srv", "/var", "/etc"]
        program = Program(_PROGRAM.format(places=places, canary=repr(canary.name)))
        try:
            verdict = worker.run(program, LIMITS)
        except WorkerLost as error:
            raise SetupError(f"the sandbox does not work: {error}") from None
    try:
        seen = json.loads(verdict.stdout) if verdict.passed else None
        holes = _holes(seen, worker.interfaces) if seen else [verdict.reason]
    except (ValueError, KeyError, TypeError):
        holes = ["it said nothing that can be read"]
    if holes:
        raise SetupError(f"the sandbox is not tight, so nothing is run in it: {'; '.join(holes)}")


def _is_shown(path: Path) -> bool:
    """Whether a folder of this path is inside for other reasons: a service may well run in / or /tmp."""
    return path == Path("/") or path.parts[1] in (
        "usr",
        "lib",
        "lib64",
        "nix",
        "gnu",
        "dev",
        "proc",
        "tmp",
        "samplewise",
    )


def _holes(seen: dict[str, Any], interfaces: object) -> list[str]:
    found = []
    if not seen["uid"] or seen["becomes_root"]:
        found.append("a program is root")
    if seen["network"] or interfaces not in ([], ["lo"]):
        found.append(f"a program has a network ({interfaces})")
    if seen["writes"]:
        found.append(f"a program writes to {', '.join(seen['writes'])}")
    if seen["reads"]:
        found.append(f"a program sees {', '.join(seen['reads'])}")
    # the interpreter may lie within a home, whose folders on the way to it are there, and empty otherwise
    on_the_way = {*Path(os.path.realpath(sys.executable)).parts, *Path(os.__file__).parts, "ld.so.cache"}
    if other := set(seen["listed"]) - on_the_way:
        found.append(f"a program sees {', '.join(sorted(other)[:5])} of this machine's folders")
    if seen["environment"]:
        found.append("a program sees the environment")
    if not seen["own"]:
        found.append("a program cannot write to its own folder")
    return found
