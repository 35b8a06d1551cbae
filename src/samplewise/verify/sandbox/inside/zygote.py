"""The process that the programs are forked from: pid 1 of its own process name space, which no program can signal.

It reads one request after the other from a socket, forks the processes of the program (child.py), watches their
time, their memory, their output and their files, and when the first of them that matters has ended kills everything
else in the name space, empties /tmp and answers. Both directions carry a length (4 bytes) and JSON; the programs hold
neither end. A fork costs a few milliseconds, an interpreter start twenty.

    request  {"id", "source", "stdin", "tests", "together", "entry_point", "imports", "nonce", "limits": {...}}
    reply    {"id", "ended": exit | signal | timeout | memory | output | disk, "code", "verdict", "stdout", "stderr",
              "seconds", "changed"}

"verdict" is what came over the pipe of the tests: the nonce, or a reason. It is for the host to compare. "changed"
says that a program has tampered with this process from outside (its limits, its priority), whose next programs would
suffer: the host replaces the worker.

Usage: python -m inside.zygote bubblewrap UID | none UID
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
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from . import child, jail

TICK_S = 0.01  # between two looks at the memory of a program
CONTROL_IN, CONTROL_OUT = 0, 1
NEXT_TICK = 1.5  # each look comes later by this factor, up to MAX_TICK_S: short programs get few looks
MAX_TICK_S = 0.03
PAGE = resource.getpagesize()


class Zygote:
    """What it knows of its own place, and how it runs a request."""

    def __init__(self, isolation: str, uid: int) -> None:
        self.isolated = isolation == "bubblewrap"
        self._proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY) if sys.platform == "linux" else -1
        self.own_mounts = False
        if self.isolated:
            if os.getpid() != 1:
                raise SystemExit("the sandbox has no process name space of its own")
            if not jail.can_filter():
                raise SystemExit("the sandbox knows the system calls of x86_64 and aarch64 alone")
            self.own_mounts = jail.enter(uid)
            self.folder = Path("/tmp")
        else:
            self.folder = Path(tempfile.mkdtemp(prefix="samplewise-"))
            if sys.platform == "linux":
                jail.adopt_orphans()
        self._mounted: tuple[int, int] | None = None
        self._untouched: os.stat_result | None = None
        self._state = self._own_state()

    # --- the folder ---------------------------------------------------------------------------------------------------

    def _fresh_folder(self, disk: int, files: int) -> None:
        """An empty folder of the right size for the next program."""
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
        found = os.statvfs(self.folder)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        return used > disk or found.f_files - found.f_ffree > files + 2

    # --- the processes ------------------------------------------------------------------------------------------------

    def _memory(self) -> int:
        """Bytes of memory that the programs' processes hold: resident, less what they share with this process."""
        if self._proc < 0 or not self.isolated:
            return 0
        names = [name for name in os.listdir(self._proc) if name.isdigit() and name != "1"]  # noqa: PTH208
        return sum(max(0, self._pages(name) - self._resident) for name in names) * PAGE

    def _pages(self, process: str) -> int:
        """Resident pages of a process, 0 where there is none."""
        try:
            file = os.open(f"{process}/statm", os.O_RDONLY, dir_fd=self._proc)
        except OSError:
            return 0
        try:
            return int(os.read(file, 200).split()[1])
        except (OSError, ValueError, IndexError):
            return 0
        finally:
            os.close(file)

    def _kill_all(self, known: list[int]) -> None:
        """Kill every process but this one, and reap them. Where pids are not our own, only descendants."""
        if self.isolated:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, signal.SIGKILL)  # pid 1 of a name space reaches nothing outside it; checked at the start
            while True:
                try:
                    os.waitpid(-1, 0)
                except ChildProcessError:
                    return
        for pid in known:
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
        """What a program of the same user could change about this process from outside."""
        kinds = sorted(value for name, value in vars(resource).items() if name.startswith("RLIMIT_"))
        limits = tuple(resource.getrlimit(kind) for kind in kinds)
        cores = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
        return limits, os.getpriority(os.PRIO_PROCESS, 0), cores

    def _start(self, request: dict[str, Any], ends: dict[str, int]) -> tuple[list[int], int]:
        """Fork the processes of a request. Gives their pids and that of the one whose end is the end."""
        job = child.Job(request["source"], request["entry_point"], tuple(request["imports"]))
        limits = request["limits"]
        if not self._secret[0]:
            pid = self._fork(lambda: child.run(job), ends, (), limits)
            return [pid], pid
        if request["together"]:
            kept = (ends["tests"], ends["verdict"])
            pid = self._fork(lambda: child.together(job, *kept), ends, kept, limits)
            return [pid], pid
        ours, theirs = socket.socketpair()
        with ours, theirs:
            program = self._fork(lambda: child.serve(job, theirs), ends, (theirs.fileno(),), limits)
            kept = (ours.fileno(), ends["verdict"])
            tests, nonce = self._secret  # known here from now on, when the program's process has been made
            last = self._fork(lambda: child.test(job, tests, nonce, ours, ends["verdict"]), ends, kept, limits)
        return [program, last], last

    def _fork(self, then: Any, ends: dict[str, int], kept: tuple[int, ...], limits: dict[str, int]) -> int:
        """A child that holds standard input, output and error and the descriptors `kept`, and nothing else."""
        pid = os.fork()
        if pid:
            return pid
        try:
            self._secret.clear()  # a program can look through what it has inherited
            self._unfed = b""
            for number, name in enumerate(("stdin", "stdout", "stderr")):
                os.dup2(ends[name], number)
            low = 3
            for file in sorted(kept):
                os.closerange(low, file)
                low = file + 1
            os.closerange(low, 4096)
            os.setpgid(0, 0) if not self.isolated else os.setsid()
            gc.enable()
            jail.confine(limits, filtered=self.isolated)
            then()
        except BaseException as error:
            os.write(2, f"the sandbox could not start the program: {error}\n".encode())
        finally:
            os._exit(120)

    # --- one request --------------------------------------------------------------------------------------------------

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        limits = request["limits"]
        self._fresh_folder(limits["disk"], limits["files"])
        self._resident = self._pages("self")
        # held in this one place, so that it can be taken from the process of a program
        self._secret: list[str] = [request.pop("tests"), request.pop("nonce")]
        readers, ends = self._open(request)
        pids: list[int] = []
        started = time.monotonic()
        try:
            pids, last = self._start(request, ends)
            for file in ends.values():
                os.close(file)
            ends.clear()
            ended, code, texts = self._watch(last, readers, request, started)
            if pids[0] != last and ended == "exit" and code:
                ended, code = _end_of(pids[0], limits["cpu_s"]) or (ended, code)
        finally:
            for file in ends.values():
                os.close(file)
            seconds = time.monotonic() - started
            self._kill_all(pids)
            for _, file in readers.items():
                os.close(file)
        return {
            "id": request["id"],
            "ended": ended,
            "code": code,
            "seconds": seconds,
            "changed": self._own_state() != self._state,
            **{name: text.decode(errors="replace") for name, text in texts.items()},
        }

    def _open(self, request: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
        """The pipes of a program: our ends by name, and its ends."""
        readers: dict[str, int] = {}
        ends: dict[str, int] = {}
        for name in ("stdout", "stderr", "verdict"):
            readers[name], ends[name] = os.pipe()
            os.set_blocking(readers[name], False)
        stdin = request["stdin"].encode()
        if stdin:
            ends["stdin"] = os.memfd_create("stdin") if hasattr(os, "memfd_create") else _unnamed(self.folder)
            while stdin:
                stdin = stdin[os.write(ends["stdin"], stdin) :]
            os.lseek(ends["stdin"], 0, os.SEEK_SET)
        else:
            ends["stdin"] = os.open(os.devnull, os.O_RDONLY)
        self._unfed = b""
        if request["together"] and self._secret[0]:
            self._unfed = b"".join(child.blob(part.encode()) for part in self._secret)
            ends["tests"], feed = os.pipe()
            readers["feed"] = feed
            os.set_blocking(feed, False)
        return readers, ends

    def _watch(
        self, last: int, readers: dict[str, int], request: dict[str, Any], started: float
    ) -> tuple[str, int, dict[str, bytes]]:
        """Wait for the end of `last`, or end it. Gives how it ended, with what code, and what was written."""
        limits = request["limits"]
        texts = {"stdout": b"", "stderr": b"", "verdict": b""}
        caps = {"stdout": limits["output"], "stderr": limits["output"], "verdict": 4096}
        names = {file: name for name, file in readers.items()}
        poll = select.poll()
        for file, name in names.items():
            poll.register(file, select.POLLOUT if name == "feed" else select.POLLIN)
        poll.register(CONTROL_IN, 0)  # hung up: nobody waits for the answer any more
        end = os.pidfd_open(last) if hasattr(os, "pidfd_open") else -1
        if end >= 0:
            readers["end"] = end
            poll.register(end, select.POLLIN)
        tick, next_look = TICK_S, started + TICK_S
        while True:
            now = time.monotonic()
            if now - started >= limits["wall"]:
                return "timeout", 0, texts
            if now >= next_look:
                if self._memory() > limits["memory"]:
                    return "memory", 0, texts
                if self._disk_full(limits["disk"], limits["files"]):
                    return "disk", 0, texts
                tick = min(tick * NEXT_TICK, MAX_TICK_S)
                next_look = time.monotonic() + tick
            wait_s = min(started + limits["wall"] - now, next_look - now)
            for file, event in poll.poll(max(0.0, wait_s * 1000)):
                if file == CONTROL_IN:
                    raise SystemExit(0)
                if file == end:
                    continue
                name = names[file]
                if name == "feed":
                    if event & select.POLLERR or not self._feed(file):
                        poll.unregister(file)
                        os.close(readers.pop("feed"))
                    continue
                data = _read(file)
                if data is None:
                    continue
                if not data:
                    poll.unregister(file)
                texts[name] += data
                if len(texts[name]) > caps[name]:
                    texts[name] = texts[name][: caps[name]]
                    return "output", 0, texts
            pid, status, usage = os.wait4(last, os.WNOHANG)
            if pid:
                break
        for name in texts:  # what was written last
            while data := _read(readers[name]):
                texts[name] = (texts[name] + data)[: caps[name]]
                if len(texts[name]) == caps[name]:
                    break
        return *_how(status, usage, limits["cpu_s"]), texts

    def _feed(self, file: int) -> bool:
        """Hand over more of tests and nonce. False: all is handed over."""
        with contextlib.suppress(BlockingIOError):
            self._unfed = self._unfed[os.write(file, self._unfed) :]
        return bool(self._unfed)


def _read(file: int) -> bytes | None:
    """What is there to be read: nothing at the end, None where there is nothing yet."""
    try:
        return os.read(file, 1 << 16)
    except BlockingIOError:
        return None


def _how(status: int, usage: resource.struct_rusage, cpu_s: int) -> tuple[str, int]:
    """How a process has ended, and its exit status or signal."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return "exit", code
    out_of_time = -code == signal.SIGKILL and usage.ru_utime + usage.ru_stime >= cpu_s
    return "timeout" if -code == signal.SIGXCPU or out_of_time else "signal", -code


def _end_of(program: int, cpu_s: int) -> tuple[str, int] | None:
    """How the program ended whose tests have failed: killed, or None where it is not what has failed."""
    for _ in range(20):  # its line is closed a moment before its end can be asked for
        pid, status, usage = os.wait4(program, os.WNOHANG)
        if pid:
            ended, code = _how(status, usage, cpu_s)
            return None if ended == "exit" else (ended, code)
        time.sleep(0.0005)
    return None


def _children() -> list[int]:
    """This process's children, where /proc tells."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def _unnamed(folder: Path) -> int:
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())


def _exactly(num_bytes: int) -> bytes:
    parts: list[bytes] = []
    while num_bytes:
        part = os.read(CONTROL_IN, min(num_bytes, 1 << 20))
        if not part:
            raise SystemExit(0)
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


def _say(message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    data = struct.pack(">I", len(data)) + data
    while data:
        data = data[os.write(CONTROL_OUT, data) :]


def main(isolation: str, uid: int) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # from inside, pid 1 gets only those signals that it handles
    zygote = Zygote(isolation, uid)
    child.preload()
    gc.collect()
    gc.freeze()  # a collection in a child must not copy every page of this process
    gc.disable()
    try:
        interfaces = [name for _, name in socket.if_nameindex()]
        _say({"own_mounts": zygote.own_mounts, "interfaces": interfaces})
        while True:
            (size,) = struct.unpack(">I", _exactly(4))
            _say(zygote.answer(json.loads(_exactly(size))))
    finally:
        if not zygote.isolated:
            shutil.rmtree(zygote.folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
