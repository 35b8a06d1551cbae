"""The bench for a machine with a GPU, rehearsed on a CPU: every part of it runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).parents[3]


def test_the_bench_for_a_gpu_runs_its_rehearsal() -> None:
    command = [sys.executable, "-m", "bench.vllm_gpu", "--cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["rehearsal"] is True
    assert figures["gpu"] is None
    assert figures["compared"]["same_tokens"] == figures["compared"]["asks"] == 8
    assert figures["compared"]["dlogp_max"] < 1e-4
    assert sorted(figures["ratios"]) == ["bound", "css", "esamp, Adam", "esamp, ridge", "idle", "log q", "lss"]
    assert "aim" not in done.stdout, "a rehearsal meets no aim"


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, "-m", "bench.vllm_gpu"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == "torch finds no GPU here, and this measures one: add --cpu to rehearse without\n"
