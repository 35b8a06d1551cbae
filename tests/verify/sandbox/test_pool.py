"""Workers: started when needed, replaced when lost, and gone at the end, whoever ends first."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.support.hostile import TESTS, descendants

from samplewise.core.errors import SetupError, UsageError
from samplewise.verify import sandbox as package
from samplewise.verify.sandbox import Limits, Program, Sandbox, chosen, isolation, pool, shared_sandbox, use, worker
from samplewise.verify.sandbox.check import _holes
from samplewise.verify.sandbox.worker import Worker, WorkerLost

RIGHT = Program("def add(a, b):\n    return a + b", TESTS)
WRONG = Program("def add(a, b):\n    return a - b", TESTS)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "_choice", [])
    monkeypatch.delenv(isolation.VARIABLE, raising=False)


def test_many_at_once(sandbox: Sandbox) -> None:
    programs = [Program(f"print({n})\nimport sys\nsys.exit({n} % 2)") for n in range(60)]
    with Sandbox(2, "bubblewrap") as both:
        found = dict(both.run_all(iter(programs)))
        assert both.num_workers == 2
    assert sorted(found) == list(range(60))
    for n, verdict in found.items():
        assert verdict.stdout == f"{n}\n"
        assert verdict.passed == (n % 2 == 0)


def test_programs_are_taken_as_they_are_needed(sandbox: Sandbox) -> None:
    taken = itertools.count()
    programs = (Program(f"print({next(taken)})") for _ in range(1000))
    verdicts = sandbox.run_all(programs)
    next(verdicts)
    verdicts.close()  # type: ignore[attr-defined]
    assert next(taken) <= 6


def test_any_thread_may_ask(sandbox: Sandbox) -> None:
    with ThreadPoolExecutor(8) as threads:
        verdicts = list(threads.map(lambda n: sandbox.run(Program(f"print({n} ** 2)")), range(40)))
    assert [verdict.stdout for verdict in verdicts] == [f"{n * n}\n" for n in range(40)]
    for thread in [threading.Thread(target=lambda: sandbox.run(RIGHT))]:  # its end must not end the worker
        thread.start()
        thread.join()
    assert sandbox.run(RIGHT).passed


def test_a_lost_worker_is_replaced_and_nobody_notices(sandbox: Sandbox) -> None:
    assert sandbox.run(RIGHT).passed
    (old,) = sandbox._workers
    old.kill()
    assert sandbox.run(RIGHT).passed
    (new,) = sandbox._workers
    assert new is not old


def test_a_worker_is_replaced_after_so_many_programs(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "MAX_PROGRAMS", 3)
    seen = set()
    for _ in range(7):
        assert sandbox.run(RIGHT).passed
        seen |= {found._process.pid for found in sandbox._workers}
    assert len(seen) >= 2


def test_a_worker_killed_in_the_middle_costs_no_verdict(sandbox: Sandbox) -> None:
    """The program is run again on a new one: it was not its doing."""
    sandbox.run(RIGHT)
    (found,) = sandbox._workers
    threading.Timer(0.2, found.kill).start()
    verdict = sandbox.run(Program("import time\ntime.sleep(0.4)\nprint('done')"))
    assert verdict.stdout == "done\n"


FAKE = """
import json, os, socket, struct, sys, time
from inside.request import LAYOUT, Files, Request
def say(data): os.write(1, struct.pack(">I", len(data)) + data)
say(b'{"own_mounts": false}')
data, files, _, _ = socket.recv_fds(socket.socket(fileno=0), 1 + LAYOUT.size, 6)
request, files = Request(*LAYOUT.unpack(data[1:])), Files(*files)
os.write(files.verdict, json.loads(os.read(files.tests, 10**6))["nonce"].encode())
reply = {"id": request.id, "ended": "exit", "code": 0, "seconds": 0.1, "changed": False}
ACT
time.sleep(100)
"""
ACTS = {
    "honest": "say(json.dumps(reply).encode())",
    "ends": "sys.exit(1)",
    "says nothing": "pass",
    "no JSON": "say(b'nonsense')",
    "pickle": "import pickle; say(pickle.dumps(reply))",
    "a list": "say(b'[]')",
    "a deep list": "say(b'[' * 20000)",
    "somebody else's": "say(json.dumps(reply | {'id': request.id + 1}).encode())",
    "no id": "del reply['id']; say(json.dumps(reply).encode())",
    "a new ending": "say(json.dumps(reply | {'ended': 'well'}).encode())",
    "code that is no number": "say(json.dumps(reply | {'code': 'x'}).encode())",
    "too long": "os.write(1, struct.pack('>I', 1 << 31))",
    "half of it": "os.write(1, struct.pack('>I', 1000) + b'{')",
}


@pytest.mark.parametrize("act", ACTS)
def test_a_worker_is_not_believed(act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = FAKE.replace("ACT", ACTS[act])
    monkeypatch.setattr(isolation, "command", lambda *args: [sys.executable, "-S", "-c", code])
    monkeypatch.setattr(worker, "GRACE_S", 0.1)
    made = Worker("none")
    try:
        if act == "honest":
            assert made.run(RIGHT, Limits(wall_s=2)).passed
        else:
            with pytest.raises(WorkerLost):
                made.run(RIGHT, Limits(wall_s=0.3))
    finally:
        made.close()
        made.close()


def test_a_program_that_loses_two_workers_has_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    code = FAKE.replace("ACT", "sys.exit(1)")
    monkeypatch.setattr(isolation, "command", lambda *args: [sys.executable, "-S", "-c", code])
    with Sandbox(1, "none") as broken:
        verdict = broken.run(RIGHT)
        assert (verdict.status, verdict.reason) == ("crashed", "the sandbox has ended, twice")
        # where no new worker can be had, nothing is known about the program
        monkeypatch.setattr(isolation, "command", lambda *args: [sys.executable, "-c", "print('no')"])
        verdict = broken.run(RIGHT)
        assert verdict.status == "broken"
        assert "cannot be started again" in verdict.reason


def test_a_forged_verdict_needs_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for verdict in (b"", b"passed", b"0" * 32):
        code = FAKE.replace('json.loads(os.read(files.tests, 10**6))["nonce"].encode()', repr(verdict))
        code = code.replace("ACT", ACTS["honest"])
        monkeypatch.setattr(isolation, "command", lambda *args, code=code: [sys.executable, "-S", "-c", code])
        made = Worker("none")
        assert made.run(RIGHT, Limits()).status == "failed"
        made.close()


def test_the_end_of_the_host_is_the_end_of_all(sandbox: Sandbox, tmp_path: Path) -> None:
    """Killed without a chance to clean up, in the middle of a program."""
    code = """
