"""Runs the steps of pages, each in a fork of this process, which has imported the package.

Importing torch takes longer than what most steps do. A fork begins where a new process is after its imports. Reads one
JSON array a line, [words, folder, log], runs the words in the folder with its output in the log, and prints the code
that it exits with.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
import traceback
from typing import NoReturn

import torch  # noqa: F401  here and below: what the forks need
import transformers  # noqa: F401

import samplewise.engines.local.engine
import samplewise.testing.endpoint  # noqa: F401
from samplewise.cli import main

TIMEOUT_S = 900
QUOTED = re.compile(r"'[^']*'|\"[^\"$`\\]*\"")


def run_step(words: list[str]) -> None:
    """Run a plain `samplewise` command or a block of Python here, anything else in a shell."""
    if words[0] == "python":
        sys.argv = ["-c"]
        exec(compile(words[1], "<block>", "exec"), {"__name__": "__main__"})
    elif words[1].startswith("samplewise ") and not set("|&;<>()$`*?~\\\"'") & set(QUOTED.sub("", words[1])):
        sys.argv = shlex.split(words[1])
        main()
    else:
        os.execvp("bash", ["bash", "-ec", words[1]])


def leave(words: list[str]) -> NoReturn:
    """Run a step and end the process, without the second or two in which Python takes torch apart."""
    code: object = 0
    try:
        run_step(words)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def serve() -> None:
    """Run every step that is asked for, one at a time."""
    for line in sys.stdin:
        words, folder, log = json.loads(line)
        child = os.fork()
        if child == 0:
            signal.alarm(TIMEOUT_S)
            os.chdir(folder)
            os.environ["HOME"] = folder
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            leave(words)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
