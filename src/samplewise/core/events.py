"""What a run reports while it is in progress: typed events, for progress bars, logs and the store."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from samplewise.core.types import Failure, Stop, Usage


class Started(NamedTuple):
    """A run over `num_questions` begins; `num_done` of them are in the store already."""

    run: str
    num_questions: int
    num_done: int


class Dispatched(NamedTuple):
    """Asks of one question were sent together: `num_sent` to the engine, `num_stored` are answered by the store."""

    question: str
    num_sent: int
    num_stored: int


class Arrived(NamedTuple):
    """A completion arrived, or a request failed for good."""

    question: str
    usage: Usage
    source: Literal["engine", "store", "failure"]
    failure: Failure | None = None


class Drawn(NamedTuple):
    """`tokens` completion tokens have been drawn for a question now.

    They are those of every reply, as it was billed, and what the requests in flight have drawn so far, if the engine
    knows that. What the store answers is not drawn now. `tokens` falls only if requests in flight are given up.
    """

    question: str
    tokens: int


class Waiting(NamedTuple):
    """All questions wait for `what`, such as a batch with its state; "" once they no longer do."""

    what: str


class Retried(NamedTuple):
    """`num` failed requests are sent again after `wait_s` seconds; `failure` is the first one's."""

    question: str
    num: int
    wait_s: float
    failure: Failure | None


class StopChecked(NamedTuple):
    """A stop rule has looked at a question's `draws` candidates.

    `first` and `second` are the votes of the two leading answers; `best` is the best score of the rule's first
    verifier, nan without one.
    """

    question: str
    draws: int
    first: int
    second: int
    best: float
    spent: Usage


class Stopped(NamedTuple):
    """A question is finished after `draws` draws.

    Not part of the result: `overshoot` draws that arrived and were not looked at, and `cancelled` draws in flight,
    whose cost is unknown but at most `at_most`.
    """

    question: str
    stop: Stop
    spent: Usage
    answer: str | None
    draws: int = 0
    overshoot: int = 0
    cancelled: int = 0
    at_most: Usage = Usage()


class Recorded(NamedTuple):
    """A question's record is in the store: the grade of its answer, nan if unknown, what it cost, its candidates."""

    question: str
    grade: float
    spent: Usage
    draws: int


class BrokenOff(NamedTuple):
    """A question's run was ended by an exception, after it had paid this much."""

    question: str
    paid: Usage


class Ended(NamedTuple):
    """All questions of a run are finished."""

    run: str
    num_questions: int


Event = (
    Started | Dispatched | Arrived | Drawn | Waiting | Retried | StopChecked | Stopped | Recorded | BrokenOff | Ended
)


class OnEvent(Protocol):
    """Receives the events of a run, in the order in which they happen."""

    def __call__(self, event: Event, /) -> None: ...


def ignore(event: Event, /) -> None:
    """Do nothing with the event."""


def in_words(stop: Stop, draws: int, max_draws: int | None = None, failed: int = 0) -> str:
    """Return why a question ended, for people: "stopped: settled after 8 of 64 (anytime-valid, mode)".

    `failed` of the draws gave no response.
    """
    if failed and stop.reason == "finished":
        return f"finished: {draws - failed} of {draws} draws, {failed} failed"
    if failed:
        return f"{in_words(stop, draws, max_draws)}, {failed} failed"
    count = f"{draws}" if max_draws is None or max_draws < draws else f"{draws} of {max_draws}"
    claims = [str(stop.evidence[name]) for name in ("guarantee", "about") if name in stop.evidence]
    label = f" ({', '.join(claims)})" if claims else ""
    if stop.reason == "futile":
        return f"gave up: futile after {count}, more draws are not worth their price{label}"
    if stop.reason == "finished":
        return f"finished: all {draws} draws"
    if stop.reason == "budget":
        return f"stopped: the budget was used up after {count}"
    return f"{'interrupted' if stop.reason == 'cancelled' else f'stopped: {stop.reason}'} after {count}{label}"
