"""The stop rule protocol: a pure fold over the draws that says when to stop and why.

A rule sees one scored candidate after another, in the order of their asks and never of their arrival: short answers
arrive first and are easier. It gives a verdict after each. It never draws, never sees a reference answer, and does not
know where a score came from. As a fold it costs the same after the thousandth draw as after the first.

There are four reasons to stop:

* `success`: a candidate is good enough,
* `settled`: more votes would not change the answer,
* `futile`: more draws are not worth their price,
* `cap`: the maximum number of draws is reached.

What a rule guarantees, and about what, is part of the evidence of every stop. `exact`: the stated probability holds for
every distribution of independent draws, at the rule's own stopping time. `anytime-valid`: it also holds at any other
time, however often one looks. `model-based`: it holds if the named model or prior is right. `heuristic`: no statement,
which is also what remains where draws depend on one another (`of_dependent`). The statement is about the `mode` of the
model's answers, the `verifier`'s score, or the `truth`. The mode is that of one distribution: where several arms are
drawn from, what is settled is the leader of their mix, without a probability (`as_drawn`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from samplewise.core.types import Candidate, Json, Pool, Question, Stop, Usage

S = TypeVar("S")  # a rule's state: immutable, plain data
S_contra = TypeVar("S_contra", contravariant=True)

Reason = Literal["success", "settled", "futile", "cap"]
Guarantee = Literal["exact", "anytime-valid", "model-based", "heuristic"]
About = Literal["mode", "verifier", "truth", "draws"]

NOBODY = Question("", ())


class See(Protocol[S]):
    """Add a candidate and its answer to a state."""

    def __call__(self, state: S, candidate: Candidate, answer: str | None) -> S: ...


class Decide(Protocol[S_contra]):
    """Decide from a state and the cost so far."""

    def __call__(self, state: S_contra, spent: Usage) -> Stop | None: ...


def one_more(state: Any) -> int:
    """Return 1: the rule may stop at any draw."""
    return 1


@dataclass(frozen=True, slots=True)
class StopRule(Generic[S]):
    """A named fold.

    `start(question)` is the state before the first draw. `see(state, candidate, answer)` adds a draw; `answer` is what
    the task's reader reads in the candidate, None if it is unreadable: that draw is paid for but is not a vote.
    `decide(state, spent)` is the verdict; `verdict` adds the rule's name and guarantee to it. `verifiers` are those
    whose scores it looks at.

    `at_least(state)` is how many more draws it needs before it can stop in the best case, at least 1: that many may be
    in flight at once without wasting a token. So it also says how many draws to send next: a rule that plans in waves
    decides at the end of a wave alone, and returns what is left of it (`vote_plan`). `expected_gain(state)`, where a
    rule has one, is what the next draw is expected to add, in the same unit for every question: a shared budget goes
    where it is largest.
    """

    name: str
    start: Callable[[Question], S]
    see: See[S]
    decide: Decide[S]
    verifiers: tuple[str, ...] = ()
    guarantee: Guarantee = "heuristic"
    about: About = "mode"
    at_least: Callable[[S], int] = one_more
    expected_gain: Callable[[S], float] | None = None

    def verdict(self, state: S, spent: Usage) -> Stop | None:
        """Return the stop after what was seen, with the rule's name and guarantee in the evidence, or None to go on."""
        stop = self.decide(state, spent)
        if stop is None:
            return None
        label: dict[str, Json] = {"rule": self.name, "guarantee": self.guarantee, "about": self.about}
        return stop._replace(evidence={**label, **stop.evidence})

    def check(
        self, pool: Pool, answers: tuple[str | None, ...], spent: Usage = Usage(), question: Question = NOBODY
    ) -> Stop | None:
        """Return the verdict on a whole pool (N candidates, N answers), folded one draw at a time. O(N)."""
        state = self.start(question)
        for candidate, answer in zip(pool.candidates, answers, strict=True):
            state = self.see(state, candidate, answer)
        return self.verdict(state, spent)


def as_drawn(stop: Stop, *, arms: int, independent: bool) -> Stop:
    """Return the stop with the guarantee that remains for how its draws were made.

    A statement about the mode is one about independent draws of one distribution. Arms dealt in turn draw from
    several: the mode is then that of their mix, and the statement heuristic.
    """
    stop = stop if independent else of_dependent(stop)
    if arms < 2 or stop.evidence.get("about") != "mode" or stop.reason in ("success", "cap"):
        return stop
    return stop._replace(evidence={**stop.evidence, "guarantee": "heuristic", "about": "mode of the mix"})


def of_dependent(stop: Stop) -> Stop:
    """Return the stop with no more guarantee than dependent draws allow, as those of a chain or an exploring
    group, or the copies of one another that are drawn at temperature 0.

    A statement for independent draws becomes heuristic. A success rests on one candidate, a cap on a count: both stay.
    """
    if stop.reason in ("success", "cap") or stop.evidence.get("guarantee") == "heuristic":
        return stop
    return stop._replace(evidence={**stop.evidence, "guarantee": "heuristic", "dependent": True})
