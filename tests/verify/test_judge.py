"""Judges as asks: expectations over score tokens, both orders of a pair, budgets, and a store that pays once."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from samplewise.core.errors import BadRequest, SetupError
from samplewise.core.keys import Key
from samplewise.core.types import Ask, Candidate, Completion, Generate, Message, Problem, Question, Score, Usage
from samplewise.engines.base import Arrival, failed
from samplewise.engines.team import Team
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result
from samplewise.recipe import parse_choice, recipe
from samplewise.runs.redecide import redecide, rejudge
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.verify.base import Judge
from samplewise.verify.judge import knockout
from samplewise.verify.replies import expectation, expected_digit, first_better, written_digit

QUESTION = Question("q", (Message("user", "Which letter is best?"),))
KEY = Key(3)


def reply(text: str = "", top: list[dict[str, float]] | None = None) -> Completion:
    places = None if top is None else tuple(tuple(place.items()) for place in top)
    return Completion(text, "stop", Usage(1, 50, 1), top=places)


class Scripted(Toy):
    """Says what a function makes of the prompt."""

    def __init__(self, say: Callable[[Generate], Completion]) -> None:
        super().__init__(3)
        self.say, self.asked = say, 0
        self.name = self.identity = "scripted"

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            assert isinstance(ask, Generate)
            self.asked += 1
            yield Arrival(position, self.say(ask))


def responses(ask: Generate) -> list[str]:
    """The responses that a judge's prompt shows, in their order."""
    return re.findall(r"Response(?: [AB])?:\n(.*)", ask.messages[0].content)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_expectation_over_score_tokens() -> None:
    value, mass = expectation([("7", -1.2), ("8", -0.6), (" 9", -2.0), ("The", -9.0), ("10", -5.0)])
    assert mass == pytest.approx(0.985341, abs=1e-6)
    assert value == pytest.approx(7.831674, abs=1e-6)
    assert expectation([("8", -1.0), (" 8", -1.0)])[1] == pytest.approx(2 * math.exp(-1)), "variants count once each"


def test_yes_and_no() -> None:
    assert first_better(reply(top=[{"A": -0.3, "B": -1.5}])) == pytest.approx(0.768525, abs=1e-6)
    assert first_better(reply("B, I think")) == 0.0
    assert first_better(reply("A")) == 1.0
    assert math.isnan(first_better(reply("neither")))
    assert math.isnan(first_better(failed(BadRequest("no"))))


def test_a_digit_is_read_where_it_stands() -> None:
    assert expected_digit(reply(top=[{" ": -0.1}, {"8": -0.2, "7": -2.0}])) == pytest.approx(7.858, abs=1e-3)
    assert math.isnan(expected_digit(reply(top=[{"I": -0.1, "8": -3.0}]))), "too little mass"
    assert math.isnan(expected_digit(reply("8"))), "no tokens shown"
    digits = {"8": 8, "I say 7.": 7, "9/10": 9, "10": None, "0.5": None, "none": None, "Score: 3\n": 3, "85": None}
    digits |= {"On a scale of 1 to 9, this": None, "1 to 9: 4": 4, "Step 1: The": None, "7 out of 20": None, "5%": None}
    digits |= {"Let us check:\n\n1. The": None, "1. The response": None, "7. The response is right": 7, "1-9": None}
    for text, digit in digits.items():
        assert written_digit(reply(text)) == digit or (digit is None and math.isnan(written_digit(reply(text))))


def test_a_grade_that_goes_on_is_none() -> None:
    assert math.isnan(expected_digit(reply("10", top=[{"1": -0.1}, {"0": -0.1}])))
    assert math.isnan(expected_digit(reply("95%", top=[{"9": -0.1}, {"5": -0.1}])))
    assert expected_digit(reply("10", top=[{"8": -0.1}])) == 8.0, "another token was likelier than what was drawn"


