"""Server-sent events put together to the reply that would have come in one piece. Pure.

A streamed reply is lines `data: {chunk}`, between them comments that keep the connection alive, and `data: [DONE]` at
the end. The chunks hold pieces of the choices' texts, log-probs and token ids; the last ones the finish and the usage.
"""

from __future__ import annotations

import json
from typing import Any

from samplewise.types import Json

TEXTS = ("content", "reasoning", "reasoning_content")  # pieces of a message that are added up


class Assembly:
    """Takes lines, gives a body."""

    def __init__(self) -> None:
        self._body: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._done = self._broken = False

    def line(self, line: bytes) -> None:
        """One line, without its end. What is no data line is passed over."""
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
        """The reply, or None where it broke off: no end mark, and a choice without a finish."""
        complete = bool(self._choices) and all(choice.get("finish_reason") for choice in self._choices.values())
        if "error" in self._body:
            return self._body
        if self._broken or not (self._done or complete) or not self._choices:
            return None
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
                _join(self._choices.setdefault(index, {"index": index}), piece)


def _join(choice: dict[str, Any], piece: dict[str, Any]) -> None:
    """Add a piece to its choice, in place."""
    delta = piece.get("delta")
    if isinstance(delta, dict):
        message = choice.setdefault("message", {"content": None})
        for name in TEXTS:
            if isinstance(delta.get(name), str):
                message[name] = (message.get(name) or "") + delta[name]
    if isinstance(piece.get("text"), str):
        choice["text"] = choice.get("text", "") + piece["text"]
    if isinstance(piece.get("token_ids"), list):
        choice.setdefault("token_ids", []).extend(piece["token_ids"])
    if isinstance(piece.get("logprobs"), dict):
        kept = choice.setdefault("logprobs", {})
        for name in ("content", "token_logprobs", "top_logprobs"):
            if isinstance(piece["logprobs"].get(name), list):
                kept.setdefault(name, []).extend(piece["logprobs"][name])
    for name in ("finish_reason", "prompt_token_ids", "error"):
        if piece.get(name) is not None:
            choice[name] = piece[name]
