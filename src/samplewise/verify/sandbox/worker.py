"""One worker as the host sees it: a process behind a socket, of which nothing is believed.

What comes back is read with a bound and a deadline and is JSON, never a pickle. An answer that is late, too long, not
JSON or not about the program that was asked for ends the worker. So does a program that has tampered with it. The
verdict of the tests is compared here: a secret of 128 bits, new for every program, which the tests' process gives back
when the last test has passed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import secrets
import socket
import struct
import subprocess
import tempfile
import time
import weakref
from typing import Any

from samplewise.errors import SetupError
from samplewise.verify.sandbox import isolation as isolations
from samplewise.verify.sandbox.inside.jail import FIRST_UID
from samplewise.verify.sandbox.words import Isolation, Limits, Program, Status, Verdict

START_S = 20.0  # for an interpreter on a busy machine
GRACE_S = 15.0  # beyond a program's wall clock, before the worker is given up: a busy machine is no misbehaviour
MAX_PROGRAMS = 1000  # of one worker
NUM_UIDS = 100_000_000
_uids = itertools.count()
_alive: weakref.WeakSet[Worker] = weakref.WeakSet()


class WorkerLost(Exception):
    """The worker did not answer as it should, or not in time."""


class Worker:
    """Runs one program at a time. Not for several threads at once."""

    def __init__(self, isolation: Isolation) -> None:
        """Raises SetupError where the sandbox cannot be started."""
        self.isolation = isolation
        self.num_programs = 0
        # no two workers of this process share a user, and those of another hardly ever do
        uid = FIRST_UID + (os.getpid() * 1009 + next(_uids)) % NUM_UIDS
        command = isolations.command(isolation, uid)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        self._line, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=self._errors,
                env=isolations.environment(isolation),
                start_new_session=True,  # Ctrl-C is for the host, which then closes the worker
            )
        _alive.add(self)
        try:
            hello = self._receive(time.monotonic() + START_S, 4096)
        except WorkerLost as error:
            said = self._said()
            self.close()
            raise SetupError(
                f"the sandbox cannot be started ({said or error}); bubblewrap needs user name spaces: "
                f"see `bwrap --unshare-user --ro-bind / / true`, or opt out with {isolations.VARIABLE}=none"
            ) from None
        self.own_mounts = hello.get("own_mounts") is True
        self.interfaces = hello.get("interfaces")

    def run(self, program: Program, limits: Limits) -> Verdict:
        """The verdict. Raises WorkerLost where the worker is of no use any more."""
        self.num_programs += 1
        number, nonce = secrets.randbits(48), secrets.token_hex(16)
        request = {**program._asdict(), "together": program.level == "together", "nonce": nonce, "id": number}
        caps = _caps(limits, self.isolation)
        deadline = time.monotonic() + limits.wall_s + GRACE_S
        self._send({**request, "limits": {**caps, "wall": limits.wall_s}}, deadline)
        reply = self._receive(deadline, 16 * caps["output"] + (1 << 16))
        try:
            if reply["id"] != number:
                raise WorkerLost("the sandbox answered out of turn")
            verdict = _verdict(reply, program, limits, nonce, self.isolation)
        except (KeyError, TypeError, ValueError):
            raise WorkerLost("the sandbox answered out of protocol") from None
        if reply.get("changed") is not False:
            self.num_programs = MAX_PROGRAMS  # the verdict stands, the worker goes
        return verdict

    @property
    def spent(self) -> bool:
        return self.num_programs >= MAX_PROGRAMS or self._process.poll() is not None

    def kill(self) -> None:
        """End the worker, and with it all that runs inside. From any thread."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)  # the zygote ends, and the kernel takes its name space with it
        with contextlib.suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """End the worker and free what it holds. May be called twice."""
        self.kill()
        self.forget()
        self._process.wait()

    def forget(self) -> None:
        """Let go of the worker without ending it: what a fork must do with a worker of its parent's."""
        self._line.close()
        self._errors.close()

    # --- the socket ---------------------------------------------------------------------------------------------------

    def _send(self, message: dict[str, Any], deadline: float) -> None:
        data = json.dumps(message).encode()
        view = memoryview(struct.pack(">I", len(data)) + data)
        try:
            while view:
                self._line.settimeout(max(0.001, deadline - time.monotonic()))
                view = view[self._line.send(view) :]
        except TimeoutError:
            raise WorkerLost("the sandbox did not take the program in time") from None
        except OSError:
            raise WorkerLost("the sandbox has ended") from None

    def _receive(self, deadline: float, most: int) -> dict[str, Any]:
        (size,) = struct.unpack(">I", self._exactly(4, deadline))
        if size > most:
            raise WorkerLost("the sandbox answered at too great a length")
        try:
            found = json.loads(self._exactly(size, deadline))
        except (ValueError, RecursionError):
            raise WorkerLost("the sandbox answered out of protocol") from None
        if not isinstance(found, dict):
            raise WorkerLost("the sandbox answered out of protocol")
        return found

    def _exactly(self, num_bytes: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while num_bytes:
            self._line.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                part = self._line.recv(min(num_bytes, 1 << 16))
            except TimeoutError:
                raise WorkerLost("the sandbox did not answer in time") from None
            except OSError:
                part = b""
            if not part:
                raise WorkerLost("the sandbox has ended")
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)

    def _said(self) -> str:
        """The last line that bubblewrap or the interpreter wrote to standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5)
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 2000))
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _forget_all() -> None:
    for worker in list(_alive):
        worker.forget()


os.register_at_fork(after_in_child=_forget_all)  # else a worker outlives its host while a fork of it lives


def _caps(limits: Limits, isolation: Isolation) -> dict[str, int]:
    mega, kilo = 1 << 20, 1 << 10
    return {
        "cpu_s": _cpu_s(limits),
        "memory": limits.memory_mb * mega,
        # the zygote counts as well; a user's processes cannot be told apart from others without a name space
        "processes": limits.processes + 1 if isolation == "bubblewrap" else 0,
        "file": limits.file_mb * mega,
        "disk": limits.disk_mb * mega,
        "files": limits.files,
        "open_files": limits.open_files,
        "output": limits.output_kb * kilo,
    }


def _cpu_s(limits: Limits) -> int:
    return math.ceil(limits.wall_s) if limits.cpu_s is None else limits.cpu_s


def _verdict(reply: dict[str, Any], program: Program, limits: Limits, nonce: str, isolation: Isolation) -> Verdict:
    ended, code, said = str(reply["ended"]), int(reply["code"]), str(reply["verdict"])
    stdout, stderr = str(reply["stdout"]), str(reply["stderr"])
    level = program.level if program.tests else None
    base = Verdict("failed", stdout, stderr, float(reply["seconds"]), level=level, isolation=isolation)
    if ended == "exit":
        if program.tests:
            if secrets.compare_digest(said.encode(), nonce.encode()):
                return base._replace(status="passed", reason=_PASSED[program.level])
            reason = said if code == 1 and said else "the program ended before its tests did"
            if reason == "the program did not load":
                reason = f"{reason}: {_last_line(stderr) or 'it ended'}"
            return base._replace(status=_of(reason), reason=" ".join(reason.split())[:500])
        if code == 0:
            return base._replace(status="passed", reason="exit status 0")
        last = _last_line(stderr)
        return base._replace(status=_of(last), reason=last or f"exit status {code}")
    spent = f"{_cpu_s(limits)} s of processor time" if code else f"{limits.wall_s:g} s"
    reasons: dict[str, tuple[Status, str]] = {
        "timeout": ("timeout", f"stopped after {spent}"),
        "memory": ("memory", f"more than {limits.memory_mb} MB of memory"),
        "output": ("output", f"more than {limits.output_kb} kB of output"),
        "disk": ("disk", f"more than {limits.disk_mb} MB or {limits.files} files"),
        "signal": ("crashed", f"ended by signal {code}"),
    }
    status, reason = reasons[ended]
    return base._replace(status=status, reason=reason)


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


def _of(reason: str) -> Status:
    return "memory" if reason.startswith(("MemoryError", "the program did not load: MemoryError")) else "failed"


_PASSED = {
    "apart": "every test passed",
    "together": "every test passed, in the program's own process (the weaker level)",
}
