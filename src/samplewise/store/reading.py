"""Read stores as they are: nothing is written to a file that is only looked at, whatever version it is of."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from samplewise.core.errors import StoreError
from samplewise.core.files import is_file
from samplewise.store.claims import can_be_read, copy_read_only
from samplewise.store.database import check_version
from samplewise.store.schema import MIGRATIONS, apply_migration


@contextlib.contextmanager
def attach_address(path: Path) -> Iterator[str]:
    """Yield the URI under which SQLite reads a store of today's version, without writing to it.

    A store of an older version, or one whose folder cannot be written, is copied, and the copy is brought up to date:
    it costs the file's size on disk until the end.

    Raises StoreError where there is no store, StoreVersion where a newer samplewise wrote it.
    """
    if not is_file(path):
        raise StoreError(f"no store at {path}")
    address = f"{path.absolute().as_uri()}?mode=ro"
    try:
        with _journal_kept(path):
            db = sqlite3.connect(address, uri=True)
            if can_be_read(db):
                with contextlib.closing(db):
                    is_current = check_version(db, str(path)) == len(MIGRATIONS)
                if is_current:
                    yield address
                    return
            with tempfile.TemporaryDirectory(prefix="samplewise-") as folder:
                copy = Path(folder) / "store.db"
                with (
                    contextlib.closing(copy_read_only(str(path))) as source,
                    contextlib.closing(_blank(copy)) as target,
                ):
                    check_version(source, str(path))
                    source.backup(target)
                    create_schema(target)
                yield f"{copy.as_uri()}?mode=ro"
    except sqlite3.Error as error:
        raise StoreError(f"the store {path} cannot be read: {error}") from error


@contextlib.contextmanager
def _journal_kept(path: Path) -> Iterator[None]:
    """Leave no journal beside a file that had none: SQLite makes one to read it, and only a writer removes it."""
    had_journal = Path(f"{path}-wal").exists()
    try:
        yield
    finally:
        if not had_journal and Path(f"{path}-wal").exists():
            with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
                db.execute("PRAGMA user_version").fetchone()  # opened as by a writer, and closed with nothing to write


@contextlib.contextmanager
def opened_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a store, brought up to date in a copy where it is older. It cannot write to the file."""
    with attach_address(path) as address, contextlib.closing(sqlite3.connect(address, uri=True)) as db:
        db.isolation_level = None
        yield db


def create_schema(db: sqlite3.Connection) -> None:
    """Bring a database that nobody else uses up to today's schema; a blank one too."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    db.execute("BEGIN")
    for migration in MIGRATIONS[version:]:
        apply_migration(db, migration)
    db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
    db.execute("COMMIT")


def _blank(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=OFF")
    db.execute("PRAGMA synchronous=OFF")
    return db
