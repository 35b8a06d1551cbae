"""The filter of system calls, run by a machine of ten lines, and what honest programs do under it."""

from __future__ import annotations

import platform
import struct

import pytest

from samplewise.verify.sandbox import Program, Sandbox
from samplewise.verify.sandbox.inside import jail

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def decide(machine: str, number: int, *args: int, arch: int | None = None) -> int:
    """What the kernel would do: the classic packet filter, as far as this one uses it."""
    values = [value & (2**64 - 1) for value in (*args, *[0] * (6 - len(args)))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch or jail._MACHINES[machine][1], 0, *values)
    code = jail.program_of_filter(machine)
    place, accumulator = 0, 0
    while True:
        operation, yes, no, value = struct.unpack_from("=HBBI", code, 8 * place)
        place += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x15:
                place += yes if accumulator == value else no
            case 0x35:
                place += yes if accumulator >= value else no
            case 0x45:
                place += yes if accumulator & value else no
            case 0x06:
                return int(value)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_is_refused(machine: str) -> None:
    column = jail._MACHINES[machine][0]
    refused = {numbers[column] for numbers in jail._REFUSED.values()}
    special = {numbers[column] for numbers in (jail._CLONE, jail._CLONE3, jail._PRLIMIT, jail._MMAP, jail._FCNTL)}
    assert not refused & special
    assert len(refused) == len(jail._REFUSED)
    for number in range(600):
        if number not in special:
            assert decide(machine, number) == (EPERM if number in refused else ALLOW), number
    clone, clone3, prlimit, mmap, fcntl = (
        numbers[column] for numbers in (jail._CLONE, jail._CLONE3, jail._PRLIMIT, jail._MMAP, jail._FCNTL)
    )
    assert decide(machine, clone3) == ENOSYS
    assert decide(machine, clone, 0x3D0F00) == ALLOW  # a thread
    assert decide(machine, clone, 0x01200011) == ALLOW  # a fork
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert decide(machine, clone, 0x11 | flag) == EPERM
    shared, private, fixed, anonymous, checked = 1, 2, 0x10, 0x20, 3
    for flags, decision in (
        (private | anonymous, ALLOW),
        (private | fixed | anonymous | 0x4000, ALLOW),
        (shared, ALLOW),  # of a file, whose folder has a size
        (private, ALLOW),
        (shared | anonymous, EPERM),
        (shared | fixed | anonymous, EPERM),
        (checked | anonymous, EPERM),
    ):
        assert decide(machine, mmap, 0, 4096, 3, flags) == decision, flags
    assert [decide(machine, fcntl, 5, what) for what in (1, 6, 1024, 1030, 1031)] == [ALLOW, ALLOW, EPERM, ALLOW, EPERM]
    assert decide(machine, prlimit, 0) == ALLOW
    assert decide(machine, prlimit, 1) == decide(machine, prlimit, 77) == EPERM


def test_calls_of_another_kind() -> None:
    """The same calls have other numbers under another machine, which the filter must not mistake for its own."""
    assert decide("x86_64", 0x40000000 + 165) == decide("x86_64", 0x40000000) == EPERM
    assert decide("x86_64", 26, arch=0x40000003) == KILL  # ptrace on i386
    assert decide("aarch64", 26, arch=0x40000028) == KILL


def test_this_machine_is_known() -> None:
    assert jail.can_filter() == (platform.machine() in ("x86_64", "aarch64"))


@pytest.mark.parametrize(
    "source",
    [
        "import threading\nt = threading.Thread(target=print, args=('ok',))\nt.start()\nt.join()",
        "from concurrent.futures import ThreadPoolExecutor as P\nprint(*P(3).map(str, ['ok']))",
        "from concurrent.futures import ProcessPoolExecutor as P\nwith P(2) as p: print(*p.map(str, ['ok']))",
        "import multiprocessing as m\nwith m.Pool(2) as p: print(*p.map(str, ['ok']))",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-S', '-c', 'print(\"ok\")'], check=True)",
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.001)\n    print('ok')\nasyncio.run(f())",
        "import signal, time\nsignal.signal(14, lambda *a: print('ok'))\nsignal.setitimer(0, 0.01)\ntime.sleep(0.05)",
        "import tempfile\nwith tempfile.TemporaryFile() as f: f.write(b'x')\nprint('ok')",
        "import sqlite3, decimal, zlib, ctypes, socket, mmap, uuid\nuuid.uuid4()\nprint('ok')",
        "import os\nos.makedirs('a/b/c')\nos.rename('a', 'd')\nprint('ok' if os.listdir('d') == ['b'] else '')",
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (8, 8))\nprint('ok')",
        "import shutil\nopen('a', 'w').write('ok')\nshutil.copy('a', 'b')\nprint(open('b').read())",
        "import mmap\nx = mmap.mmap(-1, 2, flags=mmap.MAP_PRIVATE | mmap.MAP_ANON)\nx[:] = b'ok'\nprint(x[:].decode())",
        "import multiprocessing as m\nv = m.Array('u', 'no')\ndef f(): v[:] = 'ok'\np = m.Process(target=f)\n"
        "p.start()\np.join()\nprint(v[:])",
        "import ctypes\nf = ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 3)\nprint('ok' if f() == 3 else '')",
        "import sys\nsys.setrecursionlimit(10 ** 6)\ndef f(n): return n and f(n - 1)\nf(50000)\nprint('ok')",
    ],
)
def test_honest_programs_find_what_they_need(sandbox: Sandbox, source: str) -> None:
    for _ in range(2):
        verdict = sandbox.run(Program(source))
        assert (verdict.stdout, verdict.status) == ("ok\n", "passed"), verdict
