"""One worker as the host sees it: a process behind a socket, of which nothing is trusted.

A request is numbers and open files: program, input and tests are each in a file of their own, so that the process that
forks the programs never reads any of them (inside/zygote.py). Outputs and verdict come through pipes that end here.

Replies are read with a bound and a deadline and are JSON, never a pickle. A reply that is late, too long, not JSON or
not about the requested program ends the worker. So does a program that has tampered with it. The verdict of the tests
is compared here: a secret of 128 bits, new for every program, which the tests' process returns after the last test has
passed.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import weakref
from typing import Any

from samplewise.core.errors import SetupError
from samplewise.verify.sandbox import isolation as isolations
from samplewise.verify.sandbox.inside.jail import FIRST_UID
from samplewise.verify.sandbox.inside.request import (
    APART,
    BROKEN,
    LAYOUT,
    LOADED,
    NONCE_SIZE,
    SCRIPT,
    START,
    STOP,
    TOGETHER,
    UNKNOWN,
    Request,
)
from samplewise.verify.sandbox.programs import Isolation, Limits, Program, ProgramVerdict, Status

START_S = 20.0  # for an interpreter on a busy machine
GRACE_S = 15.0  # beyond a program's wall clock, before the worker is given up: a busy machine is no misbehaviour
CLOSE_S = 5.0  # for the zygote to end its programs, where no name space does
MAX_PROGRAMS = 1000  # of one worker
NUM_UIDS = 100_000_000
_uids = itertools.count()
_alive: weakref.WeakSet[Worker] = weakref.WeakSet()


class WorkerLost(Exception):
    """The worker did not answer as it should, or not in time."""


class Worker:
    """Runs one program at a time. Not for several threads at once."""

    def __init__(self, isolation: Isolation) -> None:
        """Start the process. SetupError if the sandbox cannot be started."""
        self.isolation = isolation
        self.num_programs = 0
        # no two workers of this process share a user, and those of another hardly ever do
        uid = FIRST_UID + (os.getpid() * 1009 + next(_uids)) % NUM_UIDS
        self._folder = tempfile.mkdtemp(prefix="samplewise-") if isolation == "none" else ""
        command = isolations.command(isolation, uid, self._folder or "/tmp")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        self._line, worker_end = socket.socketpair()
        with worker_end:
            self._process = subprocess.Popen(
                command,
                stdin=worker_end.fileno(),
                stdout=worker_end.fileno(),
                stderr=self._errors,
                env=isolations.environment(isolation),
                start_new_session=True,  # Ctrl-C is for the host, which then closes the worker
            )
        _alive.add(self)
        try:
            hello = self._receive(time.monotonic() + START_S, 4096)
        except WorkerLost as error:
            message = self._last_message()
            self.close()
            raise SetupError(
                f"the sandbox cannot be started ({message or error}); bubblewrap needs user name spaces: "
                f"see `bwrap --unshare-user --ro-bind / / true`, or opt out with {isolations.VARIABLE}=none"
            ) from None
        self.own_mounts = hello.get("own_mounts") is True
        self.interfaces = hello.get("interfaces")
        if lacking := hello.get("lacking"):
            self.close()
            raise SetupError(
                f"this system cannot limit what a program takes ({', '.join(map(str, lacking))}), so none is run: use "
                "Linux for this task, also in a container or a virtual machine"
            )

    def run(self, program: Program, limits: Limits) -> ProgramVerdict:
        """Return the verdict. WorkerLost if the worker is of no further use."""
        self.num_programs += 1
        number, nonce = secrets.randbits(48), secrets.token_hex(NONCE_SIZE // 2)
        request = _request(number, program, limits, self.isolation)
        deadline = time.monotonic() + limits.wall_s + GRACE_S
        with contextlib.ExitStack() as held:
            try:
                exchange = _Exchange(held, program, nonce, request, output=limits.output_kb << 10)
            except OSError as error:  # too many open files
                return ProgramVerdict("broken", reason=f"a program cannot be handed over: {error}")
            reply = self._exchange(exchange, request, deadline)
        try:
            if reply["id"] != number:
                raise WorkerLost("the sandbox answered out of turn")
            verdict = _verdict(reply, exchange, program, limits, nonce, self.isolation)
        except (KeyError, TypeError, ValueError):
            raise WorkerLost("the sandbox answered out of protocol") from None
        if reply.get("changed") is not False:
            self.num_programs = MAX_PROGRAMS  # the verdict stands, the worker goes
        return verdict

    def _exchange(self, exchange: _Exchange, request: Request, deadline: float) -> dict[str, Any]:
        """Send a request, read what the program writes, and return the reply."""
        try:
            self._line.settimeout(max(0.001, deadline - time.monotonic()))
            socket.send_fds(self._line, [START + LAYOUT.pack(*request)], exchange.files)
            poll = select.poll()
            for file in (self._line.fileno(), *exchange.readers):
                poll.register(file, select.POLLIN)
            while True:
                ready = poll.poll(max(1.0, 1000 * (deadline - time.monotonic())))
                if not ready:
                    raise WorkerLost("the sandbox did not answer in time")
                if any(file == self._line.fileno() for file, _ in ready):
                    break
                for file, _ in ready:
                    if exchange.read(file) and not exchange.exceeded:
                        continue
                    poll.unregister(file)
                    if exchange.exceeded:
                        self._line.send(STOP)
        except TimeoutError:
            raise WorkerLost("the sandbox did not take the program in time") from None
        except (OSError, ValueError):
            raise WorkerLost("the sandbox has ended") from None
        reply = self._receive(deadline, 4096)
        for file in exchange.readers:  # what was written last
            while exchange.read(file):
                pass
        return reply

    @property
    def spent(self) -> bool:
        """Return whether the worker must be replaced."""
        return self.num_programs >= MAX_PROGRAMS or self._process.poll() is not None

    def kill(self) -> None:
        """End the worker and all that runs inside it. May be called from any thread."""
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)  # the zygote ends, and the kernel takes its name space with it
        if self.isolation == "bubblewrap":  # without a name space, it is the zygote that ends the programs
            with contextlib.suppress(OSError):
                self._process.kill()

    def close(self) -> None:
        """End the worker and free what it holds. May be called twice."""
        self.kill()
        self.forget()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def forget(self) -> None:
        """Let go of the worker without ending it: what a fork must do with a worker of its parent's."""
        self._line.close()
        self._errors.close()

    # --- the socket ---------------------------------------------------------------------------------------------------

    def _receive(self, deadline: float, max_bytes: int) -> dict[str, Any]:
        (size,) = struct.unpack(">I", self._exactly(4, deadline))
        if size > max_bytes:
            raise WorkerLost("the sandbox answered at too great a length")
        try:
            message = json.loads(self._exactly(size, deadline))
        except (ValueError, RecursionError):
            raise WorkerLost("the sandbox answered out of protocol") from None
        if not isinstance(message, dict):
            raise WorkerLost("the sandbox answered out of protocol")
        return message

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

    def _last_message(self) -> str:
        """Return the last line that bubblewrap or the interpreter wrote to standard error."""
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


