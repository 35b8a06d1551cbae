"""Every command, and how an error ends the program."""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

import typer

from samplewise.core.errors import SamplewiseError

from . import (
    INTERRUPTED,
    completion,
    demo,
    doctor,
    draw,
    effect,
    export,
    merge,
    parts,
    passk,
    plan,
    serve,
    start,
    store,
    stored,
    vllm,
)
from .app import app, fail

__all__ = ["demo", "doctor", "draw", "effect", "export", "merge", "parts", "passk", "plan", "run_command", "serve"]
__all__ += ["start", "store", "stored", "vllm"]

# as a person meets them
ORDER = ["ask", "run", "compare", "select", "show", "passk", "recheck", "effect", "calibrate", "plan", "report"]
ORDER += ["export", "merge", "serve", "vllm", "doctor", "list", "demo", "init", "completion"]
app.registered_commands.sort(key=lambda command: ORDER.index(command.name or command.callback.__name__))  # type: ignore[union-attr]

# What the parser says of a wrong word. Its class has no name that holds for every release of typer; its children do.
COMPLAINT: type[Exception] = typer.BadParameter.mro()[2]

FULL = (errno.ENOSPC, errno.EDQUOT)  # of a disk


def run_command() -> NoReturn:
    """Run the command that the arguments name. Samplewise's own errors become one line and an exit code."""
    if completion.is_asked():
        completion.prepare_completion()
    try:
        command = typer.main.get_command(app)
        code = command.main(prog_name="samplewise", complete_var=completion.VARIABLE, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except SamplewiseError as error:
        fail(str(error), error.exit_code)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except COMPLAINT as error:
        begun = getattr(error, "ctx", None)  # the command that was begun
        fail(f"{error.format_message()}{f' See: {begun.command_path} --help' if begun else ''}", 2)  # type: ignore[attr-defined]
    except (KeyboardInterrupt, typer.Abort):
        fail(INTERRUPTED, 130)
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):  # which the parser takes for a failure
            raise
        _drop_output()
        sys.exit(0)  # the reader has what it wanted
    except OSError as error:
        if error.errno not in FULL:
            raise
        _drop_output()
        fail(f"the output cannot be written: {error.strerror}", 3)


def _drop_output() -> None:
    """Lose what is still to be printed, so that the interpreter's last flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
