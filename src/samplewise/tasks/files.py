"""Where the rows of a published benchmark come from: a local file, otherwise the Hugging Face Hub.

A benchmark is a `BenchmarkSource`: the name of its file, and the data set of the Hub with the same rows. The file is
looked for in `data_folder()/benchmarks` and in `data_folder()` itself. A local file is always used, so that a run does
not depend on the network. Without it the rows come through the package `datasets`, if that is installed.

Rows are returned as they are written. Files and Hub name their fields differently, so a task makes a problem from a row
by a function, which looks a field up by all its names (`field`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from samplewise.core.errors import BadInput, SetupError
from samplewise.core.files import data_folder, find_data_file, read_table
from samplewise.core.types import Json, Problem
from samplewise.tasks.base import first_problems

__all__ = ["BenchmarkSource", "field", "find_data_file", "problems", "read_table", "rows"]


class BenchmarkSource(NamedTuple):
    """A published set of problems."""

    name: str
    file: str  # its file name: .jsonl, .json or .csv, plain or .gz
    hub: str = ""  # data set of the Hugging Face Hub; empty: none holds these rows
    config: str | None = None
    split: str = "test"
    origin: str = ""  # repository and revision, or who made it
    licence: str = ""


class MakeProblem(Protocol):
    """Make a problem of one row. `number` counts rows from 1. May raise KeyError, TypeError and ValueError."""

    def __call__(self, number: int, row: Mapping[str, Json]) -> Problem: ...


def rows(source: BenchmarkSource) -> Sequence[dict[str, Json]]:
    """Return every row of a source, in order. SetupError without file and network, BadInput with the line for a
    damaged file."""
    path = find_data_file(source.file)
    return read_table(path) if path is not None else _from_hub(source)


def problems(source: BenchmarkSource, make: MakeProblem, limit: int | None = None) -> tuple[Problem, ...]:
    """Return the first `limit` problems of a source. A row that does not fit is BadInput with its number and the
    reason."""
    first_problems((), limit)  # report a wrong limit before anything is fetched
    result = []
    for number, row in enumerate(rows(source)[:limit], start=1):
        try:
            result.append(make(number, row))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            what = f"has no field {error}" if isinstance(error, KeyError) else f"does not fit: {error}"
            raise BadInput(f"{find_data_file(source.file) or source.hub}: row {number} {what}") from None
    return tuple(result)


def field(row: Mapping[str, Json], *names: str) -> Json:
    """Return the first of these fields that the row has. KeyError with all of their names if it has none."""
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise KeyError(" or ".join(names))


def _from_hub(source: BenchmarkSource) -> list[dict[str, Json]]:
    folder = data_folder()
    folder_name = f"{folder}/benchmarks" if folder else "a folder that SAMPLEWISE_DATA names"
    hint = f"{source.name} is not here: put {source.file} into {folder_name}"
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
