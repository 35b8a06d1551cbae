"""What a program's own process does, and what the process of its tests does. Both are forks of the zygote.

Three modes, by what a verdict needs:

    run       the program alone: standard input, output, exit status; the caller compares outputs
    apart     the program loads, then answers calls over a socket; the tests run in another process. That alone reads
              tests and nonce, after it was forked; the program's process learns which of its names are used, and the
              arguments of one call at a time. Only plain data crosses (carry.py), so an `__eq__` that is always true,
              a patched builtin or a forged marker has nothing to act upon
    together  the tests run in the program's process, and the nonce is written after the last of them: weaker, because
              code in one process can reach all of it. The host hands over tests and nonce when the program's top level
              has ended, and what the tests call is what Python had before the program ran

A value that is no plain data cannot be handed over. What a test finds out by it is unknown, neither passed nor failed
(`Unknown`), but for one case: where its class has the equality of every object, it is unequal to all plain data.

This file looks its names up in a copy of the builtins that no program can reach by patching the module, and takes the
functions that it needs before any program runs.
"""

from __future__ import annotations

import _thread
import atexit
import builtins
import contextlib
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
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NoReturn

from . import carry
from .request import LOADED, UNKNOWN

globals()["__builtins__"] = dict(vars(builtins))  # functions made from here on look names up in this copy

MAX_MESSAGE = 64 << 20  # bytes of one message between program and tests
_write, _read, _close, _exit = os.write, os.read, os.close, os._exit
_pack, _unpack, _signal = struct.pack, struct.unpack, signal.signal
_dumps, _loads, _modules = json.dumps, json.loads, sys.modules
_socket, _receive_files = socket.socket, socket.recv_fds
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


def preload() -> None:
    """Load, before the first program, what programs will want, and remove what they must not see."""
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


def _execute(source: str, names: dict[str, Any]) -> None:
    """Run a text as a module without the import machinery, which a program can patch."""
    _run(_code(source, f"{names['__name__'].strip('_')}.py", "exec", dont_inherit=True), names)


def _content(file: int) -> dict[str, Any]:
    """Read a file of the host's to its end, and close it."""
    parts = []
    while part := _read(file, 1 << 20):
        parts.append(part)
    _close(file)
    content: dict[str, Any] = _loads(b"".join(parts))
    return content


def _limited(seconds: float, act: Callable[[], Any]) -> Any:
    """Return what `act` returns. TimeoutError if it takes longer than `seconds`; 0: no limit."""
    if not seconds:
        return act()
    _signal(signal.SIGALRM, _late)
    try:
        _setitimer(signal.ITIMER_REAL, seconds)
        try:
            return act()
        finally:
            _setitimer(signal.ITIMER_REAL, 0)
    except _Late:
        raise TimeoutError(f"more than {seconds:g} s") from None


class _Late(BaseException):
    pass


def _late(*_: object) -> NoReturn:
    raise _Late


def _seed() -> None:
    """Seed `random` alike in every process: a verdict must not change from one run to the next."""
    _random.seed(0)


def _complain(error: BaseException) -> None:
    """Write the traceback to standard error, as Python would; the program may have broken what that needs."""
    try:
        trace = error.__traceback__
        for _ in range(2):  # the frames of this file
            trace = trace.tb_next if trace is not None else None
        traceback.print_exception(error.with_traceback(trace), limit=-8)
        sys.stderr.flush()
    except BaseException:
        _write(2, f"{type(error).__name__}\n".encode())


# --- the program alone ------------------------------------------------------------------------------------------------


def run_alone(program: int) -> NoReturn:
    """Run the program as a script. Its exit status is this process's."""
    _seed()
    source = _content(program)["source"]
    status = 0
    try:
        _execute(source, vars(_module("__main__")))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if isinstance(error.code, str):
            _write(2, error.code.encode(errors="replace") + b"\n")
    except BaseException as error:
        _complain(error)
        status = 1
    _finish(status & 0xFF)


def _finish(status: int) -> NoReturn:
    """End as an interpreter does: threads first, then exit functions, then buffers."""
    wait = (threading._shutdown,) if _num_threads() else ()  # type: ignore[attr-defined]
    for last in (*wait, atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):
        try:
            last()
        except BaseException:
            status = status or 1
    _exit(status)


# --- program and tests apart ------------------------------------------------------------------------------------------


def serve(program: int, line: socket.socket) -> NoReturn:
    """Load the program, say what its names are, and answer calls and questions for values until the socket closes."""
    _seed()
    source = _content(program)["source"]
    module = _module("program")
    try:
        _execute(source, vars(module))
    except BaseException as error:
        _complain(error)
        _exit(1)
    _flush()
    names = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    _send(line, {name: _kind(value) for name, value in names.items()})
    try:
        while (call := _receive(line)) is not None:
            reply = _answer(names, call) if "args" in call else _shown(vars(module).get(call["name"]))
            _flush()  # when the last test has ended, it is too late
            try:
                _send(line, reply)
            except (carry.Uncarried, ValueError, RecursionError, MemoryError):
                _send(line, {"unknown": "a value that is too large to hand over"})
    except OSError:
        pass  # the tests have ended
    _exit(0)


