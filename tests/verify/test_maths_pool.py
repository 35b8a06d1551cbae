"""The child processes: limits, restarts, threads, and what happens without the library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from samplewise.core.errors import MissingExtra, SetupError
from samplewise.tasks.jsonl import jsonl
from samplewise.tasks.math500 import math500
from samplewise.verify.maths import pool
from samplewise.verify.maths.pool import ChildCounts, Children

pytest.importorskip("math_verify", reason="maths grading needs samplewise[eval]")

SAME = {"do": "equal", "left": r"\sqrt{8}", "right": r"2\sqrt{2}"}

FAKE = """
import json, os, resource, signal, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    do = json.loads(line)["do"]
    if do == "hang":
        while True:
            pass
    if do == "compute":
        signal.setitimer(signal.ITIMER_PROF, 0.05)
        pow(3, 10**9)
    if do == "die":
        os._exit(1)
    if do == "grow":
        resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[1]),) * 2)
        bytearray(1 << 40)
    if do == "babble":
        print("no json", flush=True)
        continue
    if do == "shout":
        print("x" * 3_000_000, flush=True)
        continue
    print(json.dumps({"pid": os.getpid()}), flush=True)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A child without libraries, which does as it is told."""
    (tmp_path / "child.py").write_text(FAKE)
    monkeypatch.setattr(pool, "__file__", str(tmp_path / "pool.py"))
    return tmp_path


def test_a_child_is_kept_while_it_is_well(fake: Path) -> None:
    children = Children(max_children=1)
    try:
        first, second = children.ask({"do": "tell"}), children.ask({"do": "tell"})
        assert first is not None
        assert first == second
        assert children.counts == ChildCounts(asked=2, started=1)
    finally:
        children.close()


@pytest.mark.parametrize("fault", ["hang", "compute", "die", "grow", "babble", "shout"])
def test_a_lost_child_costs_its_own_request_alone(fake: Path, fault: str) -> None:
    children = Children(max_children=1, wall_s=0.3)
    try:
        before = children.ask({"do": "tell"})
        assert children.ask({"do": fault}) is None
        children._wall_s = 30.0
        after = children.ask({"do": "tell"})
        assert before is not None
        assert after is not None
        assert before["pid"] != after["pid"]
        with pytest.raises(ProcessLookupError):
            os.kill(before["pid"], 0)  # killed and reaped
        lost = {"hung": 1} if fault in ("hang", "compute") else {"crashed": 1}
        assert children.counts == ChildCounts(asked=3, started=2)._replace(**lost)
    finally:
        children.close()


def test_a_child_that_somebody_kills_is_replaced(fake: Path) -> None:
    children = Children(max_children=1)
    try:
        said = children.ask({"do": "tell"})
        assert said is not None
        os.kill(said["pid"], signal.SIGKILL)
        assert children.ask({"do": "tell"}) is None
        assert children.ask({"do": "tell"}) is not None
    finally:
        children.close()


def test_threads_share_a_few_children_and_get_their_own_replies(fake: Path) -> None:
    (fake / "child.py").write_text(FAKE.replace('{"pid": os.getpid()}', '{"do": do}'))
    children = Children(max_children=2)
    wrong: list[Any] = []

    def work(name: str) -> None:
        for i in range(20):
            said = children.ask({"do": f"{name}{i}"})
            if said != {"do": f"{name}{i}"}:
                wrong.append(said)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert children.counts.asked == 160
        assert 1 <= children.counts.started <= 2
    finally:
        children.close()


def test_a_missing_library_says_what_to_install(fake: Path) -> None:
    (fake / "child.py").write_text('print(\'{"missing": "math_verify"}\')')
    with pytest.raises(MissingExtra, match=r"maths grading needs an extra.*samplewise\[eval\]"):
        Children().ask(SAME)
    (fake / "child.py").write_text("raise SystemExit(1)")
    with pytest.raises(SetupError, match="died while it was starting"):
        Children().ask(SAME)


def test_a_missing_library_is_said_before_anything_is_paid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for needs in (pool.require_math_verify, math500, lambda: jsonl("nowhere.jsonl", read="maths")):
        with pytest.raises(MissingExtra, match=r"pip install 'samplewise\[eval\]'"):
            needs()


def test_a_child_sees_no_secrets(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    (fake / "child.py").write_text(FAKE.replace('{"pid": os.getpid()}', "dict(os.environ)"))
    children = Children()
    try:
        said = children.ask({"do": "tell"})
        assert said is not None
        assert "OPENAI_API_KEY" not in said
        assert said["PYTHONHASHSEED"] == "0"
    finally:
        children.close()


def test_the_real_child_has_its_limits() -> None:
    children = Children(max_children=1)
    try:
        assert children.ask(SAME) == {"equal": True}
        assert children.ask({"do": "key", "left": r"\sqrt{8}"}) == {"key": r"2 \sqrt{2}"}
        assert children.ask({"do": "key", "left": "}{"}) == {"key": None}
        (child,) = children._idle
        limits = Path(f"/proc/{child._process.pid}/limits")
        if limits.exists():
            rows = {line[:25].strip(): line[25:].split()[0] for line in limits.read_text().splitlines()[1:]}
            assert rows["Max address space"] == str(pool.MEMORY_BYTES)
            assert rows["Max file size"] == "0"
    finally:
        children.close()


def test_this_process_never_loads_the_library() -> None:
    code = (
        "import sys\nfrom samplewise.verify.maths import canonical_maths, equal_maths\n"
        r"assert equal_maths('\\sqrt{8}', '2\\sqrt{2}') and canonical_maths('x+x') == '2 x'" + "\n"
        "assert not {'sympy', 'math_verify', 'latex2sympy2_extended', 'multiprocessing', 'pickle'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr  # no child is left behind for the interpreter to complain about