class _Exchange:
    """The open files of one request: those that are sent, and the pipes that are read here."""

    def __init__(
        self, held: contextlib.ExitStack, program: Program, nonce: str, request: Request, *, output: int
    ) -> None:
        self.texts = {"stdout": b"", "stderr": b"", "verdict": b""}
        self.readers: dict[int, str] = {}
        self.exceeded = False
        self._caps = {"stdout": output, "stderr": output, "verdict": 4096 + len(program.separate_tests)}
        self._late: tuple[socket.socket, int] | None = None  # where tests go once the program has loaded

        def kept(file: int) -> int:
            held.callback(os.close, file)
            return file

        def sealed(content: dict[str, Any]) -> int:
            return kept(_sealed(json.dumps(content).encode()))

        together = request.level == TOGETHER
        source = {"source": program.source, **({"imports": program.imports} if together else {})}
        stdin = program.stdin.encode(errors="surrogatepass")
        files = [sealed(source), kept(_sealed(stdin) if stdin else os.open(os.devnull, os.O_RDONLY))]
        for name in self.texts:
            reader, writer = os.pipe()
            self.readers[kept(reader)] = name
            os.set_blocking(reader, False)
            files.append(kept(writer))
        if request.level != SCRIPT:
            fields = ("tests", "entry_point", "imports", "separate_tests", "test_s")
            tests = sealed({**{name: getattr(program, name) for name in fields}, "nonce": nonce})
            if together:
                ours, theirs = socket.socketpair()
                self._late = (held.enter_context(ours), tests)
                tests = held.enter_context(theirs).fileno()
            files.append(tests)
        self.files = files

    def read(self, file: int) -> bool:
        """Read what there is. Return False if there is nothing more for now."""
        name = self.readers[file]
        try:
            data = os.read(file, 1 << 16)
        except BlockingIOError:
            return False
        self.texts[name] += data
        if len(self.texts[name]) > self._caps[name]:
            self.texts[name] = self.texts[name][: self._caps[name]]
            self.exceeded = True
            return False
        if name == "verdict" and self._late and self.texts[name].startswith(LOADED):
            self.texts[name] = self.texts[name].removeprefix(LOADED)
            line, tests = self._late
            self._late = None
            with contextlib.suppress(OSError):  # the program has ended
                socket.send_fds(line, [b"t"], [tests])
        return bool(data)


