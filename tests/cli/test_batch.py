"""`run --batch`: what a person sees, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support import batches
from tests.support.commands import Call, caller

from samplewise.engines.http.batch import collect
from samplewise.testing.endpoint import EndpointSettings, serving

LINE = "repeat(4, max_tokens=4) | vote"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("COLLECT_S", "FIRST_POLL_S"):
        monkeypatch.setattr(collect, name, getattr(collect, name))
    batches.hurry()
    (tmp_path / "q.jsonl").write_text("".join(f'{{"question": "say {letter}"}}\n' for letter in "abc"))
    return caller(monkeypatch, capsys, "run", "q.jsonl", "--batch")


def test_a_run_in_batches_says_what_it_waits_for(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(EndpointSettings(batch_s=2.5)) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        done = call("-e", "http:toy", "-r", LINE, "--json")
        assert done.code == 0
        assert done.json["paid"]["requests"] == 12
        assert endpoint.tally.batch_calls["create"] == 1
        assert "waiting for batch batch_0" in done.err
        assert call("-e", 'http("toy", batch=True)', "-r", LINE, "--json").json["paid"]["requests"] == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("-e", "toy", "-r", LINE), "--batch is for an endpoint, such as http:MODEL, not for toy"),
        (("-e", "team(http('toy'), judge=toy)", "-r", LINE), "in a team: http(..., batch=True)"),
        (("-e", "http:toy", "-r", "repeat(32) | until(lead(2)) | vote"), "ahead=3 sends so many draws beyond need"),
        (("-e", "http:toy", "-r", LINE, "--budget-seconds", "9"), "so a limit in seconds would end every question"),
    ],
)
def test_what_cannot_go_by_batches_is_a_line(
    words: tuple[str, ...], told: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving() as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        done = call(*words)
        assert done.code in (2, 3)
        assert told in done.err
        assert endpoint.tally.batch_calls.total() == 0
