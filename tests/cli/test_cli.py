"""The command line: what a person types, what comes back, and every kind of mistake as one line and an exit code."""

from __future__ import annotations

import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table
from rich.text import Text
from tests.support.commands import Call, caller

import samplewise
from samplewise.cli.app import PlainConsole
from samplewise.cli.progress import Bar
from samplewise.core import registry
from samplewise.core.events import Retried
from samplewise.core.types import Candidate, Failure, Message, Pool, Problem, Question, Selection, Stop, Usage
from samplewise.store.database import Store
from samplewise.store.records import Record, Run
from samplewise.testing.endpoint import EndpointSettings, serving

ROWS = [{"id": f"q{i}", "question": f"say {letter}", "answer": letter} for i, letter in enumerate("abcabc")]
TOY = ["--engine", "toy", "--store", "s.db"]
LINE = "repeat(6, max_tokens=3) | vote"
MODULE = [sys.executable, "-m", "samplewise"]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    return caller(monkeypatch, capsys)


def test_run_prints_one_json_object_last_and_costs_nothing_again(call: Call) -> None:
    first = call("run", "jsonl:mine.jsonl", "-r", LINE, *TOY, "--json")
    again = call("run", "jsonl:mine.jsonl", "-r", LINE, *TOY, "--json")
    assert first.code == again.code == 0
    assert first.json["paid"]["requests"] == 36  # type: ignore[index]
    assert again.json["paid"]["requests"] == 0  # type: ignore[index]
    drop = {"paid"}
    assert {k: v for k, v in first.json.items() if k not in drop} == {
        k: v for k, v in again.json.items() if k not in drop
    }


def test_recipes_that_draw_alike_share_their_draws(call: Call) -> None:
    call("run", "jsonl:mine.jsonl", "-r", LINE, *TOY)
    done = call("run", "jsonl:mine.jsonl", "-r", "repeat(6, max_tokens=3) | best(likelihood)", *TOY, "--json")
    assert done.json["paid"]["requests"] == 0  # type: ignore[index]
    more = call("run", "jsonl:mine.jsonl", "-r", "repeat(8, max_tokens=3) | vote", *TOY, "--json")
    assert more.json["paid"]["requests"] == 12, "the first six of eight are the six that are there"  # type: ignore[index]


def test_a_limit_holds_for_the_whole_run(call: Call) -> None:
    done = call("run", "jsonl:mine.jsonl", "-r", LINE, *TOY, "--budget-tokens", "60", "--json")
    spent = done.json["spent"]
    assert done.code == 0
    assert 0 < spent["prompt_tokens"] + spent["completion_tokens"] <= 60  # type: ignore[index]


def test_compare_select_report_and_list_runs(call: Call, tmp_path: Path) -> None:
    lines = [
        "-r",
        LINE,
        "-r",
        "repeat(6, max_tokens=3) | first",
        "-r",
        "repeat(6, max_tokens=3) | until(lead(2)) | vote",
    ]
    done = call("compare", "jsonl:mine.jsonl", *lines, *TOY, "-o", "out/page.html", "--json")
    assert done.code == 0, done.err
    methods = done.json["methods"]
    assert [m["recipe"].rpartition(" | ")[2] for m in methods] == ["vote", "first", "vote"]  # type: ignore[attr-defined]
    assert (tmp_path / "out/page.html").read_text().lstrip().lower().startswith("<!doctype html>")
    again = call("compare", "--store", "s.db", "--json")
    assert again.json["methods"] == methods
    chosen = call("select", "weighted(logp)", "vote", "--store", "s.db", "--json")
    assert len(chosen.json["selections"]) == 6  # type: ignore[arg-type]
    assert call("report", "--store", "s.db").code == 0
    assert (tmp_path / "report.html").is_file()
    runs = call("list", "run", "--store", "s.db", "--json").json["runs"]
    assert len(runs) == 3  # type: ignore[arg-type]


def test_select_agrees_with_the_run_that_used_the_selector(call: Call) -> None:
    ran = call("run", "jsonl:mine.jsonl", "-r", LINE, *TOY, "--json").json
    chosen = call("select", "vote", "--store", "s.db", "--json").json["selections"]
    assert chosen[0]["accuracy"] == ran["accuracy"]  # type: ignore[index]


