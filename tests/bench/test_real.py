"""The bench on a real language model: its arithmetic on made-up pools, and its page from the recorded ones."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from bench.real.__main__ import DECIDED, decide, verdicts_of
from bench.real.benchmarks import BENCHMARKS, Benchmark
from bench.real.draw import draw, missing, shape_of
from bench.real.explore import group
from bench.real.figures import Dealt, Difference, at_equal, chosen_by, dealt_orders, joined, passes, solved
from bench.real.methods import METHODS, Method
from bench.real.page import BLOCK, PAGE, blocks, picture, renewed
from bench.real.pools import Pools, Row, Sitting, read_pools, write_pools
from bench.real.power import exactness, importance, returned
from rich.console import Console

from samplewise.core.keys import Key
from samplewise.core.types import Message, Problem, Question, Score
from samplewise.engines.toy import Toy
from samplewise.recipe import parse_choice
from samplewise.store.database import Store
from samplewise.tasks.base import Task
from samplewise.verify.readers import text_reader


def row(grades: str, arms: tuple[str, ...] = (), question: str = "q", helpers: float = 0.0, **fields: object) -> Row:
    """Return a row whose draws are right where `grades` has a 1; each costs 10 tokens, 4 of them drawn."""
    num = len(grades)
    right = tuple(float(grade) for grade in grades)
    answers = tuple("right" if grade else f"wrong {i % 2}" for i, grade in enumerate(right))
    whole = Row("m", question, answers, right, (4,) * num, (10.0,) * num, (-1.0,) * num, helpers, arms=arms)
    return whole._replace(**fields)  # type: ignore[arg-type]


def test_pass_at_k_is_that_of_all_subsets() -> None:
    grades = "0100010"
    every = [any(grades[i] == "1" for i in some) for some in itertools.combinations(range(7), 3)]
    figure = passes(Dealt([row(grades)], 0.5), 3)
    assert figure.values[0] == pytest.approx(np.mean(every))
    assert figure.tokens == pytest.approx(30)
    assert figure.seconds == pytest.approx(3 * 4 * 0.5)


def test_a_mix_is_dealt_to_families_in_turn_and_in_a_family_to_variants() -> None:
    arms = ("direct", "direct", "role/1", "role/1", "role/2", "role/2", "idea.single/1", "idea.single/2")
    families = ["direct", "role", "idea"]
    seconds: Counter[str] = Counter()
    for order in dealt_orders(arms, Key(3), 300).tolist():
        assert sorted(order) == list(range(8))
        dealt = [arms[i] for i in order]
        assert dealt[0] == "direct"
        for start in (0, 3):  # two whole turns
            assert sorted(a.split("/")[0].split(".")[0] for a in dealt[start : start + 3]) == sorted(families)
        roles = [a for a in dealt if a.startswith("role")]
        assert {roles[0], roles[1]} == {"role/1", "role/2"}  # each variant once before one of them again
        seconds[dealt[1][:4]] += 1
    # either of the other families with probability one half; outside 100..200 of 300 with probability 1e-8
    assert 100 < seconds["role"] < 200


def test_draws_of_one_arm_are_shuffled_evenly() -> None:
    firsts = Counter(order[0] for order in dealt_orders(("direct",) * 4, Key(1), 2000).tolist())
    assert all(400 < firsts[i] < 600 for i in range(4))  # 500 expected, deviation 19.4: false alarm 1e-6


def test_helpers_are_paid_once_and_draws_each() -> None:
    dealt = Dealt([row("0101", helpers=7.0)], 1.0)
    assert dealt.at(solved, 2).tokens == pytest.approx(7 + 20)
    both = joined(dealt, dealt)
    assert both.at(solved, 8).tokens == pytest.approx(14 + 80)
    assert len(both.rows[0].grades) == 8


def test_equal_costs_mix_two_neighbors_and_never_extrapolate() -> None:
    dealt = Dealt([row("01")], 1.0)
    curve = [passes(dealt, 1), passes(dealt, 2)]  # .5 for 10 tokens, 1 for 20
    assert at_equal(curve, (1, 2), 15)[0] == pytest.approx(0.75)
    assert at_equal(curve, (1, 2), 1000)[0] == pytest.approx(1.0)
    assert np.isnan(at_equal(curve, (1, 2), 9)[0])


def test_selectors_see_answers_and_scores() -> None:
    pool = row("0001", scores={"public_tests": (0.0, 0.0, 0.0, 1.0)})
    vote, tests = (chosen_by(parse_choice(spec)[1])(pool) for spec in ("vote", "best(public_tests)"))
    assert tests(range(4)) == 1.0
    assert vote(range(4)) == 0.0  # "wrong 0" twice


def test_one_response_by_weight() -> None:
    weighted = row("10", log_weights=(np.log(3.0), 0.0))
    figure = returned(Dealt([weighted], 1.0, 5.0))
    assert figure.values[0] == pytest.approx(0.75)
    assert (figure.tokens, figure.rounds) == (20.0, 5.0)
    # importance weights of p ** 4 on draws from p: p ** 3
    plain = row("10" + "0" * 14, logps=(0.0, -1.0) + (-50.0,) * 14)
    assert importance(Dealt([plain], 1.0)).values[0] == pytest.approx(1 / (1 + np.exp(-3)))
    assert importance(Dealt([plain], 1.0)).tokens == pytest.approx(160)


def test_a_group_counts_fewer_draws_at_equal_tokens() -> None:
    dealt = Dealt([row("1" + "0" * 15)], 1.0)
    assert group(dealt, 16.0).values[0] == 1.0
    # 8.5 of 16 draws hold the right one with probability 8.5 / 16; 100 orders, deviation .05: false alarm 1e-4
    assert group(dealt, 8.5).values[0] == pytest.approx(8.5 / 16, abs=0.2)
    assert group(dealt, 8.5).tokens == pytest.approx(85)


def test_a_difference_says_what_it_shows() -> None:
    words = [Difference(0.1, 0.01, 0.2).word, Difference(0.1, -0.01, 0.2).word, Difference(-0.1, -0.2, -0.01).word]
    assert words == ["confirmed", "not seen", "opposite"]


def test_programs_that_differ_in_names_alone_have_one_shape() -> None:
    first = "def f(a, b):\n    '''Add.'''\n    # of two\n    total = a + b\n    return total\n"
    assert shape_of(first) == shape_of("def f(x: int, y) -> int:\n    s = x + y\n    return s")
    assert shape_of(first) != shape_of("def f(a, b):\n    total = a - b\n    return total\n")
    assert shape_of("not python (") != shape_of("nor this )")


def test_pools_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [
        row("01", question="é", scores={"public_tests": (None, 0.5)}, figures={"clipped": 0.5}),
        row("11", arms=("direct", "role/1"), log_weights=(0.5, 0.0), helpers=3.0, logps=(None, -2.5)),
    ]
    pools = Pools({(r.method, r.question): r for r in rows}, (Sitting("m", 2, 1.5, 2.5, 16),))
    write_pools("made-up", pools, tmp_path)
    assert read_pools("made-up", tmp_path) == pools
    drawn = sum(sum(each.tokens) for each in rows)
    assert read_pools("made-up", tmp_path).seconds_per_token("m") == pytest.approx(2.5 / drawn)


def test_seconds_are_those_of_the_engine_that_drew_plain() -> None:
    """Independent draws take 2 s a token there and 5 s here; what took 50 s here takes 20 there."""
    fast, slow = "m, bfloat16, one", "m, float32, other"
    sittings = (
        Sitting("plain", 1, 9.0, 20.0, 10, fast),
        Sitting("temperature .25", 1, 9.0, 15.0, 3, slow),
        Sitting("power", 1, 9.0, 50.0, 50, slow),
        Sitting("power", 1, 9.0, 8.0, 10, fast),
        Sitting("lss", 1, 9.0, 8.0, 4, "m, float32, third"),
    )
    lengths = {"plain": 10, "temperature .25": 3, "power": 7, "lss": 4}  # of power, what it returned
    rows = {(name, "q"): row("1")._replace(method=name, tokens=(num,)) for name, num in lengths.items()}
    pools = Pools(rows, sittings)
    assert pools.seconds_per_token("plain") == 2.0
    assert pools.seconds_per_token("temperature .25") == pytest.approx(2.0)
    assert pools.seconds_per_token("power") == pytest.approx((20.0 + 8.0) / 7)
    assert np.isnan(pools.seconds_per_token("lss")), "nobody knows how fast the third one draws"
    assert np.isnan(pools.seconds_per_token("css"))
    assert Pools(rows, sittings[2:3]).seconds_per_token("power") == pytest.approx(50 / 7)
    assert pools.models("power") == {"m, bfloat16", "m, float32"}


def test_two_estimates_of_log_z_are_compared_for_one_model_alone() -> None:
    plain = row("10", logps=(0.0, np.log(0.5)))
    smc = row("11", figures={"log_z": 0.25, "ess": 2.0})
    drawn = {"plain": Dealt([plain], 1.0), "smc": Dealt([smc], 1.0)}
    found = exactness(drawn, True, Console(quiet=True))
    assert found["log_z: smc - sir"] == pytest.approx(0.25 - np.log((1 + 0.5**3) / 2))
    assert "log_z: smc - sir" not in exactness(drawn, False, Console(quiet=True))


def test_a_block_of_the_page_is_filled_in_and_no_other() -> None:
    page = "before\n<!-- power: gsm8k -->\nold\n<!-- end -->\n<!-- other -->\nkept\n<!-- end -->\n"
    assert renewed(page, {"power: gsm8k": "new"}) == page.replace("old", "\nnew\n")


def test_a_picture_shows_every_method() -> None:
    figures = {
        f"vote of {k}": {"accuracy": 0.4 + k / 100, "low": 0.3, "high": 0.7, "tokens": 100.0 * k} for k in (1, 4)
    } | {"a < b": {"accuracy": 0.5, "low": 0.4, "high": 0.6, "tokens": 50.0}}
    drawn = picture("title", figures, "tokens")
    assert drawn.count("<circle") == 3 + 2  # three marks, two entries of the legend
    assert "a &lt; b" in drawn


def test_methods_have_names_of_their_own_and_known_benchmarks() -> None:
    assert len({method.name for method in METHODS}) == len(METHODS)
    assert {name for method in METHODS for name in method.benchmarks} <= set(BENCHMARKS)


def test_what_a_selector_leaves_to_chance_is_averaged() -> None:
    """16 different answers, one of them right: a tie. One draw of it would be 0 or 1."""
    tied = row("1" + "0" * 15)._replace(answers=tuple(map(str, range(16))))
    dealt = Dealt([tied], 1.0)
    # 400 choices of probability 1/16, deviation .0121: outside .0625 +- .06 with probability 1e-6
    assert dealt.at(chosen_by(parse_choice("vote")[1]), 16, 400).values[0] == pytest.approx(1 / 16, abs=0.06)
    assert dealt.at(chosen_by(parse_choice("vote")[1]), 16, 400).values[0] > 0


def test_draws_go_on_where_they_stopped_and_are_paid_once(tmp_path: Path) -> None:
    """Cut off at once, then finished, with a toy that counts: each draw is asked for once; what is recorded is not."""
    problems = tuple(Problem(Question(f"q{i}", (Message("user", f"say {i}"),)), "a") for i in range(4))
    task = Task("toy words", problems, text_reader(), lambda problem, answer: Score(float(answer == problem.reference)))
    benchmark = Benchmark("words", "", 3)
    method = Method("plain", "plain", "repeat(5, max_tokens={top})", ("words",), 5)
    with Store(tmp_path / "draws.db") as store:
        first = draw(benchmark, method, task, Toy(3), store, time.monotonic() - 1, tmp_path)
        assert not first
        assert not read_pools("words", tmp_path).rows
        assert [chunk.questions for _, chunk in missing(benchmark, (method,), task, tmp_path)] == [task.questions]
        assert draw(benchmark, method, task, Toy(3), store, time.monotonic() + 60, tmp_path)
        assert store.num_draws() == 4 * 5
    pools = read_pools("words", tmp_path)
    assert [len(row.grades) for row in pools.of("plain")] == [5] * 4
    assert not list(missing(benchmark, (method,), task, tmp_path))
    some = Pools({key: row for key, row in pools.rows.items() if key[1] != "q2"}, pools.sittings)
    write_pools("words", some, tmp_path)
    assert len(list(missing(benchmark, (method,), task, tmp_path))) == 1, "a chunk with one question left"
    drawn = sum(sum(row.tokens) for row in pools.of("plain"))
    assert all(cost > num for row in pools.of("plain") for cost, num in zip(row.costs, row.tokens, strict=True))
    assert sum(sitting.tokens for sitting in pools.sittings) == drawn, "paid in both sittings together, once"


def test_the_page_is_what_the_recorded_pools_give() -> None:
    """Every table of docs/evidence.md is decided again, from the files alone."""
    found = decide({name: read_pools(name) for name in BENCHMARKS}, list(DECIDED), Console(quiet=True))
    contents = blocks({part: each.figures for part, each in found.items()}, verdicts_of(found))
    page = PAGE.read_text(encoding="utf-8")
    named = {match["name"] for match in BLOCK.finditer(page)}
    assert named == contents.keys(), "a block for each table, and a table for each block"
    assert renewed(page, contents) == page, "renew it: python -m bench.real --page"
