"""Words of recipe lines that have changed since a store was written."""

from __future__ import annotations

import hashlib
import json

from samplewise.core.spec import modern, wire
from samplewise.core.types import Candidate, Pool, Problem, Question, Selection, Stop, Usage
from samplewise.engines.toy import Toy
from samplewise.loop.ledger import Budget
from samplewise.recipe import recipe
from samplewise.runs.run import run_id
from samplewise.store.database import Store
from samplewise.store.records import Record, Run
from samplewise.tasks.base import Task

OLD = "vary(share=quota(1, 1)) | repeat(4) | until(either(share(0.8), pandora(v, price=0.1, law=(0.6, 0.2)))) | vote"
NEW = (
    "vary(share=quota(1, 1)) | repeat(4) | "
    "until(either(vote_share(0.8), pandora(v, price=0.1, distribution=(0.6, 0.2)))) | vote"
)


def test_an_old_line_is_read_in_todays_words_and_back() -> None:
    """`share` names how draws are allocated to arms; the stop rule that had the name is `vote_share`."""
    assert modern(OLD) == NEW == modern(NEW)
    assert wire(NEW) == OLD == wire(OLD)


def test_a_store_gives_old_runs_in_todays_words() -> None:
    stop = Stop("settled", {"rule": "share", "statistic": 1.0})
    problem, pool = Problem(Question("q", ()), "a"), Pool((Candidate("a"), Candidate("a")))
    with Store(":memory:") as store:
        store.start_run(Run("r", OLD, "t", "e", 0, {}, 0.0, None))
        record = Record(problem, 0, pool, ("a", "a"), (1.0, 1.0), Usage(), stop)
        store.save("r", record, "vote", Selection("a", 0, (0.5, 0.5)), 1.0)
        assert [run.recipe for run in store.runs()] == [NEW]
        (read,) = store.records("r")
    assert read.stop == stop._replace(evidence={"rule": "vote_share", "statistic": 1.0})


def test_the_id_of_a_run_is_that_of_its_old_line() -> None:
    """A run that was cut off before a word changed goes on under its id."""
    problem, engine, budget = Problem(Question("q", ()), "a"), Toy(3), Budget()
    task = Task("t", (problem,), lambda text, question: text, lambda answer, problem: 1.0)
    work = [
        "repeat(4) | until(share(0.8)) | vote",
        [(problem.question, problem.reference)],
        engine.identity,
        0,
        budget,
    ]
    text = json.dumps(work, sort_keys=True, ensure_ascii=False)
    expected = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=6).hexdigest()
    assert run_id(task, recipe("repeat(4) | until(vote_share(0.8)) | vote"), engine, 0, budget) == expected
