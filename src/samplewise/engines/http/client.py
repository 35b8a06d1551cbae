"""One endpoint over HTTP: JSON out, JSON in, no retries. It knows nothing of completions.

The library is aiohttp. Against a local server with 20 ms latency at concurrency 256, on two busy cores, it made 1,900
to 2,200 requests/s, httpx2 280 to 470 and httpx 60 to 90 (their pools walk through all connections for every request).
Like them it never sends a POST twice by itself. It is imported with the first request.
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from samplewise.engines.http.stream import Assembly
from samplewise.errors import BadRequest, EngineError, EngineTimeout, EngineUnavailable, SetupError
from samplewise.types import Json

if TYPE_CHECKING:
    import aiohttp
    import yarl

MAX_TEXT = 4000  # characters of a reply that are kept as text
MAX_BYTES = 256 << 20  # of a reply; a server that sends more is not read to the end
NO_TLS = {  # what no second attempt can mend
    "WRONG_VERSION_NUMBER": "is it http:// instead of https://?",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted here; SSL_CERT_FILE may name one to trust",
}
KEEP_ALIVE_S = 4.0  # below the 5 s after which uvicorn, and so vLLM, closes a connection: it may close it as we send


class Reply(NamedTuple):
    """What came back. Any status is a reply."""

    status: int
    headers: Mapping[str, str]  # looked up by names in any case
    body: Json | None  # None where it was not JSON, or broke off
    text: str  # the first 4,000 characters as they came; "" where it broke off
    seconds: float


def was_sent(error: EngineError) -> bool:
    """Whether the request may have reached the server, and so may have been billed."""
    return bool(getattr(error, "sent", True))


def _lost(error: EngineError, sent: bool) -> EngineError:
    error.sent = sent  # type: ignore[attr-defined]  # read by `was_sent`
    return error


def free(error: EngineError) -> EngineError:
    """The same error, of a request that costs nothing."""
    return _lost(error, False)


class Client:
    """Requests to one base URL, such as http://127.0.0.1:8000/v1. A path that begins with "//" is relative to the
    server's root instead ("//tokenize"). Used within one event loop. The API key is in no error, text or repr.

    Raises SetupError for a base URL that is none. `timeout_s` is for a whole request, `connect_timeout_s` for its
    connection.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        connect_timeout_s: float = 10.0,
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        given = base_url.strip().rstrip("/")
        self.shown = without_credentials(given)
        parts = urlsplit(given)
        user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._key = api_key or ""
        self._authorization = f"Bearer {api_key}" if api_key else ""
        if user != ":" and not api_key:
            self._key = parts.password or ""
            self._authorization = f"Basic {b64encode(user.encode()).decode()}"
        self._timeout_s, self._connect_timeout_s = timeout_s, connect_timeout_s
        self._headers = dict(headers)
        self._urls: dict[str, yarl.URL] = {}
        self._session: aiohttp.ClientSession | None = None

    def __repr__(self) -> str:
        return f"Client({self.shown!r})"

    def post(self, path: str, body: Json | bytes) -> Coroutine[None, None, Reply]:
        """A body that is bytes is sent as it is. Raises EngineTimeout or EngineUnavailable where no reply came;
        `was_sent` tells whether it may have been billed. A reply that breaks off is a Reply without a body. SetupError
        where a secure connection cannot be made."""
        return self._request("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def get(self, path: str) -> Coroutine[None, None, Reply]:
        """As `post`."""
        return self._request("GET", path, None)

    def stream(self, path: str, body: Json | bytes, idle_timeout_s: float) -> Coroutine[None, None, Reply]:
        """As `post`, of a body that asks for server-sent events. Its reply is put together to what would have come in
        one piece. No limit on the whole, but EngineTimeout after `idle_timeout_s` without a sign of life."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._request("POST", path, data, idle_timeout_s)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _request(self, method: str, path: str, data: bytes | None, idle_timeout_s: float | None = None) -> Reply:
        import aiohttp

        if self._session is None:
            self._session = self._open()
        url = self._urls.get(path) or self._url(path)
        timeout = self._session.timeout
        if idle_timeout_s is not None:
            timeout = aiohttp.ClientTimeout(sock_connect=self._connect_timeout_s, sock_read=idle_timeout_s)
        started = time.perf_counter()
        try:
            # a redirected POST would arrive as a GET
            async with self._session.request(
                method, url, data=data, allow_redirects=False, timeout=timeout
            ) as response:
                headers = response.headers
                body, text = None, ""
                try:
                    if idle_timeout_s is not None and response.content_type == "text/event-stream":
                        body = await _assembled(response.content.iter_any())
                    else:
                        raw = await _read(response)
                        if self._key and response.status >= 400:  # some servers repeat the key that they refuse
                            raw = raw.replace(self._key.encode(), b"***")
                        text = raw.decode(errors="replace")
                        body, text = _json(text), text[:MAX_TEXT]
                except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as error:
                    if isinstance(error, TimeoutError):
                        raise
                return Reply(response.status, headers, body, text, time.perf_counter() - started)
        except aiohttp.ConnectionTimeoutError:
            message = f"{self.shown}: no connection within {self._connect_timeout_s:g} s"
            raise _lost(EngineTimeout(message), False) from None
        except TimeoutError:
            limit = f"within {self._timeout_s:g} s" if idle_timeout_s is None else f"for {idle_timeout_s:g} s"
            raise _lost(EngineTimeout(f"{self.shown}: no answer {limit}"), True) from None
        except aiohttp.ClientConnectorError as error:
            message = f"{self.shown} cannot be reached: {error.os_error.strerror or error.os_error}"
            if (reason := getattr(error.os_error, "reason", None)) in NO_TLS:
                raise SetupError(f"{message} ({NO_TLS[reason]})") from None
            raise _lost(EngineUnavailable(message, hint="is the server running?"), False) from None
        except aiohttp.InvalidURL:
            raise SetupError(f"base_url {self.shown!r} is no URL") from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error.__cause__ or error, aiohttp.ClientConnectionResetError):  # an old one, found closed
                raise _lost(EngineUnavailable(f"{self.shown} has closed the connection"), False) from None
            why = "closed the connection without an answer" if not str(error) else f"broke off: {error}"
            raise _lost(EngineUnavailable(f"{self.shown} {why}"), True) from None

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        from samplewise import __version__

        headers = {"Content-Type": "application/json", "User-Agent": f"samplewise/{__version__}", **self._headers}
        if self._authorization:
            headers["Authorization"] = self._authorization
        return aiohttp.ClientSession(
            # how many run at once is the pace's business, not the pool's
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=self._connect_timeout_s),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=not is_loopback(self.shown),  # a proxy; looked up with every request, which takes time
        )

    def _url(self, path: str) -> yarl.URL:
        import yarl

        parts = urlsplit(self.shown)
        text = f"{parts.scheme}://{parts.netloc}{path[1:]}" if path.startswith("//") else f"{self.shown}/{path}"
        return self._urls.setdefault(path, yarl.URL(text))


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.content_length is not None and response.content_length <= MAX_BYTES:
        return await response.read()
    chunks, size = [], 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            raise _lost(BadRequest(f"a reply of more than {MAX_BYTES >> 20} MB"), True)
    return b"".join(chunks)


async def _assembled(chunks: AsyncIterator[bytes]) -> Json | None:
    """The whole of a streamed reply, or None where it broke off."""
    assembly, rest = Assembly(), b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            assembly.line(line)
    assembly.line(rest)
    return assembly.body()


def _json(text: str) -> Json | None:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def without_credentials(url: str) -> str:
    """The URL as it may be shown. Raises SetupError where it is no URL of a server."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = url.rpartition("@")[2]
        raise SetupError(f"base_url must be such as http://127.0.0.1:8000/v1 or https://host/v1, not {shown!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}"


def is_loopback(url: str) -> bool:
    """Whether the server is on this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")