def _flush() -> None:
    with contextlib.suppress(BaseException):  # the program may have put anything in its place
        sys.stdout.flush()


def _kind(value: object) -> list[str]:
    """Return how the tests will see a name: a function to call, a module to import, or data to ask for."""
    if callable(value):
        return ["call"]
    return ["module", value.__name__] if isinstance(value, ModuleType) else ["value"]


def _shown(value: object) -> Any:
    """Return the value of a name of the program, for its tests."""
    if isinstance(value, carry.ITERATORS):
        return {"unknown": "an iterator of the program, which asking would use up"}
    return _packed(value)


def _packed(value: object) -> dict[str, Any]:
    try:
        return {"value": carry.pack_value(value)}
    except carry.Uncarried as error:
        if type(value).__eq__ is object.__eq__:
            return {"object": str(error)}
        return {"unknown": str(error)}


def _answer(names: Mapping[str, Any], call: Any) -> Any:
    try:
        args, kwargs = carry.unpack_value(call["args"]), carry.unpack_value(call["kwargs"])
        args_before = carry.pack_value(args)
        reply: dict[str, Any] = _limited(call["seconds"], lambda: _packed(names[call["name"]](*args, **kwargs)))
        try:
            args_after = carry.pack_value(args)
        except carry.Uncarried as error:
            return {"unknown": f"an argument that the program has changed: {error}"}
        if args_after != args_before:
            reply["args"] = args_after  # changed in place, which the tests may look at
        return reply
    except BaseException as error:
        base_names = [t.__name__ for t in type(error).__mro__ if t.__module__ == "builtins"]
        try:
            text = str(error)[:500]
        except BaseException:
            text = ""
        return {"error": [base_names[0] if base_names else "Exception", text]}


class ProgramEnded(BaseException):
    """The program has ended, or has tried to. No `except Exception` of a test takes this for an expected error."""


class Unknown(BaseException):
    """A test needs what cannot be handed from one process to the other."""


def _unknown(thing: Any, *_: object) -> NoReturn:
    raise Unknown(thing.why)


class _Object:
    """A value of the program that is no plain data, whose class has the equality of every object."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __getattr__(self, name: str) -> NoReturn:
        _unknown(self)


for _name in (
    *("bool", "len", "iter", "next", "contains", "getitem", "setitem", "delitem", "call", "hash", "str", "repr"),
    *("format", "int", "float", "index", "lt", "le", "gt", "ge", "add", "radd", "sub", "rsub", "mul", "rmul", "mod"),
    *("truediv", "rtruediv", "floordiv", "pow", "neg", "abs", "round", "and", "or", "enter", "reversed", "await"),
):
    setattr(_Object, f"__{_name}__", _unknown)


class _Names(dict[str, Any]):
    """The names of the tests. What they do not define themselves is the program's, and asked for at every use: a
    counter of the program has the value that it has then."""

    def __init__(self, line: socket.socket, entry_point: str, seconds: float) -> None:
        super().__init__(__name__="tests")
        self._line, self._entry_point, self.seconds = line, entry_point, seconds
        self.shown: Mapping[str, Any] = {}

    def __missing__(self, name: str) -> Any:
        if name not in self.shown or name.startswith("__") or (name in _PRISTINE and name != self._entry_point):
            raise KeyError(name)
        kind, *content = self.shown[name]
        if kind == "call":
            self[name] = _Function(name, self)
            return self[name]
        if kind == "module":
            if content[0] not in PRELOADED:
                raise KeyError(name)
            return importlib.import_module(content[0])
        return self.ask({"name": name})

    def ask(self, question: Mapping[str, Any]) -> Any:
        """Send a question to the program, and return the value that it answers with."""
        try:
            _send(self._line, question)
            reply = _receive(self._line)
        except carry.Uncarried as error:
            raise Unknown(f"an argument is {error}") from None
        except OSError:
            reply = None
        if reply is None:
            raise ProgramEnded("the program ended during a call")
        if "unknown" in reply:
            raise Unknown(f"the program gave {reply['unknown']}")
        if "error" in reply:
            kind, text = reply["error"]
            kind_class = carry.BUILT_IN_TYPES.get(kind, Exception)
            if not issubclass(kind_class, Exception):
                raise ProgramEnded(f"{kind}: {text}")
            try:
                expected = kind_class(text)
            except TypeError:  # one that is made of more than a text
                expected = Exception(f"{kind}: {text}")
            raise expected
        if "object" in reply:
            value = _Object(f"the program gave {reply['object']}")
        else:
            value = carry.unpack_value(reply["value"])
        return (value, carry.unpack_value(reply["args"]) if "args" in reply else None) if "args" in question else value


class _Function:
    """A function of the program, called from the tests' process."""

    def __init__(self, name: str, names: _Names) -> None:
        self.__name__, self._names = name, names

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            packed = {"args": carry.pack_value(args), "kwargs": carry.pack_value(kwargs)}
        except carry.Uncarried as error:
            raise Unknown(f"an argument is {error}") from None
        value, args_after = self._names.ask({"name": self.__name__, **packed, "seconds": self._names.seconds})
        if args_after is not None:
            carry.update(args, args_after)
        return value