BETTER = {
    **dict.fromkeys(("A", "a", "(A).", "Response A is more likely", "A is better than B", "A, not B"), 1.0),
    **dict.fromkeys(("b", "I prefer B over A", "B rather than A", "Not A but B", "Response A is wrong, B"), 0.0),
    **dict.fromkeys(
        ("Neither A nor B", "Both A and B", "A and B are equal", "A or B", "A/B", "Not A", "A careful look")
    ),
    **dict.fromkeys(("Response A is incorrect", "Response A is not correct", "Response A or Response B", "")),
    **dict.fromkeys(("B is worse than A", "Both are correct, but A", "A is better because", "A. B is wrong"), 1.0),
}


@pytest.mark.parametrize(("text", "first"), BETTER.items())
def test_a_reply_says_which_is_better_or_nothing(text: str, first: float | None) -> None:
    read = first_better(reply(text))
    assert math.isnan(read) if first is None else read == first


def test_a_letter_within_a_reply_counts_as_the_text_says() -> None:
    assert math.isnan(first_better(reply("Neither A", top=[{"Neither": -0.1}, {" A": -0.01}])))
    assert math.isnan(first_better(reply("A careful look", top=[{"A": -0.1}])))
    assert first_better(reply("Response A", top=[{"Response": -0.1}, {" A": -0.01, " B": -5.0}])) > 0.99


# --- in a run ---------------------------------------------------------------------------------------------------------


def solved(
    say: Callable[[Generate], Completion], selector: str, *, budget: Budget = Budget(), store: Store | None = None
) -> tuple[Result, Scripted]:
    engine = Scripted(say)
    team = Team({"": Toy(3), "wise": engine})
    line = recipe(f"repeat(6, max_tokens=2) | {selector}")
    read = lambda question, text: text or None  # noqa: E731
    return asyncio.run(
        run_question(QUESTION, line, RunContext(team, budget=budget, store=store), KEY, read=read)
    ), engine


def likes_a(ask: Generate) -> Completion:
    (text,) = responses(ask)
    digit = str(min(9, 1 + text.count("a")))
    return reply(digit, [{digit: math.log(0.75), "1": math.log(0.25)}] if digit != "1" else [{"1": 0.0}])


def test_a_judge_chooses_and_its_tokens_are_counted(tmp_path: Path) -> None:
    with Store(tmp_path / "s.db") as store:
        result, engine = solved(likes_a, "best(judge('wise'))", store=store)
        again, silent = solved(likes_a, "best(judge('wise'))", store=store)
    texts = [c.text for c in result.pool.candidates]
    assert engine.asked == len(set(texts)), "each different response once"
    assert result.answer == max(texts, key=lambda text: text.count("a"))
    for candidate in result.pool.candidates:
        digit = 1 + candidate.text.count("a")
        assert candidate.scores["judge('wise')"] == pytest.approx((0.75 * digit + 0.25 - 1) / 8 if digit > 1 else 0.0)
    plain = asyncio.run(
        run_question(
            QUESTION, recipe("repeat(6, max_tokens=2) | vote"), RunContext(Toy(3)), KEY, read=lambda q, t: t or None
        )
    )
    assert result.spent.tokens == plain.spent.tokens + 51 * engine.asked
    assert again.paid.requests == silent.asked == 0
    assert again.answer == result.answer


def test_without_tokens_shown_the_mean_of_several_replies() -> None:
    count: dict[str, int] = {}

    def say(ask: Generate) -> Completion:
        (text,) = responses(ask)
        count[text] = count.get(text, 0) + 1
        return reply(["5", "no idea", "7"][count[text] - 1])

    result, engine = solved(say, "best(judge('wise', samples=3))")
    assert set(count.values()) == {3}
    assert engine.asked == 3 * len(count)
    assert {c.scores["judge('wise', samples=3)"] for c in result.pool.candidates} == {(6 - 1) / 8}


