"""The command line as a person uses it: words in, an exit code and both outputs back, within the test's process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from samplewise.cli import main


class Done(NamedTuple):
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line of the standard output, which `--json` makes an object."""
        return json.loads(self.out.splitlines()[-1])


Call = Callable[..., Done]


def caller(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *before: str) -> Call:
    """Return what runs `samplewise` with the words `before` and those that it is given."""

    def run(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["samplewise", *before, *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Done(left.value.code if isinstance(left.value.code, int) else 1, *capsys.readouterr())

    return run
