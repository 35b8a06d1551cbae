"""The schema of the store, as migrations: SQL scripts and functions, each applied once to every store."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable

Migration = str | Callable[[sqlite3.Connection], None]


def record_team_members(db: sqlite3.Connection) -> None:
    """Add to the manifest of each run of a team which engine bears which name.

    Stores of the first versions knew it only as the text of the engine's identity, `crew(=a, strong=b)`. The text is
    read here, once, with the help of the identities that the draws are kept under.
    """
    identities = [identity for (identity,) in db.execute("SELECT DISTINCT engine FROM draws")]
    for run, engine, text in db.execute("SELECT id, engine, manifest FROM runs WHERE engine LIKE 'crew(%'").fetchall():
        members = {
            name: identity
            for identity in identities
            for name in re.findall(rf"(?:^crew\(|, )(\w*)={re.escape(identity)}(?=, \w+=|\)$)", engine)
        }
        manifest = json.loads(text)
        manifest["engine"] = {**manifest.get("engine", {}), "members": members}
        db.execute("UPDATE runs SET manifest=? WHERE id=?", (json.dumps(manifest), run))


def admit_packed_texts(db: sqlite3.Connection) -> None:
    """Change nothing: from this version on a text may be packed, which earlier ones could not read."""


def apply_migration(db: sqlite3.Connection, migration: Migration) -> None:
    """Apply one migration within the transaction that is open."""
    if callable(migration):
        migration(db)
        return
    for statement in migration.split(";"):
        db.execute(statement)


# Append only: a migration that has been released is never edited. Its number is its position in this list, from 1.
MIGRATIONS: tuple[Migration, ...] = (
    """
    CREATE TABLE draws (
        digest BLOB PRIMARY KEY, engine TEXT NOT NULL, ask TEXT NOT NULL, text TEXT NOT NULL, finish TEXT NOT NULL,
        tokens BLOB, logp BLOB, logq BLOB, logp_sum REAL, usage TEXT NOT NULL, at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, recipe TEXT NOT NULL, task TEXT NOT NULL, engine TEXT NOT NULL, seed INTEGER NOT NULL,
        manifest TEXT NOT NULL, started REAL NOT NULL, ended REAL
    );
    CREATE TABLE pools (
        run TEXT NOT NULL REFERENCES runs(id), question TEXT NOT NULL, number INTEGER NOT NULL, spent TEXT NOT NULL,
        stop TEXT NOT NULL, answers TEXT NOT NULL, problem TEXT NOT NULL, columns TEXT NOT NULL, -- the bulk comes last
        PRIMARY KEY (run, question)
    );
    CREATE TABLE scores (
        run TEXT NOT NULL, question TEXT NOT NULL, scorer TEXT NOT NULL, value BLOB NOT NULL,
        PRIMARY KEY (run, question, scorer), FOREIGN KEY (run, question) REFERENCES pools(run, question)
    );
    CREATE TABLE selections (
        run TEXT NOT NULL, question TEXT NOT NULL, selector TEXT NOT NULL, answer TEXT, position INTEGER, grade REAL,
        PRIMARY KEY (run, question, selector), FOREIGN KEY (run, question) REFERENCES pools(run, question)
    );
    CREATE TABLE events (id INTEGER PRIMARY KEY, run TEXT NOT NULL, at REAL NOT NULL, kind TEXT NOT NULL, data TEXT);
    CREATE INDEX events_of_run ON events(run);
    """,
    "ALTER TABLE draws ADD COLUMN top TEXT;",
    "ALTER TABLE draws ADD COLUMN logz BLOB; ALTER TABLE draws ADD COLUMN certainty BLOB;",
    "ALTER TABLE draws ADD COLUMN explored TEXT;",
    "UPDATE draws SET finish='rejected' WHERE finish='floor';",  # the word of the first stores
    record_team_members,
    "ALTER TABLE pools ADD COLUMN bill TEXT;",
    "ALTER TABLE draws ADD COLUMN reasoning TEXT; ALTER TABLE draws ADD COLUMN raw TEXT;",
    admit_packed_texts,
)
