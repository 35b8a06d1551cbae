"""How a worker is started: the command line of bubblewrap, or, when the user says so in words, without isolation.

Inside there are the interpreter, its standard library, the system's shared libraries and four devices, all read-only,
and nothing else: no shell, no home, no working directory, no environment, no network, no other process.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import get_args

from samplewise.errors import SetupError, UsageError
from samplewise.verify.sandbox.words import Isolation

VARIABLE = "SAMPLEWISE_SANDBOX"
INSIDE = Path(__file__).parent / "inside"
PLACE = "/samplewise"  # where the package `inside` is seen from inside
LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1", "LC_ALL": "C.UTF-8", "HOME": "/tmp"}
INSTALL = (
    "programs run in bubblewrap, which is not here: install it (apt install bubblewrap, dnf install bubblewrap), or, "
    f"to run programs that a model wrote WITHOUT isolation, at your own risk, say --sandbox none or set {VARIABLE}=none"
)

_said: list[Isolation] = []


def use(isolation: Isolation) -> None:
    """Choose the isolation of every sandbox that is made from now on. "none" is the user's word that programs may run
    as this user, with limits on time and memory and nothing to hold them off files and network."""
    _said[:] = [_checked(isolation, "use()")]


def chosen() -> Isolation:
    """What `use` said, else the environment, else "bubblewrap"."""
    return _said[0] if _said else _checked(os.environ.get(VARIABLE) or "bubblewrap", VARIABLE)


def _checked(name: str, where: str) -> Isolation:
    for known in get_args(Isolation):
        if name == known:
            return known  # type: ignore[no-any-return]
    raise UsageError(f"{where}: the sandbox is one of {', '.join(get_args(Isolation))}, got {name!r}")


def command(isolation: Isolation, uid: int) -> list[str]:
    """The command line of a worker. `uid` is what real root becomes inside. Raises SetupError without bubblewrap."""
    python = os.path.realpath(sys.executable)
    run = [python, "-s", "-S", "-P", "-B", "-m", f"{INSIDE.name}.zygote", isolation, str(uid)]
    if isolation == "none":
        return run
    bwrap = shutil.which("bwrap")
    if sys.platform != "linux" or bwrap is None:
        raise SetupError(INSTALL)
    return [bwrap, *_arguments(python), "--", *run]


def _arguments(python: str) -> list[str]:
    arguments = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    arguments += ["--die-with-parent", "--new-session", "--as-pid-1", "--hostname", "sandbox"]
    if os.getuid() == 0:  # the zygote becomes an unprivileged user before it reads the first program
        arguments += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        arguments += ["--unshare-user"]
    inside = f"{PLACE}/{INSIDE.name}"
    needed = [*((path, path) for path in _interpreter(python)), (str(INSIDE), inside)]
    there = [path for path in (*LIBRARIES, "/etc/ld.so.cache") if Path(path).exists() and not Path(path).is_symlink()]
    for path in (*there, *(path for _, path in needed)):
        for parent in reversed(Path(path).parents[:-1]):  # made for their owner alone otherwise, who is not the program
            arguments += ["--dir", str(parent)]
    for path in LIBRARIES:
        if Path(path).is_symlink():
            arguments += ["--symlink", str(Path(path).readlink()), path]
    for source, path in (*((path, path) for path in there), *needed):
        arguments += ["--ro-bind", source, path]
    for path in _hidden():
        arguments += ["--tmpfs", path, "--remount-ro", path]
    arguments += ["--dir", "/dev"]
    for name in ("null", "zero", "random", "urandom"):
        arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    arguments += ["--symlink", "/tmp", "/dev/shm", "--proc", "/proc", "--tmpfs", "/tmp"]
    return [*arguments, "--chdir", PLACE, "--remount-ro", "/"]


def _interpreter(python: str) -> list[str]:
    """What Python itself needs: the binary, the standard library, and the libraries that it was built with."""
    names = [python, f"{sys.base_prefix}/lib", sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED")]
    folder, library = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    if folder and library and sysconfig.get_config_var("Py_ENABLE_SHARED"):
        names.append(f"{folder}/{library}")
    found: list[str] = []
    for name in names:
        if name and Path(name).exists() and not any(Path(name).is_relative_to(seen) for seen in (*LIBRARIES, *found)):
            found.append(name)
    return found


def _hidden() -> list[str]:
    """Installed packages, which lie within the standard library."""
    folder = Path(sysconfig.get_path("stdlib")) / "site-packages"
    return [str(folder)] if folder.is_dir() else []


def environment(isolation: Isolation) -> dict[str, str]:
    """The whole environment of a worker."""
    return {**ENVIRONMENT, "PYTHONPATH": PLACE if isolation == "bubblewrap" else str(INSIDE.parent)}
