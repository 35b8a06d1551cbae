"""Where the rows of a published benchmark come from: a file at hand, else the Hugging Face Hub.

A benchmark is a `Source`: the name of its file, and the data set of the Hub that holds the same rows. The file is
looked for in `data_folder()/benchmarks` and in `data_folder()` itself; a file that is there is always used, so that a
run does not depend on the network. Without it the rows come through the package `datasets`, where that is installed.

Rows are handed over as they are written. Files and Hub call their fields differently, so a task makes its problems by a
function of one row, which looks a field up by all its names (`field`).
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

from samplewise.errors import BadInput, SetupError
from samplewise.tasks.base import data_folder, first
from samplewise.types import Json, Problem


class Source(NamedTuple):
    """A published set of problems."""

    name: str
    file: str  # its file name: .jsonl, .json or .csv, plain or .gz
    hub: str = ""  # data set of the Hugging Face Hub; empty: none holds these rows
    config: str | None = None
    split: str = "test"
    origin: str = ""  # repository and revision, or who made it
    licence: str = ""


class MakeProblem(Protocol):
    """Makes a problem of one row. `number` counts rows from 1. May raise KeyError, TypeError and ValueError."""

    def __call__(self, number: int, row: Mapping[str, Json]) -> Problem: ...


def rows(source: Source) -> Sequence[dict[str, Json]]:
    """Every row of a source, in order. Raises SetupError where there is neither file nor network, and BadInput with the
    line where the file is damaged."""
    path = find(source.file)
    return read(path) if path is not None else _from_hub(source)


def problems(source: Source, make: MakeProblem, limit: int | None = None) -> tuple[Problem, ...]:
    """The first `limit` problems of a source. A row that does not fit is BadInput, and says its number and why."""
    first((), limit)  # a wrong limit is said before anything is fetched
    made = []
    for number, row in enumerate(rows(source)[:limit], start=1):
        try:
            made.append(make(number, row))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            what = f"has no field {error}" if isinstance(error, KeyError) else f"does not fit: {error}"
            raise BadInput(f"{find(source.file) or source.hub}: row {number} {what}") from None
    return tuple(made)


def field(row: Mapping[str, Json], *names: str) -> Json:
    """The first of these fields that the row has; KeyError with all of their names where it has none."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise KeyError(" or ".join(names))


def find(file: str) -> Path | None:
    """Where a file of this name lies, None where it does not."""
    folder = data_folder()
    places = () if folder is None else (folder / "benchmarks" / file, folder / file)
    return next((place for place in places if place.is_file()), None)


def read(path: Path) -> list[dict[str, Json]]:
    """The rows of a file: one JSON object a line, a JSON list of objects, or a CSV file with a header."""
    suffix = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if suffix == ".csv":
        found = _csv(path)
    elif suffix in (".json", ".jsonl"):
        found = _json(path)
    else:
        raise BadInput(f"{path}: expected a .jsonl, .json or .csv file, plain or gzipped")
    if not found:
        raise BadInput(f"{path}: holds no rows")
    return found


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text file, plain or gzipped, that are not blank, with their numbers from 1."""
    line = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for line, raw in enumerate(file, start=1):
                try:
                    decoded = raw.decode("utf-8-sig" if line == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    _fail(path, line, f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")
                if decoded.strip():
                    yield line, decoded
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        after = f" after line {line}" if line else ""
        raise BadInput(f"{path}: cannot be read{after}: {reason}") from None


def _fail(path: Path, line: int, message: str) -> NoReturn:
    raise BadInput(f"{path}:{line}: {message}")


def _json(path: Path) -> list[dict[str, Json]]:
    numbered = list(lines(path))
    if numbered and numbered[0][1].lstrip().startswith("["):
        whole = _parsed(path, numbered[0][0], "".join(text for _, text in numbered))
        items = [(number, item) for number, item in enumerate(whole, start=1)]
        place = "item "
    else:
        items, place = [(number, _parsed(path, number, text.rstrip())) for number, text in numbered], ""
    for number, item in items:
        if not isinstance(item, dict):
            raise BadInput(f"{path}:{place}{number}: expected a JSON object, got {str(item)[:40]!r}")
    return [item for _, item in items]


def _parsed(path: Path, line: int, text: str) -> Json:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        _fail(path, line + error.lineno - 1, f"not JSON: {error.msg} at column {error.colno}; is the file complete?")
    except (ValueError, RecursionError) as error:
        _fail(path, line, f"not JSON: {error}")


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _csv(path: Path) -> list[dict[str, Json]]:
    reader = csv.DictReader((text for _, text in lines(path)), strict=True)
    found: list[dict[str, Json]] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                _fail(path, reader.line_num, f"expected {len(reader.fieldnames or ())} columns")
            found.append(dict(row))
    except csv.Error as error:
        _fail(path, reader.reader.line_num, f"not CSV: {error}")
    return found


def _from_hub(source: Source) -> list[dict[str, Json]]:
    folder = data_folder()
    place = f"{folder}/benchmarks" if folder else "a folder that SAMPLEWISE_DATA names"
    hint = f"{source.name} is not here: put {source.file} into {place}"
    if not source.hub:
        raise SetupError(hint)
    try:
        import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise SetupError(f"{hint}, or pip install 'samplewise[eval]' to fetch {source.hub} from the Hub") from None
    try:
        fetched: Any = datasets.load_dataset(source.hub, source.config, split=source.split)
        return [dict(row) for row in fetched]
    except Exception as error:  # the package's failures have no common class, and all mean the same to the user
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise SetupError(f"{hint}; fetching {source.hub} from the Hub failed: {reason}") from None
