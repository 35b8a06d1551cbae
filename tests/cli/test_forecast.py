"""The line that says what a run may cost, and who is asked whether to go on."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from tests.support.commands import Call, Done, caller
from tests.support.paid import PaidToy

from samplewise.cli.forecast import describe_forecast
from samplewise.core import registry
from samplewise.runs.forecast import RunForecast, Span

LINE = "repeat(4, max_tokens=3) | vote"  # 6 questions of 2 prompt tokens: at most 24 x (0.002 + 0.012) = 0.34 USD


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.BUILT_IN["engine"], "paid", "tests.support.paid:paid_toy")  # type: ignore[arg-type]
    monkeypatch.setitem(registry.BUILT_IN["engine"], "unpriced", "tests.support.paid:unpriced_toy")  # type: ignore[arg-type]
    rows = "".join(f'{{"question": "say {letter}", "answer": "{letter}"}}\n' for letter in "abcdef")
    (tmp_path / "q.jsonl").write_text(rows)

    def run(*words: str, reply: str | None = None) -> Done:
        """`reply` is what is typed at a terminal; without one standard input is none."""
        typed = io.StringIO(reply or "")
        monkeypatch.setattr(typed, "isatty", lambda: reply is not None)
        monkeypatch.setattr(sys, "stdin", typed)
        PaidToy.num_asked = 0
        return caller(monkeypatch, capsys)(*words)

    return run


def test_a_run_that_costs_money_says_so_before_and_one_that_does_not_is_silent(call: Call) -> None:
    done = call("run", "q.jsonl", "-e", "paid", "-r", LINE)
    assert done.code == 0
    assert "forecast: 24 draws, at most 120 tokens and 0.34 USD\n" in done.err
    assert "forecast" not in call("run", "q.jsonl", "-e", "paid", "-r", LINE).err, "all of it is in the store"
    assert "forecast" not in call("run", "q.jsonl", "-e", "toy", "-r", LINE).err
    more = call("run", "q.jsonl", "-e", "paid", "-r", LINE.replace("4", "5"))
    assert "forecast: 6 draws beyond 24 in the store, at most 30 tokens and 0.08 USD; about " in more.err


def test_a_judge_that_costs_money_is_said_where_the_draws_are_free(call: Call) -> None:
    done = call("run", "q.jsonl", "-e", "team(toy, wise=paid)", "-r", "repeat(4, max_tokens=3) | best(judge(wise))")
    assert "forecast: 24 draws and up to " in done.err
    assert " 0.00 USD" not in done.err


def test_without_a_terminal_nobody_is_asked_and_nothing_is_sent(call: Call) -> None:
    limited = ("run", "q.jsonl", "-e", "paid", "-r", LINE, "--confirm-above-usd", "0.3")
    done = call(*limited)
    assert done.code == 2
    assert done.err.splitlines()[-1] == (
        "samplewise: this may cost up to 0.34 USD; the limit without asking is 0.3 USD: --yes goes on, "
        "--budget-usd 0.3 holds it there"
    )
    assert PaidToy.num_asked == 0
    assert call(*limited, "--yes").code == 0
    assert PaidToy.num_asked == 24
    assert call(*limited).code == 0, "the store has it all"
    assert PaidToy.num_asked == 0


@pytest.mark.parametrize(("reply", "code"), [("y\n", 0), ("YES\n", 0), ("\n", 2), ("n\n", 2), ("", 2)])
def test_at_a_terminal_only_yes_goes_on(reply: str, code: int, call: Call) -> None:
    done = call("run", "q.jsonl", "-e", "paid", "-r", LINE, "--confirm-above-usd", "0.3", reply=reply)
    assert done.code == code
    assert "Go on? [y/N]" in done.err
    assert PaidToy.num_asked == (24 if code == 0 else 0)
    assert ("nothing was sent" in done.err) == (code == 2)


def test_the_limit_is_reached_by_what_passes_it_alone(call: Call) -> None:
    assert call("run", "q.jsonl", "-e", "paid", "-r", LINE, "--confirm-above-usd", "0.337").code == 0
    assert call("run", "q.jsonl", "-e", "toy", "-r", LINE, "--confirm-above-usd", "0").code == 0
    budget = ("--budget-usd", "0.2", "--confirm-above-usd", "0.3")
    assert call("run", "q.jsonl", "-e", "paid", "-r", LINE.replace("4", "5"), *budget).code == 0


def test_what_is_not_known_is_asked_about(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("run", "q.jsonl", "-e", "unpriced", "-r", LINE, "--confirm-above-usd", "5")
    assert done.code == 2
    assert "money of unknown price" in done.err
    assert "an amount that is not known beforehand" in done.err
    monkeypatch.setenv("SAMPLEWISE_CONFIRM_ABOVE_USD", "5")
    done = call("run", "q.jsonl", "-e", "paid", "-r", "power(2, 3) | first")
    assert done.code == 2
    assert "without later draws of power" in done.err


def test_recipes_to_compare_are_summed_and_the_settings_count(call: Call, tmp_path: Path) -> None:
    (tmp_path / "samplewise.toml").write_text("confirm_above_usd = 0.5\n")
    one = ("compare", "q.jsonl", "-e", "paid", "-r", LINE)
    done = call(*one, "-r", "repeat(4, max_tokens=3, temperature=0.5) | vote")
    assert done.code == 2
    assert "up to 0.67 USD" in done.err
    assert call("run", "q.jsonl", "-e", "paid", "-r", LINE).code == 0


def test_a_forecast_in_words() -> None:
    forecast = RunForecast(
        1600, 0, 1_900_000, 4.1, Span(1.2e6, 1.1e6, 1.3e6), Span(1.1, 0.9, 1.4), num_earlier=400, unknown=("judge",)
    )
    assert describe_forecast(forecast) == (
        "1,600 draws, at most 1.9 M tokens and 4.10 USD; about 1.2 M tokens, 0.90 to 1.40 USD, as 400 earlier "
        "requests; without judge"
    )
