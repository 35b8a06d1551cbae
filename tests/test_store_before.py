"""A store that an earlier version wrote gives the same numbers today.

`fixtures/store_before.sqlite3.gz` was written by the version before the code was rearranged into today's packages:
eighteen finished runs of the toy and of the bundled model. `fixtures/store_before.json` holds what that version printed
about them. Never make either again with newer code: they show that stores and results outlive a change of the code.
Where a command, an option or a field gets another name, change the name in the JSON file and leave the values alone.

`fixtures/store_corrected.json` lists, by command and path, the fields that were added since, and the figures that were
wrong then, as they are right: what a recipe costs at k draws was k times its mean cost of a draw, helpers included, and
everything that is compared at equal tokens follows from it; and k draws of several arms were any k, not those that the
arms are dealt. A test below runs the recipes of these tables.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samplewise.cli import main
from samplewise.runs.arrays import load_outcomes
from samplewise.store.database import Store

FIXTURES = Path(__file__).parent / "fixtures"
BEFORE = json.loads((FIXTURES / "store_before.json").read_text(encoding="utf-8"))
# Chains whose cuts are corrected for the response's length since: another run of them draws anew.
REDRAWN = ("words.power", "words.tempering", "puzzles.power")
CORRECTED = json.loads((FIXTURES / "store_corrected.json").read_text(encoding="utf-8"))
RUNS = {run["expected"]["run"]: name for name, run in BEFORE["runs"].items()}

# These rest on fits: an optimizer ends at other last digits on another processor, or from another start.
FITTED = {"plan": 1e-6, "calibrate": 1e-6, "effect": 1e-6}

Call = Callable[..., Any]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run a command on a copy of the store and return its JSON."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")
    (tmp_path / "store.db").write_bytes(gzip.decompress((FIXTURES / "store_before.sqlite3.gz").read_bytes()))
    rows = [json.dumps(row) + "\n" for row in BEFORE["questions"]]
    (tmp_path / "words.jsonl").write_text("".join(rows), encoding="utf-8")

    def run(*words: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["samplewise", *words, "--store", "store.db", "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        assert exit_.value.code == 0, err
        return json.loads(out.splitlines()[-1])

    return run


def assert_same(now: Any, before: Any, path: str = "", tolerance: float = 1e-12) -> None:
    """Compare JSON values: floats to `tolerance`, everything else exactly. A text that is JSON counts as its value."""
    if isinstance(before, dict):
        assert isinstance(now, dict), path
        assert sorted(now) == sorted(before), path
        for name, value in before.items():
            assert_same(now[name], value, f"{path}.{name}", tolerance)
    elif isinstance(before, list):
        assert isinstance(now, list), path
        assert len(now) == len(before), path
        for index, value in enumerate(before):
            assert_same(now[index], value, f"{path}[{index}]", tolerance)
    elif isinstance(before, str) and isinstance(now, str) and before.startswith("{") and now.startswith("{"):
        assert_same(json.loads(now), json.loads(before), path, tolerance)
    elif isinstance(before, float):
        assert isinstance(now, float), f"{path}: {now} is not {before}"
        assert math.isclose(now, before, rel_tol=tolerance, abs_tol=tolerance), f"{path}: {now} is not {before}"
    else:
        assert now == before, f"{path}: {now} is not {before}"


def as_json(value: Any) -> Any:
    """Replace nan by None, as in the file."""
    if isinstance(value, list):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def name_of(command: dict[str, Any]) -> str:
    words = command["words"]
    runs = [RUNS[word] for word in words if word in RUNS]
    return "-".join([words[0], *(runs or [str(BEFORE["commands"].index(command))])])


def corrected(expected: Any, corrections: dict[str, Any]) -> Any:
    """Return what a command should say today: `expected` with the values at these paths, such as methods/0/tokens."""
    expected = copy.deepcopy(expected)
    for path, value in corrections.items():
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        place = expected
        for part in parents:
            place = place[part]
        place[last] = value
    return expected


@pytest.mark.parametrize("command", BEFORE["commands"], ids=name_of)
def test_a_command_says_what_it_said_before(call: Call, command: dict[str, Any]) -> None:
    expected = corrected(command["expected"], CORRECTED.get(name_of(command), {}))
    assert_same(call(*command["words"]), expected, tolerance=FITTED.get(command["words"][0], 1e-12))
    if "chosen" in command:
        with Store("store.db") as store:
            indices: dict[str, list[int | None]] = {}
            for _, selector, _, index, _ in store.selections(command["words"][-1]):
                indices.setdefault(selector, []).append(index)
        if name_of(command).endswith("smc"):
            # Where the draw by weight, which stands first, cannot be read, `first` took the next in order. It now draws
            # another by weight.
            before = command["chosen"]["first"]
            pairs = zip(indices["first"], before, strict=True)
            indices["first"] = [was if now is not None and was not in (0, None) else now for now, was in pairs]
        assert indices == command["chosen"]
    if "page.html" in command["words"]:
        assert "<svg" in Path("page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", BEFORE["runs"])
def test_a_finished_run_is_not_drawn_again(call: Call, name: str) -> None:
    expected = BEFORE["runs"][name]["expected"]
    assert expected["paid"]["requests"] == 0
    assert_same(call("run", *BEFORE["runs"][name]["words"]), expected)


@pytest.mark.parametrize("name", BEFORE["runs"])
def test_another_run_of_the_same_recipe_finds_every_draw_in_the_store(call: Call, name: str) -> None:
    """A run under another limit has an id of its own, so every question is sampled again, out of stored draws."""
    expected = BEFORE["runs"][name]["expected"]
    again = call("run", *BEFORE["runs"][name]["words"], "--budget-requests", "100000")
    assert again["run"] != expected["run"]
    if name in REDRAWN:
        assert again["paid"]["requests"] > 0
        return
    assert_same(again | {"run": expected["run"]}, expected)


@pytest.mark.parametrize("run", BEFORE["pools"], ids=RUNS.get)
@pytest.mark.usefixtures("call")
def test_a_stored_run_loads_as_before(run: str) -> None:
    expected = BEFORE["pools"][run]
    with Store("store.db") as store:
        outcomes = load_outcomes(store, run, scores=list(expected["scores"]))
        pools = [record.pool.candidates for record in store.records(run)]
    texts = json.dumps([[[candidate.text, candidate.arm] for candidate in pool] for pool in pools])
    now = {
        "questions": list(outcomes.questions),
        "answers": outcomes.graded.answers.tolist(),
        "grades": outcomes.graded.grades.tolist(),
        "scores": {name: scores.tolist() for name, scores in outcomes.graded.scores.items()},
        "draws": outcomes.num_draws.tolist(),
        "tokens_per_draw": (outcomes.tokens / outcomes.num_draws).tolist(),
        "weights": [[candidate.log_weight for candidate in pool] for pool in pools],
        "texts": hashlib.blake2b(texts.encode(), digest_size=8).hexdigest(),
    }
    scores = {name: as_json(values) for name, values in now.pop("scores").items()}  # type: ignore[attr-defined]
    assert_same({**{name: as_json(value) for name, value in now.items()}, "scores": scores}, expected)


@pytest.mark.parametrize(
    "command", [c for c in BEFORE["commands"] if c["words"][0] in ("compare", "plan")], ids=name_of
)
def test_a_recipe_of_a_table_costs_what_the_table_says(call: Call, command: dict[str, Any], tmp_path: Path) -> None:
    """Old records kept a sum alone; the parts come from a replay on their stored draws."""
    said = call(*command["words"])
    rows = said.get("methods") or [row for row in said["options"] if row["kind"] == "fixed"]
    is_words = "max_tokens" in rows[0]["recipe"]
    engine = "team(toy, two=toy(5))" if is_words else "team(tiny(device='cpu'), wise=tiny(device='cpu'))"
    task, num = ("jsonl:words.jsonl", 12) if is_words else ("game24(limit=4)", 4)
    rows = rows if is_words else rows[:3]
    for row in rows:
        # Not those of another seed or budget, nor chains, whose cut positions have been drawn otherwise since.
        if row["draws"] and not any(part in row["recipe"] for part in ("blend_asc", "either", "power", "tempering")):
            (tmp_path / "store.db").unlink()
            spent = call("run", task, "-e", engine, "-r", row["recipe"])["spent"]
            assert row["tokens"] == pytest.approx((spent["prompt_tokens"] + spent["completion_tokens"]) / num), row
