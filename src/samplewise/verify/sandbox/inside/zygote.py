"""The process that the programs are forked from: pid 1 of its own process namespace, which no program can signal.

A program can read all the memory that it was forked with, and what a process has once read stays somewhere in its
memory. So this process reads no text. A request is numbers and open files. What they hold (the program, its input, its
tests with their secret) is read after the fork, by the one process that needs it, which ends with the request. What
the program writes, and the verdict of its tests, go through pipes to the host; nothing is read here.

This process forks the processes of a program (child.py) and watches their time, memory and files. When the deciding
process has ended, it kills everything else in the namespace, empties /tmp and answers. The programs hold neither end of
its socket. A fork costs a few milliseconds, an interpreter start twenty.

    request  a byte (request.py), the numbers of `Request`, and the files of `Files` with the byte
    reply    a length (4 bytes) and JSON:
             {"id", "ended": exit | signal | timeout | memory | disk | stopped, "code", "seconds", "changed"}

"changed" says that a program has tampered with this process from outside (its limits, its priority). The next programs
would suffer, so the host replaces the worker.

Usage: python -m inside.zygote bubblewrap|none UID FOLDER
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import shutil
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from . import child, jail
from .request import APART, BROKEN, LAYOUT, SCRIPT, START, STOP, Files, Request

TICK_S = 0.01  # between two looks at the memory of a program
CONTROL_IN, CONTROL_OUT = 0, 1
NEXT_TICK = 1.5  # each look comes later by this factor, up to MAX_TICK_S: short programs get few looks
MAX_TICK_S = 0.03
PAGE = resource.getpagesize()


class Zygote:
    """The state of the process, and how it runs a request."""

    def __init__(self, isolation: str, uid: int, folder: Path) -> None:
        self.folder = folder
        self.isolated = isolation == "bubblewrap"
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY) if sys.platform == "linux" else -1
        self.own_mounts = False
        if self.isolated:
            if os.getpid() != 1:
                raise SystemExit("the sandbox has no process name space of its own")
            if not jail.can_filter():
                raise SystemExit("the sandbox knows the system calls of x86_64 and aarch64 alone")
            self.own_mounts = jail.enter(uid)
        elif sys.platform == "linux":
            jail.adopt_orphans()
            jail.hide_memory()
        self._null = os.open(os.devnull, os.O_RDWR)
        # the most that the kernel keeps for a program in one open file: what was sent and nobody has received
        ours, theirs = socket.socketpair()
        with ours, theirs:
            self._per_file = ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        self._mounted: tuple[int, int] | None = None
        self._untouched: os.stat_result | None = None
        self._state = self._own_state()

    # --- the folder ---------------------------------------------------------------------------------------------------

    def _fresh_folder(self, disk: int, files: int) -> None:
        """Provide an empty folder of the right size for the next program."""
        if not self.own_mounts:
            for path in self.folder.iterdir():
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
            if any(self.folder.iterdir()):
                raise SystemExit("the folder cannot be emptied")
        elif self._mounted != (disk, files) or self.folder.stat() != self._untouched or any(self.folder.iterdir()):
            if self._mounted:
                os.chdir("/")
                jail.unmount(str(self.folder))
            jail.mount_fresh(str(self.folder), disk, files)
            self._mounted, self._untouched = (disk, files), self.folder.stat()
        os.chdir(self.folder)

    def _disk_full(self, disk: int, files: int) -> bool:
        if not self.isolated or self.own_mounts:  # the mount has its size
            return False
        stats = os.statvfs(self.folder)
        used = (stats.f_blocks - stats.f_bfree) * stats.f_frsize
        return used > disk or stats.f_files - stats.f_ffree > files + 2

    # --- the processes ------------------------------------------------------------------------------------------------

    def _memory(self, open_files: int) -> int:
        """Return bytes of memory that the programs' processes hold: resident or swapped out, less what they share with
        this process, and the most that the kernel can hold for their open files."""
        if self._proc < 0 or not self.isolated:
            return 0
        names = [name for name in os.listdir(self._proc) if name.isdigit() and name != "1"]  # noqa: PTH208
        own = sum(max(0, self._held(name) - self._resident) for name in names)
        return own + len(names) * open_files * self._per_file

    def _held(self, process: str) -> int:
        """Return the bytes that a process holds, resident or swapped out; 0 if there is none."""
        try:
            file = os.open(f"{process}/status", os.O_RDONLY, dir_fd=self._proc)
        except OSError:
            return 0
        try:
            lines = os.read(file, 1 << 14).split(b"\n")
            return sum(int(line.split()[1]) << 10 for line in lines if line.startswith((b"VmRSS:", b"VmSwap:")))
        except (OSError, ValueError, IndexError):
            return 0
        finally:
            os.close(file)

    def _kill_all(self, pids: list[int]) -> None:
        """Kill every process but this one, and reap them. Without a pid namespace, only descendants."""
        if self.isolated:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # pid 1 of a name space reaches nothing outside it; checked at the start
            while True:
                try:
                    os.waitpid(-1, 0)
                except ChildProcessError:
                    return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        for _ in range(1000):
            for pid in _children():  # those of a killed one come up as our own in the next round
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.001)

    def _own_state(self) -> tuple[Any, ...]:
        """Return what a program of the same user could change about this process from outside."""
        kinds = sorted(value for name, value in vars(resource).items() if name.startswith("RLIMIT_"))
        limits = tuple(resource.getrlimit(kind) for kind in kinds)
        cores = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
        return limits, os.getpriority(os.PRIO_PROCESS, 0), cores

    def _start(self, request: Request, files: Files) -> tuple[list[int], int]:
        """Fork the processes of a request. Return their pids, and the pid of the one whose end decides."""
        standard = (files.stdin, files.stdout, files.stderr)
        if request.level != APART:
            if request.level == SCRIPT:
                pid = self._fork(lambda: child.run_alone(files.program), standard, (files.program,), request, files)
            else:
                kept = (files.program, files.tests, files.verdict)
                pid = self._fork(lambda: child.together(*kept), standard, kept, request, files)
            return [pid], pid
        tests_end, program_end = socket.socketpair()
        with tests_end, program_end:
            program = self._fork(
                lambda: child.serve(files.program, program_end),
                standard,
                (files.program, program_end.fileno()),
                request,
                files,
            )
            last = self._fork(
                lambda: child.test(files.tests, tests_end, files.verdict),
                (self._null,) * 3,  # a program could read what its tests print
                (files.tests, tests_end.fileno(), files.verdict),
                request,
                files,
            )
        return [program, last], last

    def _fork(self, main: Any, standard: tuple[int, ...], kept: tuple[int, ...], request: Request, files: Files) -> int:
        """Fork a child that has standard input, output and error and the descriptors `kept`, and nothing else."""
        pid = os.fork()
        if pid:
            return pid
        ready = False
        try:
            for number, file in enumerate(standard):
                os.dup2(file, number)
            low = 3
            for file in sorted({*kept, files.verdict}):
                os.closerange(low, file)
                low = file + 1
            os.closerange(low, 4096)
            os.setpgid(0, 0) if not self.isolated else os.setsid()
            gc.enable()
            jail.confine(request, filtered=self.isolated)
            ready = True
            if files.verdict not in kept:
                os.close(files.verdict)
            main()
        except BaseException as error:
            where = 2 if ready else files.verdict
            os.write(where, BROKEN + f"a program cannot be started: {error}\n".encode())
        finally:
            os._exit(120)

    # --- one request --------------------------------------------------------------------------------------------------

    def answer(self, request: Request, files: Files) -> dict[str, Any]:
        """Run one request, and return the reply. Closes the files."""
        pids: list[int] = []
        started = time.monotonic()
        try:
            try:
                self._fresh_folder(request.disk, request.files)
                self._resident = self._held("self")
                started = time.monotonic()
                pids, last = self._start(request, files)
            finally:
                for file in files:
                    if file >= 0:
                        os.close(file)
            ended, code = self._watch(last, request, started)
            if pids[0] != last and ended == "exit" and code:
                ended, code = _end_of(pids[0], request.cpu_s) or (ended, code)
        finally:
            seconds = time.monotonic() - started
            self._kill_all(pids)
        changed = self._own_state() != self._state
        return {"id": request.id, "ended": ended, "code": code, "seconds": seconds, "changed": changed}

    def _watch(self, last: int, request: Request, started: float) -> tuple[str, int]:
        """Wait until `last` ends, or end it. Return how it ended, and with what code."""
        poll = select.poll()
        poll.register(CONTROL_IN, select.POLLIN)
        end = os.pidfd_open(last) if hasattr(os, "pidfd_open") else -1
        if end >= 0:
            poll.register(end, select.POLLIN)
        try:
            tick, next_look, deadline = TICK_S, started + TICK_S, started + request.wall_us / 1e6
            while True:
                now = time.monotonic()
                if now >= deadline:
                    return "timeout", 0
                if now >= next_look:
                    if self._memory(request.open_files) > request.memory:
                        return "memory", 0
                    if self._disk_full(request.disk, request.files):
                        return "disk", 0
                    tick = min(tick * NEXT_TICK, MAX_TICK_S)
                    next_look = time.monotonic() + tick
                wait_s = min(deadline - now, next_look - now)
                for file, _ in poll.poll(max(0.0, wait_s * 1000)):
                    if file == CONTROL_IN:
                        if os.read(CONTROL_IN, 1) != STOP:
                            raise SystemExit(0)  # nobody waits for the answer any more
                        return "stopped", 0
                pid, status, usage = os.wait4(last, os.WNOHANG)
                if pid:
                    return _how(status, usage, request.cpu_s)
        finally:
            if end >= 0:
                os.close(end)


def _how(status: int, usage: resource.struct_rusage, cpu_s: int) -> tuple[str, int]:
    """Return how a process has ended, and its exit status or signal."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return "exit", code
    out_of_time = -code == signal.SIGKILL and usage.ru_utime + usage.ru_stime >= cpu_s
    return "timeout" if -code == signal.SIGXCPU or out_of_time else "signal", -code


