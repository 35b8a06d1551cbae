"""The bench on a real language model: its arithmetic on made-up pools, and its page from the recorded ones."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from bench.real.__main__ import DECIDED, decide, main, verdicts_of
from bench.real.benchmarks import BENCHMARKS, Benchmark
from bench.real.claims import verdicts
from bench.real.draw import draw, joint_outputs, missing, shape_of
from bench.real.explore import at_equal_cost, explore_part, group
from bench.real.figures import (
    Dealt,
    Difference,
    at_equal,
    chosen_by,
    complete,
    dealt_orders,
    difference,
    joined,
    passes,
    solved,
)
from bench.real.methods import METHODS, Method
from bench.real.page import BLOCK, EMPTY, PAGE, PICTURES, block, blocks, picture, renewed
from bench.real.pools import Pools, Row, Sitting, joint_name, read_pools, stored, write_pools
from bench.real.power import any_of_all, exactness, importance, returned, saved
from bench.real.stop import calibrated, remembering, stop_part
from bench.real.vary import LEVELS, arms_of, runs_of, vary_part
from rich.console import Console

from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.types import Candidate, Message, Pool, Problem, Question, Score
from samplewise.engines.toy import Toy
from samplewise.recipe import parse_choice
from samplewise.runs.orders import replay_pools
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
    (figure,) = passes(Dealt([row(grades)], 0.5), [3])
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
    curve = passes(dealt, (1, 2))  # .5 for 10 tokens, 1 for 20
    assert at_equal(curve, (1, 2), 15)[0] == pytest.approx(0.75)
    assert at_equal(curve, (1, 2), 20)[0] == pytest.approx(1.0)
    assert np.isnan(at_equal(curve, (1, 2), 9)[0])
    assert np.isnan(at_equal(curve, (1, 2), 21)[0]), "two draws do not cost 21 tokens"


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


def test_a_share_saved_in_tokens_and_in_seconds() -> None:
    """Two questions of 20 and 60 tokens, where the other method takes 80 each, of which a token is twice as fast."""
    ours = [row("1" * 2, question="a"), row("1" * 6, question="b")]
    theirs = [row("1" * 8, question=name) for name in "ab"]
    first, second = Dealt(ours, 1.0), Dealt(theirs, 0.5)
    assert saved(first, second, "tokens").value == pytest.approx(1 - 40 / 80)
    seconds = sum(sum(each.tokens) for each in ours) / (0.5 * sum(sum(each.tokens) for each in theirs))
    assert saved(first, second, "seconds").value == pytest.approx(1 - seconds)


def test_a_group_counts_fewer_draws_at_equal_tokens() -> None:
    dealt = Dealt([row("1" + "0" * 15)], 1.0)
    assert group(dealt, 16.0).values[0] == 1.0
    # 8.5 of 16 draws hold the right one with probability 8.5 / 16; 100 orders, deviation .05: false alarm 1e-4
    assert group(dealt, 8.5).values[0] == pytest.approx(8.5 / 16, abs=0.2)
    assert group(dealt, 8.5).tokens == pytest.approx(85)


def test_a_difference_says_what_it_shows() -> None:
    words = [Difference(0.1, 0.01, 0.2).word, Difference(0.1, -0.01, 0.2).word, Difference(-0.1, -0.2, -0.01).word]
    assert words == ["confirmed", "not seen", "opposite"]


def test_problems_of_all_benchmarks_are_pooled() -> None:
    """Four problems of one benchmark and eight of another: each problem counts the same."""
    zeros, ones = np.zeros(4), np.ones(4)
    power = {
        "mbpp: power": {"over low temperature": difference(ones, zeros)},
        "gsm8k: power": {"over low temperature": difference(np.tile([0.5, 0.0], 4), np.zeros(8))},
    }
    rows = verdicts({"power": power})
    assert [row.benchmark for row in rows] == ["mbpp", "gsm8k", "all 2"]
    assert rows[-1].difference.value == pytest.approx((4 * 1.0 + 8 * 0.25) / 12)
    unknown = {**power, "humaneval: power": {"over low temperature": Difference(0.1, 0.0, 0.2)}}
    assert [row.benchmark for row in verdicts({"power": unknown})] == ["mbpp", "gsm8k", "humaneval"]


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
    assert read_pools("made-up", tmp_path).pace("m").token == pytest.approx(2.5 / drawn)


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
    assert pools.pace("plain").token == 2.0
    assert pools.pace("temperature .25").token == pytest.approx(2.0)
    assert pools.pace("power").token == pytest.approx((20.0 + 8.0) / 7)
    assert np.isnan(pools.pace("lss").token), "nobody knows how fast the third one draws"
    assert np.isnan(pools.pace("css").token)
    assert Pools(rows, sittings[2:3]).pace("power").token == pytest.approx(50 / 7)
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


@pytest.mark.parametrize("part", DECIDED)
def test_the_page_is_what_the_recorded_pools_give(part: str) -> None:
    """Every table of docs/evidence.md is decided again, from the files alone: by parts, so that workers share them."""
    found = decide({name: read_pools(name) for name in BENCHMARKS}, [part], Console(quiet=True))
    contents = blocks({part: found[part].figures}, verdicts_of(found))
    page = PAGE.read_text(encoding="utf-8")
    own = [
        match for match in BLOCK.finditer(page) if part in (match["name"].split(": ")[0], match["name"].split(": ")[1])
    ]
    filled = {match["name"] for match in own if match["content"].strip() != EMPTY}
    assert filled == contents.keys(), "a block for each table, and a table for each block that is filled in"
    assert renewed(page, contents) == page, "renew it: python -m bench.real --page"
    for name, figures in found[part].figures.items():
        for by in ("tokens", "seconds"):
            file = PICTURES / f"{part}-{name}-{by}.svg"
            assert file.read_text(encoding="utf-8") == picture(f"{part}, {name}", figures, by)


def test_every_block_of_the_page_belongs_to_a_part() -> None:
    names = [match["name"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]
    assert len(set(names)) == len(names)
    known = {f"{part}: {name}" for part in DECIDED for name in BENCHMARKS} | {f"claims: {part}" for part in DECIDED}
    assert set(names) <= known


def test_a_page_is_renewed_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["bench.real", "--page", "--part", "stop"])
    with pytest.raises(SystemExit):
        main()
    assert "--page renews the whole page" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------------ varying


FIXED = ("direct",) * 2 + tuple(
    f"{arm}/{i}" for arm in ("role", "instruction", "jabberwocky") for i in (1, 2, 3, 4, 1, 2, 3, 4)
)
REPHRASED = ("direct",) * 2 + tuple(f"rephrase.single/{i}" for i in (1, 2, 3, 4, 1, 2, 3, 4))
LADDER = ("direct",) * 3 + tuple(f"temperature/{heat}" for heat in (0.4, 0.6, 0.8, 1.2) for _ in range(3))


def varied(helpers: float = 30.0) -> Pools:
    """Return made-up pools of 4 questions; of the second one, every idea was refused."""
    rows: list[Row] = []
    for i in range(4):
        rare = i == 3  # one of 34 draws of the mix is right
        ideas = ("direct",) * 4 + tuple(f"idea.single/{j}" for j in (1, 2, 3, 1, 2, 3))
        for name, grades, arms in (
            ("plain", "0100" * 4, ()),
            ("plain, more", "0001" * 4, ()),
            ("fixed arms", "0" * 26 if rare else "01" * 13, FIXED),
            ("ideas", "0" * 10 if rare else "0001" + "1" * 6 if i != 1 else "00" + "10" * 4, ideas if i != 1 else ()),
            ("rephrasings", "0" * 9 + str(int(rare)), REPHRASED),
            ("ladder", "1" * 15, LADDER),
        ):
            by = helpers if name in ("ideas", "rephrasings") else 0.0
            figures = {"helper_tokens": 8.0} if by else {}
            rows.append(row(grades, arms, f"q{i}", by, figures=figures)._replace(method=name))
    sittings = tuple(
        Sitting(name, 4, 1.0, 1.0 * paid, paid)
        for name, paid in (
            ("plain", 256),
            ("plain, more", 256),
            ("fixed arms", 384),
            ("ideas", 160),
            ("rephrasings", 160),
        )
    )
    return Pools(
        {(each.method, each.question): each for each in rows}, (*sittings, Sitting("ladder", 4, 1.0, 240.0, 240))
    )


def test_arms_are_scored_as_they_were_meant() -> None:
    """Where ideas are refused, direct draws of the run stand in, also where the row then has no arms at all."""
    drawn = arms_of(runs_of(varied()))
    assert set(drawn) == {"direct", *LEVELS, "ladder", "mix without helpers", "mix"}
    ideas = drawn["4 idea"].rows
    assert [len(each.grades) for each in ideas] == [8] * 4
    assert Counter(ideas[0].arms)["direct"] == 2, "six draws of three ideas, and two that stand in"
    assert ideas[1].grades == (1.0, 0.0) * 4, "the last eight direct ones: the first two are the run's own"
    assert ideas[0].grades == (0.0, 1.0) + (1.0,) * 6
    assert [len(each.grades) for each in drawn["mix"].rows] == [2 + 4 * 8] * 4
    assert [len(each.grades) for each in drawn["ladder"].rows] == [15] * 4
    assert [len(each.grades) for each in drawn["direct"].rows] == [32] * 4


def test_helpers_are_paid_whole_in_tokens_and_in_seconds() -> None:
    """A second a token: 32 of 4 x 10 draws of 4 tokens and 4 x 8 tokens of helpers were paid for, as two direct draws a
    question came from the store."""
    pools = varied()
    assert pools.pace("ideas") == (1.0, 8.0)
    assert pools.pace("fixed arms") == (1.0, 0.0), "8 of 104 draws were there already: a rate is of what was paid for"
    drawn = arms_of(runs_of(pools))
    assert drawn["4 idea"].at(solved, 2).seconds == pytest.approx(8 + 2 * 4)
    assert drawn["4 idea"].at(solved, 2).tokens == pytest.approx(30 + 2 * 10)
    assert drawn["mix"].at(solved, 16).seconds == pytest.approx(2 * 8 + 16 * 4)
    assert drawn["mix"].at(solved, 16).tokens == pytest.approx(2 * 30 + 16 * 10)


def test_varying_at_equal_costs() -> None:
    """16 of the mix cost 220 tokens: 22 direct draws. 32 cost 380, more than all 32 direct ones: 26 of them count."""
    figures, claims = vary_part({"mbpp": varied()}, Console(quiet=True))
    direct = passes(arms_of(runs_of(varied()))["direct"], range(1, 33))
    found, at = figures["mbpp"], claims["mbpp: mix at 16"]
    mix = arms_of(runs_of(varied()))["mix"]
    sixteen, fewer = mix.at(solved, 16).values, mix.at(solved, 26).values
    assert at["equal draws"].value == pytest.approx((sixteen - direct[15].values).mean())
    assert at["equal tokens"].value == pytest.approx((sixteen - direct[21].values).mean())
    assert at["equal seconds"].value == pytest.approx((sixteen - direct[19].values).mean())
    assert fewer[3] < mix.at(solved, 32).values[3]
    assert claims["mbpp: mix at 32"]["equal tokens"].value == pytest.approx((fewer - direct[31].values).mean())
    assert found["draws"] == 4 * (16 + 16 + 26 + 10 + 10 + 15), "each draw once, in however many rows it counts"
    assert found["seconds"] == pytest.approx(256 + 256 + 384 + 160 + 160 + 240)
    assert found["direct instead of arm"]["4 idea"] == pytest.approx((2 + 8 + 2 + 2) / 32)
    table = block("vary", "mbpp", found)
    assert "4 idea: 44%" in table
    assert "| mix |" in table
    assert "| log-pool of 16 |" in table


def test_a_method_that_is_drawn_in_part_takes_no_question_from_others() -> None:
    pools = varied()
    part = Pools({key: each for key, each in pools.rows.items() if key != ("ideas", "q3")}, pools.sittings)
    drawn = arms_of(runs_of(part))
    assert "4 idea" not in drawn
    assert "mix" not in drawn
    assert {len(dealt.rows) for dealt in drawn.values()} == {4}
    assert complete({}) == {}


def test_what_programs_do_is_numbered_across_arms() -> None:
    first, second = row("10", scores={"outputs": (0.0, 1.0)}), row("01", scores={"outputs": (0.0, 1.0)})
    assert "outputs" not in joined(Dealt([first], 1.0), Dealt([second], 1.0)).rows[0].scores
    others = [
        each._replace(scores={**each.scores, joint_name(("role", other)): (2.0, None)})
        for each, other in ((first, "idea"), (second, "poem"))
    ]
    apart = joined(*(Dealt([each], 1.0) for each in others)).rows[0].scores
    assert "outputs" not in apart, "the numbers of two countings are not compared"
    joint = joint_name(("role", "idea"))
    first, second = (each._replace(scores={**each.scores, joint: (2.0, None)}) for each in (first, second))
    assert joined(Dealt([first], 1.0), Dealt([second], 1.0)).rows[0].scores["outputs"] == (2.0, None, 2.0, None)


def test_programs_of_several_runs_run_on_the_same_inputs() -> None:
    asked = Question("q", (Message("user", "def f(x: int) -> int: add one. f(1) == 2"),), {"entry_point": "f"})
    texts = [["def f(x):\n    return x + 1", "def f(x):\n    return x - 1"], ["def f(y):\n    return 1 + y"]]
    kept = [
        SimpleNamespace(
            problem=Problem(asked, ""),
            pool=Pool(tuple(Candidate(f"```python\n{text}\n```") for text in own)),
            answers=tuple(own),
        )
        for own in texts
    ]
    store = SimpleNamespace(records=lambda run: [kept[run]])
    runs = [(method, SimpleNamespace(id=i)) for i, method in enumerate(METHODS[:2])]
    found = joint_outputs(store, runs)  # type: ignore[arg-type]
    assert found == {(METHODS[0].name, "q"): (0.0, 1.0), (METHODS[1].name, "q"): (0.0,)}


# ----------------------------------------------------------------------------------------------------------- stopping


def plain_pools(num: int = 6) -> Pools:
    """Return made-up plain draws of HumanEval; every third question is never solved, and its draws are long."""
    rows = []
    for i in range(num):
        grades = "0" * 16 if i % 3 == 0 else "01" * 8
        passed = tuple(float(grade) for grade in grades)
        outputs = tuple(0.0 if grade else float(1 + j % 3) for j, grade in enumerate(passed))
        length = 40 if i % 3 == 0 else 4
        whole = row(grades, question=f"q{i}", scores={"public_tests": passed, "outputs": outputs})
        rows.append(whole._replace(method="plain", tokens=(length,) * 16, costs=(length + 6.0,) * 16))
    tokens = sum(sum(each.tokens) for each in rows)
    return Pools(
        {("plain", each.question): each for each in rows}, (Sitting("plain", num, 1.0, float(tokens), tokens),)
    )


def test_stopping_on_programs() -> None:
    figures, claims = stop_part({"humaneval": plain_pools()}, Console(quiet=True))
    found = figures["humaneval"]
    # at p = 1/2 of 16 without replacement the first right one comes after 17 / 9 draws; 100 orders of 4 questions
    solvable = 17 / 9
    assert found["first pass"]["draws"] == pytest.approx((2 * solvable + 16) / 3, abs=0.2)
    assert found["first pass"]["seconds"] == pytest.approx((2 * 4 * solvable + 16 * 40) / 3, abs=1.0), (
        "long ones are dear"
    )
    assert found["best(public_tests) of 16"]["seconds"] == pytest.approx((2 * 4 * 16 + 16 * 40) / 3)
    assert claims["humaneval: first pass"]["share of draws saved, optscale, released"].value > 0
    rival = claims["humaneval: vote_plan, chosen"]
    assert {f"{what}, asc .95" for what in ("share of draws saved", "share of rounds saved")} <= rival.keys()
    assert found["behaviour of 16"]["accuracy"] == pytest.approx(2 / 3)


def test_released_optscale_sees_the_scores_of_recorded_draws() -> None:
    """An empty text scores 0 there: all of 16 would be drawn, whatever the tests say."""
    sure = row("1" * 16, scores={"public_tests": (1.0,) * 16})
    silent = sure._replace(answers=(None,) * 16)
    rule = build("stop", "optscale(0.95, public_tests, target=1, mode='code', peek=4, cap=16)")
    select = parse_choice("best(public_tests)")[1]
    found = replay_pools([rule] * 2, select, stored([sure, silent]), Key(0), caps=[16], num_orders=2)[0]
    assert found.draws.tolist() == [[4, 4], [16, 16]]


def test_a_likelihood_is_calibrated_on_the_other_half() -> None:
    """Right where likely on the first half, the reverse on the other: each half has the map of the other's."""
    likely = tuple(-1.0 - 9 * (i % 2) for i in range(16))
    halves = [row("10" * 8, question="a", logps=likely), row("01" * 8, question="b", logps=likely)]
    pools = stored(halves)
    of_first, of_second = (calibrated(pools, np.array(some)) for some in ([True, False], [False, True]))
    first = [candidate.scores["calibrated"] for candidate in of_first[1].candidates[:2]]
    second = [candidate.scores["calibrated"] for candidate in of_second[0].candidates[:2]]
    assert first[0] > 0.5 > first[1]
    assert second[0] == pytest.approx(second[1], abs=1e-6), "a map never falls as the likelihood rises"


