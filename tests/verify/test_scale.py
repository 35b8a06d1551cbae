"""The judge on a scale of letters: the expectation, its costs, what lies outside the letters, who can do it."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import BadRequest, BadSpec, Unsupported
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import (
    Ask,
    Candidate,
    Capability,
    Completion,
    Generate,
    Message,
    Problem,
    Question,
    Score,
    Usage,
)
from samplewise.engines.base import Arrival, failed
from samplewise.engines.team import Team
from samplewise.engines.toy import Toy
from samplewise.loop.context import RunContext
from samplewise.loop.drive import run_question
from samplewise.loop.ledger import Budget
from samplewise.loop.result import Result, outside_note
from samplewise.recipe import parse_choice, recipe
from samplewise.runs.redecide import redecide, rejudge
from samplewise.runs.run import run_task
from samplewise.store.database import Store
from samplewise.store.digests import digest_of
from samplewise.tasks.base import Task
from samplewise.verify.base import Judge
from samplewise.verify.judge import judge
from samplewise.verify.scale import CRITERIA, SETS, expected_grade, letter_shares, read_criteria

QUESTION = Question("q", (Message("user", "Which letter is best?"),))
KEY = Key(3)
LETTERS = "ABCDEFGHIJKLMNOPQRST"
Say = Callable[[Generate], Completion]


def reply(*positions: dict[str, float]) -> Completion:
    """A reply with the probabilities of tokens at each position, the likeliest first, as engines list them."""
    top = tuple(
        tuple((t, math.log(p)) for t, p in sorted(each.items(), key=lambda pair: -pair[1])) for each in positions
    )
    return Completion("x", "stop", Usage(1, 100, 2), top=top or None)


class Scripted(Toy):
    """Says what a function makes of the prompt, and shows the log-probs of its tokens."""

    can = Toy.can | {Capability.SCORE_FIRST}

    def __init__(self, say: Say) -> None:
        super().__init__(3)
        self.say, self.asked = say, list[Generate]()
        self.name = self.identity = "scripted"

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            assert isinstance(ask, Generate)
            self.asked.append(ask)
            yield Arrival(position, self.say(ask))


def response(ask: Generate) -> str:
    (text,) = re.findall(r"Response:\n(.*)", ask.messages[0].content)
    return str(text)


def ends(ask: Generate) -> tuple[str, str]:
    """The letters of the scale that stand for the worst and the best."""
    found = dict(re.findall(r"\b([A-Z]) is (certainly not|certainly)\b", ask.messages[0].content))
    by_meaning = {meaning: letter for letter, meaning in found.items()}
    return by_meaning["certainly not"], by_meaning["certainly"]


# --- the expectation --------------------------------------------------------------------------------------------------


def test_the_expectation_is_over_the_letters_alone() -> None:
    """.5 on T, .2 on K, .1 on " A", .2 on a word: (.5 + .2 * 10/19) / .8 = .756579, and .2 lies outside."""
    shares = letter_shares(reply({"T": 0.5, "K": 0.2, " A": 0.1, "The": 0.2}), LETTERS)
    assert shares == pytest.approx({"T": 0.5, "K": 0.2, "A": 0.1})
    assert expected_grade(shares or {}, LETTERS) == pytest.approx((0.5 + 0.2 * 10 / 19) / 0.8)
    assert expected_grade(shares or {}, LETTERS[::-1]) == pytest.approx(1 - (0.5 + 0.2 * 10 / 19) / 0.8)
    assert expected_grade({"B": 1e-6}, "AB") == 1.0, "renormalised, however little it is"
    assert math.isnan(expected_grade({}, "AB"))


@given(st.dictionaries(st.sampled_from(LETTERS), st.floats(1e-6, 1.0), min_size=1))
def test_the_expectation_is_the_sum(shares: dict[str, float]) -> None:
    exact = sum(p * LETTERS.index(letter) / 19 for letter, p in shares.items()) / sum(shares.values())
    assert expected_grade(shares, LETTERS) == pytest.approx(exact)
    assert expected_grade(shares, LETTERS) + expected_grade(shares, LETTERS[::-1]) == pytest.approx(1.0)


def test_letters_are_read_where_they_stand() -> None:
    assert letter_shares(reply({"\n": 0.9, "T": 0.1}, {"B": 0.7, " B": 0.2, "U": 0.1}), LETTERS) == pytest.approx(
        {"B": 0.9}
    )
    assert letter_shares(reply({"I": 0.5, "AB": 0.3, "b": 0.2}), "AB") == {}, "none of the two letters"
    thinks = reply({"I": 0.9, "T": 0.1})
    assert letter_shares(thinks._replace(text="I"), LETTERS) == pytest.approx({"I": 0.9, "T": 0.1})
    assert letter_shares(thinks._replace(text="I think"), LETTERS) == {}, "a word, and no grade"
    assert letter_shares(reply({"A": 0.9})._replace(text="A good"), LETTERS) == {}
    assert letter_shares(reply(), LETTERS) is None
    assert letter_shares(failed(BadRequest("no")), LETTERS) is None


def test_criteria() -> None:
    assert [name for name, _ in read_criteria("programs")] == ["specification", "output", "errors"]
    assert [name for name, _ in read_criteria("maths")] == list(SETS["maths"])
    assert read_criteria(()) == (("correct", CRITERIA["correct"]),)
    assert read_criteria("errors") == (("errors", CRITERIA["errors"]),)
    assert read_criteria(("errors", "Is it short?")) == (("errors", CRITERIA["errors"]), ("Is it short?",) * 2)
    for wrong in ("speed", ("errors", "errors"), ("",)):
        with pytest.raises(ValueError, match="criteria"):
            read_criteria(wrong)


@pytest.mark.parametrize(
    "spec",
    [
        *("judge(scale=1)", "judge(scale=27)", "judge(scale=20, repeats=0)", "judge(scale=20, criteria='speed')"),
        *("judge(repeats=2)", "judge(criteria='maths')", "judge(scale=20.0)", "judge(scale=20, criteria=(1, 2))"),
    ],
)
def test_settings_are_checked(spec: str) -> None:
    with pytest.raises(BadSpec, match=r"scale|repeats|criteria"):
        build("verifier", spec)


# --- in a run ---------------------------------------------------------------------------------------------------------


def solved(
    say: Say, selector: str, *, budget: Budget = Budget(), store: Store | None = None
) -> tuple[Result, Scripted]:
    engine = Scripted(say)
    team = Team({"": Toy(3), "wise": engine})
    line = recipe(f"repeat(6, max_tokens=2) | {selector}")
    context = RunContext(team, budget=budget, store=store)
    return asyncio.run(run_question(QUESTION, line, context, KEY, read=lambda question, text: text or None)), engine


def likes_a(ask: Generate) -> Completion:
    """The more of the letter a, the nearer to the best end of the scale; a fifth of the probability is elsewhere."""
    worst, best = ends(ask)
    share = 0.2 + 0.2 * response(ask).count("a")
    return reply({best: 0.8 * share, worst: 0.8 * (1 - share), "Well": 0.2})


NAME = "judge('wise', scale=20, repeats=4, criteria='programs')"


def test_it_chooses_and_every_token_is_counted(tmp_path: Path) -> None:
    """3 criteria and 4 repeats: 12 requests for each different response, 102 tokens each."""
    with Store(tmp_path / "s.db") as store:
        result, engine = solved(likes_a, f"best({NAME})", store=store)
        again, silent = solved(likes_a, f"best({NAME})", store=store)
    texts = [c.text for c in result.pool.candidates]
    assert len(engine.asked) == len(set(engine.asked)) == 12 * len(set(texts))
    assert {ask.max_tokens for ask in engine.asked} == {2}
    assert result.answer == max(texts, key=lambda text: text.count("a"))
    for candidate in result.pool.candidates:
        assert candidate.scores[NAME] == pytest.approx(0.2 + 0.2 * candidate.text.count("a"))
        assert candidate.scores[f"{NAME}.outside"] == pytest.approx(0.2)
    plain, _ = solved(likes_a, "vote")
    assert result.spent.tokens == plain.spent.tokens + 102 * len(engine.asked)
    assert again.paid.requests == len(silent.asked) == 0
    assert again.answer == result.answer
    assert result.bill.judges[NAME].tokens == 102 * len(engine.asked)


def test_a_liking_for_a_letter_cancels() -> None:
    """A judge that says A whatever it reads has no opinion, where one way around it would call all of them worst."""

    def says_a(ask: Generate) -> Completion:
        return reply({"A": 0.9, "B": 0.1})

    both, _ = solved(says_a, "best(judge('wise', scale=20))")
    assert [c.scores["judge('wise', scale=20)"] for c in both.pool.candidates] == pytest.approx([0.5] * 6)
    once, engine = solved(says_a, "best(judge('wise', scale=20, repeats=1))")
    assert all(c.scores["judge('wise', scale=20, repeats=1)"] < 0.01 for c in once.pool.candidates)
    assert {ends(ask) for ask in engine.asked} == {("A", "T")}


def test_criteria_weigh_alike() -> None:
    grades = {"specification": 0.9, "output": 0.3, "errors": 0.6}

    def by_criterion(ask: Generate) -> Completion:
        (name,) = (name for name in grades if CRITERIA[name] in ask.messages[0].content)
        worst, best = ends(ask)
        return reply({best: grades[name], worst: 1 - grades[name]})

    result, _ = solved(by_criterion, "best(judge('wise', scale=5, criteria='programs'))")
    scores = [score for c in result.pool.candidates for name, score in c.scores.items() if name.endswith(")")]
    assert scores == pytest.approx([0.6] * 6)


def test_failed_replies_are_left_out_and_none_at_all_is_nan() -> None:
    def fails_once(ask: Generate) -> Completion:
        return failed(BadRequest("no")) if ends(ask)[0] == "A" else likes_a(ask)

    result, _ = solved(fails_once, "best(judge('wise', scale=20))")
    for candidate in result.pool.candidates:
        assert candidate.scores["judge('wise', scale=20)"] == pytest.approx(0.2 + 0.2 * candidate.text.count("a"))
    lost, _ = solved(lambda ask: failed(BadRequest("no")), "best(judge('wise', scale=20))")
    assert all(math.isnan(score) for c in lost.pool.candidates for score in c.scores.values())
    drawn, _ = solved(likes_a, "vote")
    poor, engine = solved(likes_a, "best(judge('wise', scale=20))", budget=Budget(tokens=drawn.spent.tokens + 30))
    assert not engine.asked
    assert all(math.isnan(c.scores["judge('wise', scale=20)"]) for c in poor.pool.candidates)


def test_most_of_the_probability_outside_is_said() -> None:
    def evasive(ask: Generate) -> Completion:
        return reply({"Well": 0.7, ends(ask)[1]: 0.3})

    result, _ = solved(evasive, "best(judge('wise', scale=20))")
    assert [c.scores["judge('wise', scale=20)"] for c in result.pool.candidates] == pytest.approx([1.0] * 6)
    assert outside_note(result.pool.candidates).startswith("judge('wise', scale=20) put 70% of its probability outside")
    assert outside_note(solved(likes_a, "best(judge('wise', scale=20))")[0].pool.candidates) == ""


def test_an_engine_that_shows_no_letters_is_refused_before_anything_is_drawn() -> None:
    """The judge's own engine counts, not the solver's."""

    class Silent(Toy):
        async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
            raise AssertionError("nothing should be drawn")
            yield

    for engine, spec in ((Silent(3), "judge(scale=20)"), (Team({"": Silent(3), "wise": Toy(3)}), NAME)):
        line = recipe(f"repeat(2) | best({spec})")
        with pytest.raises(Unsupported, match="needs score_first, which toy"):
            asyncio.run(run_question(QUESTION, line, RunContext(engine), KEY, read=lambda q, t: t))


def test_a_stored_run_is_judged_once(tmp_path: Path) -> None:
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(3))
    task = Task("words", problems, lambda q, t: t or None, lambda p, a: Score(float(bool(a) and a[0] == "a")))
    with Store(tmp_path / "s.db") as store:
        asyncio.run(run_task(task, recipe("repeat(4, max_tokens=2) | vote"), Toy(3), store))
        (stored,) = store.runs()
        chosen = parse_choice("best(judge(scale=3))").verifiers
        judges = {name: v for name, v in chosen.items() if isinstance(v, Judge)}
        with pytest.raises(Unsupported, match="needs score_first"):
            asyncio.run(rejudge(store, stored, judges, Toy(3), Budget()))
        engine = Scripted(likes_a)
        spent = asyncio.run(rejudge(store, stored, judges, engine, Budget()))
        assert spent.tokens == 102 * len(engine.asked) > 0
        assert len(redecide(store, stored, "best(judge(scale=3))")) == 3
        for record in store.records(stored.id):
            for candidate in record.pool.candidates:
                assert candidate.scores["judge(scale=3).outside"] == pytest.approx(0.2)
        assert asyncio.run(rejudge(store, stored, judges, Scripted(likes_a), Budget())) == Usage()


# --- without a scale --------------------------------------------------------------------------------------------------


def test_without_a_scale_the_requests_are_those_of_old_stores() -> None:
    """The digests name stored draws, and may never change."""
    candidates = (Candidate("a"), Candidate("b"))
    for made, digests in (
        (judge(), DIGESTS["judge"]),
        (judge("wise", samples=2), DIGESTS["judge"]),
        (build("verifier", "knockout"), DIGESTS["knockout"]),
    ):
        asks = made.next_asks(KEY, QUESTION, candidates, ("a", "b"), ())
        assert [digest_of("engine", ask).hex() for ask in asks] == digests


DIGESTS = {
    "judge": ["9dcb5a18885428f3f57fa6be16cb3751", "4c89e114c4dab17e9cabdab8dd687d2b"],
    "knockout": ["bc72ce98390a774f6cf0cde568327517", "52125f57c330a5942624ef6b541e8173"],
}
