"""Profiles on disk, so that an endpoint is probed once: one JSON file for each base URL, model and API.

Under $XDG_CACHE_HOME/samplewise/endpoints, else ~/.cache/samplewise/endpoints. A file that is damaged, of another
version, or older than 30 days is as good as none. The base URL is kept without credentials.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from samplewise.engines.http.client import without_credentials
from samplewise.engines.http.profile import Profile

VERSION = 2  # of the probe: raised when it comes to other conclusions
MAX_AGE_S = 30 * 86400.0


class Entry(NamedTuple):
    """A kept profile, and when it was found out (seconds since 1970)."""

    profile: Profile
    at: float


def path_of(base_url: str, model: str, api: str) -> Path:
    """Where the profile of an endpoint is kept."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.blake2b(json.dumps(_names(base_url, model, api)).encode(), digest_size=12).hexdigest()
    return Path(folder) / "samplewise" / "endpoints" / f"{digest}.json"


def entry(base_url: str, model: str, api: str) -> Entry | None:
    """The kept profile with its age, or None."""
    try:
        kept = json.loads(path_of(base_url, model, api).read_text(encoding="utf-8"))
        if kept["version"] != VERSION or kept["endpoint"] != _names(base_url, model, api):
            return None
        if not 0 <= time.time() - kept["at"] <= MAX_AGE_S:
            return None
        return Entry(Profile.from_json(kept["profile"]), kept["at"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def load(base_url: str, model: str, api: str) -> Profile | None:
    """The kept profile of an endpoint, or None."""
    found = entry(base_url, model, api)
    return None if found is None else found.profile


def save(base_url: str, model: str, api: str, profile: Profile) -> None:
    """Keep a profile. Another process sees the old file or the new one, never a part. Where nothing can be written, as
    in a container without a home, nothing is kept."""
    path = path_of(base_url, model, api)
    kept = {"version": VERSION, "endpoint": _names(base_url, model, api), "at": time.time()}
    text = json.dumps({**kept, "profile": profile.to_json()}, indent=1)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(unfinished).replace(path)
        except OSError:
            Path(unfinished).unlink(missing_ok=True)


def _names(base_url: str, model: str, api: str) -> list[str]:
    return [without_credentials(base_url.strip().rstrip("/")), model, api]
