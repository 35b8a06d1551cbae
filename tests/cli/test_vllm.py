"""The command `vllm`: what it passes on, what it says, and how it ends without vLLM."""

from __future__ import annotations

import importlib.util
import signal
import sys
from argparse import Namespace
from typing import Any

import pytest

from samplewise.cli import main
from samplewise.engines.vllm.launch import Launch


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["samplewise", "vllm", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


def test_every_argument_goes_to_vllm_as_it_was_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Long and short ones, with values and without, before and after the model, in their order."""
    passed: list[Any] = []

    class Command:
        def validate(self, args: Namespace) -> None:
            passed.append(args)

        def cmd(self, args: Namespace) -> None:
            passed.append(args)

    def prepare(arguments: list[str]) -> Launch:
        passed.append(list(arguments))
        args = Namespace(host="::1", port=8001, uds=None, ssl_certfile="cert.pem")
        return Launch(Command(), args, "a/model")

    monkeypatch.setattr("samplewise.engines.vllm.launch.prepare_launch", prepare)
    words = [
        "a/model",
        "--port",
        "8001",
        "-tp",
        "2",
        "--additional-config",
        '{"a": 1}',
        "--enforce-eager",
        "--host=::1",
    ]
    assert not called(monkeypatch, *words)
    assert passed[0] == words
    assert len(passed) == 3
    assert "vLLM will serve a/model" in (said := capsys.readouterr().out.replace("\n", " "))
    assert "vllm('https://[::1]:8001')" in said
    passed.clear()
    called(monkeypatch, "--max-model-len", "256", "a/model", "--config", "vllm.yaml")
    assert passed[0] == ["--max-model-len", "256", "a/model", "--config", "vllm.yaml"]


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (KeyboardInterrupt(), 130, ""),
        (
            OSError("[Errno 98] Address already in use\nmore"),
            3,
            "server has ended: OSError: [Errno 98] Address already in use",
        ),
    ],
)
def test_a_server_ends_in_one_line_and_a_ctrl_c_in_none(
    raised: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Ctrl-C is raised in vLLM, which ends its other processes first."""

    class Command:
        def validate(self, args: Namespace) -> None:
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

        def cmd(self, args: Namespace) -> None:
            raise raised

    launch = Launch(Command(), Namespace(host="127.0.0.1", port=8000, uds="a.sock"), "a/model")
    monkeypatch.setattr("samplewise.engines.vllm.launch.prepare_launch", lambda _: launch)
    assert called(monkeypatch, "a/model") == code
    error = capsys.readouterr().err
    assert error.count("\n") == bool(line)
    assert line in error


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "tiny") == 3
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "samplewise vllm needs vLLM, which is not here: pip install vllm" in error


def test_help_is_ours_and_a_model_is_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(monkeypatch, "--help") in (0, None)
    assert "vllm serve" in capsys.readouterr().out
    assert called(monkeypatch) == 2
