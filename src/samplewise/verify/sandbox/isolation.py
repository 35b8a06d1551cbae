"""How a worker is started: the command line of bubblewrap, or, on the user's explicit request, without isolation.

Inside, there are only the interpreter, its standard library, the system's shared libraries and three devices, all
read-only: no shell, no home, no working directory, no environment, no network, no other process.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import get_args

from samplewise.core.errors import SetupError, UsageError
from samplewise.verify.sandbox.programs import Isolation

VARIABLE = "SAMPLEWISE_SANDBOX"
INSIDE = Path(__file__).parent / "inside"
MOUNT_POINT = "/samplewise"  # where the package `inside` is mounted in the sandbox
LIBRARIES = ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store")
ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MALLOC_ARENA_MAX": "1", "LC_ALL": "C.UTF-8", "HOME": "/tmp"}
INSTALL = (
    "programs run in bubblewrap, which is not here: install it (apt install bubblewrap, dnf install bubblewrap), or, "
    f"to run programs that a model wrote WITHOUT isolation, at your own risk, say --sandbox none or set {VARIABLE}=none"
)

_choice: list[Isolation] = []


def use(isolation: Isolation) -> None:
    """Choose the isolation of every sandbox made from now on.

    "none" is the user's consent that programs run as this user, with limits on time and memory, but with access to
    files and network.
    """
    _choice[:] = [_checked(isolation, "use()")]


def chosen() -> Isolation:
    """Return what `use` chose, otherwise the environment's choice, otherwise "bubblewrap"."""
    return _choice[0] if _choice else _checked(os.environ.get(VARIABLE) or "bubblewrap", VARIABLE)


def _checked(name: str, option: str) -> Isolation:
    for choice in get_args(Isolation):
        if name == choice:
            return choice  # type: ignore[no-any-return]
    raise UsageError(f"{option}: the sandbox is one of {', '.join(get_args(Isolation))}, got {name!r}")


def command(isolation: Isolation, uid: int, folder: str) -> list[str]:
    """Return the command line of a worker. `uid` replaces real root inside, `folder` is the programs' own. SetupError
    without bubblewrap."""
    python = os.path.realpath(sys.executable)
    run = [python, "-s", "-S", "-P", "-B", "-m", f"{INSIDE.name}.zygote", isolation, str(uid), folder]
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
    inside = f"{MOUNT_POINT}/{INSIDE.name}"
    needed = [*((path, path) for path in _interpreter(python)), (str(INSIDE), inside)]
    shown = [path for path in (*LIBRARIES, "/etc/ld.so.cache") if Path(path).exists() and not Path(path).is_symlink()]
    for path in (*shown, *(path for _, path in needed)):
        for parent in reversed(
            Path(path).parents[:-1]
        ):  # bubblewrap would make them for their owner alone, who is not the program
            arguments += ["--dir", str(parent)]
    for path in LIBRARIES:
        if Path(path).is_symlink():
            arguments += ["--symlink", str(Path(path).readlink()), path]
    for source, path in (*((path, path) for path in shown), *needed):
        arguments += ["--ro-bind", source, path]
    for path in _hidden():
        arguments += ["--tmpfs", path, "--remount-ro", path]
    arguments += ["--dir", "/dev"]
    for name in ("null", "random", "urandom"):  # zero is memory to share
        arguments += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    arguments += ["--symlink", "/tmp", "/dev/shm", "--proc", "/proc", "--tmpfs", "/tmp"]
    return [*arguments, "--chdir", MOUNT_POINT, "--remount-ro", "/"]


def _interpreter(python: str) -> list[str]:
    """Return what Python itself needs: the binary, the standard library, and the libraries that it was built with."""
    names = [python, f"{sys.base_prefix}/lib", sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED")]
    folder, library = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    if folder and library and sysconfig.get_config_var("Py_ENABLE_SHARED"):
        names.append(f"{folder}/{library}")
    paths: list[str] = []
    for name in names:
        if name and Path(name).exists() and not any(Path(name).is_relative_to(other) for other in (*LIBRARIES, *paths)):
            paths.append(name)
    return paths


def _hidden() -> list[str]:
    """Return the folders of installed packages, which are inside the folders of libraries."""
    folders = [Path(sysconfig.get_path("stdlib")) / "site-packages"]
    for library in LIBRARIES:
        folders += [path for kind in ("dist", "site") for path in Path(library).glob(f"python3*/{kind}-packages")]
    return [str(path) for path in dict.fromkeys(folders) if path.is_dir() and not path.is_symlink()]


def environment(isolation: Isolation) -> dict[str, str]:
    """Return the whole environment of a worker."""
    return {**ENVIRONMENT, "PYTHONPATH": MOUNT_POINT if isolation == "bubblewrap" else str(INSIDE.parent)}
