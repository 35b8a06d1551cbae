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


class Retried(NamedTuple):
    question: str
    num: int
    wait_s: float
    failure: Failure | None


class Stopped(NamedTuple):
    """A question is finished."""

    question: str
    stop: Stop
    spent: Usage
    answer: str | None


class Ended(NamedTuple):
    run: str
    num_questions: int


Event = Started | Dispatched | Arrived | Retried | Stopped | Ended


class OnEvent(Protocol):
    def __call__(self, event: Event, /) -> None: ...


def ignore(event: Event, /) -> None:
    """Nobody listens."""
