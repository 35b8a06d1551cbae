"""Priors learned from past runs: the gate, the alarm, and the file that recipes name."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from samplewise.analysis.prior import (
    HeadGate,
    PastScores,
    check_fit,
    hashed_words,
    judge_head,
    judge_pits,
    learn_prior,
    pit,
    read_scores,
    write_prior,
)
from samplewise.core.errors import SetupError
from samplewise.core.keys import Key
from samplewise.core.types import Message, Problem, Question, Score
from samplewise.engines.toy import Toy
from samplewise.recipe import recipe
from samplewise.runs.run import run_task
from samplewise.stop import optscale
from samplewise.stop.prior import BetaPrior, ScorePrior, read_prior
from samplewise.store.database import Store
from samplewise.tasks.base import Task, data_folder

WORDS = ("apple", "stone", "river", "cloud", "house", "light")


def question(name: str, text: str) -> Question:
    return Question(name, (Message("user", text),))


def past(num: int, draws: int = 12, *, telling: bool = True, seed: int = 0) -> list[PastScores]:
    """Questions whose words say how hard they are, or do not; pass/fail scores."""
    rng, found = Key(seed).fold("past").generator(), []
    for i in range(num):
        hard = bool(rng.random() < 0.5)
        word = "integral of a monstrous function" if hard == telling or (not telling and rng.random() < 0.5) else "sum"
        filler = " ".join(rng.choice(WORDS, 6).tolist())
        chance = rng.beta(1, 9) if hard else rng.beta(9, 1)
        scores = tuple((rng.random(draws) < chance).astype(float).tolist())
        found.append(PastScores(question(f"q{i}", f"{word} {filler}"), scores))
    return found


def test_the_constant_is_empirical_bayes() -> None:
    learned = learn_prior(past(60), target=1.0)
    assert isinstance(learned.default, BetaPrior)
    assert learned.default.a < 1, "half are easy and half are hard: a U"
    assert learned.questions == {}
    assert learned.gate is None
    assert learned.health.kept
    assert learned.health.num == 40
    assert learned == learn_prior(past(60), target=1.0), "it replays"


@pytest.mark.parametrize("head", ["knn", "ridge"])
def test_a_head_that_knows_something_is_kept(head: str) -> None:
    words = " ".join(WORDS)
    fresh = [question("new-hard", f"integral of a monstrous function {words}"), question("new-easy", f"sum {words}")]
    learned = learn_prior(past(80), target=1.0, head=head, questions=fresh)  # type: ignore[arg-type]
    assert learned.gate is not None
    assert learned.gate.passed
    assert learned.gate.error < learned.gate.constant
    assert learned.gate.rank > 0.5
    hard, easy = (learned.questions[name] for name in ("new-hard", "new-easy"))
    assert isinstance(hard, BetaPrior)
    assert isinstance(easy, BetaPrior)
    assert hard.pass_probability(0) < 0.35 < 0.65 < easy.pass_probability(0)
    assert len(learned.questions) == 82


@pytest.mark.parametrize("head", ["knn", "ridge"])
def test_a_head_that_knows_nothing_is_refused_with_its_numbers(head: str) -> None:
    learned = learn_prior(past(80, telling=False, seed=3), target=1.0, head=head)  # type: ignore[arg-type]
    assert learned.gate is not None
    assert not learned.gate.passed
    assert learned.questions == {}
    assert str(learned.gate).startswith("refused: squared error ")
    assert "a constant's" in str(learned.gate)


def test_past_questions_are_predicted_without_themselves() -> None:
    """A question that breaks the pattern keeps the pattern's prior: its own draws are no part of it."""
    seen = past(80)
    odd = next(i for i, each in enumerate(seen) if "integral" in each.question.messages[0].content)
    changed = [*seen]
    changed[odd] = PastScores(seen[odd].question, (1.0,) * 12)
    prior = learn_prior(changed, target=1.0, head="ridge").questions[f"q{odd}"]
    assert isinstance(prior, BetaPrior)
    assert prior.pass_probability(0) < 0.4


@pytest.mark.slow
def test_a_prior_of_scores() -> None:
    rng = Key(4).generator()
    seen = []
    for i in range(60):
        mean = 1 / (1 + np.exp(-rng.normal(1, 0.7)))
        seen.append(PastScores(question(f"q{i}", "x"), tuple(rng.beta(mean * 30, (1 - mean) * 30, 8).tolist())))
    learned = learn_prior(seen)
    assert isinstance(learned.default, ScorePrior)
    assert learned.default.logit_mean == pytest.approx(1, abs=0.3)
    assert learned.default.sd_mean == pytest.approx(0.7, abs=0.25)
    assert learned.health.kept
    assert 0.75 <= learned.health.coverage <= 1
    with pytest.raises(SetupError, match=r"in \[0, 1\]"):
        learn_prior([PastScores(each.question, (*each.scores, 3.0)) for each in seen])


