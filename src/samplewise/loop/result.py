"""What a recipe made of one question, and how it is shown."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from samplewise.core.bill import CostSplit
from samplewise.core.types import Candidate, Json, Pool, Question, Selection, Stop, Usage
from samplewise.select.base import Selector

SHOWN = 60  # characters of a text in one line
OUTSIDE = ".outside"  # ends the name of a judge's share of probability outside its score tokens
MOST_OUTSIDE = 0.5  # above this mean share, a user should know


class Result(NamedTuple):
    """What a recipe made of one question. `answers` (N,) are the pool's candidates as the reader reads them.

    `spent` is the cost of all that the pool was made from, stored draws included. `paid` is what this call caused:
    fresh draws, failed attempts, and draws that arrived after the decision. `bill` is the cost in parts, as if all
    were paid now.
    """

    question: Question
    answer: str | None
    pool: Pool
    answers: tuple[str | None, ...]
    selection: Selection
    spent: Usage
    paid: Usage
    stop: Stop
    trace: tuple[Any, ...] = ()
    bill: CostSplit = CostSplit()

    @property
    def votes(self) -> dict[str, int]:
        """How many draws gave each answer, the most frequent first. Unreadable draws do not vote."""
        return dict(Counter(answer for answer in self.answers if answer is not None).most_common())

    @property
    def num_unanswered(self) -> int:
        """How many draws ended while reasoning. They have no answer, and do not vote."""
        return sum(candidate.is_unanswered for candidate in self.pool.candidates)

    @property
    def unanimous(self) -> bool:
        """Whether all readable draws, two at least, gave one answer."""
        return len(self.votes) == 1 and sum(self.votes.values()) > 1

    @property
    def tied(self) -> int:
        """How many answers the selector found equal; the chosen one was drawn among them. 1 where it had no tie."""
        return int(self.selection.info.get("tied", 1))

    @property
    def scattered(self) -> bool:
        """Whether no two of the readable draws, two at least, gave the same answer: a vote among them is no vote."""
        return len(self.votes) > 1 and max(self.votes.values()) == 1

    def to_dict(self) -> dict[str, Json]:
        """Return the result as plain data, ready for `json.dumps`. Unknown numbers are None."""
        candidates = [
            {
                "text": candidate.text,
                "reasoning": candidate.reasoning,
                "answer": answer,
                "arm": candidate.arm,
                "tokens": candidate.num_tokens,
            }
            | {"scores": {name: _number(score) for name, score in candidate.scores.items()}}
            for candidate, answer in zip(self.pool.candidates, self.answers, strict=True)
        ]
        return {
            "question": self.question.id,
            "answer": self.answer,
            "tied": self.tied,
            "votes": self.votes,
            "candidates": candidates,
            "failed": self.pool.num_failed,
            "unanswered": self.num_unanswered,
            "stop": {"reason": self.stop.reason, "evidence": _plain(dict(self.stop.evidence))},
            "spent": {**self.spent._asdict(), "tokens": self.spent.tokens},
            "paid": {**self.paid._asdict(), "tokens": self.paid.tokens},
        }

    def __repr__(self) -> str:
        """Return one line: the answer, its votes, the cost."""
        return f"Result({_shorten(self.answer)!r}, {self._summary()})"

    def _repr_html_(self) -> str:
        """Return a small table for notebooks: the answer, and the five most frequent answers with their votes."""
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(_shorten(answer) or '')}</td><td>{num}</td></tr>"
            for answer, num in list(self.votes.items())[:5]
        )
        title = html.escape(self.answer if self.answer is not None else "no answer could be read")
        return (
            f"<div><b>{title}</b><br><small>{html.escape(self._summary())}</small>"
            f"<table><tr><th style='text-align:left'>answer</th><th>draws</th></tr>{rows}</table></div>"
        )

    def _summary(self) -> str:
        num = len(self.pool.candidates)
        agreement = "no two draws agree" if self.scattered else f"{self.votes.get(self.answer or '', 0)} of {num} draws"
        cut = unanswered_note(self.pool.candidates)
        cut = f", {cut}" if cut else ""
        tie = f", a tie of {self.tied}" if self.tied > 1 else ""
        failed = f", {self.pool.num_failed} failed" if self.pool.num_failed else ""
        return f"{agreement}{tie}{cut}{failed}, {self.spent.tokens:,} tokens, {self.stop.reason}"


def unanswered_note(candidates: Sequence[Candidate]) -> str:
    """Return how many draws ended while reasoning, and what to do; "" if none did."""
    ended = [candidate for candidate in candidates if candidate.is_unanswered]
    if not ended:
        return ""
    are_cut = any(candidate.finish == "length" for candidate in ended)
    remedy = "raise max_tokens" if are_cut else "the model stops there, or its reasoning is told apart wrongly"
    return f"{len(ended)} of {len(candidates)} draws ended while reasoning: {remedy}"


def choice_notes(selector: Selector, pools: Sequence[tuple[Pool, Sequence[str | None]]]) -> tuple[str, ...]:
    """Return where choices from pools, each with its answers, rest on nothing: how often, and the first note."""
    notes = [note for pool, answers in pools if (note := selector.note_on(pool, answers))]
    if len(pools) == 1 or not notes:
        return tuple(notes)
    differ = len(set(notes)) > 1
    return (f"{len(notes)} of {len(pools)} questions{', such as' if differ else ''}: {notes[0]}",)


def outside_note(candidates: Sequence[Candidate]) -> str:
    """Return that a judge put most of its probability outside its score tokens, in the mean; "" if none did."""
    for name in dict.fromkeys(name for candidate in candidates for name in candidate.scores if name.endswith(OUTSIDE)):
        shares = [share for candidate in candidates if not math.isnan(share := candidate.scores.get(name, math.nan))]
        if shares and (mean := math.fsum(shares) / len(shares)) > MOST_OUTSIDE:
            judge = name.removesuffix(OUTSIDE)
            return f"{judge} put {mean:.0%} of its probability outside its score tokens: its scores rest on the rest"
    return ""


def _shorten(text: str | None) -> str | None:
    if text is None:
        return None
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."


def _number(value: float) -> float | None:
    return value if value - value == 0 else None  # nan and infinite numbers are no JSON


def _plain(value: Json) -> Json:
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