def test_a_choice_is_remembered_by_order_and_number() -> None:
    select = parse_choice("vote")[1]
    calls: list[int] = []
    counted = dataclasses.replace(select, choose=lambda *args: calls.append(1) or select.choose(*args))  # type: ignore[func-returns-value]
    pools = stored([row("0110" * 4)])
    rule = build("stop", "cap(17)")
    twice = [
        replay_pools([rule], chosen, pools, Key(0), caps=(4, 16), num_orders=5) for chosen in [remembering(counted)] * 2
    ]
    assert len(calls) == 2 * 5
    plain = replay_pools([rule], select, pools, Key(0), caps=(4, 16), num_orders=5)
    for found, own in itertools.product(twice, range(2)):
        assert found[own].grades.tolist() == plain[own].grades.tolist()


def test_a_cheaper_group_has_fewer_plain_draws_beside_it() -> None:
    grades = "1" + "0" * 15
    dealt, cheap = Dealt([row(grades)], 1.0), Dealt([row(grades, costs=(5.0,) * 16)], 1.0)
    # 8 of 16 hold the right one with probability 1/2; 100 orders, deviation .05: false alarm 1e-4
    assert at_equal_cost(cheap, dealt, 16, "tokens").value == pytest.approx(0.5, abs=0.2)
    assert at_equal_cost(dealt, cheap, 16, "tokens").value == pytest.approx(-0.5, abs=0.2)
    assert at_equal_cost(dealt, cheap, 16, "seconds").value == 0.0


