"""What a run tells while it goes: typed events, for progress bars, logs and the store's record."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

from samplewise.types import Failure, Stop, Usage


class Started(NamedTuple):
    """A run over `num_questions` begins; `num_done` of them are in the store already."""

    run: str
    num_questions: int
    num_done: int


class Dispatched(NamedTuple):
    """A wave: `num_sent` asks go to the engine, `num_stored` are answered by the store."""

    question: str
    num_sent: int
    num_stored: int


class Arrived(NamedTuple):
    question: str
    usage: Usage
    source: Literal["engine", "store", "failure"]
    failure: Failure | None = None


class Retried(NamedTuple):
    question: str
    num: int
    wait_s: float
    failure: Failure | None


class Weighed(NamedTuple):
    """A stop rule has looked at a question's `draws`: votes for the first and the second answer, and the best score of
    the first verifier that it looks at; nan where it looks at none."""

    question: str
    draws: int
    first: int
    second: int
    best: float
    spent: Usage


class Stopped(NamedTuple):
    """A question is finished, after `draws` draws.

    What the decision came too early for is no part of the result: `overshoot` draws that had come and were not looked
    at, and `cancelled` ones on their way, whose cost nobody knows, but that it is at most `at_most`.
    """

    question: str
    stop: Stop
    spent: Usage
    answer: str | None
    draws: int = 0
    overshoot: int = 0
    cancelled: int = 0
    at_most: Usage = Usage()


class Ended(NamedTuple):
    run: str
    num_questions: int


Event = Started | Dispatched | Arrived | Retried | Weighed | Stopped | Ended


class OnEvent(Protocol):
    def __call__(self, event: Event, /) -> None: ...


def ignore(event: Event, /) -> None:
    """Nobody listens."""


def in_words(stop: Stop, draws: int, most: int | None = None) -> str:
    """Why a question ended, for people: "stopped: settled after 8 of 64 (anytime-valid, mode)"."""
    count = f"{draws}" if most is None or most < draws else f"{draws} of {most}"
    said = [str(stop.evidence[name]) for name in ("guarantee", "about") if name in stop.evidence]
    label = f" ({', '.join(said)})" if said else ""
    if stop.reason == "futile":
        return f"gave up: futile after {count}, more draws are not worth their price{label}"
    if stop.reason == "finished":
        return f"finished: all {draws} draws"
    if stop.reason == "budget":
        return f"stopped: the budget was used up after {count}"
    return f"{'interrupted' if stop.reason == 'cancelled' else f'stopped: {stop.reason}'} after {count}{label}"
