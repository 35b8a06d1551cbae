"""Guided draws as plain data, versions, and the engine's name without vLLM."""

from __future__ import annotations

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.errors import SetupError
from samplewise.core.registry import build
from samplewise.core.types import Generate, RejectionBound, Sampling
from samplewise.engines.vllm.guided import EXTRA_ARG, decode_draw, encode_draw, guided_draw
from samplewise.engines.vllm.versions import TESTED, version_note, version_refusal

finite = st.floats(-1e6, 1e6)


@given(
    seed=st.integers(0, 2**53 - 1),
    bound=st.none() | st.builds(RejectionBound, finite, finite),
    sampling=st.builds(Sampling, st.floats(0, 10), st.integers(0, 99), st.floats(0.01, 1), st.floats(0, 0.9)),
    forbidden=st.none() | st.integers(0, 10**6),
    exponents=st.lists(st.floats(0.1, 9), max_size=3).map(tuple),
    want=st.sets(st.sampled_from(["tokens", "logq", "logz", "certainty"])).map(tuple),
    first=st.lists(st.integers(0, 9), max_size=3).map(tuple),
)
def test_a_draw_comes_back_as_it_was_sent(
    seed: int,
    bound: RejectionBound | None,
    sampling: Sampling,
    forbidden: int | None,
    exponents: tuple[float, ...],
    want: tuple[str, ...],
    first: tuple[int, ...],
) -> None:
    ask = Generate(
        (),
        seed=seed,
        sampling=sampling._replace(explore="css"),
        reject_below=bound,
        forbid_first=forbidden,
        exponents=exponents,
        want=want,
        group="g",
        draw=3,
        group_size=8,
    )
    sent = guided_draw(ask, "uid", 11, 2, first)
    received = decode_draw(encode_draw(sent))
    assert received == sent
    assert received is not None
    assert received.as_ask() == ask._replace(forbid_first=None, want=())
    assert received.statistics == (not {"logz", "certainty"}.isdisjoint(want))
    assert received.forbid_first == (-1 if forbidden is None else forbidden)


def test_what_is_no_draw_is_told_from_what_is_none() -> None:
    assert decode_draw(None) is None
    assert decode_draw({"other": 1}) is None
    for text in ("{", '{"uid": "a"}', '{"uid": "a", "num_prompt": 1, "seed": 2, "colour": "red"}', "[1]"):
        with pytest.raises(ValueError, match="is no guided draw"):
            decode_draw({EXTRA_ARG: text})


def test_versions_that_are_tried_and_tested() -> None:
    assert all(version_refusal(version) == version_note(version) == "" for version in TESTED)
    for version in ("0.29.1", "0.33.1", "0.33.0rc1"):
        assert version_refusal(version) == ""
        assert "was not tested" in version_note(version)
    for version in ("0.28.9", "0.34.0", "1.0.0", "0.9.1"):
        assert "outside of 0.29 to 0.34" in version_refusal(version)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_without_vllm_one_line_says_what_to_do() -> None:
    for spec in ("vllm:tiny", "vllm('tiny', max_num_seqs=8)"):
        with pytest.raises(SetupError, match="pip install vllm"):
            build("engine", spec)
