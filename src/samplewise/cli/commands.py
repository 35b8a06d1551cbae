"""Every command, and how an error ends the program."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from samplewise.core.errors import SamplewiseError

from . import (
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
        fail("interrupted; what was paid for is kept, the same command goes on from there", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader has what it wanted
        sys.exit(0)
