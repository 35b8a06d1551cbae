"""The kernel's part of the sandbox, in plain system calls: user and mount namespaces, and a filter of system calls.

bubblewrap has already removed the network, the file system, the other processes and the environment. Here the
interpreter that starts the programs goes three steps further, before it has seen any of them:

1. real root becomes an unprivileged user, one per worker, because the kernel's limit on processes does not bind root;
2. it enters a new user and mount namespace, so that it can mount a fresh /tmp for each program. The programs drop that
   right, and can neither trace nor undo it. If the system forbids this (some distributions do), one /tmp is kept and
   emptied, and `enter` returns False;
3. /proc is covered: only this process keeps a way to it.

`confine` then limits a program permanently, by setrlimit and by a seccomp filter. The filter refuses system calls that
no honest benchmark program makes and that would reach a sibling, other namespaces, or memory that the watcher cannot
see (ptrace, unshare, mount, memfd_create, shmget, io_uring, keyctl, sockets other than Unix ones ...).
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
from pathlib import Path

from .request import Request

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_PR_SET_CHILD_SUBREAPER = 36
_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_NEW_ANY = 0x7E020000  # every CLONE_NEW* flag that clone takes
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_PRIVATE = 1, 2, 4, 8, 16384, 1 << 18
_MNT_DETACH = 2

NEEDED = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_NOFILE")  # without which no program is run
FIRST_UID = 1_900_000_000  # workers of real root: far above what any system hands out

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: int | bytes | None) -> None:
    values = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in args]
    if getattr(_libc, name)(*values) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends. Forgotten at every change of user."""
    _call("prctl", _PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def adopt_orphans() -> None:
    """Make descendants whose parent ends children of this process (pid 1 of a namespace has them anyway)."""
    _call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def hide_memory() -> None:
    """Let no other process of this user look into this one, or into its forks."""
    _call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def enter(uid: int) -> bool:
    """Give up root for `uid`, if this is root, and get own mounts. Returns False if this system allows no own
    mounts."""
    if os.getuid() == 0:
        Path("/tmp").chmod(0o777)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    user, group = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEWUSER | _NEWNS)
        _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # else the next three files belong to root
        for file, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            _write(f"/proc/self/{file}", text)
        _call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
        _call("mount", b"tmpfs", b"/proc", b"tmpfs", _MS_RDONLY | _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, b"size=4k")
        own = True
    except OSError:
        own = False
    hide_memory()
    die_with_parent()
    return own


def mount_fresh(folder: str, num_bytes: int, num_files: int) -> None:
    """Mount a new empty tmpfs on `folder`, over any earlier mount. Nothing in it can be executed."""
    options = f"size={num_bytes},nr_inodes={num_files + 2},mode=0700".encode()
    _call("mount", b"tmpfs", folder.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)


def unmount(folder: str) -> None:
    """Unmount `folder`."""
    _call("umount2", folder.encode(), _MNT_DETACH)


def _write(path: str, text: str) -> None:
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


# --- one program ------------------------------------------------------------------------------------------------------


def lacking() -> list[str]:
    """Return which of the limits that every program needs this system does not know or does not set."""
    names = [name for name in NEEDED if not hasattr(resource, name)]
    for name in NEEDED:
        if name not in names:
            pid = os.fork()
            if not pid:
                try:
                    _set_limit(name, 1 << 30, 1 << 30)
                    os._exit(0)
                except BaseException:
                    os._exit(1)
            if os.waitpid(pid, 0)[1]:
                names.append(name)
    return names


def confine(limits: Request, *, filtered: bool) -> None:
    """Limit this process, and all that it will start, permanently. `filtered`: with the filter of system calls."""
    memory, cpu = limits.memory, limits.cpu_s
    caps = {
        "RLIMIT_AS": (memory, memory),
        "RLIMIT_CPU": (cpu, cpu + 1),  # SIGXCPU, and a second later SIGKILL, which cannot be masked
        "RLIMIT_FSIZE": (limits.file, limits.file),
        "RLIMIT_NOFILE": (limits.open_files, limits.open_files),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_MEMLOCK": (0, 0),
        "RLIMIT_MSGQUEUE": (0, 0),
        "RLIMIT_SIGPENDING": (256, 256),
    }
    if limits.processes:
        caps["RLIMIT_NPROC"] = (limits.processes, limits.processes)
    for name, (soft, hard) in caps.items():
        if hasattr(resource, name):
            _set_limit(name, soft, hard)
    if filtered:
        _drop_capabilities()
        _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        _install_filter()


