"""A language model as the judge: of one response at a time, or of two responses against each other.

Both see question and response, never a reference. A model tends to prefer its own text, so a solver that judges
itself is less accurate than it is on other models' texts. The request texts are versioned (`VERSION`), because a score
is meaningless without the request that it answers.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Candidate, Completion, Generate, Message, Question, Sampling
from samplewise.verify.base import Answers, Judge, Replies

VERSION = 1
HIGHEST = 9  # 10 would be two tokens for many models
MIN_MASS = 0.5  # of the score tokens among those that the engine shows; below, the text decides
MAX_TOKENS = 8
GREEDY, PLAIN = Sampling(temperature=0.0), Sampling()

RATE = """Judge a response to a question. Check it step by step; a response with a wrong final answer is worth little, \
however well it is written.

Question:
{question}

Response:
{response}

How likely is it that the final answer of this response is correct? Reply with one digit from 1 (certainly wrong) to \
9 (certainly right), and nothing else."""

PAIR = """Compare two responses to a question. What counts is whether the final answer is correct, not length or style.

Question:
{question}

Response A:
{first}

Response B:
{second}

Which response is more likely to be correct? Reply with the letter A or B, and nothing else."""


def judge(engine: str = "", *, samples: int = 3) -> Judge:
    """Judge P(correct) of each response in [0, 1] by a language model.

    The model replies with a digit from 1 to 9, which is mapped to [0, 1]. If the engine shows its top tokens, the score
    is an expectation over the score tokens, from one request per response; otherwise the mean of `samples` requests'
    digits. nan if no digit came. `engine` is a member of the team by name, by default the solver itself. Cost: for each
    different response 1 (or `samples`) requests of the question, the response and about 120 tokens, and at most 8
    tokens of reply.
    """
    check_count("samples", samples)

    def ask(key: Key, question: Question, text: str, index: int) -> Generate:
        prompt = RATE.format(question=asked_text(question), response=text)
        return Generate(
            (Message("user", prompt),),
            sampling=PLAIN,
            max_tokens=MAX_TOKENS,
            seed=key.fold("judge", VERSION, text, index).seed(),
            want=("top",),
            engine=engine,
        )

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[Ask, ...]:
        texts = distinct(candidates)
        if not replies:
            return tuple(ask(key, question, text, 0) for text in texts)
        if len(replies) > 1 or samples == 1:
            return ()
        return tuple(
            ask(key, question, text, index)
            for text, reply in zip(texts, replies[0], strict=True)
            if math.isnan(expected_digit(reply))
            for index in range(1, samples)
        )

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]:
        if not replies:
            return (math.nan,) * len(candidates)
        extra_replies = iter(replies[1] if len(replies) > 1 else ())
        score: dict[str, float] = {}
        for text, reply in zip(distinct(candidates), replies[0], strict=True):
            value = expected_digit(reply)
            if math.isnan(value):
                completions = [reply, *(next(extra_replies) for _ in range(samples - 1) if len(replies) > 1)]
                digits = [digit for completion in completions if not math.isnan(digit := written_digit(completion))]
                value = math.fsum(digits) / len(digits) if digits else math.nan
            score[text] = (value - 1) / (HIGHEST - 1)
        return tuple(score.get(candidate.text, math.nan) for candidate in candidates)

    return Judge("judge", next_asks, rate, engines=frozenset({engine} - {""}))


def knockout(engine: str = "", *, votes: int = 1) -> Judge:
    """Rank the different answers by a knockout, one response for each: the winner scores highest.

    The bracket is drawn by the key. Each pair is judged in both orders, `votes` times each, so a bias for the order
    alone cancels. A tie is broken by the key. The score is the number of rounds survived; candidates with the same
    answer share it. Cost: 2 x `votes` requests for all but one of the answers, of the question, two responses and about
    90 tokens.
    """
    check_count("votes", votes)

    def pairs(key: Key, remaining: Sequence[str], round_number: int) -> list[tuple[str, str]]:
        order = key.fold("bracket", round_number).generator().permutation(len(remaining)).tolist()
        return [(remaining[a], remaining[b]) for a, b in zip(order[::2], order[1::2], strict=False)]

    def ask(key: Key, question: Question, first: str, second: str, vote: int) -> Generate:
        prompt = PAIR.format(question=asked_text(question), first=first, second=second)
        return Generate(
            (Message("user", prompt),),
            sampling=PLAIN,
            max_tokens=MAX_TOKENS,
            seed=key.fold("knockout", VERSION, first, second, vote).seed(),
            want=("top",),
            engine=engine,
        )

    def play(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[list[str], dict[str, int], dict[str, str]]:
        """Return the answers still in, how many rounds each has survived, and the response that represents each."""
        representative: dict[str, str] = {}
        for candidate, answer in zip(candidates, answers, strict=True):
            if answer is not None:
                representative.setdefault(answer, candidate.text)
        remaining = sorted(representative)
        survived = dict.fromkeys(remaining, 0)
        for index, completions in enumerate(replies):
            drawn, pending = pairs(key, remaining, index), iter(completions)
            paired = {answer for pair in drawn for answer in pair}
            winners = [answer for answer in remaining if answer not in paired]  # one of an odd number waits
            for first, second in drawn:
                forward = [first_better(next(pending)) for _ in range(votes)]
                backward = [first_better(next(pending)) for _ in range(votes)]
                preference = _mean(forward) - _mean(backward)
                tied = math.isnan(preference) or preference == 0
                heads = key.fold("tie", index, first, second).generator().random() < 0.5
                winners.append(first if (heads if tied else preference > 0) else second)
            remaining = sorted(winners)
            for answer in remaining:
                survived[answer] += 1
        return remaining, survived, representative

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[Ask, ...]:
        remaining, _, representative = play(key, question, candidates, answers, replies)
        return tuple(
            ask(key, question, representative[first], representative[second], vote)
            for pair in pairs(key, remaining, len(replies))
            for first, second in (pair, pair[::-1])
            for vote in range(votes)
        )

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]:
        _, survived, _ = play(key, question, candidates, answers, replies)
        return tuple(math.nan if answer is None else float(survived[answer]) for answer in answers)

    return Judge("knockout", next_asks, rate, engines=frozenset({engine} - {""}))


# --- reading replies --------------------------------------------------------------------------------------------------


def expected_digit(reply: Completion) -> float:
    """Return the expected digit over the score tokens at the position where the reply's first digit could stand.

    nan if the engine showed no tokens, or if digits have less than half of the mass.
    """
    for position in reply.top or ():
        value, mass = expectation((text, logp) for text, logp in position)
        if mass >= MIN_MASS:
            return value
        if any(text.strip() for text, _ in position[:1]):  # the most likely token is no digit
            return math.nan
    return math.nan


def expectation(tokens: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """Return the mean digit 1 to 9 under the probabilities of some tokens, and their mass. "8" and " 8" both count."""
    total = mass = 0.0
    for text, logp in tokens:
        digit = text.strip()
        if len(digit) == 1 and digit in "123456789":
            mass += math.exp(logp)
            total += int(digit) * math.exp(logp)
    return (total / mass if mass else math.nan), mass


def written_digit(reply: Completion) -> float:
    """Return the first digit from 1 to 9 that stands alone in the text, or nan."""
    match = re.search(r"(?<![\d.])[1-9](?![\d.]\d|\d)", reply.text) if reply.finish != "error" else None
    return float(match.group()) if match else math.nan


def first_better(reply: Completion) -> float:
    """Return the probability that the response shown first is better.

    Computed over the letters if the engine shows top tokens, otherwise 1 or 0 as the text says; nan if it says neither.
    """
    if reply.finish == "error":
        return math.nan
    for position in reply.top or ():
        first = math.fsum(math.exp(logp) for text, logp in position if text.strip().upper() == "A")
        second = math.fsum(math.exp(logp) for text, logp in position if text.strip().upper() == "B")
        if first + second >= MIN_MASS:
            return first / (first + second)
    match = re.search(r"\b[AB]\b", reply.text)
    return math.nan if match is None else float(match.group() == "A")


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def distinct(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Return the different responses in order of first occurrence, without those that ended while reasoning."""
    return tuple(dict.fromkeys(candidate.text for candidate in candidates if not candidate.is_unanswered))


@functools.lru_cache(maxsize=256)
def _joined(messages: tuple[Message, ...]) -> str:
    return "\n\n".join(message.content for message in messages)


def asked_text(question: Question) -> str:
    """Return the question as a judge reads it."""
    return _joined(question.messages)