import threading
from tests.support.hostile import descendants
from samplewise.verify.sandbox import Limits, Program, Sandbox
sandbox = Sandbox(1, "bubblewrap")
sandbox.run(Program("pass"))
source = "import os, time\\nos.fork()\\nif os.fork() == 0: os.setsid()\\ntime.sleep(100)"
threading.Thread(target=sandbox.run, args=(Program(source), Limits(wall_s=60)), daemon=True).start()
while len(found := descendants()) < 6: pass
print(*found, flush=True)
threading.Event().wait()
"""
    host = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    pids = [int(word) for word in host.stdout.readline().split()]
    assert len(pids) >= 6
    host.kill()
    host.wait()
    host.stdout.close()
    deadline = time.monotonic() + 120
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []


def test_closing_ends_everything(sandbox: Sandbox) -> None:
    before = set(descendants())
    made = Sandbox(2, "bubblewrap")
    dict(made.run_all([RIGHT] * 8))
    running = threading.Thread(target=lambda: seen.append(made.run(Program("while True: pass"), Limits(wall_s=600))))
    seen: list[object] = []
    idle = set(descendants())
    running.start()
    deadline = time.monotonic() + 120
    while not set(descendants()) - idle:
        assert time.monotonic() < deadline, "the program does not begin"
        time.sleep(0.01)
    assert set(descendants()) - before
    made.close()
    made.close()
    running.join(120)
    assert seen
    assert seen[0].status == "broken"  # type: ignore[attr-defined]
    assert set(descendants()) - before == set()
    with pytest.raises(RuntimeError):
        made.run(RIGHT)


def test_no_isolation_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen() == "bubblewrap"
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        SetupError, match=r"install it \(apt install bubblewrap.*--sandbox none or set SAMPLEWISE_SANDBOX"
    ):
        Sandbox()
    monkeypatch.setenv(isolation.VARIABLE, "none")
    assert chosen() == "none"
    monkeypatch.setenv(isolation.VARIABLE, "off")
    with pytest.raises(UsageError, match="SAMPLEWISE_SANDBOX: the sandbox is one of bubblewrap, none, got 'off'"):
        Sandbox()
    use("none")
    assert chosen() == "none"
    with pytest.raises(UsageError, match="got 'docker'"):
        use("docker")  # type: ignore[arg-type]
    with Sandbox() as made:
        assert made.isolation == "none"
        assert made.run(RIGHT).isolation == "none"


def test_a_sandbox_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        isolation, "command", lambda *args: ["/bin/sh", "-c", "echo no user name spaces here >&2; exit 1"]
    )
    with (
        Sandbox(1, "bubblewrap") as made,
        pytest.raises(SetupError, match=r"\(no user name spaces here\); bubblewrap needs"),
    ):
        made.run(RIGHT)


def test_a_sandbox_with_a_hole_runs_nothing(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    real = isolation.command

    def leaky(name: isolation.Isolation, uid: int, folder: str) -> list[str]:
        line = real(name, uid, folder)
        return [*line[:1], "--ro-bind", "/etc", "/etc", *line[1:]]

    monkeypatch.setattr(isolation, "command", leaky)
    with Sandbox(1, "bubblewrap") as made, pytest.raises(SetupError, match=r"not tight.*a program sees /etc/passwd"):
        made.run(RIGHT)
    tight = {
        "uid": 7,
        "becomes_root": False,
        "network": False,
        "writes": [],
        "reads": [],
        "listed": [],
        "environment": {},
    }
    assert _holes({**tight, "own": True}, ["lo"]) == []
    for change in (
        {"uid": 0},
        {"becomes_root": True},
        {"network": True},
        {"writes": ["/"]},
        {"reads": ["/x"]},
        {"own": False},
    ):
        assert len(_holes({**tight, "own": True, **change}, ["lo"])) == 1
    assert _holes({**tight, "own": True, "listed": ["secrets"], "environment": {"A": "b"}}, ["lo"]) != []
    assert _holes({**tight, "own": True}, ["lo", "eth0"]) != []


@pytest.fixture
def none() -> Iterator[Sandbox]:
    with Sandbox(1, "none") as made:
        yield made


def test_without_isolation_limits_hold_all_the_same(none: Sandbox) -> None:
    assert none.run(RIGHT).passed
    assert none.run(WRONG).status == "failed"
    assert none.run(RIGHT._replace(level="together")).passed
    assert none.run(Program("while True: pass"), Limits(wall_s=0.3)).status == "timeout"
    assert none.run(Program("x = bytearray(10 ** 10)")).status == "memory"
    assert none.run(Program("while True: print('x' * 1000)")).status == "output"
    assert none.run(Program("import os\nprint(dict(os.environ), os.listdir('.'))")).stdout == "{} []\n"
    assert none.run(Program("print(input())", stdin="yes")).stdout == "yes\n"


def test_without_isolation_no_process_is_left(none: Sandbox) -> None:
    none.run(RIGHT)
    before = set(descendants())
    source = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        os.fork()
        time.sleep(100)
open("f", "w").close()
"""
    assert none.run(Program(source)).passed
    assert set(descendants()) == before
    assert none.run(Program("import os\nassert os.listdir('.') == []")).passed


