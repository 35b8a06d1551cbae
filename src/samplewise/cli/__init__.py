"""The command line. Tables for people on standard output, progress on standard error; with `--json` one JSON object as
the last line of standard output. Exit codes: 0 done, 1 `recheck` or `store check` found something, 2 usage, 3 set-up,
4 engine, 130 interrupted."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from typing import NoReturn

INTERRUPTED = "interrupted; draws that a store keeps are not paid for again"


def main() -> NoReturn:
    """The entry point. A Ctrl-C ends the program with one line, also while it is being imported.

    A command that draws takes the signal over, to keep what arrives (see `app.end_on_signal`).
    """
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # what another encoding lacks is spelled out, not lost after it was paid
        sys.stdout.reconfigure(errors="backslashreplace")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, _end)
    try:
        from samplewise import models
        from samplewise.cli.commands import run_command

        models.owns_process = True
        run_command()
    finally:
        with contextlib.suppress(ValueError):
            for number, handler in before.items():
                signal.signal(number, handler)


def _end(number: int, frame: object) -> NoReturn:
    with contextlib.suppress(Exception):  # closed, full, or in the middle of a write
        sys.stdout.flush()
    os.write(2, f"samplewise: {INTERRUPTED}\n".encode())
    os._exit(130)
