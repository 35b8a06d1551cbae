"""Keep profiles on disk, so that an endpoint is probed once: one JSON file per base URL, model and API.

Files lie under $XDG_CACHE_HOME/samplewise/endpoints, else ~/.cache/samplewise/endpoints. A file that is damaged, of
another version, or older than 30 days is ignored. The base URL is stored without credentials.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

from samplewise.engines.http.dialect.profile import Profile
from samplewise.engines.http.transport.client import without_credentials

VERSION = 4  # of the probe: raised when it comes to other conclusions
MAX_AGE_S = 30 * 86400.0


def load_profile(base_url: str, model: str, api: str) -> Profile | None:
    """Return the cached profile of an endpoint, or None."""
    try:
        entry = json.loads(_path(base_url, model, api).read_text(encoding="utf-8"))
        if entry["version"] != VERSION or entry["endpoint"] != _names(base_url, model, api):
            return None
        if not 0 <= time.time() - entry["at"] <= MAX_AGE_S:
            return None
        return Profile.from_json(entry["profile"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def save_profile(base_url: str, model: str, api: str, profile: Profile) -> None:
    """Cache a profile. Another process sees the old file or the new one, never a part.

    Nothing is cached, without an error, where nothing can be written, as in a container without a home.
    """
    path = _path(base_url, model, api)
    entry = {"version": VERSION, "endpoint": _names(base_url, model, api), "at": time.time()}
    text = json.dumps({**entry, "profile": profile.to_json()}, indent=1)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(unfinished).replace(path)
        except OSError:
            Path(unfinished).unlink(missing_ok=True)


def _path(base_url: str, model: str, api: str) -> Path:
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    digest = hashlib.blake2b(json.dumps(_names(base_url, model, api)).encode(), digest_size=12).hexdigest()
    return Path(folder) / "samplewise" / "endpoints" / f"{digest}.json"


def _names(base_url: str, model: str, api: str) -> list[str]:
    return [without_credentials(base_url.strip().rstrip("/")), model, api]
