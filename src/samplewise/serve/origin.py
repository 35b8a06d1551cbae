"""Keep web pages of other origins from using the server through the browser of whoever can reach it.

Without keys, the server trusts everything on this computer, a browser among it. A page anywhere can make that browser
post to 127.0.0.1, and by a name that first resolves to the page's own server and then to 127.0.0.1 it could even read
the answers. The first kind carries an `Origin`, the second a `Host` that is not this computer's name.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit


def foreign_origin(
    headers: Mapping[str, str], *, is_open: bool, origins: Collection[str] = (), hosts: Collection[str] = ()
) -> str | None:
    """Return why a request must be refused with 403, or None if it may go on.

    `is_open`: the server has no keys. `origins` may use it from a browser, "*" for all of them; `hosts` are names that
    it goes by besides those of the loopback. `headers` must ignore case, as those of aiohttp do.
    """
    host = headers.get("Host", "")
    if is_open and host and not _is_loopback(host) and _name_of(host) not in hosts:
        return (
            f"the server has no keys and does not go by the name {_name_of(host)[:100]!r}: address it as localhost, "
            "or start it with --allow-host"
        )
    origin = headers.get("Origin")
    if origin is None or "*" in origins or origin in origins or (host and _netloc(origin) == host.lower()):
        return None
    return f"pages of {origin[:100]!r} may not use the server: start it with --cors ORIGIN to allow that"


def cors_headers(origin: str | None, origins: Collection[str]) -> dict[str, str]:
    """Return the headers that let a browser show an answer to a page of this origin; none where that is not allowed."""
    if origin is None or not ("*" in origins or origin in origins):
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        # clients send headers of their own; "*" stands for all but this one, as no cookies are let through
        "Access-Control-Allow-Headers": "Authorization, *",
        "Access-Control-Expose-Headers": "*",
        "Vary": "Origin",
    }


def _netloc(origin: str) -> str:
    """Return host and port of an origin, "" if it has none, as "null" has."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_of(host: str) -> str:
    """Return the name in a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0][1:].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


@functools.lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    name = _name_of(host)
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
