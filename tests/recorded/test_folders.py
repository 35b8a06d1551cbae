"""The published collections, where they are at hand: their sizes and the figures that their authors print."""

from __future__ import annotations

import numpy as np
import pytest

from samplewise.core.errors import BadInput, SetupError
from samplewise.core.files import data_folder
from samplewise.core.types import Sampling
from samplewise.measure import pass_at
from samplewise.recorded import Recording, load_recording

at_hand = pytest.mark.skipif(data_folder() is None, reason="no recorded draws here; set SAMPLEWISE_DATA")


def grades(recording: Recording) -> np.ndarray:
    return np.array([[draw.grade for draw in draws] for draws in recording.draws])


@at_hand
@pytest.mark.parametrize(
    ("name", "problems", "draws", "mean"),
    [
        ("math_qwen_rm_8x", 100, 8, 0.91),
        ("game24_gpt4_100x", 100, 100, 0.0403),
        ("game24_gpt4_100x/direct", 100, 100, 0.0734),
        ("cruxeval_codellama7b_10x/input", 800, 10, 0.3595),
        ("cruxeval_codellama7b_10x/output", 800, 10, 0.342125),
        ("mmlu_pro_28_models/gemini-1.5-pro-002_5shots", 12032, 1, 0.700),
        ("humaneval_codegen16b_100x", 164, 100, None),
        ("humaneval_codegen16b_100x/tests", 164, 100, None),
        ("aqua_codex_30x", 253, 30, None),
        ("noveltybench_gemini", 100, 10, None),
    ],
)
def test_a_collection_says_what_its_authors_say(name: str, problems: int, draws: int, mean: float | None) -> None:
    found = load_recording(name)
    assert len(found.problems) == len(found.draws) == problems
    assert {len(each) for each in found.draws} == {draws}
    assert len({problem.question.id for problem in found.problems}) == problems
    assert found.source
    assert found.licence
    if mean is None:
        assert np.isnan(grades(found)).all()
    else:
        assert grades(found).mean() == pytest.approx(mean, abs=5e-4)


@at_hand
def test_pass_at_5_of_cruxeval_is_the_published_one() -> None:
    for part, published in (("input", 0.44991), ("output", 0.40287)):
        assert pass_at(grades(load_recording(f"cruxeval_codellama7b_10x/{part}")), [5]).mean() == pytest.approx(
            published, abs=1e-5
        )


@at_hand
def test_what_is_known_of_a_draw_is_kept() -> None:
    maths = load_recording("math_qwen_rm_8x").draws[0][0]
    assert maths.scores == {"reward": 3.546875}
    puzzle = load_recording("game24_gpt4_100x").draws[0][0]
    assert puzzle.sampling == Sampling(temperature=0.7)
    assert puzzle.completion.usage[:3] == (1, 22, 70), "2,185 and 6,960 tokens for 100 draws"
    counts = [draws[0].completion.usage for draws in load_recording("game24_gpt4_100x").draws]
    assert counts[32][:3] == (1, 22, 68), "the authors' counter begins again at the 33rd puzzle"
    assert min(usage.completion_tokens for usage in counts) > 50


@at_hand
def test_no_question_holds_its_reference() -> None:
    for name in ("math_qwen_rm_8x", "humaneval_codegen16b_100x", "cruxeval_codellama7b_10x/input"):
        for problem in load_recording(name).problems:
            assert not {"reference", "answer", "test", "gt", "input", "output"} & set(problem.question.facts)


@at_hand
def test_a_part_that_is_not_there_is_said_with_those_that_are() -> None:
    with pytest.raises(BadInput, match="has the parts cot, direct; got 'tree'"):
        load_recording("game24_gpt4_100x/tree")
    with pytest.raises(BadInput, match="holds 126 runs, and '' names no run"):
        load_recording("otis_aime_8x")
    with pytest.raises(BadInput, match="Meta-Llama-3-8B_5shots"):
        load_recording("mmlu_pro_28_models/gpt-2")


def test_without_the_data_it_is_said_what_to_set(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("SAMPLEWISE_DATA", str(tmp_path))
    with pytest.raises(SetupError, match="point SAMPLEWISE_DATA at a folder that does"):
        load_recording("math_qwen_rm_8x")
