"""Who may draw into a store, and how one is read that cannot be written.

A claim is a lock of the operating system (`flock`) on the database file itself, so every name of the file is the same
claim: a relative path, a symbolic link, a name that it was given meanwhile. SQLite's own locks are of another kind and
do not meet it, but the system drops them all when a process closes any descriptor of the file. So a descriptor that has
claimed a file stays open until the process ends, and is used again by the next claim on that file; what is released is
the lock. On network file systems without locks a claim holds within one machine at best, and SQLite itself is not safe.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path
from urllib.parse import quote

from samplewise.core.errors import StoreConflict, StoreError

try:
    import fcntl
except ImportError:  # no POSIX system: one process at a time is then up to the user
    fcntl = None  # type: ignore[assignment]

_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}

_lock = threading.Lock()
_descriptors: dict[tuple[int, int, int], int] = {}  # by process, device and inode: open until the process ends
_claimed: set[tuple[int, int, int]] = set()


class Claim:
    """The right to draw into a file, until it is released. Made by `claim_file`."""

    def __init__(self, key: tuple[int, int, int]) -> None:
        self._key = key

    def release(self) -> None:
        """Give the claim up."""
        with _lock:
            _claimed.discard(self._key)
            if fcntl is not None:
                fcntl.flock(_descriptors[self._key], fcntl.LOCK_UN)


def claim_file(path: str) -> Claim:
    """Claim a file. Raises StoreConflict if it is claimed, by this process or another, StoreError if it cannot be.

    A file with a second name (a hard link) is refused: SQLite keeps its journal by name, so what a killed process has
    written through one name would be missing, or lost, through the other.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        raise StoreError(f"the store {path} cannot be claimed: {error.strerror}") from error
    if status.st_nlink > 1:
        raise StoreError(f"the store {path} has a second name (a hard link): remove that, or copy the store")
    key = (os.getpid(), status.st_dev, status.st_ino)
    conflict = f"another process is drawing into {path}; wait for it, or give another store"
    with _lock:
        if key in _claimed:
            raise StoreConflict(conflict)
        try:
            if key not in _descriptors:
                _descriptors[key] = os.open(path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
            if fcntl is not None:
                fcntl.flock(_descriptors[key], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreConflict(conflict) from None
        except OSError as error:
            raise StoreError(f"the store {path} cannot be claimed: {error.strerror}") from error
        _claimed.add(key)
    return Claim(key)


def is_unwritable(error: sqlite3.OperationalError) -> bool:
    """Return whether SQLite could not open a file because it, or its folder, cannot be written."""
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _UNWRITABLE


def copy_read_only(path: str) -> sqlite3.Connection:
    """Return a temporary copy of a database that cannot be written; SQLite removes it when it is closed.

    Cost: reads and writes the whole file once. Raises sqlite3.Error if it cannot be read.
    """
    journal, address = Path(f"{path}-wal"), f"file:{quote(str(Path(path).absolute()))}?mode=ro"
    with contextlib.ExitStack() as stack:
        source = sqlite3.connect(address, uri=True)
        if can_be_read(source):  # with its locks, so others may write it meanwhile
            pass
        elif journal.is_file() and journal.stat().st_size:  # the last draws are in there: it must be copied along
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            for part in (Path(path), journal):
                shutil.copy(part, folder / f"store{part.name.removeprefix(Path(path).name)}")
            source = sqlite3.connect(folder / "store")
        else:
            source = sqlite3.connect(f"{address}&immutable=1", uri=True)
        stack.callback(source.close)
        copy = sqlite3.connect("", isolation_level=None)
        try:
            source.backup(copy)
        except BaseException:
            copy.close()
            raise
    return copy


def can_be_read(db: sqlite3.Connection) -> bool:
    """Return whether SQLite can read this database where it is; close it if not."""
    try:
        db.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        db.close()
        return False
    return True
