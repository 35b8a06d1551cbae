"""Recipes in Inspect: real `inspect eval` runs, in the environment .venv-clients where samplewise is installed too.

The model is ours, over the bundled model behind `samplewise serve`, or the toy; the solver draws from scripted models.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.serve.running import ROOT, running

BIN = ROOT / ".venv-clients" / "bin"
CLIENTS = Path(__file__).parent / "clients"
TASK = "puzzle_task.py"
FILES = (CLIENTS / TASK, ROOT / "tests" / "serve" / "clients" / "puzzles.py")
SOLVE = "repeat(16, max_tokens=64) | best(reward)"  # right in at least 0.96 of runs, see tests/serve/test_clients.py
TIMEOUT_S = 240
READ = """
import json, sys
from samplewise.recorded import load_recording
draws = [draw for each in load_recording(sys.argv[1]).draws for draw in each]
print(json.dumps([{"text": d.completion.text, "grade": d.grade, "tokens": d.completion.usage.tokens} for d in draws]))
"""

pytestmark = [pytest.mark.clients, pytest.mark.slow]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("serve") / "log"
    with running(log, "--engine", "tiny", "--preset", f"solve={SOLVE}") as address:
        yield address


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of .venv-clients in a folder of its own."""
    if not (BIN / "inspect").exists():
        pytest.skip("Inspect is not installed in .venv-clients: make test-clients installs it")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("INSPECT", "PYTHON"))}
    environment |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    environment |= {"INSPECT_DISPLAY": "plain", "NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"OPENAI_API_KEY": "none"}
    for path in FILES:  # Inspect takes a task's path from the working folder
        shutil.copy(path, folder)
    words = [str(BIN / command[0]), *map(str, command[1:])]
    return subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment, timeout=TIMEOUT_S)


def evaluate(folder: Path, model: str, *options: str) -> tuple[dict[str, Any], Path]:
    """Run `inspect eval`; return the log as JSON, and where it is."""
    logs = folder / "logs"
    before = set(logs.glob("*.json"))
    words = ["--model", model, "--log-dir", "logs", "--log-format", "json", *options]
    done = run("inspect", "eval", TASK, *words, folder=folder)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    (path,) = set(logs.glob("*.json")) - before
    log = dict(json.loads(path.read_text()))
    assert log["status"] == "success", f"{log.get('error')}\n{done.stdout[-2000:]}"
    return log, path


def accuracy(log: dict[str, Any]) -> float:
    return float(log["results"]["scores"][0]["metrics"]["accuracy"]["value"])


def texts_of(log: dict[str, Any]) -> list[str]:
    return sorted(sample["output"]["choices"][0]["message"]["content"] for sample in log["samples"])


