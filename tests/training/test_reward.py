"""How the reward model is made: its draws stay clear of the Game of 24, its calibration is in its weights, its figures
are what they are called."""

from __future__ import annotations

import asyncio
import random  # noqa: TID251 - seeded instances for the generators
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from training.reward import data, evaluate, rows, train  # noqa: E402
from training.reward.data import Draw, is_kept, is_right, split_of, steps_of  # noqa: E402
from training.tiny.evaluate import check  # noqa: E402
from training.tiny.puzzles import Flaws, Step, ask, puzzles, solvable, write  # noqa: E402

from samplewise.core.types import Ask, Candidate, Completion  # noqa: E402
from samplewise.engines.base import Arrival  # noqa: E402
from samplewise.engines.local import tiny  # noqa: E402
from samplewise.tasks.game24 import puzzle_question as question  # noqa: E402
from samplewise.verify.reward import reward  # noqa: E402

FLAWED = Flaws(falsified=0.3, slip=0.3, claimed=0.15, wrong_number=0.1)


def forbidden(numbers: Sequence[int], target: int) -> bool:
    """The hold-out again, written another way than the generator's rule."""
    return target == 24 and len(numbers) == 4 and min(numbers) >= 1 and max(numbers) <= 13


def worked(response: str) -> tuple[list[int], int] | None:
    """The numbers that a response takes from outside and the value it ends in, read back from the text alone."""
    text = re.sub(r"\( left [\d ]+ \)", "", response)
    found = re.findall(r"(\d+) (?:[-+*/]|plus|minus|times|over) (\d+) (?:=|is) (\d+)", text)
    made: list[str] = []
    outside: list[int] = []
    for a, b, result in found:
        for operand in (a, b):
            if operand in made:
                made.remove(operand)
            else:
                outside.append(int(operand))
        made.append(result)
    return (outside, int(found[-1][2])) if found else None


def leaks(draw: Draw) -> bool:
    """Whether a draw asks a Game of 24, or its response works one out."""
    value = worked(draw.response)
    return forbidden(draw.numbers, draw.target) or (
        value is not None and (forbidden(*value) or forbidden(draw.numbers, value[1]))
    )


def synthetic(count: int, seed: int) -> list[Draw]:
    """Flawed responses written by the generator, as if drawn."""
    rng = random.Random(seed)
    made = []
    for puzzle in puzzles(count, np.random.default_rng(seed), FLAWED):
        text = write(puzzle, rng.choice(("brief", "left", "words")))
        right = check(puzzle.numbers, text, puzzle.target) == "right"
        made.append(Draw(puzzle.numbers, puzzle.target, text, right, 1.0))
    return made