def _end_of(program: int, cpu_s: int) -> tuple[str, int] | None:
    """Return how the program whose tests failed was killed, or None if it was not."""
    for _ in range(20):  # its line is closed a moment before its end can be asked for
        pid, status, usage = os.wait4(program, os.WNOHANG)
        if pid:
            ended, code = _how(status, usage, cpu_s)
            return None if ended == "exit" else (ended, code)
        time.sleep(0.0005)
    return None


def _children() -> list[int]:
    """Return this process's children, if /proc tells."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _next_request(control: socket.socket) -> tuple[Request, Files]:
    """Wait for a request. The end of the stream ends this process."""
    while True:
        first, files, _, _ = socket.recv_fds(control, 1, len(Files._fields))
        if not first:
            raise SystemExit(0)
        if first == START:
            break  # a stop that came too late is nothing
    data = b""
    while len(data) < LAYOUT.size:
        part = control.recv(LAYOUT.size - len(data))
        if not part:
            raise SystemExit(0)
        data += part
    return Request(*LAYOUT.unpack(data)), Files(*files)


def _say(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    data = struct.pack(">I", len(data)) + data
    while data:
        data = data[os.write(CONTROL_OUT, data) :]


def serve_programs(isolation: str, uid: int, folder: Path) -> NoReturn:
    """Answer requests until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from inside, pid 1 gets only those signals that it handles
    control = socket.socket(fileno=os.dup(CONTROL_IN))
    zygote = Zygote(isolation, uid, folder)
    child.preload()
    gc.collect()
    gc.freeze()  # a collection in a child must not copy every page of this process
    gc.disable()
    try:
        interfaces = [name for _, name in socket.if_nameindex()]
        _say({"own_mounts": zygote.own_mounts, "interfaces": interfaces, "lacking": jail.lacking()})
        while True:
            _say(zygote.answer(*_next_request(control)))
    finally:
        if not zygote.isolated:
            shutil.rmtree(zygote.folder, ignore_errors=True)


if __name__ == "__main__":
    serve_programs(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
