"""Assemble server-sent events into the JSON body that an unstreamed reply would have had.

A streamed reply is a sequence of lines `data: {chunk}`, interleaved with keep-alive comments, and ends with
`data: [DONE]`. Chunks hold pieces of each choice's text, log-probs and token ids; the last ones hold the finish reason
and the usage. A stream may never end: what it may hold is limited by `StreamLimits`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple, Protocol

from samplewise.core.types import Json
from samplewise.engines.base import Hear
from samplewise.engines.http.transport.pace import Clock

TEXTS = ("content", "reasoning", "reasoning_content")  # message fields whose pieces are concatenated


class StreamLimits(NamedTuple):
    """When a stream is not read any further: in bytes, in pieces of one choice, in seconds without a piece."""

    max_bytes: int
    max_pieces: int
    quiet_s: float


class StreamTooLong(Exception):
    """A stream of more bytes than allowed that holds no text."""


class StreamAssembler:
    """Collect the lines of a stream and return the assembled body."""

    def __init__(self, hear: Hear | None = None) -> None:
        """Take who hears the pieces of the first choice."""
        self._hear = hear
        self.num_pieces = 0  # that held text or token ids
        self.most_pieces = 0  # of one choice
        self._body: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._pieces: dict[int, int] = {}
        self._done = self._broken = False

    def add_line(self, line: bytes) -> None:
        """Add one line, without its line end. Lines that are not data are ignored."""
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self._done = True
            return
        try:
            chunk = json.loads(data)
        except (ValueError, RecursionError):
            chunk = None
        if isinstance(chunk, dict):
            self._add(chunk)
        else:
            self._broken = True

    def body(self) -> Json | None:
        """Return the assembled body, or None if the stream broke off: no end mark, and a choice without a finish."""
        complete = bool(self._choices) and all(choice.get("finish_reason") for choice in self._choices.values())
        if "error" in self._body:
            return self._body
        if self._broken or not (self._done or complete) or not self._choices:
            return None
        return self._assembled()

    def cut_body(self) -> Json:
        """Return the body of a stream that was not read any further: choices that had not ended are cut."""
        for choice in self._choices.values():
            choice["finish_reason"] = choice.get("finish_reason") or "length"
        return self._assembled()

    def _assembled(self) -> Json:
        return {**self._body, "choices": [self._choices[index] for index in sorted(self._choices)]}

    def _add(self, chunk: dict[str, Any]) -> None:
        for name, value in chunk.items():
            if name != "choices" and value is not None:
                self._body[name] = value
        choices = chunk.get("choices")
        for piece in choices if isinstance(choices, list) else []:
            if isinstance(piece, dict):
                index = piece.get("index")
                index = index if isinstance(index, int) else 0
                if self._hear is not None and index == 0:
                    _tell(self._hear, piece)
                if _append_piece(self._choices.setdefault(index, {"index": index}), piece):
                    self.num_pieces += 1
                    self._pieces[index] = self._pieces.get(index, 0) + 1
                    self.most_pieces = max(self.most_pieces, self._pieces[index])


def _tell(hear: Hear, piece: dict[str, Any]) -> None:
    """Tell what a piece adds to the text and the reasoning of its choice. Content in parts is not told."""
    delta = piece.get("delta")
    added = delta if isinstance(delta, dict) else {"content": piece.get("text")}
    for name in TEXTS:
        text = added.get(name)
        if isinstance(text, str) and text:
            hear(text, is_reasoning=name != "content")


def _added(before: Json, piece: str | list[Json]) -> Json:
    """Return content with another piece: as text if all of it came so, else in parts."""
    if isinstance(before, str | None) and isinstance(piece, str):
        return (before or "") + piece
    if isinstance(before, list) and isinstance(piece, list):
        before.extend(piece)
        return before
    parts = ([{"type": "text", "text": some}] if isinstance(some, str) else some or [] for some in (before, piece))
    return [part for some in parts for part in some]


def _append_piece(choice: dict[str, Any], piece: dict[str, Any]) -> bool:
    """Append a piece to its choice, in place. Return whether it held text or token ids."""
    grown = False
    delta = piece.get("delta")
    if isinstance(delta, dict):
        message = choice.setdefault("message", {"content": None})
        for name in TEXTS:
            if isinstance(delta.get(name), str):
                message[name] = _added(message.get(name), delta[name])
                grown = grown or bool(delta[name])
        for name in ("content", "reasoning_details"):
            if isinstance(delta.get(name), list):
                message[name] = _added(message.get(name), delta[name])
                grown = grown or bool(delta[name])
    if isinstance(piece.get("text"), str):
        choice["text"] = choice.get("text", "") + piece["text"]
        grown = grown or bool(piece["text"])
    if isinstance(piece.get("token_ids"), list):
        choice.setdefault("token_ids", []).extend(piece["token_ids"])
        grown = grown or bool(piece["token_ids"])
    if isinstance(piece.get("logprobs"), dict):
        logprobs = choice.setdefault("logprobs", {})
        for name in ("content", "token_logprobs", "top_logprobs"):
            if isinstance(piece["logprobs"].get(name), list):
                logprobs.setdefault(name, []).extend(piece["logprobs"][name])
    for name in ("finish_reason", "prompt_token_ids", "error"):
        if piece.get(name) is not None:
            choice[name] = piece[name]
    return grown


async def read_stream(
    pieces: AsyncIterator[bytes], limits: StreamLimits, clock: Clock, hear: Hear | None = None
) -> Json | None:
    """Return the body of a streamed reply, or None if it broke off. `hear` is told of its pieces as they come.

    Where a limit is reached, what came so far is the reply. Raises TimeoutError if comments alone have come for
    `quiet_s`, StreamTooLong if a stream beyond `max_bytes` holds no text.
    """
    assembler, line = StreamAssembler(hear), _Lines()
    num_bytes, num_pieces, progress_at = 0, 0, clock()
    async for piece in pieces:
        num_bytes += len(piece)
        for whole in line.add(piece):
            assembler.add_line(whole)
        if assembler.num_pieces > num_pieces:
            num_pieces, progress_at = assembler.num_pieces, clock()
        if assembler.most_pieces > limits.max_pieces:
            return assembler.cut_body()
        if num_bytes > limits.max_bytes:
            if num_pieces:
                return assembler.cut_body()
            raise StreamTooLong
        if clock() - progress_at > limits.quiet_s:
            raise TimeoutError
    assembler.add_line(line.rest())
    return assembler.body()


class HearEvent(Protocol):
    """Hears the events of a stream as they come."""

    def __call__(self, event: Json, /) -> None: ...


async def read_events(pieces: AsyncIterator[bytes], limits: StreamLimits, clock: Clock, hear: HearEvent) -> Json | None:
    """Tell of the events of a stream as they come. Return {} at its end mark, None if it broke off before.

    Of the limits `max_bytes` holds for each event and `max_pieces` for all. Raises TimeoutError and StreamTooLong as
    `read_stream` does.
    """
    line, num_events, progress_at = _Lines(), 0, clock()
    async for piece in pieces:
        for whole in line.add(piece):
            if not whole.startswith(b"data:"):
                continue
            if (data := whole[5:].strip()) == b"[DONE]":
                return {}
            num_events, progress_at = num_events + 1, clock()
            try:
                event = json.loads(data)
            except (ValueError, RecursionError):
                return None
            hear(event)
        if line.num_bytes > limits.max_bytes or num_events > limits.max_pieces:
            raise StreamTooLong
        if clock() - progress_at > limits.quiet_s:
            raise TimeoutError
    return None


class _Lines:
    """Cut pieces into lines, in time proportional to their length however long a line is."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.num_bytes = 0  # of the line that has not ended

    def add(self, piece: bytes) -> list[bytes]:
        """Return the lines that this piece ends."""
        first, *others = piece.split(b"\n")
        self._parts.append(first)
        self.num_bytes = len(others[-1]) if others else self.num_bytes + len(first)
        if not others:
            return []
        whole = b"".join(self._parts)
        self._parts = [others.pop()]
        return [whole, *others]

    def rest(self) -> bytes:
        """Return the last line, which no newline ends."""
        return b"".join(self._parts)
