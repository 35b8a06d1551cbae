"""Settings in files: where they are looked for, what beats them, and every mistake as one line that names the key."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.support.commands import Call, caller

from samplewise.cli import config as config_module
from samplewise.cli.completion import SHELLS, complete_engine, complete_kind, complete_recipe
from samplewise.cli.config import Config, find_config, load_config, read_config
from samplewise.core.errors import BadInput, UnknownName, UsageError
from samplewise.core.prices import Price, read_prices
from samplewise.core.spec import parse_spec

FULL = """
engine = "letters"
recipe = "fast"
store = "kept/all.db"
confirm_above_usd = 2

[engines]
letters = "toy"
remote = 'http("m", base_url="http://127.0.0.1:9/v1")'

[presets]
fast = "repeat(4, max_tokens=3) | vote"
careful = "repeat(6, max_tokens=3) | vote"

[prices]
m = { input = 1.0, output = 4.0 }
"""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in `tmp_path`, in which only this test's settings are."""
    monkeypatch.chdir(tmp_path)
    for name in ("ENGINE", "RECIPE", "STORE", "CONFIG", "PRICES"):
        monkeypatch.delenv(f"SAMPLEWISE_{name}", raising=False)
    (tmp_path / "q.jsonl").write_text('{"question": "say a", "answer": "a"}\n')

    return caller(monkeypatch, capsys)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_nearest_file_counts_up_to_the_repository_and_home(tmp_path: Path) -> None:
    home, inner = tmp_path / "home", tmp_path / "home" / "repo" / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "samplewise.toml").touch()
    assert find_config(inner, home) is None, "beyond the home folder nobody looks"
    assert find_config(inner, tmp_path / "elsewhere") == tmp_path / "samplewise.toml"
    (home / "samplewise.toml").touch()
    assert find_config(inner, home) == home / "samplewise.toml"
    (home / "repo" / ".git").mkdir()
    assert find_config(inner, home) is None, "a repository is a border"
    (home / "repo" / "pyproject.toml").write_text("[tool.ruff]\n")
    assert find_config(inner, home) is None
    (home / "repo" / "pyproject.toml").write_text("[tool.samplewise]\n")
    assert find_config(inner, home) == home / "repo" / "pyproject.toml"
    (home / "repo" / "samplewise.toml").touch()
    assert find_config(inner, home) == home / "repo" / "samplewise.toml"
    (inner / "samplewise.toml").touch()
    assert find_config(inner, home) == inner / "samplewise.toml"


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "samplewise.toml"
    path.write_text(FULL, encoding="utf-8-sig")  # as some editors write it
    config = read_config(path)
    assert read_prices(path)["m"].input == 1.0
    assert config.engine_spec("letters") == "toy"
    assert config.engine_spec("tiny") == "tiny"
    assert config.recipe_line("careful") == "repeat(6, max_tokens=3) | vote"
    assert config.recipe_line("repeat(1)") == "repeat(1)"
    assert config.store == str(tmp_path / "kept" / "all.db"), "beside the file, wherever below a command is given"
    assert config.confirm_above_usd == 2
    assert config.has_prices
    assert read_prices(path) == {"m": Price(1.0, 1.0, 4.0)}
    shared = tmp_path / "pyproject.toml"
    tables = FULL.replace("\n[", "\n[tool.samplewise.")
    shared.write_text(f'[project]\nname = "other"\n[tool.samplewise]{tables}')
    assert read_config(shared) == Config(**{**{f: getattr(config, f) for f in Config.__slots__}, "path": shared})
    assert read_prices(shared) == {"m": Price(1.0, 1.0, 4.0)}
    shared.write_text('[project]\nname = "other"\n')
    assert read_prices(shared) == {}