def test_what_a_budget_does_not_admit_stays_unscored() -> None:
    drawn, _ = solved(likes_a, "vote")
    result, engine = solved(likes_a, "best(judge('wise'))", budget=Budget(tokens=drawn.spent.tokens + 30))
    assert engine.asked == 0
    assert result.spent.tokens <= drawn.spent.tokens + 30
    assert all(math.isnan(c.scores["judge('wise')"]) for c in result.pool.candidates)
    assert result.answer is not None, "unscored, it draws one of the readable"


def test_a_judge_that_fails_has_no_say() -> None:
    result, _ = solved(lambda ask: failed(BadRequest("no")), "best(judge('wise'))")
    assert all(math.isnan(c.scores["judge('wise')"]) for c in result.pool.candidates)


# --- knockout ---------------------------------------------------------------------------------------------------------


def play(tournament: Judge, say: Callable[[Generate], Completion], texts: Sequence[str], key: Key) -> list[float]:
    """A tournament with every candidate an answer of its own; every round answered."""
    candidates, heard = tuple(map(Candidate, texts)), ()
    while asks := tournament.next_asks(key, QUESTION, candidates, tuple(texts), heard):
        assert len(set(asks)) == len(asks)
        heard = (*heard, tuple(say(ask) for ask in asks))  # type: ignore[arg-type]
    return list(tournament.rate(key, QUESTION, candidates, tuple(texts), heard))


def by_strength(ask: Generate) -> Completion:
    first, second = (int(text) for text in responses(ask))
    return reply("A" if first > second else "B")


@pytest.mark.parametrize("num", [1, 2, 3, 5, 8, 13])
def test_the_strongest_wins_a_knockout(num: int) -> None:
    scores = play(knockout(), by_strength, [str(i) for i in range(num)], KEY)
    assert scores.index(max(scores)) == num - 1
    assert scores.count(max(scores)) == 1 or num == 1
    assert max(scores) == math.ceil(math.log2(num)) if num > 1 else scores == [0.0]


def test_a_knockout_costs_two_requests_for_all_but_one() -> None:
    asked = 0

    def say(ask: Generate) -> Completion:
        nonlocal asked
        asked += 1
        return by_strength(ask)

    play(knockout(votes=3), say, [str(i) for i in range(11)], KEY)
    assert asked == 2 * 3 * 10


def test_a_judge_that_always_says_the_first_decides_nothing() -> None:
    """Both orders cancel, and the key breaks ties evenly: each of four wins a quarter, odds of a false alarm 1e-5."""
    wins = np.zeros(4)
    for seed in range(400):
        scores = play(knockout(), lambda ask: reply("A"), list("0123"), Key(seed))
        wins[scores.index(max(scores))] += 1
    assert np.abs(wins - 100).max() < 4.5 * math.sqrt(400 * 0.25 * 0.75)


@pytest.mark.parametrize(("num", "expected"), [(1, 0.1), (2, 0.154), (4, 0.232170), (8, 0.339130)])
def test_a_knockout_with_errors_has_its_known_accuracy(num: int, expected: float) -> None:
    """p = .1 right, e = .2 errors a pair: x <- x^2 + 2x(1-x)(1-e) a round. 4 standard errors of 1,500 brackets."""
    right_wins = 0
    for seed in range(1500):
        rng = Key(seed).fold("world").generator()
        right = rng.random(num) < 0.1
        texts = [f"{i}{'r' if ok else 'w'}" for i, ok in enumerate(right.tolist())]
        verdicts: dict[frozenset[str], str] = {}

        def say(
            ask: Generate, rng: np.random.Generator = rng, verdicts: dict[frozenset[str], str] = verdicts
        ) -> Completion:
            first, second = responses(ask)
            pair = frozenset((first, second))
            if pair not in verdicts:
                better, worse = (first, second) if first[-1] <= second[-1] else (second, first)
                err = first[-1] != second[-1] and rng.random() < 0.2
                verdicts[pair] = worse if err else better
            return reply("A" if verdicts[pair] == first else "B")

        scores = play(knockout(), say, texts, Key(seed))
        right_wins += texts[scores.index(max(scores))].endswith("r")
    assert abs(right_wins / 1500 - expected) < 4 * math.sqrt(expected * (1 - expected) / 1500)


