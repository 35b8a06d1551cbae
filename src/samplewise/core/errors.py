"""Every exception that samplewise raises on purpose.

    SamplewiseError
    ├── SetupError                 the user must change something; the CLI prints one line and exits with 3
    │   ├── UsageError             a wrong word on the command line or in a recipe; exits with 2
    │   │   ├── UnknownName        no such sampler, engine, task ...; says the nearest names
    │   │   ├── BadSpec            a recipe or spec that does not parse or fit; marks the column
    │   │   └── BadInput           a file that cannot be read as what it should be; says the line
    │   ├── MissingExtra           an optional dependency is not installed; says the install line
    │   └── Unsupported            a sampler needs what the engine cannot do; raised before a token is paid
    ├── EngineError                an engine could not answer an ask (exits with 4 when nothing at all came back)
    │   ├── EngineTimeout          retryable
    │   ├── EngineUnavailable      retryable
    │   ├── RateLimited            retryable
    │   ├── BadRequest             not retryable
    │   ├── ContextOverflow        not retryable
    │   └── AuthError              not retryable
    └── StoreError                 the store cannot be opened, read or written; exits with 3
        ├── StoreVersion           written by a newer samplewise
        ├── StoreConflict          another process is drawing into this store
        └── MergeConflict          stores that are merged hold different things under one name

Misuse of a function raises `ValueError` or `TypeError` that says what was expected and what it got. The end of a
budget, an unreadable answer, an unscored candidate and a failed request are values, not exceptions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from samplewise.core.secrets import hide_secrets, mark_hidden


class SamplewiseError(Exception):
    """The root: catch this to catch everything that samplewise raises on purpose."""

    exit_code: ClassVar[int] = 3


class SetupError(SamplewiseError):
    """Something outside the run must change first: a setting, an installation, a file."""


class UsageError(SetupError):
    """A wrong word on the command line, in a recipe or in a file."""

    exit_code = 2


def _mark(text: str, column: int | None) -> str:
    if column is None:
        return ""
    text, column = mark_hidden(text, column)
    return f"\n  {text}\n  {' ' * column}^"


class UnknownName(UsageError):
    """A name that nothing is registered under. `column` is its 0-based column in `text`, if it is part of one."""

    def __init__(self, kind: str, name: str, names: Iterable[str], text: str = "", column: int | None = None) -> None:
        names = sorted(names)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
        super().__init__(f"no {kind} is called {name!r}; {hint}{_mark(text, column)}")
        self.kind, self.name, self.near = kind, name, tuple(near)


class BadSpec(UsageError):
    """A recipe or spec that does not parse, or whose arguments do not fit. `column` is a 0-based column of `text`.

    The message shows no credentials of the spec.
    """

    def __init__(self, message: str, text: str, column: int | None = None) -> None:
        super().__init__(f"{hide_secrets(message)}{_mark(text, column)}")
        self.text, self.column = text, column


class BadInput(UsageError):
    """A file that cannot be used as it is."""


class MissingExtra(SetupError):
    """An optional dependency is missing."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an extra that is not installed: pip install 'samplewise[{extra}]'")
        self.extra = extra


class Unsupported(SetupError):
    """The engine lacks a capability that the recipe needs."""


class EngineError(SamplewiseError):
    """An engine failed on an ask. Inside a run this becomes a completion with finish "error"; it is raised only where
    there is no ask to answer, such as while an engine is being opened."""

    exit_code = 4
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", status: int | None = None) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.hint, self.status = hint, status


class EngineTimeout(EngineError):
    """No answer within the time allowed."""

    retryable = True


class EngineUnavailable(EngineError):
    """The engine cannot be reached, or answers with a server error."""

    retryable = True


class RateLimited(EngineError):
    """The engine asks for fewer requests."""

    retryable = True


class BadRequest(EngineError):
    """The engine refuses this ask; a retry does not help."""


class ContextOverflow(EngineError):
    """Prompt and completion do not fit into the model's context."""


class AuthError(EngineError):
    """The engine does not accept the credentials."""


class StoreError(SamplewiseError):
    """The store cannot be opened, read or written."""


class StoreVersion(StoreError):
    """The store was written by a newer samplewise."""


class StoreConflict(StoreError):
    """Another process is drawing into this store: both would pay for the same draws."""


class MergeConflict(StoreError):
    """Stores that are merged hold different things under one name. `conflicts` says which, by table and store."""

    def __init__(self, message: str, conflicts: Iterable[object] = ()) -> None:
        super().__init__(message)
        self.conflicts = tuple(conflicts)
