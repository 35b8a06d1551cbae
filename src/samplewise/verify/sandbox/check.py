"""Check that the isolation holds: a program that tries to escape runs in every new worker before any other."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from samplewise.core.errors import SetupError
from samplewise.verify.sandbox.isolation import chosen
from samplewise.verify.sandbox.programs import Limits, Program
from samplewise.verify.sandbox.worker import Worker, WorkerLost

LIMITS = Limits(wall_s=20.0, processes=4)  # patient: the machine may be busy

_PROGRAM = """
import json, os, socket

FOLDERS = {folders}
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
    "listed": sorted({{name for folder in FOLDERS for name in listed(folder)}}),
    "becomes_root": works(lambda: os.setuid(0)),
    "environment": dict(os.environ),
    "own": works(lambda: open("/tmp/own", "w")),
}}))
"""


def check_isolation(worker: Worker) -> None:
    """Raise SetupError, which names the hole, unless a program in this worker is isolated."""
    with tempfile.NamedTemporaryFile(prefix="samplewise-canary-") as canary:
        own_folders = [str(path) for path in (Path.home(), Path.cwd()) if not _is_shown(path)]
        folders = [*own_folders, "/root", "/home", "/mnt", "/srv", "/var", "/etc"]
        program = Program(_PROGRAM.format(folders=folders, canary=repr(canary.name)))
        try:
            verdict = worker.run(program, LIMITS)
        except WorkerLost as error:
            raise SetupError(f"the sandbox does not work: {error}") from None
    try:
        report = json.loads(verdict.stdout) if verdict.passed else None
        holes = _holes(report, worker.interfaces) if report else [verdict.reason]
    except (ValueError, KeyError, TypeError):
        holes = ["its output cannot be read"]
    if holes:
        raise SetupError(f"the sandbox is not tight, so nothing is run in it: {'; '.join(holes)}")


def limits_here() -> dict[str, str]:
    """Say which limits hold for programs on this system, by the kind of limit. Cost: one worker, about 0.2 s."""
    isolation = chosen()
    try:
        worker = Worker(isolation)
    except SetupError as error:
        return {"isolation": str(error)}
    try:
        if isolation == "none":
            return {
                "isolation": "none: programs have your rights, your files and your network",
                "memory": "of each process, by the kernel; not of all together",
                "time, open files, file size": "by the kernel",
                "processes, folder": "not limited",
            }
        check_isolation(worker)
        kept = "one in memory, emptied after each program, its size watched: this system allows no own mounts"
        fresh = "a new one in memory for each program, its size kept by the kernel"
        return {
            "isolation": "bubblewrap: no network, no files of yours, no other processes",
            "memory": "of each process, by the kernel; of all together, looked at every 10 to 30 ms",
            "shared memory, larger buffers": "refused, by a filter of system calls",
            "time, processes, open files": "by the kernel",
            "folder": fresh if worker.own_mounts else kept,
        }
    except SetupError as error:
        return {"isolation": str(error)}
    finally:
        worker.close()


def _is_shown(path: Path) -> bool:
    """Return whether a folder of this path is inside for other reasons: a service may well run in / or /tmp."""
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


def _holes(report: dict[str, Any], interfaces: object) -> list[str]:
    holes = []
    if not report["uid"] or report["becomes_root"]:
        holes.append("a program is root")
    if report["network"] or interfaces not in ([], ["lo"]):
        holes.append(f"a program has a network ({interfaces})")
    if report["writes"]:
        holes.append(f"a program writes to {', '.join(report['writes'])}")
    if report["reads"]:
        holes.append(f"a program sees {', '.join(report['reads'])}")
    # the interpreter may be inside a home folder; the folders on its path exist then, and are empty otherwise
    expected = {*Path(os.path.realpath(sys.executable)).parts, *Path(os.__file__).parts, "ld.so.cache"}
    if extra := set(report["listed"]) - expected:
        holes.append(f"a program sees {', '.join(sorted(extra)[:5])} of this machine's folders")
    if report["environment"]:
        holes.append("a program sees the environment")
    if not report["own"]:
        holes.append("a program cannot write to its own folder")
    return holes