def _set_limit(name: str, soft: int, hard: int) -> None:
    kind = getattr(resource, name)
    most = resource.getrlimit(kind)[1]
    bound = (soft, hard) if most == resource.RLIM_INFINITY else (min(soft, most), min(hard, most))
    resource.setrlimit(kind, bound)


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", 0x20080522, 0)  # version 3, this process
    _call("capset", header, bytes(24))


# number of each refused system call on x86-64 and on 64-bit ARM; None where there is none
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "fanotify_init": (300, 262),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "socket": (41, 198),  # connections that nobody accepts would each hold a buffer; pairs are enough
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "setsockopt": (54, 208),
    "splice": (275, 76),
    "tee": (276, 77),
    "vmsplice": (278, 75),
    "sendfile": (40, 71),
    "flock": (73, 32),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "acct": (163, 89),
    "personality": (135, 92),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE, _CLONE3, _PRLIMIT, _MMAP, _FCNTL = (56, 220), (435, 435), (302, 261), (9, 222), (72, 25)
_SHARED, _ANONYMOUS = 0x01, 0x20  # flags of mmap
_SETLEASE, _SETPIPE_SZ = 1024, 1031  # of fcntl
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCH, _ARG0, _ARG1, _ARG3 = (
    0,
    4,
    16,
    24,
    40,
)  # where they stand in what the filter sees; the low half of an argument first


def can_filter() -> bool:
    """Return whether the filter knows this machine's system calls."""
    return platform.machine() in _MACHINES


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def program_of_filter(architecture: str) -> bytes:
    """Return the filter as the kernel's instructions, 8 bytes each. `yes` and `no` count instructions to skip."""
    column, audit_arch = _MACHINES[architecture]
    refuse, allow = _step(_RETURN, _ERROR | _EPERM), _step(_RETURN, _ALLOW)
    steps = [_step(_LOAD, _ARCH), _step(_EQUAL, audit_arch, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, _NUMBER)]
    if architecture == "x86_64":
        steps += [_step(_AT_LEAST, 0x40000000, 0, 1), refuse]  # the same calls under the numbers of x32
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            steps += [_step(_EQUAL, number, 0, 1), refuse]
    # threads are made by clone3 and, where that is missing, by clone, whose flags a filter can read
    steps += [_step(_EQUAL, _CLONE3[column], 0, 1), _step(_RETURN, _ERROR | _ENOSYS)]
    steps += [_step(_EQUAL, _CLONE[column], 0, 4), _step(_LOAD, _ARG0), _step(_ANY_BIT, _NEW_ANY, 0, 1)]
    steps += [refuse, allow]
    steps += [_step(_EQUAL, _MMAP[column], 0, 5), _step(_LOAD, _ARG3)]
    steps += [_step(_ANY_BIT, _SHARED, 0, 2), _step(_ANY_BIT, _ANONYMOUS, 0, 1), refuse, allow]
    steps += [_step(_EQUAL, _FCNTL[column], 0, 5), _step(_LOAD, _ARG1)]
    steps += [_step(_EQUAL, _SETLEASE, 1, 0), _step(_EQUAL, _SETPIPE_SZ, 0, 1), refuse, allow]
    # prlimit on itself alone: on pid 1 it would spoil the programs to come
    steps += [_step(_EQUAL, _PRLIMIT[column], 0, 4), _step(_LOAD, _ARG0), _step(_EQUAL, 0, 1, 0)]
    steps += [refuse, allow, allow]
    return b"".join(steps)


def _install_filter() -> None:
    _call("prctl", _PR_SET_SECCOMP, 2, _HEAD, 0, 0)


# made once: a fork has it ready
_FILTER = ctypes.create_string_buffer(program_of_filter(platform.machine()) if can_filter() else b"")
_HEAD = struct.pack("@HP", (len(_FILTER) - 1) // 8, ctypes.addressof(_FILTER))