def test_without_isolation_no_folder_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with Sandbox(2, "none") as made:
        assert all(verdict.passed for _, verdict in made.run_all([RIGHT] * 4))
        assert len(list(tmp_path.iterdir())) >= 1
        threading.Timer(0.2, made.close).start()
        assert made.run(Program("open('f', 'w')\nwhile True: pass"), Limits(wall_s=60)).status == "broken"
    assert list(tmp_path.iterdir()) == []


LACKING = """
import resource, runpy, sys
real, lacking = resource.setrlimit, getattr(resource, sys.argv[1])
def setrlimit(kind, limits):
    if kind == lacking:
        raise ValueError("current limit exceeds maximum limit")  # what macOS says
    real(kind, limits)
resource.setrlimit = setrlimit
sys.argv[1:] = sys.argv[2:]
runpy.run_module("inside.zygote", run_name="__main__")
"""


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE"])
def test_a_system_that_lacks_a_limit_runs_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS lacks RLIMIT_AS. A right program must not be called wrong for that."""
    monkeypatch.setattr(isolation, "command", lambda *args: [sys.executable, "-c", LACKING, name, "none", "0", args[2]])
    with Sandbox(1, "none") as made, pytest.raises(SetupError, match=rf"cannot limit what a program takes \({name}\)"):
        made.run(RIGHT)


def test_a_program_that_cannot_be_started_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that fails for another reason says nothing about the program either."""
    monkeypatch.setattr(
        isolation, "command", lambda *args: [sys.executable, "-c", LACKING, "RLIMIT_CORE", "none", "0", args[2]]
    )
    with Sandbox(1, "none") as made:
        for program in (RIGHT, RIGHT._replace(level="together"), Program("print(1)")):
            verdict = made.run(program)
            assert verdict.status == "broken"
            assert verdict.reason == "a program cannot be started: current limit exceeds maximum limit"
            assert not verdict.is_known


