"""Model runner V2, whose kernels need Triton: run by its interpreter. Contracts and numbers, nothing about speed.

`make test-vllm-v2` runs it, as Triton is large; elsewhere it is skipped."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Run, answers

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
ENTRY = "[triton.backends]\ncpu = tests.vllm.inside.triton_cpu\n"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton: make test-vllm-v2")
def test_the_second_model_runner_draws_the_same_tokens(run: Run, local: Any, tmp_path: Path) -> None:
    from tests.vllm.inside.second import CHOSEN

    info = tmp_path / "triton_cpu-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: triton-cpu-interpreted\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY)
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    switches = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-m", "tests.vllm.inside.second"],
        cwd=ROOT,
        env={**os.environ, **switches},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    printed = json.loads(done.stdout.splitlines()[-1])
    assert printed["runs"] == "model runner V2, float32 on cpu"
    for mine, theirs in zip(printed["completions"], run(answers(local, CHOSEN)), strict=True):
        assert mine["failure"] is None
        assert (tuple(mine["tokens"]), mine["finish"], mine["text"]) == (theirs.tokens, theirs.finish, theirs.text)
        np.testing.assert_allclose(mine["logp"], theirs.logp, atol=1e-4)
        np.testing.assert_allclose(mine["logq"], theirs.logq, atol=1e-4)
    reports = [completion["explored"] for completion in printed["completions"] if completion["explored"]]
    assert [(report["problem"], report["together"]) for report in reports] == [("", True)] * 5
