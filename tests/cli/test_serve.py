"""The command `serve`: what it refuses before it listens, and how it stops."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.serve.running import running

from samplewise.cli import serve
from samplewise.cli.commands import run_command
from samplewise.core.types import Completion, Generate
from samplewise.store.database import Store


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
        (
            ("--preset", "fast=repeat(8) | best(nosuch)"),
            "the preset fast cannot be served: no verifier is called 'nosuch'",
        ),
        (("--preset", "fast=repeat(8, colour=1) | vote"), "the preset fast cannot be served: repeat takes"),
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


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python begins tasks at once from 3.12 on")
def test_tasks_begin_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def until_stopped() -> None:
        async def begin() -> None:
            seen.append("begun")

        task = asyncio.create_task(begin())
        seen.append("made")
        await task

    monkeypatch.setattr(serve, "_until_stopped", until_stopped)
    monkeypatch.setattr(sys, "argv", ["samplewise", "serve", "--engine", "toy", "--port", "0"])
    with pytest.raises(SystemExit) as ended:
        run_command()
    assert not ended.value.code
    assert seen == ["begun", "made"]


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


def test_the_store_s_journal_is_put_into_its_file_now_and_then(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(serve, "CHECKPOINT_S", 0.01)

    async def go() -> None:
        with Store(tmp_path / "s.db") as store:
            beside = asyncio.create_task(serve._checkpoint(store))
            await asyncio.sleep(0)
            for number in range(800):
                store.put_draw(number.to_bytes(16, "big"), "toy", Generate(()), Completion("a", "stop"))
            small = (tmp_path / "s.db").stat().st_size
            async with asyncio.timeout(20):
                while (tmp_path / "s.db").stat().st_size == small:
                    await asyncio.sleep(0.01)
            beside.cancel()

    asyncio.run(go())


def test_collections_are_made_rare_once_the_engines_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []
    for name in ("set_threshold", "collect", "freeze"):
        monkeypatch.setattr(gc, name, lambda *given, name=name: done.append((name, *given)))

    class Opened:
        async def opened_all(self) -> None:
            done.append("opened")

    asyncio.run(serve._settle_memory(Opened()))  # type: ignore[arg-type]
    assert done[0] == ("set_threshold", serve.GC_OBJECTS, *gc.get_threshold()[1:])
    assert done[-3:] == ["opened", ("collect",), ("freeze",)]
