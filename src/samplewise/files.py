"""Files of data: where they lie, and reading them. Every complaint names the file and the line."""

from __future__ import annotations

import csv
import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from samplewise.errors import BadInput
from samplewise.types import Json


def data_folder() -> Path | None:
    """Where benchmark files and recorded draws lie: `SAMPLEWISE_DATA`, else `../shared/data` beside a source checkout;
    None if nowhere."""
    named = os.environ.get("SAMPLEWISE_DATA")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "data"
    return folder if folder.is_dir() else None


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


def numbered(path: Path) -> Iterator[tuple[int, dict[str, Json]]]:
    """The JSON objects of a file that has one a line, with their line numbers."""
    for number, text in lines(path):
        item = _parsed(path, number, text.strip())
        if not isinstance(item, dict):
            _fail(path, number, "expected a JSON object")
        yield number, item


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


def read_json(path: Path | str) -> Json:
    """The one value of a JSON file, plain or gzipped."""
    path = Path(path)
    numbered = list(lines(path))
    if not numbered:
        raise BadInput(f"{path}: is empty")
    return _parsed(path, numbered[0][0], "".join(text for _, text in numbered))


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


def _fail(path: Path, line: int, message: str) -> NoReturn:
    raise BadInput(f"{path}:{line}: {message}")
