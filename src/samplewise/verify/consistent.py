"""A language model sees all responses in one prompt and names one: the one that agrees most with the others (universal
self-consistency, arXiv 2311.17311), or the best.

Answers need not be equal, nor even short, to be compared: summaries, open questions, programs. The prompt of universal
self-consistency is the paper's in substance. Responses are shown in an order drawn by the key, as a model prefers some
positions. A long list is split into groups drawn by the key; the response named in each group goes on to the next
round, until one group is left.

What it does not do: it checks nothing. The response that agrees with most is right where most are right, and the best
is what the model takes for it.
"""

from __future__ import annotations

import itertools
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
SIZE = 16  # responses in one prompt
MAX_TOKENS = 32  # of a reply: one sentence

SELECT = """I have generated the following responses to the question below.

Question:
{question}

{responses}

Evaluate these responses. Select the most consistent response based on majority consensus. Start your answer with "The \
most consistent response is Response X" (without quotes), where X is the number of a response."""

CHOOSE = """Below are a question and several responses to it. Compare them: what counts is first whether what a \
response says is true and answers the question, then whether it is complete and clear; its length does not count.

Question:
{question}

{responses}

Which response is the best one? Reply with "The best response is Response X" (without quotes), where X is the number \
of a response, and nothing else."""

NAMED = r"{praise} (?:response|answer)\W+is\W+(?:response\W*)?(\d+)\b"
MENTIONED = re.compile(r"\bresponse\W{0,4}(\d+)\b", re.IGNORECASE)
SEVERAL = re.compile(
    r"\bresponses?\W{0,4}\d+\W{0,4}(?:\s(?:and|or)\s|(?<=\d)(?:\s?[,/&–—-]\s?))\W{0,4}(?:response\W{0,4})?\d",
    re.IGNORECASE,
)
NOT_BEFORE = re.compile(r"(?:\bnot|n['’]t|\bnever|\bneither|\bnor|\bthan)\W+\Z", re.IGNORECASE)
NOT_AFTER = re.compile(
    r"\W{0,4}(?:(?:is|was|does|seems|looks)\s+)?(?:not\b|\w{2,5}n['’]t\b|wrong|incorrect)", re.IGNORECASE
)


def named_response(reply: Completion, num: int, praise: str = "most consistent") -> int | None:
    """Return the index (from 0) of the response that a reply names among `num`, None where it names none or several.

    What counts is "the `praise` response is Response X"; else the only response that is mentioned; else a reply
    that is a number alone.
    """
    if reply.finish == "error":
        return None
    alone = re.fullmatch(r"\W*(\d+)\W*", reply.text)
    if SEVERAL.search(reply.text):
        return None
    praised = re.findall(NAMED.format(praise=praise), reply.text, re.IGNORECASE)
    mentioned = [
        match[1]
        for match in MENTIONED.finditer(reply.text)
        if not NOT_BEFORE.search(reply.text[: match.start()]) and not NOT_AFTER.match(reply.text, match.end())
    ]
    for numbers in (praised, mentioned, alone.groups() if alone else ()):
        if numbers:
            named = {int(number) for number in numbers}
            index = named.pop() - 1
            return index if not named and 0 <= index < num else None
    return None


class RoundStanding(NamedTuple):
    """How far the rounds have come: who is still in, rounds survived (N,), and the groups of the next round."""

    remaining: list[int]
    survived: list[int]
    groups: list[list[int]]  # positions in the order in which they are shown; none: it is decided


