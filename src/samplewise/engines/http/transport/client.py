"""A client for one base URL: JSON out, JSON in, no retries. It knows nothing of completions.

The library is aiohttp. Against a local server with 20 ms latency at concurrency 256, on two busy cores, it made 1,900
to 2,200 requests/s, httpx2 280 to 470 and httpx 60 to 90 (their pools walk through all connections for every request).
Like them it never resends a POST by itself. It is imported with the first request.
"""

from __future__ import annotations

import asyncio
import errno
import html
import ipaddress
import json
import re
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from samplewise.core.errors import BadRequest, EngineError, EngineTimeout, EngineUnavailable, SetupError
from samplewise.core.secrets import KnownSecrets, hide_secrets, secret_values
from samplewise.core.text import as_one_line
from samplewise.core.types import Json
from samplewise.engines.base import Hear
from samplewise.engines.http.transport.body import ENCODINGS, BadEncoding, body_pieces, encoding_of
from samplewise.engines.http.transport.stream import (
    HearEvent,
    StreamLimits,
    StreamTooLong,
    read_events,
    read_stream,
)

if TYPE_CHECKING:
    import aiohttp
    import yarl

MAX_TEXT = 4000  # characters of a reply that are kept as text
MAX_BYTES = 32 << 20  # of a reply, decompressed; a longer one is not read to the end
MAX_REASON = 200  # characters of what another program says
MAX_PIECES = 1 << 20  # of one choice of a stream
TLS_HINTS = {  # TLS failures that a retry cannot fix
    "WRONG_VERSION_NUMBER": "use http:// instead of https://",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not trusted; set SSL_CERT_FILE to a certificate to trust",
}
KEEP_ALIVE_S = 4.0  # below the 5 s after which uvicorn, and so vLLM, closes a connection: it may close it as we send
MARKUP = re.compile(r"<(script|style)\b.*?(</\1\s*>|$)|<!--.*?-->|<[^>]*>", re.IGNORECASE | re.DOTALL)


def error_text(body: Json, text: str = "", max_length: int = 300) -> str:
    """Return the server's error message on one printable line; of an HTML page, its text."""
    error = body.get("error") if isinstance(body, dict) else None
    message: Json = error.get("message") if isinstance(error, dict) else error
    if not isinstance(message, str) and isinstance(body, dict):
        message = next((body[name] for name in ("message", "detail", "msg") if body.get(name)), None)
    if not isinstance(message, str):
        if message:
            message = str(message)
        else:
            message = html.unescape(MARKUP.sub(" ", text)) if text.lstrip()[:1] == "<" else text
    return as_one_line(message, max_length)


class Reply(NamedTuple):
    """An HTTP reply, of any status."""

    status: int
    headers: Mapping[str, str]  # names match in any case
    body: Json | None  # None if it was not JSON, or broke off
    text: str  # the first 4,000 characters; "" if it broke off
    seconds: float

    @property
    def message(self) -> str:
        """Return the server's error message on one line."""
        return error_text(self.body, self.text)


def was_sent(error: EngineError) -> bool:
    """Return whether the request may have reached the server, and so may have been billed."""
    return bool(getattr(error, "sent", True))


def _mark_sent(error: EngineError, sent: bool) -> EngineError:
    error.sent = sent  # type: ignore[attr-defined]  # read by `was_sent`
    return error


def mark_unbilled(error: EngineError) -> EngineError:
    """Mark an error as one of a request that costs nothing, and return it."""
    return _mark_sent(error, False)