class Stub:
    """An engine that answers every ask with the next of some texts."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position in reversed(range(len(asks))):
            yield Arrival(position, Completion(self.texts[position % len(self.texts)], "stop"))


# ------------------------------------------------------------------------------------------------------------ hold-out


def test_a_solution_of_the_game_is_dropped_whatever_it_answers() -> None:
    solution = "8 - 7 = 1 , 4 * 1 = 4 , 6 * 4 = 24"
    assert steps_of(solution) == (Step(8, "-", 7, 1), Step(4, "*", 1, 4), Step(6, "*", 4, 24))
    in_words = "8 minus 7 is 1 , then 4 times 1 is 4 , then 6 times 4 is 24"
    what_is_left = "8 - 7 = 1 ( left 4 6 1 ) , 4 * 1 = 4 ( left 6 4 ) , 6 * 4 = 24 ( left 24 )"
    assert steps_of(in_words) == steps_of(what_is_left) == steps_of(solution)
    assert not is_kept((4, 6, 7, 8), 24, "1")  # asked
    assert not is_kept((4, 6, 7, 8), 30, solution)  # reached under another target
    assert not is_kept((4, 6, 7, 15), 24, solution)  # worked out with a number that the prompt has not
    assert not is_kept((15, 3), 24, in_words)
    assert is_kept((4, 6, 7, 15), 24, "15 - 7 = 8 , 4 * 6 = 24 , 24 - 8 = 16")
    assert is_kept((4, 6, 7, 15), 30, "15 + 7 = 22 , 6 - 4 = 2 , 22 + 2 = 24")


def test_every_solvable_game_of_24_is_dropped() -> None:
    every = [(a, b, c, d) for a in range(1, 14) for b in range(a, 14) for c in range(b, 14) for d in range(c, 14)]
    assert len(every) == 1_820
    assert not any(is_kept(numbers, 24, "1 + 1 = 2") for numbers in every)
    assert sum(solvable(numbers) for numbers in every[::91]) > 10


def test_draws_of_an_adversary_do_not_leak() -> None:
    """An engine that answers everything with solutions of the Game of 24."""
    texts = ("8 - 7 = 1 , 4 * 1 = 4 , 6 * 4 = 24", "12 times 2 is 24", "8 - 7 = 1", "6 * 4 = 24 ( left 1 24 )")
    made = asyncio.run(data.draw(Stub(*texts), 7, 0, count=60))  # type: ignore[arg-type]
    assert made
    assert not [row for row in made if leaks(row)]
    assert texts[0] not in {row.response for row in made}


@pytest.mark.slow
def test_real_draws_are_clean_and_labelled() -> None:
    async def drawn() -> list[list[Draw]]:
        engine = tiny()
        made = [await data.draw(engine, 7, 0, count=40) for _ in range(2)]
        await engine.close()
        return made

    made, again = asyncio.run(drawn())
    assert made == again
    assert len(made) > 0.95 * 40 * len(data.TEMPERATURES)
    assert not [row for row in made if leaks(row)]
    assert all(row.right == (check(row.numbers, row.response, row.target) == "right") for row in made)
    assert 0.3 < np.mean([row.right for row in made]) < 0.7


def test_a_spoilt_row_is_judged_again_and_stays_clear() -> None:
    rng = random.Random(0)
    for draw in synthetic(600, 0):
        spoilt = rows.spoil(draw, rng)
        if spoilt is not None:
            assert not leaks(spoilt)
            assert spoilt.right == is_right(spoilt.numbers, spoilt.target, spoilt.response)
            assert (spoilt.numbers == draw.numbers) != (spoilt.response == draw.response) or spoilt == draw


@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(10, 40), st.randoms(use_true_random=False))
def test_a_puzzle_is_in_one_split_whatever_its_order(numbers: list[int], target: int, rng: Any) -> None:
    assert split_of(numbers, target) == split_of(rng.sample(numbers, len(numbers)), target)


def test_a_twentieth_is_for_calibration_and_one_for_figures() -> None:
    splits = [split_of((a, b, 20), 24) for a in range(40) for b in range(40)]
    assert 0.85 < splits.count("train") / len(splits) < 0.95
    assert 0.03 < splits.count("dev") / len(splits) < 0.07


# ---------------------------------------------------------------------------------------------------------------- rows


def test_marks_say_which_steps_are_sound() -> None:
    assert rows.marks((4, 6, 7, 8), "8 - 7 = 1 , 4 * 1 = 4 , 6 * 4 = 24") == [(4, True), (10, True), (16, True)]
    # a result that is off; the next step builds on it
    assert rows.marks((4, 6, 7, 8), "8 - 7 = 2 , 4 * 2 = 8") == [(4, False), (10, True)]
    assert rows.marks((4, 6, 7, 8), "8 minus 5 is 3 , then 6 over 4 is 1") == [(4, False), (11, False)]
    assert rows.marks((4, 6), "6 * 4 = 24 ( left 24 )") == [(4, True)]
    assert rows.marks((4, 6), "nothing = 4") == []


def test_rows_are_what_the_chat_template_writes() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(train.TINY)
    for draw in synthetic(40, 1):
        chat = [
            {"role": "user", "content": ask(draw.numbers, draw.target)},
            {"role": "assistant", "content": draw.response},
        ]
        row = rows.example(draw)
        assert list(row.ids) == tokenizer.apply_chat_template(chat, return_dict=False)
        assert [tokenizer.decode([row.ids[place - 1]]) in ("=", "is") for place, _ in row.marks] == [True] * len(
            row.marks
        )
        assert len(row.marks) == len(steps_of(draw.response))


def test_batches_hold_every_row_of_an_epoch_at_most_once() -> None:
    draws = synthetic(200, 2)
    stream = rows.batches(draws, 0, 400, spoilt=0.0)
    seen: list[tuple[int, ...]] = []
    for _ in range(10):
        batch = next(stream)
        assert batch.ids.numel() < 400 + batch.ids.shape[1]
        seen += [tuple(sorted(ids)) for ids in batch.ids.tolist()]
        assert len(batch.right) == len(batch.ids)
        assert len(batch.rows) == len(batch.places) == len(batch.sound)
    assert len(seen) < len(draws)


# ------------------------------------------------------------------------------------------------ training, calibration


def test_the_cut_carries_the_tiny_model_over() -> None:
    """All but the mean direction of its states: the two agree in direction, before any training."""
    cut = train.cut(2)
    whole = transformers.AutoModelForCausalLM.from_pretrained(train.TINY, dtype=torch.float32)
    ids = torch.tensor([rows.example(draw).ids[:14] for draw in synthetic(30, 3) if len(draw.numbers) == 4])
    with torch.inference_mode():
        ours = cut.model(input_ids=ids, output_hidden_states=True).hidden_states[1]
        theirs = whole.model(input_ids=ids, output_hidden_states=True).hidden_states[1]
    theirs = theirs - theirs.mean(dim=-1, keepdim=True)
    assert torch.cosine_similarity(ours, theirs, dim=-1).min() > 0.98
    with torch.inference_mode():
        assert (cut(input_ids=ids).logits == 0).all()


def test_platt_finds_scale_and_bias() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=40_000) * 3
    right = (generator.random(40_000) < 1 / (1 + np.exp(-(0.6 * logits - 0.8)))).astype(float)
    scale, bias = train.platt(logits, right)
    assert scale == pytest.approx(0.6, abs=0.04)
    assert bias == pytest.approx(-0.8, abs=0.06)


def test_the_fold_is_exact() -> None:
    model = train.cut(1)
    torch.nn.init.normal_(model.score.weight, generator=torch.Generator().manual_seed(0))
    draws = synthetic(60, 4)
    before = train.logits_of(model, draws)
    train.fold(model, 1.7, -0.9)
    assert train.logits_of(model, draws) == pytest.approx(1.7 * before - 0.9, abs=1e-4)


@pytest.mark.slow
def test_a_few_steps_give_a_verifier_that_is_calibrated(tmp_path: Path) -> None:
    draws, dev = synthetic(600, 5), synthetic(400, 6)
    model = train.cut(1)
    losses = train.train(model, draws, steps=10, tokens=1_000, saved=tmp_path / "weights.pt", save_every=5)
    assert losses[-1] < losses[0]
    assert (tmp_path / "weights.pt").exists()
    train.calibrate(model, dev)
    scale, bias = train.platt(train.logits_of(model, dev), np.array([float(draw.right) for draw in dev]))
    assert scale == pytest.approx(1.0, abs=1e-2)  # nothing is left to fit
    assert bias == pytest.approx(0.0, abs=1e-2)
    train.export(model, tmp_path / "model")
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    verifier = reward(str(tmp_path / "model"))
    assert verifier.checkpoint.calibrated
    pairs = [(question(draw.numbers, target=draw.target), Candidate(draw.response)) for draw in dev[:50]]
    expected = 1 / (1 + np.exp(-train.logits_of(model, dev[:50])))
    assert verifier.score_all(pairs) == pytest.approx(expected, abs=5e-3)  # rounded to half precision


def test_training_again_and_a_run_cut_short_give_the_same_losses(tmp_path: Path) -> None:
    draws, saved = synthetic(200, 7), tmp_path / "weights.pt"
    whole = train.train(train.cut(1), draws, steps=4, tokens=400, saved=saved, save_every=3)
    assert len(set(whole)) == 4  # another order of the draws, or a state forgotten, moves a loss by 1e-4 and more
    # Matrix products may add in another order from one call to the next: equal to single precision, not to the bit.
    assert train.train(train.cut(1), draws, steps=4, tokens=400) == pytest.approx(whole, rel=2e-6)
    again = train.train(train.cut(1), draws, steps=4, tokens=400, saved=saved, resume=True)
    assert again == pytest.approx(whole[3:], rel=2e-6)


@pytest.mark.slow
def test_the_bundled_model_is_calibrated_on_new_puzzles() -> None:
    """Fresh draws for puzzles of the split that neither training nor calibration has used. Of 1,500 responses a
    calibrated score has an expected calibration error of about .01 by chance."""

    async def drawn() -> list[Draw]:
        engine = tiny()
        made = await data.draw(engine, 99, 0, count=220)
        await engine.close()
        return made

    made = [draw for draw in asyncio.run(drawn()) if len(draw.numbers) == 4]
    verifier = reward()
    scores = np.array(verifier.score_all([(question(d.numbers, target=d.target), Candidate(d.response)) for d in made]))
    right = np.array([float(d.right) for d in made])
    assert evaluate.auc(scores, right) > 0.95
    assert evaluate.calibration_error(scores, right) < 0.05
    logits = np.log(scores) - np.log1p(-scores)
    scale, bias = train.platt(logits, right)
    assert 0.7 < scale < 1.3
    assert abs(bias) < 0.5


# ------------------------------------------------------------------------------------------------------------- figures


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(made: list[tuple[int, bool]]) -> None:
    scores, right = np.array([float(s) for s, _ in made]), np.array([float(r) for _, r in made])
    pairs = [(a > b) + (a == b) / 2 for a, r in zip(scores, right, strict=True) if r for b in scores[right == 0]]
    if pairs:
        assert evaluate.auc(scores, right) == pytest.approx(np.mean(pairs))
    else:
        assert np.isnan(evaluate.auc(scores, right))


def test_calibration_error() -> None:
    scores, right = np.array([0.05, 0.15, 0.15, 0.95, 1.0]), np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    assert evaluate.reliability(scores, right)[1] == (2, pytest.approx(0.15), 0.5)
    assert evaluate.calibration_error(scores, right) == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.025) / 5)
    assert evaluate.calibration_error(right, right) == 0.0


def test_selection_is_by_score_and_ties_are_shared() -> None:
    def drawn(puzzle: int, answer: str | None, score: float, right: bool) -> evaluate.Drawn:
        return evaluate.Drawn(puzzle, Candidate("", logp_sum=-score, num_tokens=1), answer, score, right)

    made = [
        *(drawn(0, "a", 0.9, True), drawn(0, "b", 0.2, False), drawn(0, "b", 0.1, False)),
        *(drawn(1, "c", 0.5, True), drawn(1, "d", 0.5, False), drawn(1, None, 0.9, False)),
    ]
    found = {name: value for name, (value, _, _) in evaluate.selection(made, 3).items()}
    assert found["best by reward"] == pytest.approx((1 + 0.5) / 2)
    assert found["majority"] == pytest.approx((0 + 0.5) / 2)
    assert found["best by log-probability"] == pytest.approx((0 + 0.5) / 2)
    assert found["ceiling (best by checker)"] == 1.0


def test_an_interval_holds_its_figure() -> None:
    puzzles = [i // 4 for i in range(80)]
    values = np.arange(80.0) % 7
    low, high = evaluate.between(puzzles, lambda chosen: float(values[chosen].mean()))
    assert low < values.mean() < high
