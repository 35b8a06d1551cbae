"""What a program's own process does, and what the process of its tests does. Both are forks of the zygote.

Three ways, by what a verdict needs:

    run       the program alone: standard input, output, exit status; whoever asked compares outputs
    apart     the program loads, then answers calls over a socket; the tests run in another process, which holds the
              nonce. No code of the program runs there: only plain data crosses (carry.py), so an `__eq__` that is
              always true, a patched builtin or a forged marker has nothing to act upon
    together  the tests run in the program's process, and the nonce is written after the last of them: weaker, since
              code in one process can reach all of it. The program's top level has ended before tests and nonce come in
              through a pipe, and what the tests call is what Python had before the program ran

The names that this file uses are its own: it looks them up in a copy of the builtins that no program can reach by
patching the module, and takes the functions that it needs before any program runs.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from . import carry

globals()["__builtins__"] = dict(vars(builtins))  # functions made from here on look names up in this copy

MAX_MESSAGE = 64 << 20  # bytes of one message between program and tests
_write, _read, _exit, _pack, _unpack = os.write, os.read, os._exit, struct.pack, struct.unpack
_dumps, _loads, _modules = json.dumps, json.loads, sys.modules
_PRISTINE = dict(vars(builtins))
_code, _run, _Module = _PRISTINE["compile"], _PRISTINE["exec"], ModuleType  # running programs is what this is for
_settrace, _setprofile, _setitimer, _num_threads = sys.settrace, sys.setprofile, signal.setitimer, _thread._count

# loaded before the first program, since nearly every program wants some of them
PRELOADED = (
    *("abc", "array", "base64", "bisect", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math", "numbers", "operator", "random"),
    *("re", "statistics", "string", "sys", "textwrap", "time", "typing", "unicodedata"),
)
_random: Any = None  # the module, once it is loaded
_GUARDED = ("math", "cmath", "re", "operator", "copy", "random", "itertools", "functools", "collections", "json")


class Job(NamedTuple):
    """A program as the zygote hands it to its process, which learns neither its tests nor the nonce."""

    source: str
    entry_point: str  # the name that the tests are about, which may be that of a builtin
    imports: tuple[str, ...]  # modules that tests may use without importing them


def preload() -> None:
    """Once, before the first program: load what programs will want, and put out of sight what they will not."""
    global _random
    for name in PRELOADED:
        importlib.import_module(name)
    _random = _modules["random"]
    os.environ.clear()
    sys.argv[:] = ["program.py"]
    for name in [name for name in _modules if name.partition(".")[0] in (__package__, "ctypes", "_ctypes")]:
        del _modules[name]


def _module(name: str) -> ModuleType:
    module = _Module(name)
    _modules[name] = module
    return module


def _execute(source: str, module: ModuleType) -> None:
    """Run a text as a module. Nothing of the import machinery is used, which a program can patch."""
    _run(_code(source, f"{module.__name__.strip('_')}.py", "exec", dont_inherit=True), vars(module))


def _seed() -> None:
    """The same draws in every process: a verdict must not change from one run to the next."""
    _random.seed(0)


def _complain(error: BaseException) -> None:
    """The traceback to standard error, as Python would; the program may have broken what that needs."""
    try:
        trace = error.__traceback__
        for _ in range(2):  # the frames of this file
            trace = trace.tb_next if trace is not None else None
        traceback.print_exception(error.with_traceback(trace), limit=-8)
        sys.stderr.flush()
    except BaseException:
        _write(2, f"{type(error).__name__}\n".encode())


# --- the program alone ------------------------------------------------------------------------------------------------


def run(job: Job) -> NoReturn:
    """The program as a script. Its exit status is this process's."""
    _seed()
    status = 0
    try:
        _execute(job.source, _module("__main__"))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            _write(2, error.code.encode(errors="replace") + b"\n")
    except BaseException as error:
        _complain(error)
        status = 1
    _finish(status & 0xFF)