def test_ask_prints_the_answer(call: Call) -> None:
    done = call("ask", "say something", "-e", "toy", "-r", "repeat(9, max_tokens=2) | vote", "--json")
    assert done.code == 0
    assert done.out.splitlines()[0] == done.json["answer"]
    assert len(done.json["texts"]) == 9  # type: ignore[arg-type]


def test_a_budget_can_be_spread_by_gain(call: Call) -> None:
    line = "repeat(12, max_tokens=3) | until(blend_asc) | vote"
    words = ["run", "jsonl:mine.jsonl", "-r", line, *TOY, "--budget-tokens", "150", "--json", "--spread"]
    even, worth, again = (call(*words, spread) for spread in ("even", "gain", "gain"))
    assert even.code == worth.code == 0, worth.err
    assert even.json["run"] != worth.json["run"] == again.json["run"]
    spent: list[dict[str, int]] = [done.json["spent"] for done in (even, worth)]  # type: ignore[misc]
    assert all(0 < each["prompt_tokens"] + each["completion_tokens"] <= 150 for each in spent)
    assert again.json["paid"]["requests"] == 0  # type: ignore[index]
    assert worth.json["stops"] == {"budget": 6}
    wrong = call(*words, "wide")
    assert (wrong.code, wrong.err) == (2, "samplewise: spread is even or gain, got 'wide'\n")
    rule = call("run", "jsonl:mine.jsonl", "-r", LINE, *TOY, "--budget-tokens", "90", "--spread", "gain")
    assert "has no stop rule" in rule.err


def test_why_a_run_stopped_is_shown_and_verified(call: Call, tmp_path: Path) -> None:
    line = "repeat(12, max_tokens=3) | until(lead(2)) | vote"
    run = call("run", "jsonl:mine.jsonl", "-r", line, *TOY, "--json").json
    assert run["stops"] == {"finished": 4, "settled": 2}
    name = str(run["run"])
    shown = call("show", name, "--store", "s.db", "--json")
    rows: list[dict[str, Any]] = shown.json["questions"]  # type: ignore[assignment]
    assert [row["question"] for row in rows] == [f"q{i}" for i in range(6)]
    words = (f"stopped: settled after {row['draws']} of 12 (heuristic, mode)" for row in rows)
    assert sum(row["why"] == word for row, word in zip(rows, words, strict=True)) == 2
    assert sum(row["why"] == "finished: all 12 draws" for row in rows) == 4
    one = call("show", name, "--question", "q1", "--store", "s.db")
    assert one.out.count("q1") == 1
    assert len(one.out.splitlines()) == 2 + rows[1]["draws"]
    assert call("show", name, "--question", "q9", "--store", "s.db").code == 2
    assert call("show", "nothing", "--store", "s.db").code == 3
    fine = call("recheck", name, "--store", "s.db", "--json")
    assert fine.code == 0
    assert fine.json["runs"] == [{"run": name, "stops": 6, "ok": True, "differences": {}}]
    with Store(tmp_path / "s.db") as store:
        settled = next(row["question"] for row in rows if row["stop"]["reason"] == "settled")
        change = "UPDATE pools SET stop=replace(stop, '\"votes\": ', '\"votes\": 1') WHERE question=?"
        store._db.execute(change, (settled,))
    wrong = call("recheck", name, "--store", "s.db")
    assert wrong.code == 1
    assert "no, 1 of 6 stops differ" in wrong.out
    assert f"{settled}: the evidence says votes=1" in wrong.out
    assert call("recheck", "--store", "s.db").code == 1, "every run"


def test_a_run_whose_recipe_is_not_read_takes_no_other_away(call: Call, tmp_path: Path) -> None:
    """Its line was drawn by another version, or with a part that is not installed here."""
    for line in ("repeat(2, max_tokens=2)", "repeat(3, max_tokens=2)", "repeat(3, max_tokens=2) | until(lead(2))"):
        command = ["run", "game24(limit=3)", "-e", "toy", "--recipe", f"{line} | vote", "--store", "s.db"]
        assert call(*command).code == 0
    with Store(tmp_path / "s.db") as store:
        old, kept, _ = (run.id for run in store.runs())
        store._db.execute("UPDATE runs SET recipe='repeat(2, wave=0) | vote' WHERE id=?", (old,))
    for words in (["report", "-o", "page.html"], ["compare"], ["select", "vote"], ["recheck"], ["plan"]):
        done = call(*words, "--store", "s.db")
        assert done.code == 0, done.out
        assert f"left out: run {old}, whose recipe is not read: repeat(2, wave=0)" in " ".join(done.out.split())
    assert call("recheck", kept, "--store", "s.db").code == 0
    assert "wave must be a whole number" in call("recheck", old, "--store", "s.db").err