class Client:
    """Requests to one base URL, such as http://127.0.0.1:8000/v1. A query in it is sent with every request.

    A path that begins with "//" is relative to the server's root instead ("//tokenize"). `timeout_s` limits a whole
    request, `connect_timeout_s` its connection. Use a client within one event loop at a time: once that is closed,
    another may follow. The API key, credentials in `headers` and the `secrets` appear in no error, text or repr, and in
    no reply, should a server repeat them. Raises SetupError if the base URL is invalid.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 600.0,
        connect_timeout_s: float = 10.0,
        headers: Iterable[tuple[str, str]] = (),
        secrets: Iterable[str] = (),
    ) -> None:
        base_url = base_url.strip().rstrip("/")
        self.shown = without_credentials(base_url)
        parts = urlsplit(base_url)
        self._query = parts.query
        user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        self._authorization = f"Bearer {api_key}" if api_key else ""
        basic = b64encode(user.encode()).decode() if user != ":" else ""
        if basic and not api_key:
            self._authorization = f"Basic {basic}"
        self._timeout_s, self._connect_timeout_s = timeout_s, connect_timeout_s
        self._headers = dict(headers)
        of_query = {name: value for name, _, value in (pair.partition("=") for pair in parts.query.split("&"))}
        credentials = (api_key or "", unquote(parts.password or ""), basic, *secrets)
        self._secrets = KnownSecrets((*credentials, *secret_values([self._headers, of_query])))
        self._urls: dict[str, yarl.URL] = {}
        self._session: aiohttp.ClientSession | None = None
        self._closer: AsyncGenerator[None, None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that the connections belong to

    def __repr__(self) -> str:
        return f"Client({self.shown!r})"

    def post(
        self, path: str, body: Json | bytes, max_bytes: int = MAX_BYTES, *, content_type: str = ""
    ) -> Coroutine[None, None, Reply]:
        """Send a JSON body (bytes go out unchanged, as JSON or as `content_type`) and return the reply.

        A reply that breaks off has no body. Raises EngineTimeout or EngineUnavailable if no reply came (`was_sent`
        says whether the request may have been billed), BadRequest if it has more than `max_bytes`, decompressed, and
        SetupError if no TLS connection can be made.
        """
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._request("POST", path, data, max_bytes, content_type=content_type)

    def get(self, path: str) -> Coroutine[None, None, Reply]:
        """Send a GET request; otherwise as `post`."""
        return self._request("GET", path, None, MAX_BYTES)

    def download(self, path: str, max_bytes: int) -> Coroutine[None, None, Reply]:
        """Return a file as the text of the reply, all of it; "" if it broke off. Otherwise as `get`."""
        return self._request("GET", path, None, max_bytes, max_text=max_bytes)

    def stream(
        self,
        path: str,
        body: Json | bytes,
        idle_timeout_s: float,
        max_bytes: int = MAX_BYTES,
        max_pieces: int = MAX_PIECES,
        hear: Hear | None = None,
    ) -> Coroutine[None, None, Reply]:
        """Send a body that asks for server-sent events, and return the assembled reply; otherwise as `post`.

        `hear` is told of the pieces of the first choice as they come, up to where a credential begins.
        The whole request has no time limit. Raises EngineTimeout if nothing arrives for `idle_timeout_s`, or nothing
        but comments for `timeout_s`. A stream is not read beyond `max_bytes`, or beyond `max_pieces` of one choice.
        """
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        limits = StreamLimits(max_bytes, max_pieces, self._timeout_s)
        careful = None if hear is None else _Careful(hear, self._secrets)

        def read(pieces: AsyncIterator[bytes]) -> Coroutine[None, None, Json | None]:
            return read_stream(pieces, limits, time.monotonic, careful)

        return self._request("POST", path, data, max_bytes, idle_timeout_s, read)

    def events(
        self, path: str, body: Json, hear: HearEvent, idle_timeout_s: float, max_bytes: int = MAX_BYTES
    ) -> Coroutine[None, None, Reply]:
        """Send a body that asks for server-sent events, and tell of each as it comes; otherwise as `stream`.

        The reply's body is None where the stream broke off. `max_bytes` holds for each event.
        """
        limits = StreamLimits(max_bytes, MAX_PIECES, self._timeout_s)

        def hear_safely(event: Json) -> None:
            hear(self._secrets.hide_in(event, is_error=False))

        def read(pieces: AsyncIterator[bytes]) -> Coroutine[None, None, Json | None]:
            return read_events(pieces, limits, time.monotonic, hear_safely)

        return self._request("POST", path, json.dumps(body).encode(), max_bytes, idle_timeout_s, read)

    async def enter_loop(self) -> None:
        """Move to the running event loop, if that of the connections is closed. Raises SetupError if it still runs."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            raise SetupError(
                f"the engine of {self.shown} is in use in another event loop: await asolve in that one, or give each "
                "thread an engine of its own"
            )
        await self.close()
        self._loop = loop

    async def close(self) -> None:
        """Close all connections."""
        closer, self._closer, self._session, self._loop = self._closer, None, None, None
        if closer is not None:
            await closer.aclose()

    async def _request(
        self,
        method: str,
        path: str,
        data: bytes | None,
        max_bytes: int,
        idle_timeout_s: float | None = None,
        read: _ReadStream | None = None,
        max_text: int = MAX_TEXT,
        content_type: str = "",
    ) -> Reply:
        import aiohttp

        await self.enter_loop()
        if self._session is None:
            self._session = self._open()
            self._closer = _close_with_loop(self._session)
            await anext(self._closer)
        url = self._urls.get(path) or self._url(path)
        timeout = self._session.timeout
        if idle_timeout_s is not None:
            timeout = aiohttp.ClientTimeout(sock_connect=self._connect_timeout_s, sock_read=idle_timeout_s)
        started = time.perf_counter()
        try:
            # a redirected POST would arrive as a GET
            async with self._session.request(
                method,
                url,
                data=data,
                allow_redirects=False,
                timeout=timeout,
                headers={"Content-Type": content_type} if content_type else None,
            ) as response:
                body, text = None, ""
                try:
                    if read is not None and response.content_type == "text/event-stream":
                        body = await read(body_pieces(response))
                    else:
                        raw = await _read(response, max_bytes)
                        text = raw.decode(errors="replace")
                        body, text = _json(text), text[:max_text]
                except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError) as error:
                    if isinstance(error, TimeoutError):
                        raise
                except BadEncoding as error:
                    text = str(error)
                return self._reply(response, body, text, time.perf_counter() - started)
        except (_TooLong, StreamTooLong):
            message = f"{self.shown}: a reply of more than {max_bytes >> 20} MB, which is not read"
            raise _mark_sent(BadRequest(message), True) from None
        except aiohttp.ConnectionTimeoutError:
            message = f"{self.shown}: no connection within {self._connect_timeout_s:g} s"
            raise _mark_sent(EngineTimeout(message), False) from None
        except TimeoutError:
            limit = f"within {self._timeout_s:g} s"
            if idle_timeout_s is not None:
                limit = f"for {idle_timeout_s:g} s, or nothing but keep-alive comments for {self._timeout_s:g} s"
            raise _mark_sent(EngineTimeout(f"{self.shown}: no answer {limit}"), True) from None
        except aiohttp.ClientConnectorError as error:
            message = f"{self.shown} cannot be reached: {error.os_error.strerror or error.os_error}"
            if (reason := getattr(error.os_error, "reason", None)) in TLS_HINTS:
                raise SetupError(f"{message} ({TLS_HINTS[reason]})") from None
            hint = "is the server running?"
            if error.os_error.errno in (errno.EMFILE, errno.ENFILE):
                hint = "raise ulimit -n, or give a smaller max_concurrency"
            raise _mark_sent(EngineUnavailable(message, hint=hint), False) from None
        except aiohttp.InvalidURL:
            raise SetupError(f"base_url {self.shown!r} is not a valid URL") from None
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(error.__cause__ or error, aiohttp.ClientConnectionResetError):  # a kept-alive one was closed
                raise _mark_sent(EngineUnavailable(f"{self.shown} has closed the connection"), False) from None
            # the library quotes what it could not read
            why = as_one_line(self._secrets.hide(str(error)), MAX_REASON)
            why = f"broke off: {why}" if why else "closed the connection without an answer"
            raise _mark_sent(EngineUnavailable(f"{self.shown} {why}"), True) from None

    def _reply(self, response: aiohttp.ClientResponse, body: Json | None, text: str, seconds: float) -> Reply:
        """Return the reply without the credentials that the server repeats."""
        headers: Mapping[str, str] = response.headers
        if "location" in headers:
            moved = headers.copy()  # type: ignore[attr-defined]  # a multidict
            moved["location"] = as_one_line(hide_secrets(self._secrets.hide(headers["location"])), MAX_REASON)
            headers = moved
        body = self._secrets.hide_in(body, is_error=response.status >= 300 or _holds_error(body))
        return Reply(response.status, headers, body, self._secrets.hide(text), seconds)

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        from samplewise import __version__

        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"samplewise/{__version__}",
            "Accept-Encoding": ENCODINGS,
            **self._headers,
        }
        if self._authorization:
            headers["Authorization"] = self._authorization
        return aiohttp.ClientSession(
            # RequestGate limits concurrency, not the connection pool
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=self._connect_timeout_s),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,  # `body_pieces` does it, in pieces
            trust_env=not is_loopback(self.shown),  # proxies; looked up with every request, which takes time
        )

    def _url(self, path: str) -> yarl.URL:
        import yarl

        parts = urlsplit(self.shown)
        server = f"{parts.scheme}://{parts.netloc}"
        text = f"{server}{path[1:]}" if path.startswith("//") else f"{server}{parts.path}/{path}"
        mark = "&" if "?" in path else "?"
        return self._urls.setdefault(path, yarl.URL(f"{text}{mark}{self._query}" if self._query else text))


