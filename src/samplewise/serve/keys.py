"""Keys of the server's clients: who may ask, for which recipes, and how much.

A key file is TOML. It holds no key, only the SHA-256 digest of each, so it may be read by others:

    [policy.team]
    recipes = "presets"            # or "free": any recipe line; presets and plain models are always allowed
    tokens_per_request = 40000
    tokens_per_day = 2000000

    [key.alice]
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    policy = "team"
    requests_per_minute = 30       # a key's own limits take precedence over its policy's

Limits are counted for each key, never for a policy as a whole. `new_key` makes a key and its entry.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from samplewise.core.checks import check_choice, check_count, check_number
from samplewise.core.errors import BadInput, UsageError
from samplewise.core.secrets import hide_secrets

Recipes = Literal["free", "presets"]
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
PREFIX = "sk-sw-"  # so that logs and messages, which hide what looks like "sk-...", never show a key
COUNTS = ("tokens_per_request", "tokens_per_day", "requests_per_minute", "concurrency")
AMOUNTS = ("usd_per_request", "usd_per_day", "seconds_per_request")
LIMITS = ("recipes", *COUNTS, *AMOUNTS)
PER_DAY = (("tokens_per_day", "tokens_per_request"), ("usd_per_day", "usd_per_request"))


@dataclass(frozen=True, slots=True)
class Policy:
    """What the holder of one key may do. `name` is the key's, and limits are counted by it. None is no limit.

    A day's limits need those of a request, which are reserved while it runs: only so can a day's limit hold with many
    requests at once.
    """

    name: str
    recipes: Recipes = "presets"
    tokens_per_request: int | None = None
    usd_per_request: float | None = None
    tokens_per_day: int | None = None
    usd_per_day: float | None = None
    requests_per_minute: int | None = None
    concurrency: int | None = None
    seconds_per_request: float | None = None  # until the answer is the best so far

    def __post_init__(self) -> None:
        """Raise ValueError naming the limit that does not fit."""
        check_choice("recipes", self.recipes, get_args(Recipes))
        for name in COUNTS:
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), most=10**12)
        for name in AMOUNTS:
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0, above=True)
        for day, request in PER_DAY:
            if getattr(self, day) is None:
                continue
            if getattr(self, request) is None:
                raise ValueError(f"{day} needs {request}, which is reserved while a request runs")
            if getattr(self, request) > getattr(self, day):
                raise ValueError(f"{request} is more than {day}: no request would ever be admitted")

    @property
    def has_daily_limits(self) -> bool:
        """Return whether anything is limited for a day."""
        return self.tokens_per_day is not None or self.usd_per_day is not None


OPEN = Policy("local", recipes="free")  # of everybody, where the server has no keys and listens on the loopback alone


class KeyRing:
    """The keys of a server by their digests, each with its policy."""

    def __init__(self, policies: Mapping[str, Policy]) -> None:
        """Take the policy of each SHA-256 digest, in lower-case hexadecimal."""
        self._policies = tuple((digest.encode(), policy) for digest, policy in policies.items())

    def __len__(self) -> int:
        """Return how many keys there are."""
        return len(self._policies)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the keys."""
        return tuple(policy.name for _, policy in self._policies)

    @property
    def has_daily_limits(self) -> bool:
        """Return whether any key has a limit for a day."""
        return any(policy.has_daily_limits for _, policy in self._policies)

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """Return the keys of a file. Raises BadInput, with what to change, if it is not a key file."""
        try:
            text = Path(path).read_text("utf-8-sig")
        except OSError as error:
            raise BadInput(f"cannot read the key file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise BadInput(f"{path} is not a key file: it is not UTF-8 text") from None
        try:
            return cls(_policies(tomllib.loads(text)))
        except ValueError as error:  # also of TOML; its message shows no more than a position
            raise BadInput(hide_secrets(f"{path}: {error}")) from None

    def policy_of(self, token: str | None) -> Policy | None:
        """Return the policy of a key, or None if it is no key of this server.

        Every digest is compared in constant time, and a match ends nothing early, so that the time tells nothing about
        which key was right, or nearly right.
        """
        digest = key_digest(token or "").encode()
        matched = None
        for stored, policy in self._policies:
            if secrets.compare_digest(stored, digest):
                matched = policy
        return matched if token else None


def key_digest(token: str) -> str:
    """Return the SHA-256 digest of a key in hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def new_key(name: str) -> tuple[str, str]:
    """Return a new key of 256 random bits, and its entry for the key file. Raises UsageError for a bad name.

    The key itself is stored nowhere.
    """
    if not NAME.fullmatch(name):
        raise UsageError(f"the name of a key has 1 to 64 letters, digits, - and _, got {name!r}")
    token = PREFIX + secrets.token_urlsafe(32)
    return token, f'[key.{name}]\nsha256 = "{key_digest(token)}"\nrecipes = "presets"\n'


def token_of(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request carries, or None.

    It is read from `Authorization: Bearer KEY`, from `Authorization: Basic`, whose password it is, or from `api-key` or
    `x-api-key`. A browser that was asked for the password sends it by itself, whatever page makes it: `origin` keeps
    those pages away. `headers` must ignore case, as those of aiohttp do.
    """
    scheme, _, value = headers.get("Authorization", "").strip().partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    if scheme.lower() == "basic" and value:
        try:
            text = base64.b64decode(value, validate=True).decode("utf-8")
        except (binascii.Error, ValueError):
            return None
        return text.partition(":")[2] or None
    return headers.get("api-key") or headers.get("x-api-key") or None


def _policies(document: Mapping[str, Any]) -> dict[str, Policy]:
    """Return the policy of each digest. Raises ValueError that names the entry and says what is wrong."""
    unknown = sorted(document.keys() - {"policy", "key"})
    if unknown:
        raise ValueError(f"no section called {unknown[0]!r}; there are [policy.NAME] and [key.NAME]")
    shared = {name: _limits(f"policy.{name}", table) for name, table in _tables(document, "policy")}
    policies: dict[str, Policy] = {}
    for name, table in _tables(document, "key"):
        entry = f"key.{name}"
        if not NAME.fullmatch(name):
            raise ValueError(f"[{entry}]: the name of a key has 1 to 64 letters, digits, - and _")
        digest = table.pop("sha256", None)
        if not isinstance(digest, str) or not DIGEST.fullmatch(digest.lower()):
            raise ValueError(
                f"[{entry}]: sha256 must be the 64 hexadecimal digits of the key's SHA-256 digest; "
                f"`samplewise serve --new-key {name}` makes a key and its entry"
            )
        base = table.pop("policy", None)
        if base is not None and (not isinstance(base, str) or base not in shared):
            known = ", ".join(sorted(shared)) or "none"
            raise ValueError(f"[{entry}]: there is no policy called {_shown(base)}; known: {known}")
        limits = (shared[base] if base is not None else {}) | _limits(entry, table)
        if digest.lower() in policies:
            raise ValueError(f"[{entry}] has the same digest as [key.{policies[digest.lower()].name}]")
        try:
            policies[digest.lower()] = replace(Policy(name), **limits)
        except ValueError as error:
            raise ValueError(f"[{entry}]: {error}") from None
    if not policies:
        raise ValueError("no [key.NAME] in it; `samplewise serve --new-key NAME` makes a key and its entry")
    return policies


def _tables(document: Mapping[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
    tables = document.get(section, {})
    if not isinstance(tables, dict):
        raise ValueError(f"{section} must be tables, each headed [{section}.NAME]")
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ValueError(f"[{section}] holds tables alone, each headed [{section}.NAME]; {_shown(name)} is none")
    return [(name, dict(table)) for name, table in tables.items()]


def _limits(entry: str, table: Mapping[str, Any]) -> dict[str, Any]:
    """Return the limits in a table. A field of another name is refused, and its value, maybe a key, is not shown."""
    for name in table:
        if name not in LIMITS:
            raise ValueError(f"[{entry}]: no field called {_shown(name)}; known: {', '.join(LIMITS)}")
    try:
        replace(Policy("limits"), **{name: value for name, value in table.items() if not name.endswith("_day")})
    except ValueError as error:
        raise ValueError(f"[{entry}]: {error}") from None
    return dict(table)


def _shown(name: object) -> str:
    """Return a name as a message shows it: it may be a key that stands in the wrong column, so never whole."""
    text = str(name)
    return repr(text if len(text) <= 20 else f"{text[:8]}...")
