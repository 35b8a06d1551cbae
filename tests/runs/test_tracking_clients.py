"""Runs followed by the real wandb (offline) and MLflow (a local database), from the environment .venv-clients."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
READER = Path(__file__).parent / "clients" / "read_trackers.py"
NUM = 3

pytestmark = [pytest.mark.clients, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was followed by both, and then a second start of it, which had nothing left to do."""
    if not PYTHON.exists():
        pytest.skip("the programs are not installed in .venv-clients: make test-clients installs them")
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "q.jsonl").write_text("".join(f'{{"question": "say {i}", "answer": "a"}}\n' for i in range(NUM)))
    installed = (
        folder / "meta" / "samplewise-0.dist-info"
    )  # the package's own name and version, where it is not installed
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text(importlib.metadata.distribution("samplewise").read_text("METADATA") or "")
    for _ in range(2):
        done = call(
            folder,
            "-m",
            "samplewise",
            *["run", "q.jsonl", "-e", "toy", "--log", "wandb", "--log", "mlflow", "--json", "-r"],
            LINE,
        )
        assert "failed" not in done.stdout + done.stderr, done.stderr
        (folder / "summary.json").write_text(done.stdout.splitlines()[-1])
    return folder


LINE = "repeat(4, max_tokens=3) | vote"


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MLFLOW"))},
        "PYTHONPATH": f"{ROOT / 'src'}:{folder / 'meta'}",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "HOME": str(folder),
    }
    done = subprocess.run(
        [str(PYTHON), *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, Any]:
    return dict(json.loads(call(folder, str(READER), str(folder)).stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def summary(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "summary.json").read_text()))


def test_mlflow_has_the_settings_the_curves_and_the_table(seen: dict[str, Any], summary: dict[str, Any]) -> None:
    (run,) = seen["mlflow"]  # the second start went on in it
    assert run["params"]["recipe"] == LINE
    assert run["params"]["seed"] == "0"
    assert run["status"] == "FINISHED"
    assert [step for step, _ in run["tokens"]] == [1, 2, 3]
    assert run["tokens"][-1][1] == summary["spent"]["prompt_tokens"] + summary["spent"]["completion_tokens"]
    assert run["metrics"]["accuracy"] == pytest.approx(summary["accuracy"])
    assert {"accuracy_low", "accuracy_high", "usd", "draws"} <= set(run["metrics"])
    assert len(run["table"]["data"]) == NUM
    assert "answer" in run["table"]["columns"]


def test_wandb_has_the_settings_the_curves_and_the_table(seen: dict[str, Any], summary: dict[str, Any]) -> None:
    first, second = seen["wandb"]  # two records of one run, as wandb keeps them offline
    assert first["id"] == second["id"] == summary["run"]
    assert first["config"]["recipe"] == LINE
    assert first["config"]["seed"] == 0
    steps = [row for row in first["history"] if "tokens" in row]
    assert [row["questions"] for row in steps] == [1, 2, 3]
    assert steps[-1]["tokens"] == summary["spent"]["prompt_tokens"] + summary["spent"]["completion_tokens"]
    assert first["summary"]["accuracy"] == pytest.approx(summary["accuracy"])
    assert (first["exit_code"], first["num_rows"]) == (0, NUM)
