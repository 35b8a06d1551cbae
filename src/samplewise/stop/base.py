"""The stop rule protocol: a pure fold over the draws, that says stop and why.

A rule sees one scored candidate after the other, in the order of their asks and never of their arrival (short answers
come first, and are easier), and is asked for its verdict after each. It never draws, never sees a reference, and does
not know where a score came from. Being a fold, it costs the same after the thousandth draw as after the first.

Four reasons to stop, never mixed up:

* `success`: a candidate is good enough,
* `settled`: more votes would not change the answer,
* `futile`: more draws are not worth their price,
* `cap`: so many draws are enough whatever they say.

What a rule guarantees, and about what, is part of it and stands in the evidence of every stop. `exact`: the stated
probability holds for every law of independent draws, at the rule's own stopping time. `anytime-valid`: also at any
other: look as often as you like, stop for any reason. `model-based`: it holds when the named model or prior is right.
`heuristic`: no statement, which is what is left where draws depend on one another (`of_dependent`). It is about the
`mode` of the model's answers, the `verifier`'s score, or the `truth`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from samplewise.types import Candidate, Json, Pool, Question, Stop, Usage

S = TypeVar("S")  # a rule's state: immutable, plain data
S_contra = TypeVar("S_contra", contravariant=True)

Reason = Literal["success", "settled", "futile", "cap"]
Guarantee = Literal["exact", "anytime-valid", "model-based", "heuristic"]
About = Literal["mode", "verifier", "truth", "draws"]

NOBODY = Question("", ())


class See(Protocol[S]):
    def __call__(self, state: S, candidate: Candidate, answer: str | None) -> S: ...


class Decide(Protocol[S_contra]):
    def __call__(self, state: S_contra, spent: Usage) -> Stop | None: ...


def one_more(state: Any) -> int:
    """A rule that may stop at any draw."""
    return 1


@dataclass(frozen=True, slots=True)
class StopRule(Generic[S]):
    """A named fold.

    `start(question)` is the state before the first draw. `see(state, candidate, answer)` adds a draw; `answer` is the
    candidate as the task's reader reads it, None where it cannot be read: paid for, but not a vote. `decide(state,
    spent)` is the verdict; `verdict` adds what every evidence says. `verifiers` are those whose scores it looks at.

    `at_least(state)` draws are needed before it can stop in the best case, at least 1: so many may be in flight at once
    without a token in vain. `worth(state)`, where a rule has one, is what the next draw is expected to be worth, in the
    same unit for every question: where questions share a budget, it goes where this is largest.
    """

    name: str
    start: Callable[[Question], S]
    see: See[S]
    decide: Decide[S]
    verifiers: tuple[str, ...] = ()
    guarantee: Guarantee = "heuristic"
    about: About = "mode"
    at_least: Callable[[S], int] = one_more
    worth: Callable[[S], float] | None = None

    def verdict(self, state: S, spent: Usage) -> Stop | None:
        """Whether to stop after what was seen, with the rule's name and guarantee in the evidence."""
        stop = self.decide(state, spent)
        if stop is None:
            return None
        said: dict[str, Json] = {"rule": self.name, "guarantee": self.guarantee, "about": self.about}
        return stop._replace(evidence={**said, **stop.evidence})

    def check(
        self, pool: Pool, answers: tuple[str | None, ...], spent: Usage = Usage(), question: Question = NOBODY
    ) -> Stop | None:
        """The verdict on a pool (N candidates, N answers), all of it seen one after the other; O(N)."""
        state = self.start(question)
        for candidate, answer in zip(pool.candidates, answers, strict=True):
            state = self.see(state, candidate, answer)
        return self.verdict(state, spent)


def of_dependent(stop: Stop) -> Stop:
    """The stop where draws depend on one another, as those of a chain or a group that explores do: what holds for
    independent draws is guaranteed no more. A success rests on a candidate, not on a law, and a cap on a count."""
    if stop.reason in ("success", "cap") or stop.evidence.get("guarantee") == "heuristic":
        return stop
    return stop._replace(evidence={**stop.evidence, "guarantee": "heuristic", "dependent": True})
