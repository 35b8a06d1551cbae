"""A language model as the judge: of one response at a time, or of two responses against each other.

Both see question and response, never a reference. A model tends to prefer its own text, so a solver that judges
itself is less accurate than it is on other models' texts. The request texts are versioned (`VERSION`), because a score
is meaningless without the request that it answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Candidate, Generate, Message, Question, Sampling
from samplewise.verify.base import Answers, Judge, Replies
from samplewise.verify.replies import asked_text, distinct, expected_digit, first_better, mean_known, written_digit
from samplewise.verify.scale import REPEATS, scale_judge

VERSION = 1
HIGHEST = 9  # 10 would be two tokens for many models
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


def judge(
    engine: str = "",
    *,
    samples: int = 3,
    scale: int | None = None,
    repeats: int | None = None,
    criteria: str | tuple[str, ...] = (),
) -> Judge:
    """Judge P(correct) of each response in [0, 1] by a language model.

    The model replies with a digit from 1 to 9, which is mapped to [0, 1]. If the engine shows its top tokens, the score
    is an expectation over the score tokens, from one request per response; otherwise the mean of `samples` requests'
    digits. nan if no digit came. `engine` is a member of the team by name, by default the solver itself. Cost: for each
    different response 1 (or `samples`) requests of the question, the response and about 120 tokens, and at most 8
    tokens of reply.

    With `scale`, the response is graded by `criteria` on a scale of that many letters, at most 26, and the score is the
    expectation over the letters' probabilities, renormalised over them (arXiv 2607.05391, which has scale=20). Criteria
    are "programs" (specification, output, errors), "maths" (reading, steps, result), or names and texts of one's own;
    by default whether the final answer is correct. Each is asked `repeats` times, 2 by default, and every other time
    the scale is turned around; more repeats help where the model reasons before it grades. The share of probability
    outside the letters is kept beside the score, under "JUDGE.outside"; an endpoint shows about 20 tokens, and a letter
    that is not among them has no share. Needs an engine that shows the letters' log-probs (an endpoint with top
    log-probs, or a local model), otherwise Unsupported. Cost: for each different response `repeats` requests for each
    criterion, of the question, the response and about 120 tokens, and at most 2 tokens of reply.
    """
    check_count("samples", samples)
    if scale is not None:
        return scale_judge(engine, scale, REPEATS if repeats is None else repeats, criteria)
    if repeats is not None or criteria:
        raise ValueError("repeats and criteria go with a scale: judge(scale=20, criteria='programs')")

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
                preference = mean_known(forward) - mean_known(backward)
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
