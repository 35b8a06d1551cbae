"""Show a draw while it is drawn, where it is the answer whatever it says: a recipe of one draw has nothing to decide.

What is shown cannot be taken back. A line that may begin with reasoning is held back until it has ended, and where the
endpoint writes reasoning into its text, nothing further is shown before the draw has ended. Some models close reasoning
that they never opened, and some endpoints ignore stop texts: that is seen only at the end, where the stream ends in an
error. `Jobs` then shows no further draws of that model as they are drawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from samplewise.core.reasoning import split_reasoning
from samplewise.core.types import Ask
from samplewise.engines.base import Arrival, Engine
from samplewise.serve.drawn import FrontEngine
from samplewise.serve.replies import FinalChoice
from samplewise.serve.wire import RequestError

TAG_STARTS = ("<", "[", "◁")  # of a line that may open or close reasoning


class Piece(NamedTuple):
    """What can be shown now."""

    text: str
    is_reasoning: bool = False


class LiveDraw:
    """The pieces of one draw, from who hears them to who sends them on.

    `waits_for_reasoning`: the model is known to reason, so text before any reasoning may be reasoning itself.
    """

    def __init__(self, waits_for_reasoning: bool = False) -> None:
        self.arrived = asyncio.Event()  # there is something to take, or was
        self.num_heard = 0
        self.is_refuted = False  # what was shown was not the draw
        self._waits = waits_for_reasoning
        self._pieces: list[Piece] = []
        self._sent = {True: "", False: ""}  # by whether it is reasoning
        self._line = ""  # of the text, held back
        self._is_line_shown = False  # the beginning of the line has been
        self._is_over = False

    def hear(self, piece: str, *, is_reasoning: bool) -> None:
        """Take the next piece of the draw."""
        self.num_heard += 1
        if is_reasoning:
            self._waits = False
            self._show(piece, True)
        elif not self._waits and not self._is_over:
            for part in piece.splitlines(keepends=True):
                self._hear_part(part)

    def _hear_part(self, part: str) -> None:
        """Take a part of one line of the text."""
        self._line += part
        is_whole = self._line[-1:] in ("\n", "\r")
        begins = self._line.lstrip()
        if not self._is_line_shown and (not begins or begins.startswith(TAG_STARTS)):
            if not is_whole:
                return
            split = split_reasoning(self._line)
            if split.reasoning or split.opened or not split.closed or split.text != self._line:
                self._is_over = True
                return
        self._show(self._line, False)
        self._line, self._is_line_shown = "", not is_whole

    def _show(self, text: str, is_reasoning: bool) -> None:
        if self._pieces and self._pieces[-1].is_reasoning == is_reasoning:
            text = self._pieces.pop().text + text
        self._pieces.append(Piece(text, is_reasoning))
        self.arrived.set()

    def take(self) -> list[Piece]:
        """Return what can be shown now and was not before. Half a character waits for its other half."""
        pieces, self._pieces = self._pieces, []
        self.arrived.clear()
        if pieces and "\ud800" <= pieces[-1].text[-1:] <= "\udbff":
            last = pieces.pop()
            self._pieces.append(last._replace(text=last.text[-1]))
            if last.text[:-1]:
                pieces.append(last._replace(text=last.text[:-1]))
        for piece in pieces:
            self._sent[piece.is_reasoning] += piece.text
        return pieces

    def rest(self, choice: FinalChoice) -> FinalChoice:
        """Return what of the final choice was not shown yet. Raises RequestError if what was shown is not of it."""
        text, reasoning = self._sent[False], self._sent[True]
        shown_of_reasoning = min(len(reasoning), len(choice.reasoning))
        if not choice.text.startswith(text) or choice.reasoning[:shown_of_reasoning] != reasoning[:shown_of_reasoning]:
            self.is_refuted = True
            message = "the response was drawn again, or its reasoning was told apart late: what was shown is not it"
            raise RequestError(message, status=502, code="stream_interrupted", retry=False)
        return choice._replace(text=choice.text[len(text) :], reasoning=choice.reasoning[len(reasoning) :])


class ListeningEngine(FrontEngine):
    """An engine whose one draw is heard. One that fails after it was heard is not tried again: it would be another."""

    def __init__(self, behind: Engine, live: LiveDraw) -> None:
        super().__init__(behind)
        self._live = live

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        if len(asks) == 1 and not self._live.num_heard:
            self._behind.listen(asks[0], self._live.hear)
        async for position, completion in self._behind.answer(asks):
            failure = completion.failure
            if failure is not None and self._live.num_heard:
                completion = completion._replace(failure=failure._replace(retryable=False))
            yield Arrival(position, completion)
