"""The lines that a person sees who waits."""

from __future__ import annotations

import io
import re
import time
from types import SimpleNamespace

import pytest

from samplewise.cli import progress
from samplewise.cli.app import PlainConsole
from samplewise.cli.progress import Bar, engine_to_load, loading
from samplewise.core.events import Arrived, Dispatched, Drawn, Started, Stopped
from samplewise.core.types import Stop, Usage


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_the_rate_is_over_the_time_of_drawing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """It was over the time since the bar was made, and what was loaded meanwhile counted."""
    with Bar("draw") as bar:
        bar(Started("r", 3, 0))
        bar(Dispatched("a", 0, 2))  # the store answers
        for _ in range(2):
            bar(Arrived("a", Usage(1, 3, 7), "store"))
        clock.now = 100.0
        bar(Dispatched("a", 2, 0))
        bar(Dispatched("b", 2, 0))
        clock.now = 104.0
        bar(Drawn("a", 30))
        bar(Drawn("b", 25))
        clock.now = 110.0
        bar(Drawn("a", 35))
        clock.now = 200.0  # answers are checked
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "draw: 0/3 questions, 2 draws done (2 from the store), 60 tokens drawn, 6 tokens/s"


def test_a_question_whose_draws_were_given_up_counts_less(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("draw") as bar:
        bar(Started("r", 2, 0))
        bar(Drawn("a", 30))
        bar(Drawn("b", 9))
        bar(Drawn("a", 12))
    assert "0 draws done, 21 tokens drawn" in capsys.readouterr().err


def test_a_question_that_was_interrupted_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("draw") as bar:
        bar(Started("r", 3, 1))
        bar(Stopped("a", Stop("settled"), Usage(), "1"))
        bar(Stopped("b", Stop("cancelled"), Usage(), None))
    assert "draw: 2/3 questions" in capsys.readouterr().err


@pytest.mark.parametrize("one_question", [True, False])
def test_on_a_terminal_it_is_one_line(one_question: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = PlainConsole(file=shown, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "PlainConsole", lambda **_: console)
    with Bar("drawing", one_question=one_question) as bar:
        bar(Dispatched("a", 2, 0))
        bar(Drawn("a", 30))
        bar._bar.refresh()
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue()).replace("\r", "\n").splitlines()
    (line,) = {line.strip() for line in lines if "30 tokens drawn" in line}
    assert line.startswith("drawing ")
    assert "0 draws done, 30 tokens drawn" in line
    assert ("?" not in line and "-:--" not in line) is one_question


def test_loading_is_said_where_it_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LONG_S", 0.01)
    with loading("a-model"):
        limit = time.monotonic() + 10
        while not (told := capsys.readouterr()).err and time.monotonic() < limit:
            time.sleep(0.01)
    assert (told.out, told.err) == ("", "loading a-model ...\n")
    monkeypatch.setattr(progress, "LONG_S", 3600.0)
    with loading("a-model"):
        pass
    with pytest.raises(ValueError, match="broken"), loading("a-model"):
        raise ValueError("broken")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_loading_is_shown_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    console = PlainConsole(file=shown, force_terminal=True, width=80)
    monkeypatch.setattr(progress, "PlainConsole", lambda **_: console)
    with loading("[bold]a/model\x1b[31m"):
        limit = time.monotonic() + 10
        while "loading [bold]a/model" not in shown.getvalue() and time.monotonic() < limit:
            time.sleep(0.01)
        assert "loading [bold]a/model" in shown.getvalue()
    assert "\x1b[31m" not in shown.getvalue()
    assert shown.getvalue().endswith("\x1b[2K")  # the line is gone


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("local:HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ('local("a/b", dtype="bfloat16")', "a/b"),
        ("tiny", "tiny"),
        ("http:gpt-5", "http:gpt-5"),
        ("local(", "local("),
    ],
)
def test_what_is_loaded_is_named(text: str, what: str) -> None:
    assert engine_to_load(text) == what
