"""Data files: where they are, and how they are read. Every error names the file and the line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from samplewise.core.errors import BadInput, UsageError
from samplewise.core.types import Json

SQLITE = b"SQLite format 3\0"  # how a database begins


def data_folder() -> Path | None:
    """Return the folder of benchmark files and recorded draws, or None.

    It is `SAMPLEWISE_DATA`, else `../shared/data` beside a source checkout.
    """
    named = os.environ.get("SAMPLEWISE_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    return folder if folder.is_dir() else None


def is_file(path: Path) -> bool:
    """Return whether a file is there. A name that no file can have, such as one that is too long, names none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether a folder is there. A name that no folder can have names none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def refuse_database(path: Path) -> None:
    """Raise UsageError if a file that is to be written is an SQLite database, such as a store of paid draws."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(SQLITE)) == SQLITE:
            raise UsageError(f"{path} is a store or another database, which is not overwritten: give another file")


def find_data_file(file: str) -> Path | None:
    """Return the path of a benchmark file, or None if there is none."""
    folder = data_folder()
    paths = () if folder is None else (folder / "benchmarks" / file, folder / file)
    return next((path for path in paths if path.is_file()), None)


def read_table(path: Path) -> list[dict[str, Json]]:
    """Return the rows of a file: one JSON object per line, a JSON list of objects, or a CSV file with a header.

    Raises BadInput with file and line.
    """
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".csv":
        rows = _csv(path)
    elif suffix in (".json", ".jsonl"):
        rows = _json(path)
    else:
        raise BadInput(f"{path}: expected a .jsonl, .json or .csv file, plain or gzipped")
    if not rows:
        raise BadInput(f"{path}: holds no rows")
    return rows


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Json]]]:
    """Yield the JSON objects of a file that has one per line, with their line numbers."""
    for number, text in read_lines(path):
        item = _parsed(path, number, text.strip())
        if not isinstance(item, dict):
            _fail(path, number, "expected a JSON object")
        yield number, item


def read_lines(path: Path, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, plain or gzipped, with their numbers from 1; blank ones only with `blank`."""
    line = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                try:
                    decoded = raw.decode("utf-8-sig" if line == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    _fail(path, line, f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")
                if blank or decoded.strip():
                    yield line, decoded
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        after = f" after line {line}" if line else ""
        raise BadInput(f"{path}: cannot be read{after}: {reason}") from None


def _json(path: Path) -> list[dict[str, Json]]:
    numbered = list(read_lines(path))
    if numbered and numbered[0][1].lstrip().startswith("["):
        whole = _parsed(path, numbered[0][0], "".join(text for _, text in numbered))
        items = [(number, item) for number, item in enumerate(whole, start=1)]
        prefix = "item "
    else:
        items, prefix = [(number, _parsed(path, number, text.rstrip())) for number, text in numbered], ""
    for number, item in items:
        if not isinstance(item, dict):
            raise BadInput(f"{path}:{prefix}{number}: expected a JSON object, got {str(item)[:40]!r}")
    return [item for _, item in items]


def read_json(path: Path | str) -> Json:
    """Return the value of a JSON file, plain or gzipped."""
    path = Path(path)
    numbered = list(read_lines(path))
    if not numbered:
        raise BadInput(f"{path}: is empty")
    return _parsed(path, numbered[0][0], "".join(text for _, text in numbered))


def _parsed(path: Path, line: int, text: str) -> Json:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        _fail(path, line + error.lineno - 1, f"not JSON: {problem_of(error)}; is the file complete?")
    except RecursionError:
        _fail(path, line, "its JSON is nested too deeply")
    except ValueError as error:
        _fail(path, line, f"not JSON: {error}")


def problem_of(error: json.JSONDecodeError) -> str:
    """Return what is wrong with a line of JSON, and at which column."""
    return f"{error.msg.removesuffix(' at')} at column {error.colno}"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _csv(path: Path) -> list[dict[str, Json]]:
    reader = csv.DictReader((text for _, text in read_lines(path, blank=True)), strict=True)
    rows: list[dict[str, Json]] = []
    try:
        named = [name for name in reader.fieldnames or () if name.strip()]  # columns without a name are often empty
        for name in named:
            if named.count(name) > 1:
                _fail(path, reader.line_num, f"two columns are called {name!r}; one of them would be lost")
        for row in reader:
            if None in row or None in row.values():
                _fail(path, reader.line_num, f"expected {len(reader.fieldnames or ())} columns")
            rows.append(dict(row))
    except csv.Error as error:
        _fail(path, reader.reader.line_num, f"not CSV: {error}")
    return rows


def _fail(path: Path, line: int, message: str) -> NoReturn:
    raise BadInput(f"{path}:{line}: {message}")