def test_groups_of_eight_are_compared_with_eight_plain_draws() -> None:
    grades = {"plain": "1" + "0" * 15, "lss": "1" * 16, "lss of 8": "1" * 8, "esamp of 8": "0" * 8}
    rows = {
        (name, f"q{i}"): row(own, question=f"q{i}")._replace(method=name)
        for name, own in grades.items()
        for i in range(3)
    }
    sittings = tuple(Sitting(name, 3, 1.0, 240.0, 240) for name in grades)
    figures, claims = explore_part({"mbpp": Pools(rows, sittings)}, Console(quiet=True))
    # a plain pool's 8 of 16 hold its right draw with probability 1/2: 300 orders, deviation .03
    assert claims["mbpp: lss of 8"]["equal draws"].value == pytest.approx(0.5, abs=0.12)
    assert claims["mbpp: lss of 8"]["over esamp"].value == 1.0
    assert claims["mbpp: lss"]["equal draws"].value == 0.0
    assert "over esamp" not in claims["mbpp: lss"], "groups of 16 are not compared with groups of 8"
    assert figures["mbpp"]["plain of 8"]["tokens"] == pytest.approx(figures["mbpp"]["plain"]["tokens"] / 2)
    assert figures["mbpp"]["draws"] == 3 * (16 + 16 + 8 + 8)


def test_any_of_a_weighted_group_is_of_all_that_it_left() -> None:
    weighted = Dealt([row("10", log_weights=(0.0, 0.0), rest=5.0)], 1.0, 8.0)
    assert (any_of_all(weighted, 2).values[0], any_of_all(weighted, 2).tokens) == (1.0, 25.0)
    assert any_of_all(Dealt([row("10")], 1.0), 1).values[0] == pytest.approx(0.5)