def test_where_no_file_can_be_opened_nothing_is_known(sandbox: Sandbox) -> None:
    assert sandbox.run(RIGHT).passed
    gc.collect()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    num_open = len(list(Path("/proc/self/fd").iterdir()))
    with contextlib.ExitStack() as taken:
        # The limit is on a file's number, not on how many are open: every lower number is taken too.
        highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limits[1]))
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        with contextlib.suppress(OSError):
            while True:
                taken.callback(os.close, os.dup(0))
        verdict = sandbox.run(RIGHT)
    assert verdict.status == "broken"
    assert verdict.reason == "a program cannot be handed over: [Errno 24] Too many open files"
    assert sandbox.run(RIGHT).passed
    assert len(list(Path("/proc/self/fd").iterdir())) == num_open


def test_separate_tests_are_told_apart(sandbox: Sandbox) -> None:
    source = "import time\ndef f(x):\n    if x == 2: time.sleep(60)\n    if x == 3: raise SystemExit\n    return x"
    tests = tuple(f"assert f({x}) == {y}" for x, y in ((1, 1), (2, 2), (3, 3), (4, 5), (6, 6)))
    for level in ("apart", "together"):
        program = Program(source, level=level, separate_tests=tests, test_s=0.2)  # type: ignore[arg-type]
        verdict = sandbox.run(program, Limits(wall_s=30))
        assert verdict.separate == (True, False, False, False, True), verdict
        assert sandbox.run(program._replace(tests="assert f(1) == 2")).separate == ()
    assert sandbox.run(Program("def f(x): return x", tests="assert f(1) == 1")).separate == ()


def test_one_sandbox_for_the_process(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_shared", {})
    first = shared_sandbox()
    assert shared_sandbox() is first
    assert first.run(RIGHT).passed
    use("none")
    second = shared_sandbox()
    assert second is not first
    assert second.isolation == "none"
    pool._close_shared()
    with pytest.raises(RuntimeError):
        first.run(RIGHT)


def test_a_script_that_closes_nothing_ends(sandbox: Sandbox) -> None:
    code = (
        "from samplewise.verify.sandbox import Program, shared_sandbox\n"
        "print(shared_sandbox().run(Program('print(1)')).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n\n", "")


REFUSING = """
import ctypes, os, struct, sys
from samplewise.verify.sandbox.inside import jail
step = jail._step
column = jail._MACHINES[os.uname().machine][0]
code = b"".join([step(jail._LOAD, 0), step(jail._EQUAL, jail._REFUSED["unshare"][column], 0, 1),
                 step(jail._RETURN, jail._ERROR | 1), step(jail._RETURN, jail._ALLOW)])
held = ctypes.create_string_buffer(code, len(code))
jail._call("prctl", 38, 1, 0, 0, 0)
jail._call("prctl", 22, 2, struct.pack("@HP", 4, ctypes.addressof(held)), 0, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_where_no_second_name_space_is_to_be_had(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some distributions let bubblewrap make a user name space and nobody within it. Then one folder is kept and
    emptied, and its size is watched."""
    real = isolation.command

    def refusing(name: isolation.Isolation, uid: int, folder: str) -> list[str]:
        return [sys.executable, "-c", REFUSING, *real(name, uid, folder)]

    source = str(Path(package.__file__).parents[3])
    monkeypatch.setattr(isolation, "command", refusing)
    monkeypatch.setattr(
        isolation, "environment", lambda name: {**isolation.ENVIRONMENT, "PYTHONPATH": f"/samplewise:{source}"}
    )
    with Sandbox(1, "bubblewrap") as made:
        assert made.run(RIGHT).passed
        (found,) = made._workers
        assert not found.own_mounts
        leaves = "import os\nopen('/tmp/f', 'w').write('x')\nos.makedirs('a/b')\nos.symlink('/', 'l')\nos.chmod('a', 0)"
        assert made.run(Program(leaves)).passed
        assert made.run(Program("import os\nassert os.listdir('/tmp') == []")).passed
        fills = "import time\nfor n in range(9): open(f'{n}', 'wb').write(bytes(3 << 20))\ntime.sleep(9)"
        assert made.run(Program(fills), Limits(disk_mb=16)).status == "disk"
        many = "import time\nfor n in range(500): open(f'{n}', 'wb')\ntime.sleep(9)"
        assert made.run(Program(many), Limits(files=100)).status == "disk"
        assert made.run(RIGHT).passed


def test_seconds_are_known_or_nan() -> None:
    assert math.isnan(package.ProgramVerdict("broken").seconds)
    assert os.getpid() != 1
    assert signal.SIGKILL == 9