def _sealed(data: bytes) -> int:
    """Return an open file that holds `data`, which no holder can change where the system can see to that."""
    memory = hasattr(os, "memfd_create")
    if memory:
        file = os.memfd_create("samplewise", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as unnamed:
            file = os.dup(unnamed.fileno())
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
    os.lseek(file, 0, os.SEEK_SET)
    if memory:
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _request(number: int, program: Program, limits: Limits, isolation: Isolation) -> Request:
    mega = 1 << 20
    tested = program.tests or program.separate_tests
    return Request(
        id=number,
        level=SCRIPT if not tested else TOGETHER if program.level == "together" else APART,
        wall_us=math.ceil(limits.wall_s * 1e6),
        cpu_s=_cpu_s(limits),
        memory=limits.memory_mb * mega,
        # the zygote counts as well; a user's processes cannot be told apart from others without a name space
        processes=limits.processes + 1 if isolation == "bubblewrap" else 0,
        file=limits.file_mb * mega,
        disk=limits.disk_mb * mega,
        files=limits.files,
        open_files=limits.open_files,
    )


def _cpu_s(limits: Limits) -> int:
    return math.ceil(limits.wall_s) if limits.cpu_s is None else limits.cpu_s


def _verdict(
    reply: dict[str, Any],
    exchange: _Exchange,
    program: Program,
    limits: Limits,
    nonce: str,
    isolation: Isolation,
) -> ProgramVerdict:
    ended, code = str(reply["ended"]), int(reply["code"])
    stdout, stderr, outcome = (text.decode(errors="replace") for text in exchange.texts.values())
    tested = bool(program.tests or program.separate_tests)
    level = program.level if tested else None
    base = ProgramVerdict("failed", stdout, stderr, float(reply["seconds"]), level=level, isolation=isolation)
    if outcome.startswith(BROKEN.decode()):
        return base._replace(status="broken", reason=" ".join(outcome[1:].splitlines()[0].split())[:500])
    if exchange.exceeded and ended in ("exit", "stopped", "signal"):
        ended = "output"
    if ended == "exit":
        if tested:
            flags = outcome[NONCE_SIZE:]
            if secrets.compare_digest(outcome[:NONCE_SIZE].encode(), nonce.encode()):
                if len(flags) != len(program.separate_tests):
                    raise ValueError("a verdict of another length")
                separate = tuple(flag == "1" for flag in flags)
                return base._replace(status="passed", reason=_PASSED[program.level], separate=separate)
            if code == 1 and outcome.startswith(UNKNOWN.decode()):
                return base._replace(status="unknown", reason=" ".join(outcome[1:].split())[:500])
            reason = outcome if code == 1 and outcome else "the program ended before its tests did"
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