MISTAKES = [
    ('engin = "toy"', "no setting is called 'engin'; did you mean engine?"),
    ("zzz = 1", "no setting is called 'zzz'; allowed: engine, recipe, store, confirm_above_usd, engines, presets"),
    ("engine = 3", "engine must be a text, got 3"),
    ('store = " "', "store must be a text"),
    ('engine = "toyy"', "engine: no engine is called 'toyy'; did you mean toy"),
    ('recipe = "repeat(4"', "recipe: "),
    ("confirm_above_usd = true", "confirm_above_usd must be a number of US dollars, 0 or more, got True"),
    ("confirm_above_usd = -1", "confirm_above_usd must be a number"),
    ("confirm_above_usd = nan", "confirm_above_usd must be a number"),
    ('engines = "toy"', "engines must be a table of names, [engines], got 'toy'"),
    ("[engines]\nq = 3", "engines.q must be the text of an engine, such as 'http(\"MODEL\")', got 3"),
    ('[engines]\nq = "toy("', "engines.q: "),
    ('[engines]\nq = "nothing"', "engines.q: no engine is called 'nothing'"),
    ('[engines]\ntiny = "toy"', "engines.tiny: this is the name of a part of samplewise; choose another"),
    ('[engines]\n"a b" = "toy"', "engines.a b: a name has letters, digits"),
    ('[presets]\nf = "vote"', "presets.f: "),
    ("[presets]\nf = {}", "presets.f must be the text of a recipe, such as 'repeat(8) | vote', got {}"),
    ('[presets]\nvote = "repeat(8) | vote"', "presets.vote: this is the name of a part"),
    ("[prices]\nm = { input = 1 }", "m needs input and output, and may have cached"),
    ("[prices]\nm = { input = -1, output = 1 }", "m must be (input, cached, output) in USD per million tokens"),
    ("engine = ", "cannot be read"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=[message[:24] for _, message in MISTAKES])
def test_a_mistake_names_the_file_the_key_and_what_is_allowed(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "samplewise.toml"
    path.write_text(text)
    with pytest.raises(BadInput) as raised:
        read_config(path)
    assert str(path) in str(raised.value)
    assert message in str(raised.value)


def test_a_stranger_does_not_decide_where_questions_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file above the working folder, in /tmp say, would send questions and the user's key to whom it likes."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "samplewise.toml"
    path.write_text('engine = "toy"')
    assert load_config(None).engine == "toy"
    owner = path.stat().st_uid
    if owner == 0:
        pytest.importorskip("os").chown(path, 4242, -1)
    else:
        monkeypatch.setattr(config_module.os, "getuid", lambda: owner + 1)
    with pytest.raises(UsageError, match=r"belongs to another user; --config .*samplewise.toml uses it"):
        load_config(None)
    assert load_config(str(path)).engine == "toy"
    assert load_config("none") == Config()


# --- what it does -----------------------------------------------------------------------------------------------------


def test_a_flag_beats_the_environment_and_that_beats_the_file(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "samplewise.toml").write_text(FULL)
    done = call("ask", "say a", "--json")
    assert (done.code, len(done.json["answers"])) == (0, 4)
    monkeypatch.setenv("SAMPLEWISE_RECIPE", "repeat(2, max_tokens=3) | vote")
    assert len(call("ask", "say a", "--json").json["answers"]) == 2
    assert len(call("ask", "say a", "-r", "careful", "--json").json["answers"]) == 6
    monkeypatch.setenv("SAMPLEWISE_RECIPE", "careful")
    assert len(call("ask", "say a", "--json").json["answers"]) == 6, "the environment too may name a preset"
    monkeypatch.setenv("SAMPLEWISE_ENGINE", "remote")
    assert call("doctor").code == 4, "nothing listens there"
    assert call("doctor", "-e", "letters", "--json").json["engine"] == "toy(3, seed=0, scale=1.0)"
    assert call("--config", "none", "doctor", "-e", "letters").code == 2


def test_run_and_what_reads_the_store_use_the_one_that_is_set(call: Call, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "samplewise.toml").write_text(FULL)
    done = call("run", "q.jsonl", "--json")
    assert (done.code, done.json["recipe"]) == (0, "repeat(4, max_tokens=3) | vote")
    assert (tmp_path / "kept" / "all.db").exists()
    assert call("list", "run", "--json").json["runs"][0]["run"] == done.json["run"]
    assert call("select", "first").code == 0
    assert call("compare", "q.jsonl", "-r", "fast", "-r", "careful").code == 0
    asked = call("ask", "say a")
    assert asked.code == 0
    assert call("run", "q.jsonl", "--store", "other.db").code == 0
    assert (tmp_path / "other.db").exists()


def test_settings_above_the_working_folder_are_said(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "samplewise.toml").write_text(FULL)
    assert "settings from" not in call("ask", "say a").err
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert f"samplewise: settings from {tmp_path / 'samplewise.toml'}\n" in call("ask", "say a").err


def test_prices_of_the_settings_are_those_of_every_endpoint(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Judges too: engines find the table through the environment, which goes before it, and is left as it was."""
    seen: list[str | None] = []
    monkeypatch.setattr(
        config_module.Config, "engine_spec", lambda self, text: seen.append(os.environ.get("SAMPLEWISE_PRICES")) or text
    )
    (tmp_path / "samplewise.toml").write_text("[prices]\nm = { input = 1.0, output = 4.0 }\n")
    call("ask", "say a", "-e", "toy")
    assert seen == [str(tmp_path / "samplewise.toml")]
    assert "SAMPLEWISE_PRICES" not in os.environ
    monkeypatch.setenv("SAMPLEWISE_PRICES", "mine.toml")
    call("ask", "say a", "-e", "toy")
    assert seen[-1] == "mine.toml"
    assert os.environ["SAMPLEWISE_PRICES"] == "mine.toml"


def test_serve_offers_engines_and_presets_by_name(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: dict[str, Any] = {}

    def catch(jobs: Any, **settings: Any) -> None:
        served.update(models=list(jobs.upstreams), presets=dict(jobs.settings.presets))
        raise UsageError("enough")

    monkeypatch.setattr("samplewise.serve.app.make_app", catch)
    (tmp_path / "samplewise.toml").write_text(FULL)
    call("serve")
    assert served["models"] == ["letters"]
    assert set(served["presets"]) == {"fast", "careful"}
    call("serve", "-e", "other=letters", "-e", "toy", "--preset", "fast=repeat(2) | vote")
    assert served["models"] == ["other", "toy"]
    assert served["presets"]["fast"] == "repeat(2) | vote"
    call("--config", "none", "serve", "-e", "toy")
    assert set(served["presets"]) == {"vote8"}


# --- helpers and judges by name ---------------------------------------------------------------------------------------

NAMED = """
[engines]
small = "toy"
large = "toy(4)"
other-one = "toy(5)"
both = "team(small, strong=large)"
loop = "team(loop)"
round = "team(trip)"
trip = "team(round)"

[presets]
judged = "repeat(2, max_tokens=3) | best(judge(large))"
"""


@pytest.fixture
def named(tmp_path: Path) -> Config:
    (tmp_path / "samplewise.toml").write_text(NAMED)
    return read_config(tmp_path / "samplewise.toml")


def test_names_within_a_team_are_its_engines(named: Config) -> None:
    assert named.engine_spec("both") == "team(toy, strong=toy(4))"
    assert named.engine_spec("team(both, weak='other-one')") == "team(team(toy, strong=toy(4)), weak=toy(5))"
    assert named.engine_spec("http('small')") == "http('small')", "a model may be called like an engine"
    assert named.engine_spec("team(") == "team(", "said where it is built"
    for name in ("loop", "round", "team(trip)"):
        with pytest.raises(UsageError, match="is a team that is a part of itself"):
            named.engine_spec(name)


def test_the_engines_that_a_recipe_asks_join_the_one_that_draws(named: Config) -> None:
    assert str(named.engine_for("toy", ())) == "toy"
    assert str(named.engine_for("toy", ["large"])) == "team(toy, large=toy(4))"
    assert str(named.engine_for("team(toy, large=toy(9))", ["large"])) == "team(toy, large=toy(9))", "its own counts"
    assert str(named.engine_for("team(toy, a=toy(9))", ["large"])) == "team(toy, a=toy(9), large=toy(4))"
    assert str(named.engine_for("toy", ["nowhere"])) == "toy", "the check of the recipe says it"
    assert named.engine_for("toy", ["other-one"]).kwargs == (("other-one", parse_spec("toy(5)")),)
    with pytest.raises(UnknownName, match="no engine is called 'larg'; did you mean large"):
        named.engine_for("toy", ["larg"])


@pytest.mark.parametrize("recipe", ["judged", "repeat(2, max_tokens=3) | usc('other-one')"])
def test_ask_run_and_compare_find_judges_by_name(call: Call, named: Config, recipe: str) -> None:
    assert call("ask", "say a", "-e", "small", "-r", recipe, "--json").code == 0
    run = call("run", "q.jsonl", "-e", "small", "-r", recipe, "--store", "a.db", "--json")
    assert (run.code, run.json["complete"]) == (0, True)
    assert call("compare", "q.jsonl", "-e", "small", "-r", recipe, "-r", "repeat(2)", "--store", "b.db").code == 0


def test_select_finds_judges_by_name(call: Call, named: Config) -> None:
    call("run", "q.jsonl", "-e", "small", "-r", "repeat(2, max_tokens=3) | vote", "--store", "a.db")
    done = call("select", "best(judge(large))", "-e", "small", "--store", "a.db")
    assert done.code == 0, done.err
    assert "judged run" in done.out


def test_a_name_that_is_found_nowhere_ends_the_command(call: Call, named: Config) -> None:
    done = call("ask", "say a", "-e", "small", "-r", "repeat(2) | best(judge(zzz))")
    assert (done.code, "asks an engine called zzz" in done.err) == (3, True)
    done = call("ask", "say a", "-e", "small", "-r", "repeat(2) | best(judge('http(1)'))")
    assert 'team(toy(3, seed=0, scale=1.0), NAME=...)"' in done.err
    assert call("ask", "say a", "-e", "small", "-r", "repeat(2) | best(judge(larg))").code == 2
    assert call("ask", "say a", "-e", "loop").code == 2


def test_presets_of_a_server_find_judges_by_name(
    call: Call, named: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: dict[str, Any] = {}

    def catch(jobs: Any, **settings: Any) -> None:
        served.update({name: upstream.engine.members for name, upstream in jobs.upstreams.items()})
        raise UsageError("enough")

    monkeypatch.setattr("samplewise.serve.app.make_app", catch)
    call("serve", "-e", "small", "-e", "toy")
    assert served == {"small": {"large"}, "toy": {"large"}}


# --- init and completion ----------------------------------------------------------------------------------------------


def test_init_writes_what_its_own_next_line_runs(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("init", "example", "--engine", "toy")
    assert done.code == 0
    command = done.out.splitlines()[-1]
    assert command == "next: cd example && samplewise run questions.jsonl"
    monkeypatch.chdir(tmp_path / "example")
    run = call("run", "questions.jsonl", "--json")
    assert (run.code, run.json["questions"], run.json["complete"]) == (0, 6, True)
    assert run.json["recipe"] == "repeat(8) | until(lead(3)) | vote"
    again = call("init", "--engine", "toy")
    assert again.code == 2
    assert "samplewise.toml is there already" in again.err
    assert call("init", "new", "--engine", "nothing").code == 2
    assert not (tmp_path / "example" / "new").exists()


def test_init_quotes_an_engine(call: Call, tmp_path: Path) -> None:
    spec = 'http("m", base_url="http://127.0.0.1:9/v1")'
    assert call("init", ".", "--engine", spec).code == 0
    assert read_config(tmp_path / "samplewise.toml").engine == spec


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_asks_the_program(shell: str, call: Call) -> None:
    done = call("completion", shell)
    assert done.code == 0
    assert "_SAMPLEWISE_COMPLETE" in done.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=done.out, text=True, check=True)
    refused = call("completion", "tcsh")
    assert (refused.code, refused.err) == (
        2,
        "samplewise: no shell is called 'tcsh'; did you mean zsh or fish or bash?\n",
    )


def test_completion_is_for_ones_own_shell_and_says_where_it_goes(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert call("completion").out == call("completion", "fish").out
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert call("completion").err == "samplewise: name a shell: samplewise completion bash, zsh, fish\n"
    monkeypatch.setattr("samplewise.cli.start.is_shown", lambda: True)
    line = "samplewise: zsh reads it from a file: samplewise completion zsh > ~/.zfunc/_samplewise\n"
    assert call("completion", "zsh").err == line


def test_init_says_what_the_embedded_model_needs(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = call("init", "example")
    assert "pip install 'samplewise[local]'" in done.out
    assert done.out.splitlines()[-1] == "next: cd example && samplewise run questions.jsonl"
    assert "pip install" not in call("init", "other", "--engine", "toy").out


def test_a_wrong_word_says_where_the_right_ones_are(call: Call) -> None:
    assert call("run").err == "samplewise: Missing argument 'task'. See: samplewise run --help\n"


def test_words_are_completed(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "samplewise.toml").write_text(FULL)
    monkeypatch.setenv("_SAMPLEWISE_COMPLETE", "complete_bash")

    def words(line: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        return call().out.split()

    assert words("samplewise comp") == ["compare", "completion"]
    assert words("samplewise ask --budget-u") == ["--budget-usd"]
    assert words("samplewise ask --engine l") == ["letters", "local"]
    assert words("samplewise ask --recipe c") == ["careful"]


def test_names_are_completed_whatever_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SAMPLEWISE_CONFIG", raising=False)
    (tmp_path / "samplewise.toml").write_text("nonsense = 1")
    assert complete_engine("ti") == ["tiny"]
    assert complete_recipe("") == []
    assert complete_kind("sto") == ["stop"]