async def _close_with_loop(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Close a session when this generator is closed: by the event loop at the latest, which ends its generators."""
    try:
        yield
    finally:
        await session.close()


class _ReadStream(Protocol):
    """Reads a streamed reply. Returns None if it broke off."""

    def __call__(self, pieces: AsyncIterator[bytes], /) -> Coroutine[None, None, Json | None]: ...


class _Careful:
    """Tells of pieces of a draw without the credentials that the server repeats, also where pieces cut them."""

    def __init__(self, hear: Hear, secrets: KnownSecrets) -> None:
        self._hear, self._secrets = hear, secrets
        self._held = {True: "", False: ""}  # by whether it is reasoning: what may be the beginning of a credential
        self._is_over = False

    def __call__(self, piece: str, *, is_reasoning: bool) -> None:
        if self._is_over:
            return
        text = self._held[is_reasoning] + piece
        num, self._is_over = self._secrets.num_shown(text)
        self._held[is_reasoning] = text[num:]
        if num:
            self._hear(text[:num], is_reasoning=is_reasoning)


class _TooLong(Exception):
    """A reply of more bytes than allowed."""


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """Return the whole body. Raises _TooLong, and as `body_pieces`."""
    pieces, size, content = list[bytes](), 0, response.content
    if not encoding_of(response):  # mostly it is there already, and needs no generator
        while size <= max_bytes and not content.at_eof():
            pieces.append(await content.readany())
            size += len(pieces[-1])
    else:
        async for piece in body_pieces(response):
            pieces.append(piece)
            size += len(piece)
            if size > max_bytes:
                break
    if size > max_bytes:
        raise _TooLong
    return b"".join(pieces)


def _holds_error(body: Json) -> bool:
    """Return whether a reply, or one of its choices, is an error."""
    if not isinstance(body, dict):
        return False
    choices = body.get("choices")
    listed = choices if isinstance(choices, list) else []
    return bool(body.get("error")) or any(isinstance(choice, dict) and choice.get("error") for choice in listed)


def _json(text: str) -> Json | None:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def without_credentials(url: str) -> str:
    """Return the URL without user, password and credentials in its query. Raises SetupError if it is not http(s)."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        parts, port = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = hide_secrets(url.rpartition("@")[2])
        raise SetupError(f"base_url must look like http://127.0.0.1:8000/v1 or https://host/v1, got {shown!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    query = f"?{hide_secrets(parts.query)}" if parts.query else ""
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}{query}"


def is_loopback(url: str) -> bool:
    """Return whether the server runs on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, such as 127.0.0.1.example.com
        return False
