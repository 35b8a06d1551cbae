"""What the people who run the server see of a request that has ended: counters, a log line, the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from samplewise.core.types import Usage
from samplewise.loop.result import Result
from samplewise.serve.log import EventLog, utc_now
from samplewise.serve.metrics import Metrics
from samplewise.serve.page import Board, LiveRequest, ServedName, ShownAnswer, render_page

DECIDED = ("settled", "success", "futile")  # stops of a rule, which saved the draws that were not made


class EndedRequest(NamedTuple):
    """A request that has ended, answered or not.

    `client` is the key's name, `label` the preset's or "plain" or "custom", `fixed` the recipe's number of draws, if it
    has one. `code` is the HTTP status, 499 where the client left.
    """

    client: str
    route: str
    code: int
    seconds: float
    first_byte_s: float = math.nan
    run: str = ""
    name: str = ""  # of the model, as the client gave it
    label: str = ""
    model: str = ""
    fixed: int | None = None
    paid: Usage = Usage()
    result: Result | None = None
    error: str = ""


def saved_tokens(fixed: int | None, result: Result) -> int:
    """Return about how many completion tokens a stop rule saved of a recipe's fixed number of draws.

    The draws that were not made are taken to be as long as those that were, on average. 0 where no rule
    stopped the run.
    """
    lengths = [candidate.num_tokens for candidate in result.pool.candidates]
    num = len(lengths) + result.pool.num_failed
    if fixed is None or not lengths or result.stop.reason not in DECIDED:
        return 0
    return round(max(0, fixed - num) * sum(lengths) / len(lengths))


class Watch:
    """Counts, logs and shows the server's requests."""

    def __init__(self, log: EventLog | None = None) -> None:
        """Take the log that lines are written to, None for none."""
        self.metrics, self.board, self.log = Metrics(), Board(), log

    def ended(self, request: EndedRequest) -> None:
        """Take note of a request that has ended."""
        metrics, paid, result = self.metrics, request.paid, request.result
        metrics.observe_request(request.label, request.model, request.code, request.seconds, request.first_byte_s)
        metrics.add_tokens("prompt", paid.prompt_tokens)
        metrics.add_tokens("completion", paid.completion_tokens)
        saved = 0
        if result is not None:
            saved = saved_tokens(request.fixed, result)
            metrics.add_saved(saved)
            metrics.observe_draws(len(result.pool.candidates))
            if request.code == 200:
                self._show(request, result, saved)
        if self.log is not None:
            self.log.write(
                "request",
                client=request.client,
                route=request.route,
                code=request.code,
                seconds=round(request.seconds, 4),
                run=request.run,
                model=request.name,
                preset=request.label,
                draws=None if result is None else len(result.pool.candidates),
                stop=None if result is None else result.stop.reason,
                tokens=paid.tokens,
                usd=paid.usd,
                saved=saved,
                error=request.error or None,
            )

    def page(
        self, client: str, names: Sequence[ServedName], live: Sequence[LiveRequest], queued: int, version: str
    ) -> str:
        """Return the page as the holder of one key sees it."""
        activity = self.board.activity(client)
        return render_page(names, activity, utc_now(), version=version, live=live, queued=queued)

    def _show(self, request: EndedRequest, result: Result, saved: int) -> None:
        self.board.add(
            request.client,
            ShownAnswer(
                datetime.now(UTC),
                request.name,
                result.answer if result.answer is not None else "no answer could be read",
                result.votes,
                len(result.pool.candidates),
                result.paid.tokens,
                saved,
                result.stop.reason,
            ),
        )