def test_ask_says_why_it_stopped(call: Call) -> None:
    done = call("ask", "say something", "-e", "toy", "-r", "repeat(64, max_tokens=2) | until(lead(2)) | vote", "--json")
    stop: dict[str, Any] = done.json["stop"]  # type: ignore[assignment]
    assert f"stopped: settled after {stop['evidence']['draws']} of 64 (heuristic, mode)" in done.out


def test_list_shows_every_part(call: Call) -> None:
    parts = call("list", "--json").json["parts"]
    assert {(p["kind"], p["name"]) for p in parts} == {  # type: ignore[attr-defined]
        (kind, name) for kind in registry.KINDS for name in registry.names(kind)
    }
    assert all(p["summary"].endswith(".") and len(p["summary"]) < 160 for p in parts)  # type: ignore[attr-defined]


MISTAKES = {
    "unknown command": (["rum"], 2, "rum"),
    "no such option": (["run", "game24", "--recip", "vote"], 2, "--recip"),
    "unknown engine": (["run", "jsonl:mine.jsonl", "-e", "tony", "-r", LINE], 2, "did you mean"),
    "unknown task": (["run", "game42", "-e", "toy", "-r", LINE], 2, "game24"),
    "unknown sampler": (["run", "jsonl:mine.jsonl", "-e", "toy", "-r", "repeet(3)"], 2, "repeat"),
    "unknown verifier": (["run", "jsonl:mine.jsonl", "-e", "toy", "-r", "repeat(3) | best(puzle)"], 2, "puzzle"),
    "a recipe cut short": (["run", "jsonl:mine.jsonl", "-e", "toy", "-r", "repeat(3 | vote"], 2, "      ^"),
    "a recipe without a sampler": (["run", "jsonl:mine.jsonl", "-e", "toy", "-r", "vote"], 2, "sampler"),
    "an argument out of range": (["run", "jsonl:mine.jsonl", "-e", "toy", "-r", "repeat(0)"], 2, "at least 1"),
    "an unknown argument": (["run", "jsonl:mine.jsonl", "-e", "toy", "-r", "repeat(3, temp=1)"], 2, "temperature"),
    "a missing file": (["run", "jsonl:none.jsonl", "-e", "toy", "-r", LINE], 2, "none.jsonl"),
    "a missing file by its name": (["run", "data/none.jsonl"], 2, "data/none.jsonl: there is no such file"),
    "a seed that no store holds": (["run", "mine.jsonl", "--seed", str(2**63)], 2, "--seed"),
    "a comparison at no tokens": (["compare", "--tokens", "0"], 2, "--tokens"),
    "no store": (["select", "vote", "--store", "none.db"], 3, "none.db"),
    "a store that is a folder": (["run", "jsonl:mine.jsonl", "-e", "toy", "-r", LINE, "--store", "."], 3, "store"),
    "a store in no folder": (["run", "jsonl:mine.jsonl", "-e", "toy", "-r", LINE, "--store", "no/s.db"], 3, "no/s.db"),
    "a store that is no store": (
        ["run", "jsonl:mine.jsonl", "-e", "toy", "-r", LINE, "--store", "mine.jsonl"],
        3,
        "store",
    ),
    "a report that cannot be written": (["demo", "--folder", "mine.jsonl"], 2, "mine.jsonl"),
    "nothing to compare": (["compare", "jsonl:mine.jsonl", "-e", "toy"], 2, "--recipe"),
    "an unknown kind": (["list", "samplers"], 2, "sampler"),
    "a model that is not there": (["ask", "hi", "-e", "local:./no-such-model"], 3, "no-such-model"),
    "not a question of code": (["ask", "hi", "-e", "toy", "-r", "__import__('os').getcwd()"], 2, "^"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_an_exit_code(call: Call, mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("samplewise.cli.progress.LONG_S", 60.0)  # a busy machine loads torch for seconds, and says so
    words, code, told = MISTAKES[mistake]
    done = call(*words)
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert "Traceback" not in done.err
    marked = 3 if "^" in done.err else 1  # the recipe and the mark below it
    assert len(done.err.splitlines()) == marked, done.err


def test_a_missing_extra_says_how_to_install_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    for module in [m for m in sys.modules if m.startswith("samplewise.engines.local.")]:
        monkeypatch.delitem(sys.modules, module)
    done = call("ask", "hi", "-e", "tiny")
    assert done.code == 3
    assert "pip install 'samplewise[local]'" in done.err


def test_a_bad_file_names_the_line_and_costs_nothing(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"question": "fine"}\n{"question": \n')
    done = call("run", "jsonl:mine.jsonl", "-r", LINE, *TOY)
    assert done.code == 2
    assert "mine.jsonl:2" in done.err
    with Store(tmp_path / "s.db") as store:
        assert store.num_draws() == 0


def test_the_version_and_the_module(call: Call) -> None:
    assert call("--version").out == f"samplewise {samplewise.__version__}\n"
    done = subprocess.run([sys.executable, "-m", "samplewise", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"samplewise {samplewise.__version__}\n")


def test_failed_requests_are_said_before_the_json(call: Call) -> None:
    """The endpoint refuses two of twelve requests, for good."""
    with serving(EndpointSettings(plan=("400", "", "400"), model="toy")) as endpoint:
        engine = f'http("toy", base_url="{endpoint.url}", probe="never", n="never")'
        asked = call("ask", "hi", "-e", engine, "-r", LINE, "--json")
        assert "\nfinished: 4 of 6 draws, 2 failed\n2 requests failed (http(toy) answered 400" in asked.out
        assert asked.json["spent"]["requests"] == 6
    with serving(EndpointSettings(plan=("400", "", "400"), model="toy")) as endpoint:
        engine = f'http("toy", base_url="{endpoint.url}", probe="never", n="never")'
        done = call("run", "mine.jsonl", "-e", engine, "-r", LINE, "--store", "s.db", "--json")
    assert done.code == 0
    assert "\n2 requests failed (http(toy) answered 400" in done.out
    assert done.json["done"] == len(ROWS)


def test_an_endpoint_that_is_not_there_is_one_line() -> None:
    words = [*MODULE, "ask", "hi", "-e", 'http("m", base_url="http://127.0.0.1:9/v1")']
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (4, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("ending", "code", "told"),
    [
        ("| head -1 > head.txt; exit ${PIPESTATUS[0]}", 0, ""),
        ("> /dev/full", 3, "samplewise: the output cannot be written: No space left on device\n"),
        (">&-", 0, ""),
    ],
    ids=["nobody reads on", "the disk is full", "closed"],
)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_output_that_cannot_be_written(tmp_path: Path, ending: str, code: int, told: str) -> None:
    command = f"{shlex.join([*MODULE, 'list', '--json'])} {ending}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, told)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_an_answer_that_the_output_cannot_show_is_spelled_out(encoding: str) -> None:
    with serving(EndpointSettings(answer="naïve ☃")) as endpoint:
        engine = f'http("toy", base_url="{endpoint.url}", probe="never")'
        words = [*MODULE, "ask", "hi", "-e", engine, "-r", "repeat(2) | vote", "--json"]
        done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    first, *_, last = done.stdout.decode(encoding).splitlines()
    assert (done.returncode, first.endswith(r"ve \u2603")) == (0, True), done.stderr
    assert json.loads(last)["answer"] == "naïve ☃"


def test_no_output_is_written_over_a_store(call: Call) -> None:
    call("run", "mine.jsonl", "-r", LINE, *TOY)
    for words in (
        ["export", "-o", "s.db", "--format", "csv"],
        ["export", "-o", "s.db", "--format", "eval"],
        ["report", "-o", "s.db"],
        ["compare", "-o", "s.db"],
        ["plan", "-o", "s.db", "--orders", "20"],
    ):
        done = call(*words, "--store", "s.db")
        assert (done.code, done.err) == (
            2,
            "samplewise: s.db is a store or another database, which is not overwritten: give another file\n",
        ), words
    with Store("s.db", must_exist=True) as store:
        assert store.num_draws() == 36


def test_an_interrupted_question_claims_nothing_of_a_store(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(*_: Any, **__: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    written: list[bytes] = []
    monkeypatch.setattr("samplewise.api.asolve", interrupted)
    monkeypatch.setattr(os, "_exit", sys.exit)
    monkeypatch.setattr(os, "write", lambda _, text: written.append(text))
    assert call("ask", "hi", "-e", "toy").code == 130
    assert written == [b"samplewise: interrupted; draws that a store keeps are not paid for again\n"]


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused(call: Call, question: str) -> None:
    done = call("ask", question, "--engine", "toy")
    assert (done.code, done.out) == (2, "")
    assert done.err == "samplewise: the question is empty; write what is to be asked\n"


def test_ask_takes_a_system_prompt_and_a_reader(call: Call) -> None:
    words = ["ask", "say a", "--engine", "toy", "-r", "repeat(4, max_tokens=3) | vote", "--json"]
    plain, led = call(*words), call(*words, "--system", "be brief")
    assert plain.json["texts"] != led.json["texts"], "the toy draws from another distribution for another prompt"
    assert led.json["spent"]["prompt_tokens"] > plain.json["spent"]["prompt_tokens"]  # type: ignore[index]
    numbers = call(*words, "--read", "number")
    assert numbers.json["answers"] == [None] * 4, "letters hold no number"
    assert numbers.out.startswith("no answer could be read")
    wrong = call(*words, "--read", "letters")
    assert wrong.code == 2
    assert "read must be one of auto, choice, json, last_line, maths, number, text, got 'letters'" in wrong.err


def test_run_takes_a_file_a_system_prompt_and_a_reader(call: Call) -> None:
    led = call("run", "mine.jsonl", "-r", LINE, *TOY, "--system", "be brief", "--json")
    assert led.code == 0
    with Store("s.db") as store:
        (record, *_) = store.records(str(led.json["run"]))
    assert record.problem.question.messages == (Message("system", "be brief"), Message("user", "say a"))
    text = call("run", "jsonl:mine.jsonl", "-r", LINE, *TOY, "--read", "last_line", "--json")
    assert text.code == 0
    refused = call("run", "game24(limit=2)", "-r", LINE, *TOY, "--read", "number")
    assert (refused.code, refused.err) == (
        2,
        "samplewise: --read is for files of questions; game24 says itself how its answers are read\n",
    )


def test_a_tie_is_said(call: Call) -> None:
    """Four different answers are no winner with one vote: at seed 1 the toy's four draws all differ."""
    words = ["say q", "--engine", "toy(8)", "-r", "repeat(4, max_tokens=6) | vote"]
    tied = [call("ask", *words, "--seed", str(seed), "--json") for seed in range(8)]
    four = [done for done in tied if done.json["tied"] == 4]
    assert four
    for done in four:
        assert len(set(done.json["answers"])) == 4  # type: ignore[arg-type]
        assert "4 draws, 4 different answers: nothing to vote on; use best(...)" in done.out
    for done in tied:
        if done.json["tied"] == 1:
            assert "a tie of" not in done.out


def test_show_says_a_tie(call: Call) -> None:
    run = call("run", "mine.jsonl", "-r", "repeat(2, max_tokens=6) | vote", "-e", "toy(8)", "--store", "s.db", "--json")
    shown = call("show", str(run.json["run"]), "--store", "s.db", "--json")
    with Store("s.db") as store:
        pairs = [record.answers for record in store.records(str(run.json["run"]))]
    assert (
        shown.out.count("1, a tie of 2") == sum(one != other and None not in (one, other) for one, other in pairs) > 0
    )
    num = sum(one != other and None not in (one, other) for one, other in pairs)
    often = f"{num} of {len(pairs)} questions: " if len(pairs) > 1 else ""
    note = f"{often}2 draws, 2 different answers: nothing to vote on; use best(...)"
    assert note in " ".join(shown.out.split())
    assert note in " ".join(run.out.split())
    assert note in " ".join(call("report", "--store", "s.db").out.split())
    led = call(
        "run", "mine.jsonl", "-r", "repeat(2, max_tokens=6) | first", "-e", "toy(8)", "--store", "t.db", "--json"
    )
    assert "nothing to vote on" not in call("show", str(led.json["run"]), "--store", "t.db").out


def test_export_and_passk(call: Call) -> None:
    run = call("run", "jsonl:mine.jsonl", "-r", LINE, *TOY, "--json").json["run"]
    done = call("export", str(run), "--store", "s.db", "-o", "draws.csv", "--json")
    assert done.json == {"run": run, "output": "draws.csv", "format": "csv", "rows": 36}
    wrong = call("export", str(run), "--store", "s.db", "-o", "log.eval", "--table", "decisions")
    assert (wrong.code, Path("log.eval").exists()) == (2, False)
    assert "--table decisions is a table: csv, jsonl or parquet" in wrong.err
    assert len(Path("draws.csv").read_text().splitlines()) == 37
    table = call("passk", "--store", "s.db", "--json")
    assert [row["k"] for row in table.json["rows"]] == [1, 2, 4, 6]  # type: ignore[attr-defined]
    assert "pass@k" in table.out
    for words, message in (
        (["export", "--store", "s.db"], "give the file to write: -o draws.csv"),
        (["export", "--store", "s.db", "-o", "x.xls"], "give --format csv, jsonl, parquet, inspect, eval, lm_eval, or"),
        (["export", "--store", "s.db", "-o", "x.csv", "--table", "all"], "table must be one of draws, decisions"),
        (["passk", "nothing", "--store", "s.db"], "s.db holds no run 'nothing'"),
    ):
        wrong = call(*words)
        assert wrong.code in (2, 3)
        assert message in wrong.err


CONTROL = "\x1b[31mred\x1b]0;title\x07 \x9b2J \x00 \x7f \u202eback \u2028 [/bold] :dog:"
OBEYED = set("\x1b\x07\x9b\x00\x7f\u202e\u2028\ud800")
COMMANDS = (
    ["show", "r"],
    ["show", "r", "--question", CONTROL],
    ["show", "r", "--question", "\x1b[0m"],
    ["passk", "r"],
    ["select", "vote", "first"],
    ["recheck"],
    ["report", "-o", "page.html"],
    ["compare"],
    ["effect"],
    ["plan"],
    ["export", "r", "-o", "\x1b.csv"],
    ["list", "\x1b"],
)


@pytest.mark.parametrize("as_json", [False, True])
def test_no_escape_sequence_of_a_store_reaches_the_terminal(call: Call, as_json: bool) -> None:
    with Store("s.db") as store:
        store.start_run(Run("r", "repeat(2) | vote", CONTROL, CONTROL, 0, {"engine": {"name": CONTROL}}, 0.0, None))
        for name in (CONTROL, CONTROL * 2):
            pool = Pool((Candidate(CONTROL), Candidate(CONTROL)))
            asked = Question(name, (Message("user", CONTROL),))
            record = Record(Problem(asked, "x"), 0, pool, (CONTROL,) * 2, (0.0, 1.0), Usage(), Stop("finished"))
            store.save("r", record, "vote", Selection(CONTROL, 0), 0.0)
        store.end_run("r")
    for words in COMMANDS:
        done = call(*words, *(["--store", "s.db"] if words[0] != "list" else []), *(["--json"] if as_json else []))
        assert not set(done.out + done.err) & OBEYED, words
        assert "Traceback" not in done.err
    assert "\\x1b[31mred" in call("show", "r", "--store", "s.db").out
    chosen = call("show", "r", "--question", CONTROL, "--store", "s.db", "--json")
    assert "[/bold] :dog:" in chosen.out
    assert chosen.json["questions"][0]["answer"] == CONTROL  # type: ignore[index]
    assert "\x1b" not in call("run", "nothing\x1b[31m", "--store", "s.db").err


def test_no_escape_sequence_of_an_endpoint_reaches_the_terminal() -> None:
    """Answers, progress, and the lines about failures, on a terminal that would obey them."""
    shown = io.StringIO()
    console = PlainConsole(file=shown, force_terminal=True, color_system=None, width=400)
    console.print(CONTROL)
    console.print(Text(CONTROL))
    table = Table(CONTROL)
    table.add_row(CONTROL, Text(CONTROL))
    console.print(table)
    bar = Bar(CONTROL)
    bar._console = console
    bar(Retried("q", 1, 0.5, Failure("Busy", CONTROL, True)))
    assert not set(shown.getvalue()) & OBEYED
    assert "[/bold] :dog:" in shown.getvalue()
    widths = {len(line) for line in shown.getvalue().splitlines() if line[:1] in "┏┡┃│└"}
    assert len(widths) == 1  # measured as they are shown
