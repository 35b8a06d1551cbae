"""Which answers say the same, as a language model sees it: for votes where wordings differ.

Two answers at a time are put to the model, as in the clustering of semantic entropy (arXiv 2302.09664): each answer is
compared with one member of every group that there is, and joins the first whose member it equals. The reply is one
word. What is neither a yes nor a no merges nothing.

What it does not do: it checks no answer. Whether "says the same" carries over from pair to pair is the model's to keep.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Candidate, Completion, Generate, Message, Question, Sampling
from samplewise.verify.base import Answers, Judge, Replies
from samplewise.verify.replies import asked_text

VERSION = 1
SIZE = 16  # different answers that are compared
MAX_TOKENS = 4  # of a reply: one word

COMPARE = """Two people have answered a question. Decide whether both give the same answer to it, whatever their \
words, their order or their detail.

Question:
{question}

Answer A:
{first}

Answer B:
{second}

Is it the same answer? Reply with yes or no, and nothing else."""


def says_same(reply: Completion) -> bool:
    """Return whether a reply begins with a yes, and not with "yes or no"."""
    return (
        reply.finish != "error"
        and re.match(r"\W*yes\b(?!\W+(?:(?:or|and)\W+)?no\b)", reply.text, re.IGNORECASE) is not None
    )


class Grouping(NamedTuple):
    """How far the comparisons have come: the group of each answer, and those that a group's member meets next."""

    groups: dict[str, int]
    member: str = ""
    others: Sequence[str] = ()  # none: it is decided


def group_by_meaning(answers: Answers, replies: Replies, size: int = SIZE) -> Grouping:
    """Group the different answers by the replies so far; those that were compared with nothing are apart.

    The most frequent answers come first, and the first `size` of them are compared.
    """
    ordered = [answer for answer, _ in Counter(answer for answer in answers if answer is not None).most_common()]
    groups: dict[str, int] = {}
    left, apart = ordered[:size], ordered[size:]
    num_groups = 0
    for completions in replies:
        if len(left) < 2:
            break
        member, *others = left
        equal = [other for other, reply in zip(others, completions, strict=True) if says_same(reply)]
        groups.update(dict.fromkeys([member, *equal], num_groups))
        num_groups += 1
        left = [other for other in others if other not in groups]
    groups.update({answer: number for number, answer in enumerate([*left, *apart], num_groups)})
    return Grouping(groups, left[0], left[1:]) if len(left) > 1 else Grouping(groups)


def same(engine: str = "", *, size: int = SIZE) -> Judge:
    """Number answers by what they say, as a language model sees it: those that say the same have the same number.

    The numbers are names, and no score: the selector `merged` votes by them. nan for a response without a readable
    answer. Of more than `size` different answers the most frequent are compared, and each of the others is a group of
    its own. `engine` is a member of the team by name, by default the solver itself.

    Cost: of D different answers that are compared, D - 1 requests where all say the same, D (D - 1) / 2 where all
    differ, in as many rounds as there are groups; each of the question, two answers and about 70 tokens, and at most 4
    tokens of reply. None where all readable answers are equal.
    """
    check_count("size", size, 2)

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[Ask, ...]:
        grouping = group_by_meaning(answers, replies, size)
        prompt, first = asked_text(question), grouping.member
        return tuple(
            Generate(
                (Message("user", COMPARE.format(question=prompt, first=first, second=second)),),
                sampling=Sampling(temperature=0.0),
                max_tokens=MAX_TOKENS,
                seed=key.fold("same", VERSION, first, second).seed(),
                engine=engine,
            )
            for second in grouping.others
        )

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]:
        groups = group_by_meaning(answers, replies, size).groups
        return tuple(math.nan if answer is None else float(groups[answer]) for answer in answers)

    return Judge("same", next_asks, rate, engines=frozenset({engine} - {""}))
