"""Draws that wait for one another inside vLLM, whose requests cannot, against the local engine."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from tests.vllm.inside.asks import CONSENSUS, GROUPS, PLAIN, meeting

from samplewise.core.types import Completion, Sampling

from .conftest import Run, answers
from .test_inside import assert_same, cut_short, rows

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def reports(completions: list[Completion]) -> dict[str, Any]:
    return {str(c.explored["policy"]): c.explored for c in completions if c.explored}


def assert_same_answers(mine: list[Completion], theirs: list[Completion]) -> None:
    assert_same(mine, theirs)
    found, wanted = reports(mine), reports(theirs)
    assert found.keys() == wanted.keys()
    for policy, report in found.items():
        assert (report["samples"], report["problem"]) == (wanted[policy]["samples"], "")
        assert report["together"] is True
        assert report["numbers"] == pytest.approx(wanted[policy]["numbers"], rel=1e-3)


@pytest.fixture(scope="module")
def wanted(run: Run, local: Any) -> list[Completion]:
    drawn: list[Completion] = run(answers(local, [ask for group in CONSENSUS for ask in group]))
    members = [report["numbers"]["members"] for report in reports(drawn).values()]
    assert members == [6, 4, 2, 0, members[4], 1]
    assert 0 < members[4] < 4
    return drawn


def test_answers_have_the_tokens_of_the_local_engine(run: Run, engine: Any, wanted: list[Completion]) -> None:
    """All groups at once, beside plain draws and another policy."""
    asks = [ask for group in CONSENSUS for ask in group]
    beside = [*PLAIN[:6], *GROUPS[8:16]]
    drawn = run(answers(engine, [*beside[:3], *asks, *beside[3:]]))
    assert not any(completion.failure for completion in drawn)
    assert_same_answers(drawn[3 : 3 + len(asks)], wanted)
    assert rows(engine) == engine._room._taken == 0
    again = run(answers(engine, CONSENSUS[0]))
    assert [completion.tokens for completion in again] == [completion.tokens for completion in wanted[:6]]


def test_draws_that_vllm_begins_apart_are_sent_again(
    run: Run, engine: Any, wanted: list[Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of them comes some steps late, then another; what is drawn is the same."""
    generate, sent = engine._client.generate, list[str]()

    async def late(ids: list[int], params: Any, request_id: str) -> Any:
        if "members" in params.extra_args["samplewise"]:
            sent.append(request_id)
            if len(sent) in (1, 9):
                await asyncio.sleep(0.2)
        return await generate(ids, params, request_id)

    monkeypatch.setattr(engine._client, "generate", late)
    drawn = run(answers(engine, CONSENSUS[0]))
    assert_same_answers(drawn, wanted[:6])
    assert len(sent) == 3 * 6


def test_a_cancelled_draw_leaves_the_others_their_answer(run: Run, engine: Any) -> None:
    cut_short(run, engine, CONSENSUS[0])
    assert rows(engine) == engine._room._taken == 0
    drawn = run(answers(engine, CONSENSUS[0]))
    assert len({completion.tokens[-12:] for completion in drawn}) == 1
    assert not any(completion.failure for completion in drawn)


def test_what_cannot_meet_is_refused_in_one_line(run: Run, engine: Any, narrow: Any) -> None:
    few = run(answers(engine, CONSENSUS[0][:3]))
    many = run(answers(narrow, meeting("consensus(start=',', answer_tokens=12)", "many", 5, 13)))
    apart = run(answers(narrow, meeting("consensus(start=',', answer_tokens=12)", "apart", 5, 4)))
    for completions, why in (
        (few, "draws a group at once, and 3 of 6 are asked for; leave out wave="),
        (many, "13 draws answer together, and max_num_seqs=12 of them fit; raise it"),
        (apart, "raise max_num_batched_tokens, leave prefix caching on, or draw fewer at once"),
    ):
        for completion in completions:
            assert completion.failure is not None
            assert completion.failure.kind == "BadRequest"
            assert why in completion.failure.message
            assert "\n" not in completion.failure.message
    run(asyncio.sleep(0.1))
    assert rows(engine) == rows(narrow) == engine._room._taken == narrow._room._taken == 0


def test_one_draw_at_gamma_one_is_plain_sampling_to_the_token(run: Run, engine: Any) -> None:
    (ask,) = CONSENSUS[-1]
    plain = ask._replace(sampling=Sampling(1.5), group="", group_size=0)
    one, other = run(answers(engine, [ask, plain]))
    num = len(one.tokens)
    assert one.tokens == other.tokens[:num]
    np.testing.assert_allclose(one.logq, other.logq[:num], atol=1e-4)
