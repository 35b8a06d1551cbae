"""Where the rows of a published benchmark come from: a file at hand, else the Hugging Face Hub.

A benchmark is a `Source`: the name of its file, and the data set of the Hub that holds the same rows. The file is
looked for in `data_folder()/benchmarks` and in `data_folder()` itself; a file that is there is always used, so that a
run does not depend on the network. Without it the rows come through the package `datasets`, where that is installed.

Rows are handed over as they are written. Files and Hub call their fields differently, so a task makes its problems by a
function of one row, which looks a field up by all its names (`field`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from samplewise.errors import BadInput, SetupError
from samplewise.files import data_folder, find, lines, read
from samplewise.tasks.base import first
from samplewise.types import Json, Problem

__all__ = ["Source", "field", "find", "lines", "problems", "read", "rows"]


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