def _finish(status: int) -> NoReturn:
    """End as an interpreter does: threads first, then what was registered, then what is still in a buffer."""
    wait = (threading._shutdown,) if _num_threads() else ()  # type: ignore[attr-defined]
    for last in (*wait, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        try:
            last()
        except BaseException:
            status = status or 1
    _exit(status)


# --- program and tests apart ------------------------------------------------------------------------------------------


def serve(job: Job, line: socket.socket) -> NoReturn:
    """Load the program, say which names it has, and answer calls of them until the line closes."""
    _seed()
    module = _module("program")
    try:
        _execute(job.source, module)
    except BaseException as error:
        _complain(error)
        _exit(1)
    names = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    _send(line, {name: packed for name, value in names.items() if (packed := _shown(value)) is not None})
    try:
        while (call := _receive(line)) is not None:
            _send(line, _answer(names, call))
    except OSError:
        pass  # the tests have ended
    sys.stdout.flush()
    _exit(0)


def _shown(value: object) -> Any:
    """How the tests will see a name: something to call, a module to import, plain data, or nothing."""
    if callable(value):
        return ["call"]
    if isinstance(value, ModuleType):
        return ["module", value.__name__]
    try:
        return ["value", carry.pack(value)]
    except BaseException:
        return None


def _answer(names: Mapping[str, Any], call: Any) -> Any:
    try:
        args, kwargs = carry.unpack(call["args"]), carry.unpack(call["kwargs"])
        before = carry.pack(args)
        value = names[call["name"]](*args, **kwargs)
        reply = {"value": carry.pack(value)}
        after = carry.pack(args)
        if after != before:
            reply["args"] = after  # changed in place, which the tests may look at
        return reply
    except carry.Uncarried as error:
        return {"error": ["TypeError", f"the program gave {error}"]}
    except BaseException as error:
        names_up = [t.__name__ for t in type(error).__mro__ if t.__module__ == "builtins"]
        try:
            text = str(error)[:500]
        except BaseException:
            text = ""
        return {"error": [names_up[0] if names_up else "Exception", text]}


class Ended(BaseException):
    """The program has ended, or has tried to: no `except Exception` of a test takes that for a wanted error."""


class _Function:
    """A function of the program, called from the tests' process."""

    def __init__(self, name: str, line: socket.socket) -> None:
        self.__name__, self._line = name, line

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            _send(self._line, {"name": self.__name__, "args": carry.pack(args), "kwargs": carry.pack(kwargs)})
            reply = _receive(self._line)
        except OSError:
            reply = None
        if reply is None:
            raise Ended("the program ended during a call")
        if "error" in reply:
            kind, text = reply["error"]
            made = carry.BUILT_IN_TYPES.get(kind, Exception)
            if not issubclass(made, Exception):
                raise Ended(f"{kind}: {text}")
            try:
                error = made(text)
            except TypeError:  # one that is made of more than a text
                error = Exception(f"{kind}: {text}")
            raise error
        if "args" in reply:
            carry.update(args, carry.unpack(reply["args"]))
        return carry.unpack(reply["value"])


def test(job: Job, tests: str, nonce: str, line: socket.socket, verdict: int) -> NoReturn:
    """Run the tests against a program in another process, and write the nonce once the last has passed."""
    _seed()
    module = _module("tests")
    try:
        shown = _receive(line)
        if shown is None:
            _report(verdict, "the program did not load")
        for name, (kind, *content) in shown.items():
            if name.startswith("__") or (name in _PRISTINE and name != job.entry_point):
                continue
            if kind == "call":
                setattr(module, name, _Function(name, line))
            elif kind == "value":
                setattr(module, name, carry.unpack(content[0]))
            elif content[0] in PRELOADED:
                setattr(module, name, importlib.import_module(content[0]))
        for name in job.imports:
            setattr(module, name, importlib.import_module(name))
        _execute(tests, module)
    except BaseException as error:
        _report(verdict, _told(error, tests))
    _write(verdict, nonce.encode())
    _exit(0)


def _told(error: BaseException, tests: str) -> str:
    """Which test failed and how, in one line of bounded length."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "tests.py"]
    lines = tests.splitlines()
    number = (frames[-1].lineno or 0) if frames else 0
    where = lines[number - 1].strip()[:200] if 0 < number <= len(lines) else ""
    try:
        text = " ".join(str(error).split())[:200]
    except BaseException:
        text = ""
    what = text if isinstance(error, Ended) else f"{type(error).__name__}{': ' if text else ''}{text}"
    if isinstance(error, AssertionError):
        return f"failed: {where}" if where else "a test failed"
    return f"{what} at {where}" if where else what


def _report(verdict: int, reason: str) -> NoReturn:
    _write(verdict, reason.encode(errors="replace")[:2000])
    _exit(1)


def _send(line: socket.socket, message: Any) -> None:
    data = _dumps(message).encode()
    if len(data) > MAX_MESSAGE:
        data = b'{"error": ["ValueError", "the value is too large to hand over"]}'
    line.sendall(_pack(">I", len(data)) + data)


def _receive(line: socket.socket) -> Any:
    """One message, None at the end of the line."""
    head = _exactly(line, 4)
    if head is None:
        return None
    (size,) = _unpack(">I", head)
    if size > MAX_MESSAGE:
        raise ValueError("a message that is too long")
    body = _exactly(line, size)
    return None if body is None else _loads(body)


def _exactly(line: socket.socket, num_bytes: int) -> bytes | None:
    parts: list[bytes] = []
    while num_bytes:
        part = line.recv(min(num_bytes, 1 << 20))
        if not part:
            return None
        parts.append(part)
        num_bytes -= len(part)
    return b"".join(parts)


# --- program and tests together ---------------------------------------------------------------------------------------


def together(job: Job, incoming: int, verdict: int) -> NoReturn:
    """Load the program, then take tests and nonce from the pipe, and run the tests over what the program defined.

    The `job` holds neither: they are sent when the program's top level has ended.
    """
    _seed()
    guarded = {name: dict(vars(_modules[name])) for name in _GUARDED}
    real, hooks = vars(builtins), gc.callbacks
    imports = {name: importlib.import_module(name) for name in job.imports}
    module = _module("program")
    try:
        _execute(job.source, module)
    except BaseException as error:
        _complain(error)
        _report(verdict, f"the program did not load: {_told(error, '')}")
    # take away what the program has left behind to act later, or has put in the place of what the tests use
    _settrace(None)
    _setprofile(None)
    _setitimer(signal.ITIMER_REAL, 0)
    hooks.clear()
    real.update(_PRISTINE)
    for name, content in guarded.items():
        vars(_modules.setdefault(name, _Module(name))).update(content)
    if _num_threads():
        _report(verdict, "the program has left a thread running")
    tests, nonce = _blob(incoming).decode(), _blob(incoming)
    over = _module("tests")
    names = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    vars(over).update({n: value for n, value in names.items() if n not in _PRISTINE or n == job.entry_point})
    vars(over)["__builtins__"] = _PRISTINE
    vars(over).update(imports)
    try:
        _execute(tests, over)
    except BaseException as error:
        _report(verdict, _told(error, tests))
    _write(verdict, nonce)
    _exit(0)


def blob(data: bytes) -> bytes:
    """What `together` reads from its pipe: the length, then the bytes."""
    return _pack(">I", len(data)) + data


def _blob(file: int) -> bytes:
    (size,) = _unpack(">I", _read(file, 4))
    data = b""
    while len(data) < size:
        part = _read(file, size - len(data))
        if not part:
            _exit(1)
        data += part
    return data
