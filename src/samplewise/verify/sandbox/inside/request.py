"""What the host says to a zygote: numbers and open files, no text (see zygote.py for the reason)."""

from __future__ import annotations

import struct
from typing import NamedTuple

SCRIPT, APART, TOGETHER = 0, 1, 2
START, STOP = b"R", b"S"  # the first byte of a message: a request with its files, or the end of the program that runs
LOADED, BROKEN, UNKNOWN = b"loaded\n", b"!", b"?"  # on the pipe of the verdict, beside the nonce and a reason
NONCE_SIZE = 32  # characters


class Request(NamedTuple):
    """The numbers of a request. Sizes are in bytes."""

    id: int
    level: int
    wall_us: int
    cpu_s: int
    memory: int
    processes: int  # 0: not limited by the kernel
    file: int
    disk: int
    files: int
    open_files: int


class Files(NamedTuple):
    """The open files of a request, in the order in which they are sent."""

    program: int  # the program's text, for its own process alone
    stdin: int
    stdout: int
    stderr: int
    verdict: int  # a pipe to the host
    # apart: tests and nonce; together: a socket through which that file comes after the load; -1: no tests
    tests: int = -1


LAYOUT = struct.Struct(f">{len(Request._fields)}q")