def test(tests_file: int, line: socket.socket, verdict: int) -> NoReturn:
    """Run the tests against a program in another process, and write the nonce after the last has passed."""
    _seed()
    job = _content(tests_file)
    names = _Names(line, job["entry_point"], job["test_s"])
    flags = ""
    try:
        shown = _receive(line)
        if shown is None:
            _report(verdict, "the program did not load")
        names.shown = shown
        for name in job["imports"]:
            names[name] = importlib.import_module(name)
        _execute(job["tests"], names)
        flags = _each(job["separate_tests"], names, 0)
    except BaseException as error:
        _report(verdict, _describe(error, job["tests"]))
    _write(verdict, (job["nonce"] + flags).encode())
    _exit(0)


def _each(tests: list[str], names: dict[str, Any], seconds: float) -> str:
    """Run tests one by one, and return "1" for each that passes and "0" for each that does not."""
    flags = ""
    for text in tests:
        try:
            _limited(seconds, lambda text=text: _execute(text, names))  # type: ignore[misc]
            flags += "1"
        except BaseException:
            flags += "0"
    return flags


def _describe(error: BaseException, tests: str) -> str:
    """Return which test failed and how, in one line of bounded length."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "tests.py"]
    lines = tests.splitlines()
    number = (frames[-1].lineno or 0) if frames else 0
    line = lines[number - 1].strip()[:200] if 0 < number <= len(lines) else ""
    try:
        text = " ".join(str(error).split())[:200]
    except BaseException:
        text = ""
    if isinstance(error, Unknown):
        return f"{UNKNOWN.decode()}{text}"
    summary = text if isinstance(error, ProgramEnded) else f"{type(error).__name__}{': ' if text else ''}{text}"
    if isinstance(error, AssertionError):
        return f"failed: {line}" if line else "a test failed"
    return f"{summary} at {line}" if line else summary


def _report(verdict: int, reason: str) -> NoReturn:
    _write(verdict, reason.encode(errors="replace")[:2000])
    _exit(1)


def _send(line: socket.socket, message: Any) -> None:
    data = _dumps(message).encode()
    if len(data) > MAX_MESSAGE:
        raise carry.Uncarried("a value that is too large to hand over")
    line.sendall(_pack(">I", len(data)) + data)


def _receive(line: socket.socket) -> Any:
    """Return one message, None at the end of the stream."""
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


class _Over(dict[str, Any]):
    """The names of the tests, over those of the program as they are at every use."""

    def __init__(self, program: Mapping[str, Any], entry_point: str) -> None:
        super().__init__(__name__="tests")
        self._program, self._entry_point = program, entry_point

    def __missing__(self, name: str) -> Any:
        if name.startswith("__") or (name in _PRISTINE and name != self._entry_point):
            raise KeyError(name)
        return self._program[name]


def together(program: int, incoming: int, verdict: int) -> NoReturn:
    """Load the program, then get tests and nonce from the host, and run the tests over what the program defined."""
    _seed()
    job = _content(program)
    line = _socket(fileno=incoming)
    guarded = {name: dict(vars(_modules[name])) for name in _GUARDED}
    real, hooks = vars(builtins), gc.callbacks
    imports = {name: importlib.import_module(name) for name in job["imports"]}
    module = _module("program")
    try:
        _execute(job["source"], vars(module))
    except BaseException as error:
        _complain(error)
        _report(verdict, f"the program did not load: {_describe(error, '')}")
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
    _write(verdict, LOADED)
    _, files, _, _ = _receive_files(line, 1, 1)
    tests_job = _content(files[0])
    tests, entry_point = tests_job["tests"], tests_job["entry_point"]
    names = _Over(vars(module), entry_point)
    names.update(imports, __builtins__=_PRISTINE)
    try:
        _execute(tests, names)
        flags = _each(tests_job["separate_tests"], names, tests_job["test_s"])
    except BaseException as error:
        _report(verdict, _describe(error, tests))
    _write(verdict, (tests_job["nonce"] + flags).encode())
    _exit(0)
