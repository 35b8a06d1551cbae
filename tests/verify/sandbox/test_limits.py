"""Limits are asserted, not assumed: each is measured from inside and out."""

from __future__ import annotations

import json
import sys

import pytest

from samplewise.verify.sandbox import Limits, Program, Sandbox


def test_what_a_program_sees(sandbox: Sandbox) -> None:
    source = """
import json, mmap, os, resource

def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True

names = ("AS", "CPU", "FSIZE", "NOFILE", "NPROC", "CORE", "MEMLOCK")
def executes():
    with open("code", "wb+") as file:
        file.write(bytes(4096))
        file.flush()
        try:
            mmap.mmap(file.fileno(), 4096, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
        except PermissionError:
            return False
    return True

print(json.dumps({
    "executes": executes(),
    **{name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names},
    "disk": (lambda s: s.f_blocks * s.f_frsize)(os.statvfs(".")), "files": os.statvfs(".").f_files,
    "root": sorted(os.listdir("/")), "dev": sorted(os.listdir("/dev")), "proc": os.listdir("/proc"),
    "folder": os.getcwd(), "environment": dict(os.environ), "uid": os.getuid(), "pid1": os.getppid(),
    "open": [number for number in range(64) if is_open(number)],
}))
"""
    limits = Limits(wall_s=2.5, memory_mb=300, processes=5, file_mb=3, disk_mb=7, files=50, open_files=40)
    verdict = sandbox.run(Program(source), limits)
    assert verdict.passed, verdict
    seen = json.loads(verdict.stdout)
    mega = 1 << 20
    assert seen["AS"] == [300 * mega] * 2
    assert seen["CPU"] == [3, 4]
    assert seen["FSIZE"] == [3 * mega] * 2
    assert seen["NOFILE"] == [40, 40]
    assert seen["NPROC"] == [6, 6]  # the zygote is one of them
    assert seen["CORE"] == seen["MEMLOCK"] == [0, 0]
    assert seen["folder"] == "/tmp"
    assert seen["uid"] != 0
    assert seen["pid1"] == 1
    assert seen["environment"] == {}
    assert seen["open"] == [0, 1, 2]
    assert seen["dev"] == ["null", "random", "shm", "urandom"]
    assert not {"home", "bin", "sbin", "mnt", "var", "sys", "boot", "opt"} & set(seen["root"])
    (worker,) = sandbox._workers
    if worker.own_mounts:
        assert seen["disk"] == 7 * mega
        assert 50 <= seen["files"] <= 52
        assert seen["proc"] == []
        assert seen["executes"] is False


@pytest.mark.parametrize("processes", [1, 4, 9])
def test_processes_and_threads_are_counted_together(sandbox: Sandbox, processes: int) -> None:
    source = """
import os, threading, time
num = 1
try:
    while num < 50:
        if num % 2:
            if os.fork() == 0:
                time.sleep(100)
        else:
            threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        num += 1
except (OSError, RuntimeError):
    pass
print(num, flush=True)
os._exit(0)
"""
    for _ in range(2):  # what was killed does not count any more
        verdict = sandbox.run(Program(source), Limits(processes=processes))
        assert verdict.stdout == f"{processes}\n", verdict


def test_wall_clock(sandbox: Sandbox) -> None:
    verdict = sandbox.run(Program("import time\ntime.sleep(1000)"), Limits(wall_s=0.2))
    assert (verdict.status, verdict.reason) == ("timeout", "stopped after 0.2 s")
    assert 0.2 <= verdict.seconds < 20, "a hundred times the limit on a busy machine, a fiftieth of the sleep"


@pytest.mark.slow
@pytest.mark.parametrize("mask", ["", "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\n"])
def test_processor_time(sandbox: Sandbox, mask: str) -> None:
    """A second of it, whatever the wall clock allows; a second more where the first signal is masked."""
    verdict = sandbox.run(Program(f"{mask}while True: pass"), Limits(wall_s=300, cpu_s=1))
    assert (verdict.status, verdict.reason) == ("timeout", "stopped after 1 s of processor time")
    assert verdict.seconds < 250