def test_a_prior_that_no_longer_fits_is_dropped(tmp_path: Path) -> None:
    """The model changed after 60 questions: what was mostly solved is mostly not."""
    rng = Key(5).generator()
    chances = [*rng.beta(8, 2, 60).tolist(), *rng.beta(2, 30, 40).tolist()]
    seen = [
        PastScores(question(f"q{i}", "x"), tuple((rng.random(12) < p).astype(float).tolist()))
        for i, p in enumerate(chances)
    ]
    learned = learn_prior(seen, target=1.0)
    assert not learned.health.kept
    assert "does not fit the last 50 questions" in learned.health.reason
    write_prior(tmp_path / "prior.json", learned)
    source = read_prior(str(tmp_path / "prior.json"))
    assert source.of(Question("q", ())) is None
    assert "does not fit" in source.dropped


def test_the_alarm_is_right_about_as_often_as_it_says() -> None:
    """200 walks in their own world, level .01: more than 9 alarms have odds of 1e-4."""
    rng = Key(6).generator()
    alarms = sum(not judge_pits(rng.random(60).tolist()).kept for _ in range(200))
    assert alarms <= 9
    assert not judge_pits((0.5 * rng.random(60)).tolist()).kept
    assert judge_pits([0.01] * 9).kept, "nine questions are too few to say"


def test_pits_of_passes_are_uniform_under_the_prior() -> None:
    rng, prior = Key(7).generator(), BetaPrior(2.0, 5.0)
    pits = []
    for _ in range(400):
        scores = tuple((rng.random(6) < rng.beta(*prior)).astype(float).tolist())
        pits.append(pit(prior, PastScores(question("q", "x"), scores), 1.0, float(rng.random())))
    assert np.mean(pits) == pytest.approx(0.5, abs=4 * 0.289 / 20)
    assert np.mean(np.array(pits) < 0.1) == pytest.approx(0.1, abs=4 * 0.3 / 20)


def test_a_file_goes_into_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "prior.json"
    learned = learn_prior(past(60), target=1.0, head="ridge")
    write_prior(path, learned)
    source = read_prior(str(path))
    assert source.default == pytest.approx(learned.default)
    assert source.of(Question("q3", ())) == pytest.approx(learned.questions["q3"])
    assert optscale(0.95, "v", target=1.0, price=0.02, prior=str(path)).expected_gain is not None
    json.loads(path.read_text())


def test_too_few_past_questions_are_said() -> None:
    with pytest.raises(SetupError, match="needs 20 past questions with 4 scores each, got 19"):
        learn_prior(past(19), target=1.0)
    with pytest.raises(SetupError, match="got 0"):
        learn_prior(past(40, draws=3), target=1.0)
    assert check_fit(past(25), 1.0, Key(0)).num == 5


def test_scores_are_read_from_a_stored_run() -> None:
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"word {i}"),)), "a") for i in range(4))
    task = Task("words", problems, lambda asked, text: text or None, lambda problem, answer: Score(0.0))
    with Store(":memory:") as store:
        line = "repeat(5, max_tokens=3) | best(likelihood)"
        run = asyncio.run(run_task(task, recipe(line), Toy(3), store)).run
        found = read_scores(store, run, "likelihood")
        with pytest.raises(SetupError, match="holds no scores of reward"):
            read_scores(store, run, "reward")
    assert [seen.question.id for seen in found] == ["q0", "q1", "q2", "q3"]
    assert all(len(seen.scores) == 5 for seen in found)


def test_hashed_words() -> None:
    table = hashed_words(["Two words", "two words", ""])
    assert table.shape == (3, 257)
    assert table[0] == pytest.approx(table[1])
    assert np.linalg.norm(table[0, :256]) == pytest.approx(1)
    assert not table[2].any()


@pytest.mark.skipif(data_folder() is None, reason="the reference folder is not here")
def test_the_released_predictor_fails_the_gate() -> None:
    """In whatever order it is joined: its mean alone is off by .41."""
    folder = data_folder()
    assert folder is not None
    reference = folder / "optscale_reference"
    guessed = np.array(json.loads((reference / "BoN_OptScale__MATH500_train_mu_sigma.json").read_text()))[:, 0]
    table = json.loads((reference / "train_predictor__val_mu_sigma_dict.json").read_text())
    truth = np.array([each["mean"] for each in table.values()])
    gate: HeadGate = judge_head(guessed, np.full(500, truth.mean()), truth, Key(0))
    assert not gate.passed
    assert gate.error == pytest.approx(0.19, abs=0.02)
    assert gate.constant == pytest.approx(0.0032, abs=2e-4)
