"""A language model as the judge: of one response at a time, or of two against each other.

Both see question and response, never a reference. What the same model wrote it tends to like: a judge that is the
solver itself is weaker than its figures on other models' texts. Texts of the requests are versioned (`VERSION`), as a
score is worth nothing without its question.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Sequence

from samplewise.keys import Key
from samplewise.types import Ask, Candidate, Completion, Generate, Message, Question, Sampling
from samplewise.verify.base import Answers, Judge, Talk

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
    """P(correct) of each response in [0, 1] as a language model sees it.

    It says a digit from 1 to 9, which is moved onto [0, 1]. With an engine that shows the likeliest tokens it is an
    expectation over the score tokens, from one request a response; else the mean of `samples` requests' digits. nan
    where no digit came. `engine` is a member of the crew by name, the solver itself by default. Cost: for each
    different response 1 (or `samples`) requests of the question, the response and about 120 tokens, and at most 8
    tokens of reply.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")

    def ask(key: Key, question: Question, text: str, number: int) -> Generate:
        said = RATE.format(question=asked_text(question), response=text)
        return Generate(
            (Message("user", said),),
            sampling=PLAIN,
            max_tokens=MAX_TOKENS,
            seed=key.fold("judge", VERSION, text, number).seed(),
            want=("top",),
            engine=engine,
        )

    def inquire(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, heard: Talk
    ) -> tuple[Ask, ...]:
        texts = distinct(candidates)
        if not heard:
            return tuple(ask(key, question, text, 0) for text in texts)
        if len(heard) > 1 or samples == 1:
            return ()
        return tuple(
            ask(key, question, text, number)
            for text, reply in zip(texts, heard[0], strict=True)
            if math.isnan(expected_digit(reply))
            for number in range(1, samples)
        )

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, heard: Talk
    ) -> tuple[float, ...]:
        if not heard:
            return (math.nan,) * len(candidates)
        more = iter(heard[1] if len(heard) > 1 else ())
        score: dict[str, float] = {}
        for text, reply in zip(distinct(candidates), heard[0], strict=True):
            value = expected_digit(reply)
            if math.isnan(value):
                replies = [reply, *(next(more) for _ in range(samples - 1) if len(heard) > 1)]
                digits = [digit for each in replies if not math.isnan(digit := written_digit(each))]
                value = math.fsum(digits) / len(digits) if digits else math.nan
            score[text] = (value - 1) / (HIGHEST - 1)
        return tuple(score[candidate.text] for candidate in candidates)

    return Judge("judge", inquire, rate, engines=frozenset({engine} - {""}))