def packed(path: Path, folder: Path) -> str:
    """Return the name of the same log as an `.eval` file, packed as Inspect does it by default."""
    words = ["log", "convert", str(path), "--to", "eval", "--output-dir", "packed"]
    done = run("inspect", *words, folder=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return f"packed/{path.with_suffix('.eval').name}"


def test_a_task_runs_a_recipe_and_scores_right(url: str, tmp_path: Path) -> None:
    """Each draw of the recipe is an answer of the server's own recipe, so that it is right."""
    model = "samplewise/vote(2)@http:solve@tiny"
    options = ["--model-base-url", url, "--epochs", "2", "--max-tokens", "64", "-M", "store=draws.db"]
    log, path = evaluate(tmp_path, model, *options)
    assert accuracy(log) == 1.0
    (usage,) = log["stats"]["model_usage"].values()
    evidence = [sample["output"]["metadata"]["samplewise"] for sample in log["samples"]]
    assert len(evidence) == 4
    assert usage["total_tokens"] == sum(each["spent"]["tokens"] for each in evidence)
    assert all(each["draws"] == 2 and each["recipe"].endswith("| vote") for each in evidence)
    assert all(sum(each["votes"].values()) == 2 and each["stop"]["reason"] == "finished" for each in evidence)
    epochs: dict[str, set[str]] = {}
    for sample, each in zip(log["samples"], evidence, strict=True):
        epochs.setdefault(sample["id"], set()).update(each["votes"])
    assert any(len(texts) > 2 for texts in epochs.values()), "epochs draw anew"

    for name in (f"logs/{path.name}", packed(path, tmp_path)):  # our importer, as its users have it
        done = run("python", "-c", READ, name, folder=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        draws = json.loads(done.stdout.splitlines()[-1])
        assert sorted(draw["text"] for draw in draws) == texts_of(log)
        assert [draw["grade"] for draw in draws] == [1.0] * 4
        assert sum(draw["tokens"] for draw in draws) == usage["total_tokens"]

    again, _ = evaluate(tmp_path, model, *options)
    paid = [sample["output"]["metadata"]["samplewise"]["paid"]["tokens"] for sample in again["samples"]]
    assert [texts_of(again), paid] == [texts_of(log), [0, 0, 0, 0]]


def test_a_judges_tokens_are_in_the_usage(url: str, tmp_path: Path) -> None:
    recipe = "recipe=repeat(3, max_tokens=32) | usc"  # which Inspect cuts at the comma
    log, _ = evaluate(tmp_path, "samplewise/http:tiny", "--model-base-url", url, "-M", recipe)
    (usage,) = log["stats"]["model_usage"].values()
    evidence = [sample["output"]["metadata"]["samplewise"] for sample in log["samples"]]
    assert all(each["recipe"] == "repeat(3, max_tokens=32) | usc" and each["draws"] == 3 for each in evidence)
    assert any(each["spent"]["requests"] > 3 for each in evidence)
    assert usage["total_tokens"] == sum(each["spent"]["tokens"] for each in evidence)


def test_the_settings_files_names_work_and_a_model_is_plain_without_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "samplewise.toml").write_text('[engines]\nmine = "toy"\n[presets]\nfast = "repeat(3) | vote"\n')
    log, _ = evaluate(tmp_path, "samplewise/fast@mine", "--max-tokens", "4")
    evidence = [sample["output"]["metadata"]["samplewise"] for sample in log["samples"]]
    assert {each["draws"] for each in evidence} == {3}
    plain, _ = evaluate(tmp_path, "samplewise/mine", "--max-tokens", "4")
    evidence = [sample["output"]["metadata"]["samplewise"] for sample in plain["samples"]]
    assert {each["draws"] for each in evidence} == {1}
    assert all(each["answer"] is None for each in evidence)


MISTAKES = {
    "samplewise/vote(3)": "names no engine",
    "samplewise/voet(3)@toy": "is neither a recipe nor a preset",
    "samplewise/vote(3)@toyy": "did you mean toy",
}


@pytest.mark.parametrize("model", MISTAKES)
def test_a_mistake_is_a_line_before_anything_is_asked(model: str, tmp_path: Path) -> None:
    done = run("inspect", "eval", TASK, "--model", model, folder=tmp_path)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert MISTAKES[model] in said
    assert "Traceback" not in said


def test_the_solver_draws_from_the_model_that_is_evaluated(tmp_path: Path) -> None:
    done = run("python", CLIENTS / "mock_solver.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    vote = seen["vote"]
    assert (vote["right"], vote["evidence"]["draws"], vote["evidence"]["spent"]["tokens"]) == (1.0, 3, 45)
    assert vote["evidence"]["votes"] == {"42": 2, "41": 1}
    assert vote["usage"] == {"mockllm/model": 45}
    assert vote["messages"] == ["user", "assistant"]
    judge = seen["judge"]
    assert (judge["text"], judge["right"]) == ("42", 1.0)
    assert judge["usage"] == {"mockllm/model": 30, "mockllm/judge": 90}
    assert judge["evidence"]["spent"] | {"seconds": 0} == {"requests": 8, "tokens": 120, "usd": None, "seconds": 0}
    assert "--model-role grader=MODEL" in seen["no_role"]["error"]
    assert seen["limit"]["limit"] == "token"  # Inspect's own, which ends the sample
    assert seen["budget"]["evidence"]["stop"]["reason"] == "budget"
    assert 1 <= seen["budget"]["evidence"]["draws"] < 9


def test_the_solver_runs_from_the_command_line_with_an_engine_of_ours(url: str, tmp_path: Path) -> None:
    words = ["--solver", "samplewise/recipe", "-S", "recipe=repeat(2) | vote", "-S", "max_tokens=64"]
    log, _ = evaluate(tmp_path, "samplewise/http:solve@tiny", "--model-base-url", url, *words)
    assert accuracy(log) == 1.0
    evidence = [sample["output"]["metadata"]["samplewise"] for sample in log["samples"]]
    assert {each["draws"] for each in evidence} == {2}
    (usage,) = log["stats"]["model_usage"].values()
    assert usage["total_tokens"] == sum(each["spent"]["tokens"] for each in evidence)
    ours, _ = evaluate(tmp_path, "none", *words[:4], "-S", "engine=toy", "-S", "max_tokens=4")
    evidence = [sample["output"]["metadata"]["samplewise"] for sample in ours["samples"]]
    assert {each["draws"] for each in evidence} == {2}
    (usage,) = ours["stats"]["model_usage"].values()
    assert usage["total_tokens"] == sum(each["spent"]["tokens"] for each in evidence)