@pytest.mark.parametrize(
    ("source", "status", "reason"),
    [
        ("x = bytearray(10 ** 9)", "memory", "MemoryError"),
        ("import os\nos.fork(); os.fork(); os.fork()\nx = b'x' * (60 << 20)\nwhile 1: 1", "memory", "more than 200 MB"),
        ("print('x' * (20 << 10))", "output", "more than 16 kB"),
        ("import sys\nsys.stderr.write('x' * (20 << 10))", "output", "more than 16 kB"),
        ("open('f', 'wb').write(bytes(5 << 20))", "failed", "File too large"),
        ("import signal\nsignal.signal(25, 0)\nopen('f', 'wb').write(bytes(9 << 20))", "crashed", "signal 25"),
        ("for n in range(9): open(str(n), 'wb').write(bytes(3 << 20))", "failed", "No space left"),
        ("for n in range(99): open(str(n), 'wb')", "failed", "No space left"),
        ("files = [open('/dev/null') for _ in range(99)]", "failed", "Too many open files"),
        ("raise ValueError('no')", "failed", "ValueError: no"),
        ("import sys\nsys.exit('bad')", "failed", "bad"),
        ("import sys\nsys.exit(3)", "failed", "exit status 3"),
        ("import os\nos.abort()", "crashed", "signal 6"),
        ("import sys\nsys.exit(0)", "passed", "exit status 0"),
        ("this is no program", "failed", "SyntaxError"),
        ("x = '\\x00'", "passed", ""),
        ("\x00", "failed", "null bytes"),
    ],
)  # fmt: skip
def test_each_limit_has_its_verdict(sandbox: Sandbox, source: str, status: str, reason: str) -> None:
    limits = Limits(memory_mb=200, output_kb=16, file_mb=4, disk_mb=16, files=60)
    verdict = sandbox.run(Program(source), limits)
    assert verdict.status == status, verdict
    assert reason in verdict.reason
    assert verdict.isolation == "bubblewrap"
    assert len(verdict.stdout) <= 16 << 10
    assert len(verdict.stderr) <= 16 << 10


def test_just_below_a_limit_is_fine(sandbox: Sandbox) -> None:
    source = """
x = b"x" * (100 << 20)
with open("f", "wb") as f: f.write(bytes(4 << 20))
for n in range(50): open(str(n), "w").close()
print("y" * ((16 << 10) - 1))
"""
    verdict = sandbox.run(Program(source), Limits(memory_mb=200, output_kb=16, file_mb=4, disk_mb=16, files=60))
    assert verdict.passed, verdict
    assert len(verdict.stdout) == 16 << 10


def test_standard_input_and_output(sandbox: Sandbox) -> None:
    big = "line of text äöü\n" * 20_000
    verdict = sandbox.run(
        Program("import sys\nfor line in sys.stdin: print(line, end='')", stdin=big), Limits(output_kb=400)
    )
    assert verdict.passed
    assert verdict.stdout == big
    assert sandbox.run(Program("print(repr(input()))", stdin="a b\n")).stdout == "'a b'\n"
    assert "EOFError" in sandbox.run(Program("input()")).reason
    assert sandbox.run(Program("import sys; sys.stdout.buffer.write(bytes([255, 65]))")).stdout == "\ufffdA"


def test_a_script_ends_as_scripts_do(sandbox: Sandbox) -> None:
    source = """
import atexit, threading, time
atexit.register(print, "last")
threading.Thread(target=lambda: (time.sleep(0.05), print("thread"))).start()
if __name__ == "__main__":
    print("main")
"""
    assert sandbox.run(Program(source)).stdout == "main\nthread\nlast\n"


def test_runs_repeat(sandbox: Sandbox) -> None:
    """Neither the order of a set of texts nor a draw changes from one process to the next, or a grade would."""
    source = "import random\nprint(random.random(), list({str(i) for i in range(20)}), hash('a'))"
    with Sandbox(1, "bubblewrap") as other:
        seen = {
            sandbox.run(Program(source)).stdout,
            sandbox.run(Program(source)).stdout,
            other.run(Program(source)).stdout,
        }
    assert len(seen) == 1


@pytest.mark.parametrize("field", ["wall_s", "cpu_s", "memory_mb", "processes", "output_kb"])
def test_a_limit_must_be_one(sandbox: Sandbox, field: str) -> None:
    for value in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"{field} must be more than 0"):
            sandbox.run(Program("pass"), Limits()._replace(**{field: value}))  # type: ignore[arg-type]


def test_python_is_the_same_inside(sandbox: Sandbox) -> None:
    verdict = sandbox.run(Program("import sys\nprint(sys.version)"))
    assert verdict.stdout.strip() == sys.version