def knockout(engine: str = "", *, votes: int = 1) -> Judge:
    """A knockout among the different answers, one response for each: the winner scores highest.

    The bracket is drawn by the key. Each pair is judged in both orders, `votes` times each; what the model says of the
    order alone cancels, and a tie is broken by the key. The score is the number of rounds survived, and candidates of
    one answer share it. Cost: 2 x `votes` requests for all but one of the answers, of the question, two responses and
    about 90 tokens.
    """
    if votes < 1:
        raise ValueError(f"votes must be at least 1, got {votes}")

    def pairs(key: Key, still: Sequence[str], round_number: int) -> list[tuple[str, str]]:
        order = key.fold("bracket", round_number).generator().permutation(len(still)).tolist()
        return [(still[a], still[b]) for a, b in zip(order[::2], order[1::2], strict=False)]

    def ask(key: Key, question: Question, first: str, second: str, vote: int) -> Generate:
        said = PAIR.format(question=asked_text(question), first=first, second=second)
        return Generate(
            (Message("user", said),),
            sampling=PLAIN,
            max_tokens=MAX_TOKENS,
            seed=key.fold("knockout", VERSION, first, second, vote).seed(),
            want=("top",),
            engine=engine,
        )

    def play(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, heard: Talk
    ) -> tuple[list[str], dict[str, int], dict[str, str]]:
        """The answers still in, how many rounds each has survived, and the response that speaks for it."""
        speaks: dict[str, str] = {}
        for candidate, answer in zip(candidates, answers, strict=True):
            if answer is not None:
                speaks.setdefault(answer, candidate.text)
        still = sorted(speaks)
        survived = dict.fromkeys(still, 0)
        for number, replies in enumerate(heard):
            drawn, waiting = pairs(key, still, number), iter(replies)
            paired = {answer for pair in drawn for answer in pair}
            winners = [answer for answer in still if answer not in paired]  # of an odd number one waits
            for one, other in drawn:
                both = [next(waiting) for _ in range(2 * votes)]
                for_one = [first_better(reply) for reply in both[:votes]]
                for_other = [first_better(reply) for reply in both[votes:]]
                lean = _mean(for_one) - _mean(for_other)
                tied = math.isnan(lean) or lean == 0
                coin = key.fold("tie", number, one, other).generator().random() < 0.5
                winners.append(one if (coin if tied else lean > 0) else other)
            still = sorted(winners)
            for answer in still:
                survived[answer] += 1
        return still, survived, speaks

    def inquire(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, heard: Talk
    ) -> tuple[Ask, ...]:
        still, _, speaks = play(key, question, candidates, answers, heard)
        return tuple(
            ask(key, question, speaks[first], speaks[second], vote)
            for one, other in pairs(key, still, len(heard))
            for first, second in ((one, other), (other, one))
            for vote in range(votes)
        )

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, heard: Talk
    ) -> tuple[float, ...]:
        _, survived, _ = play(key, question, candidates, answers, heard)
        return tuple(math.nan if answer is None else float(survived[answer]) for answer in answers)

    return Judge("knockout", inquire, rate, engines=frozenset({engine} - {""}))


# --- reading replies --------------------------------------------------------------------------------------------------


def expected_digit(reply: Completion) -> float:
    """The expected digit over the score tokens at the place where the reply's first digit could stand; nan where the
    engine showed no tokens, or digits have less than half of the mass."""
    for place in reply.top or ():
        value, mass = expectation((text, logp) for text, logp in place)
        if mass >= MIN_MASS:
            return value
        if any(text.strip() for text, _ in place[:1]):  # the likeliest token says something else
            return math.nan
    return math.nan


def expectation(tokens: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """The mean digit 1 to 9 under some tokens' probabilities, and their mass. Variants of a digit ("8", " 8") count."""
    total = mass = 0.0
    for text, logp in tokens:
        digit = text.strip()
        if len(digit) == 1 and digit in "123456789":
            mass += math.exp(logp)
            total += int(digit) * math.exp(logp)
    return (total / mass if mass else math.nan), mass


def written_digit(reply: Completion) -> float:
    """The first digit from 1 to 9 that stands alone in the text; nan where there is none."""
    found = re.search(r"(?<![\d.])[1-9](?![\d.]\d|\d)", reply.text) if reply.finish != "error" else None
    return float(found.group()) if found else math.nan


def first_better(reply: Completion) -> float:
    """The probability that the response shown first is better: over the letters where the engine shows tokens, else 1
    or 0 as the text says; nan where it says neither."""
    if reply.finish == "error":
        return math.nan
    for place in reply.top or ():
        first = math.fsum(math.exp(logp) for text, logp in place if text.strip().upper() == "A")
        second = math.fsum(math.exp(logp) for text, logp in place if text.strip().upper() == "B")
        if first + second >= MIN_MASS:
            return first / (first + second)
    found = re.search(r"\b[AB]\b", reply.text)
    return math.nan if found is None else float(found.group() == "A")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def distinct(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The different responses, in the order of their first."""
    return tuple(dict.fromkeys(candidate.text for candidate in candidates))


@functools.lru_cache(maxsize=256)
def _joined(messages: tuple[Message, ...]) -> str:
    return "\n\n".join(message.content for message in messages)


def asked_text(question: Question) -> str:
    """The question as a judge reads it."""
    return _joined(question.messages)