def test_candidates_of_one_answer_share_their_score() -> None:
    candidates = tuple(map(Candidate, ["1", "2", "1b", "?"]))
    answers = ("one", "two", "one", None)
    tournament, heard = knockout(), ()
    while asks := tournament.next_asks(KEY, QUESTION, candidates, answers, heard):
        heard = (*heard, tuple(by_strength(ask) for ask in asks))  # type: ignore[arg-type]
    one, two, again, unread = tournament.rate(KEY, QUESTION, candidates, answers, heard)
    assert (one, two, again) == (0.0, 1.0, 0.0)
    assert math.isnan(unread)


# --- on a stored run --------------------------------------------------------------------------------------------------


def test_a_stored_run_is_judged_once(tmp_path: Path) -> None:
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(4))
    task = Task("words", problems, lambda q, t: t or None, lambda p, a: Score(float(bool(a) and a[0] == "a")))
    with Store(tmp_path / "s.db") as store:
        asyncio.run(run_task(task, recipe("repeat(5, max_tokens=2) | vote"), Toy(3), store))
        (stored,) = store.runs()
        with pytest.raises(SetupError, match=r"has to ask an engine about run .*--engine"):
            redecide(store, stored, "best(judge)")
        judges = {name: v for name, v in parse_choice("best(judge)").verifiers.items() if isinstance(v, Judge)}
        engine = Scripted(likes_a)
        spent = asyncio.run(rejudge(store, stored, judges, engine, Budget()))
        assert spent.tokens == 51 * engine.asked > 0
        assert len(redecide(store, stored, "best(judge)")) == 4
        assert asyncio.run(rejudge(store, stored, judges, Scripted(likes_a), Budget())) == Usage()


def test_what_a_judge_failed_on_is_asked_again_and_nothing_else(tmp_path: Path) -> None:
    """Scores that a failed request left unknown stayed so: the choice rested on chance whenever it was made again."""
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(4))
    task = Task("words", problems, lambda q, t: t or None, lambda p, a: Score(float(bool(a) and a[0] == "a")))
    judges = {name: v for name, v in parse_choice("best(judge)").verifiers.items() if isinstance(v, Judge)}
    is_up = False

    def say(ask: Generate) -> Completion:
        (text,) = responses(ask)
        if text.startswith("b") and not is_up:
            return failed(BadRequest("not now"))
        return reply("none at all") if text.startswith("c") else likes_a(ask)

    def scores(store: Store, run: str) -> list[float]:
        return [score for p in problems for score in store.scores(run, p.question.id)["judge"]]

    with Store(tmp_path / "s.db") as store:
        asyncio.run(run_task(task, recipe("repeat(8, max_tokens=2) | vote"), Toy(3), store))
        (stored,) = store.runs()
        texts = [c.text for record in store.records(stored.id) for c in record.pool.candidates]
        engine = Scripted(say)
        asyncio.run(rejudge(store, stored, judges, engine, Budget()))
        assert {t[:1] for t, s in zip(texts, scores(store, stored.id), strict=True) if math.isnan(s)} >= {"b", "c"}
        is_up, first = True, engine.asked
        again = asyncio.run(rejudge(store, stored, judges, engine, Budget()))
        assert again.requests == engine.asked - first > 0
        assert {t[:1] for t, s in zip(texts, scores(store, stored.id), strict=True) if math.isnan(s)} <= {"c", ""}
        asked = engine.asked
        assert asyncio.run(rejudge(store, stored, judges, engine, Budget())) == Usage()
        assert engine.asked == asked, "a reply that cannot be read is no failure"