def split_groups(order: Sequence[int], size: int) -> list[list[int]]:
    """Return the order in as few groups of at most `size` as possible, their lengths at most one apart."""
    num = math.ceil(len(order) / size)
    ends = [len(order) * i // num for i in range(num + 1)]
    return [list(order[start:end]) for start, end in itertools.pairwise(ends)]


def consistent(engine: str = "", *, size: int = SIZE) -> Judge:
    """Find the response that agrees most with the others, as a language model sees it (arXiv 2311.17311).

    The score is the number of rounds survived: with at most `size` responses, 1 for the one that was named and 0 for
    the others. Where a reply names no response, the last round leaves all of its group with equal scores, and an
    earlier round passes on a member of the group's largest class. Responses without a readable answer are not shown,
    and nan. Nothing is asked where all readable answers are equal. `engine` is a member of the team by name, by default
    the solver itself.

    Cost: one request of the question, all responses and about 80 tokens, and at most 32 tokens of reply; of more than
    `size` responses one request a group, about N / (`size` - 1) in all rounds.
    """
    return _judge_of_lists("consistent", SELECT, "most consistent", engine, size)


def listwise(engine: str = "", *, size: int = SIZE) -> Judge:
    """Find the best response by a language model that sees all of them at once.

    The scores are those of `consistent`, and what is not shown, what cannot be read and the cost too; only what is
    asked for differs. One request in place of one for each response (`judge`) or pair (`knockout`), by which a model
    sees less well what is wrong in each.
    """
    return _judge_of_lists("listwise", CHOOSE, "best", engine, size)


def _judge_of_lists(name: str, wording: str, praise: str, engine: str, size: int) -> Judge:
    """Return the judge that has one response of a list named, which the reply then calls the `praise` one."""
    check_count("size", size, 2)

    def ask(key: Key, question: Question, texts: Sequence[str], round_number: int, group: int) -> Generate:
        responses = "\n\n".join(f"Response {number}:\n{text}" for number, text in enumerate(texts, 1))
        prompt = wording.format(question=asked_text(question), responses=responses)
        seed = key.fold(name, VERSION, round_number, group).seed()
        return Generate(
            (Message("user", prompt),), sampling=Sampling(), max_tokens=MAX_TOKENS, seed=seed, engine=engine
        )

    def next_groups(key: Key, remaining: Sequence[int], answers: Answers, round_number: int) -> list[list[int]]:
        if len({answers[position] for position in remaining}) < 2:
            return []
        order = key.fold("order", round_number).generator().permutation(len(remaining)).tolist()
        return split_groups([remaining[index] for index in order], size)

    def stand(key: Key, answers: Answers, replies: Replies) -> RoundStanding:
        remaining = [position for position, answer in enumerate(answers) if answer is not None]
        survived = [0] * len(answers)
        groups = next_groups(key, remaining, answers, 0)
        for round_number, completions in enumerate(replies, 1):
            pending, winners = iter(completions), []
            for index, group in enumerate(groups):
                named = None if len(group) == 1 else named_response(next(pending), len(group), praise)
                if named is None and len(groups) == 1:
                    return RoundStanding(remaining, survived, [])  # nobody was named: all of them are equal
                passed = key.fold("pass", round_number, index)
                winners.append(_largest_class(passed, group, answers) if named is None else group[named])
            for winner in winners:
                survived[winner] += 1
            remaining = sorted(winners)
            groups = next_groups(key, remaining, answers, round_number)
        return RoundStanding(remaining, survived, groups)

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[Ask, ...]:
        groups = stand(key, answers, replies).groups
        return tuple(
            ask(key, question, [candidates[position].text for position in group], len(replies), index)
            for index, group in enumerate(groups)
            if len(group) > 1
        )

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]:
        survived = stand(key, answers, replies).survived
        return tuple(math.nan if answer is None else float(num) for answer, num in zip(answers, survived, strict=True))

    return Judge(name, next_asks, rate, engines=frozenset({engine} - {""}))


def _largest_class(key: Key, group: Sequence[int], answers: Answers) -> int:
    """Return a position of the group whose answer is as frequent in it as any, drawn by the key."""
    counts = Counter(answers[position] for position in group)
    top = max(counts.values())
    members = sorted(position for position in group if counts[answers[position]] == top)
    return members[int(key.generator().integers(len(members)))]
