"""The command `serve`: what it refuses before it listens, and how it stops."""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.serve.running import running

from samplewise.cli.commands import run_command


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line with which the command refuses its arguments."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(sys, "argv", ["samplewise", "serve", "--engine", "toy", "--port", "0", *words])
    with pytest.raises(SystemExit) as ended:
        run_command()
    assert ended.value.code == 2
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--host", "0.0.0.0"), "needs keys: --keys FILE"),
        (("--host", "::"), "needs keys: --keys FILE"),
        (("--host", "example.com"), "needs keys: --keys FILE"),
        (("--host", "127.0.0.1.example.com"), "needs keys: --keys FILE"),
        (("--preset", "fast"), "a preset is NAME"),
        (("--preset", "fast=nosuch(3)"), "nosuch"),
        (("--aside", "never"), "--aside must be one of plain, refuse"),
        (("--keys", "/nowhere/keys.toml"), "cannot read the key file"),
        (("--tls-key", "/nowhere/key.pem"), "--tls-key needs --tls-cert"),
        (("--tls-cert", "/nowhere/cert.pem"), "cannot use the certificate"),
        (("--engine", "toy"), "a name of its own"),
        (("--engine", "nosuch"), "no engine is called 'nosuch'"),
    ],
)
def test_what_is_refused(
    words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = refused(monkeypatch, capsys, *words)
    assert message in shown
    assert "Traceback" not in shown


def test_a_new_key_is_shown_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["samplewise", "serve", "--new-key", "alice"])
    with pytest.raises(SystemExit) as ended:
        run_command()
    assert not ended.value.code
    shown = capsys.readouterr().out
    assert "[key.alice]" in shown
    assert "sk-sw-" in shown


def test_it_serves_and_stops(tmp_path: Path) -> None:
    """Two engines, a preset and a store; SIGTERM ends it by itself."""
    log = tmp_path / "log"
    options = (
        "--engine",
        "toy",
        "--engine",
        "other=toy(4)",
        "--preset",
        "fast=vote(4)",
        "--store",
        str(tmp_path / "s.db"),
    )
    with running(log, *options) as url:
        names = [model["id"] for model in json.load(urllib.request.urlopen(f"{url}/models"))["data"]]
        assert names == ["toy", "other", "fast@toy", "fast@other"]
        body = {"model": "fast@other", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
        request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode())
        reply = json.load(urllib.request.urlopen(request))
        assert reply["samplewise"]["recipe"] == "repeat(4, max_tokens=5) | vote"
    text = log.read_text()
    assert "serving toy, other at http://127.0.0.1:" in text
    assert '"event":"request"' in text
    assert "stopping: no new requests" in text
    assert "Traceback" not in text
