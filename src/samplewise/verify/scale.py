"""A judge that grades by criteria on a scale of letters, read as an expectation (arXiv 2607.05391).

    score = 1 / (C K) sum over criteria c, repeats k, letters g of p(g | question, response, c) phi(g)

p is the model's distribution over the G letters of the scale, renormalised over them, and phi maps them evenly to
[0, 1]. The text of a grade says less: two responses with the same likeliest letter have different expectations.

Letters stand for grades, as each is one token of nearly every model, where 10 to 20 are often two. Every other repeat
turns the scale around, so that a liking for a letter cancels.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence

from samplewise.core.checks import check_count
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Candidate, Capability, Completion, Generate, Message, Question, Sampling
from samplewise.verify.base import Answers, Judge, Replies
from samplewise.verify.replies import asked_text, distinct, mean_known

VERSION = 1
REPEATS = 2  # both ways around the scale
MAX_TOKENS = 2  # room for a space or a line end before the letter
LARGEST = len(string.ascii_uppercase)

CRITERIA: Mapping[str, str] = {
    "correct": "Is the final answer correct? Nothing else counts, however well the response is written.",
    # of programs
    "specification": "Does the program do what the task says: names, arguments, what it returns, every special case?",
    "output": "Run the program in your mind on the examples and on inputs of your own. Does it return what it should?",
    "errors": "Is the program free of errors: syntax, missing imports, exceptions, endless loops, wrong indices?",
    # of maths
    "reading": "Does the response use all that is given, and does it answer what is asked, in the form asked for?",
    "steps": "Is every step of the derivation valid, and does each follow from those before it?",
    "result": "Put the final answer back into the problem, or compute it in another way. Does it hold?",
}
SETS: Mapping[str, tuple[str, ...]] = {
    "programs": ("specification", "output", "errors"),
    "maths": ("reading", "steps", "result"),
}

GRADE = """Grade one aspect of a response to a question.

Question:
{question}

Response:
{response}

Aspect: {criterion}

The scale has the letters {first} to {last}: {first} is {at_first}, {last} is {at_last}, and the letters between stand \
for what is between. Reply with one letter, and nothing else."""
WORST, BEST = "certainly not", "certainly"


def read_criteria(criteria: str | Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return names and texts of criteria: one or several of `CRITERIA`, a set of `SETS`, or texts of one's own.

    A text of one's own has a space in it. Raises ValueError.
    """
    named = SETS.get(criteria, (criteria,)) if isinstance(criteria, str) else tuple(criteria) or ("correct",)
    for name in named:
        if name not in CRITERIA and " " not in name.strip():
            known = ", ".join([*CRITERIA, *SETS])
            raise ValueError(f"criteria are of {known}, or a text of your own; got {name!r}")
    if len(set(named)) < len(named):
        raise ValueError(f"criteria are given twice: {', '.join(named)}")
    return tuple((name, CRITERIA.get(name, name)) for name in named)


_WORD = re.compile(r"\s*(I(?=\s+[a-z]|['’])|A(?=\s+(?!is\b)[a-z]))")  # "I think", "A good": no grades


def letter_shares(reply: Completion, letters: str) -> dict[str, float] | None:
    """Return the probability of each of the letters at the position where the reply's letter could stand, unscaled.

    None if the engine showed no tokens there. "B" and " B" both count. A letter that the engine does not list is not
    in it.
    """
    if reply.finish == "error":
        return None
    word = _WORD.match(reply.text)
    for position in reply.top or ():
        if any(text.strip() for text, _ in position[:1]):  # the likeliest token is no white space
            return {} if word and word[1] == position[0][0].strip() else _shares(position, letters)
    return None


def _shares(tokens: Iterable[tuple[str, float]], letters: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for text, logp in tokens:
        letter = text.strip()
        if len(letter) == 1 and letter in letters:
            shares[letter] = shares.get(letter, 0.0) + math.exp(logp)
    return shares


def expected_grade(shares: Mapping[str, float], letters: str) -> float:
    """Return the expectation of the letters' grades, evenly spaced from 0 for the first to 1 for the last, over their
    shares renormalised; nan if none has any."""
    mass = math.fsum(shares.values())
    if not mass > 0:
        return math.nan
    grades = {letter: index / (len(letters) - 1) for index, letter in enumerate(letters)}
    return math.fsum(share * grades[letter] for letter, share in shares.items()) / mass


def scale_judge(engine: str, scale: int, repeats: int, criteria: str | Sequence[str]) -> Judge:
    """Return the judge by criteria on a scale of `scale` letters: `judge(scale=20)` (see `samplewise.verify.judge`)."""
    check_count("scale", scale, 2, LARGEST)
    check_count("repeats", repeats)
    asked = read_criteria(criteria)
    letters = string.ascii_uppercase[:scale]
    readings = [(index, repeat) for index in range(len(asked)) for repeat in range(repeats)]

    def ask(key: Key, question: Question, text: str, criterion: int, repeat: int) -> Generate:
        ends = (WORST, BEST) if repeat % 2 == 0 else (BEST, WORST)
        prompt = GRADE.format(
            question=asked_text(question),
            response=text,
            criterion=asked[criterion][1],
            first=letters[0],
            last=letters[-1],
            at_first=ends[0],
            at_last=ends[1],
        )
        return Generate(
            (Message("user", prompt),),
            sampling=Sampling(),
            max_tokens=MAX_TOKENS,
            seed=key.fold("judge", "scale", VERSION, asked[criterion][0], text, repeat).seed(),
            want=("top",),
            engine=engine,
            score_first=tuple(letters),
        )

    def next_asks(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[Ask, ...]:
        if replies:
            return ()
        return tuple(ask(key, question, text, *reading) for text in distinct(candidates) for reading in readings)

    def read(candidates: tuple[Candidate, ...], replies: Replies) -> dict[str, tuple[float, float]]:
        """Return the score of each different response, and its share of probability outside the letters."""
        scores: dict[str, tuple[float, float]] = {}
        for index, text in enumerate(distinct(candidates) if replies else ()):
            grades, outside = [], []
            own = replies[0][index * len(readings) : (index + 1) * len(readings)]
            for (_, repeat), completion in zip(readings, own, strict=True):
                shares = letter_shares(completion, letters)
                if shares is not None:
                    grades.append(expected_grade(shares, letters if repeat % 2 == 0 else letters[::-1]))
                    outside.append(max(0.0, 1.0 - math.fsum(shares.values())))
            scores[text] = mean_known(grades), mean_known(outside)
        return scores

    def rate(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> tuple[float, ...]:
        scores = read(candidates, replies)
        return tuple(scores.get(candidate.text, (math.nan, math.nan))[0] for candidate in candidates)

    def detail(
        key: Key, question: Question, candidates: tuple[Candidate, ...], answers: Answers, replies: Replies
    ) -> Mapping[str, tuple[float, ...]]:
        scores = read(candidates, replies)
        return {"outside": tuple(scores.get(each.text, (math.nan, math.nan))[1] for each in candidates)}

    needs = frozenset({Capability.SCORE_FIRST})
    return Judge("judge", next_asks, rate, needs, frozenset({engine} - {""}), detail=detail)
