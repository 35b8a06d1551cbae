"""What policies must keep whatever engine runs them, inside vLLM. What concerns policies alone is in tests/explore."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.vllm.inside.asks import PLAIN, PROMPTS, group

from samplewise.core.types import Generate, Likelihood, Sampling
from samplewise.engines.vllm.runner import read_head

from .conftest import Run, answers
from .test_inside import TOLERANCE, assert_distributed, assert_same

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.mark.parametrize("explore", ["esamp(beta=0.0)", "lss(strength=0.0)"])
def test_a_policy_without_strength_draws_the_plain_tokens(run: Run, engine: Any, explore: str) -> None:
    """To the bit: the rows of the group are those of a plain guided batch of the same size."""
    asks = group(explore, f"none {explore}", 300)
    plain = [ask._replace(sampling=Sampling(), group="", group_size=0, draw=0) for ask in asks]
    drawn, wanted = run(answers(engine, asks)), run(answers(engine, plain))
    assert [c.tokens for c in drawn] == [c.tokens for c in wanted]
    assert [c.logp for c in drawn] == [c.logp for c in wanted]


@pytest.mark.parametrize(
    ("explore", "moves"), [("esamp(beta=5.0)", True), ("lss(strength=40.0)", True), ("css", False)]
)
def test_a_policy_with_strength_has_an_effect(run: Run, engine: Any, explore: str, moves: bool) -> None:
    """On log q where it moves the distribution. css moves none: it couples the draws."""
    asks = group(explore, f"strong {explore}", 320)
    plain = [ask._replace(sampling=Sampling(), group="", group_size=0, draw=0) for ask in asks]
    drawn, wanted = run(answers(engine, asks)), run(answers(engine, plain))
    assert [c.tokens for c in drawn] != [c.tokens for c in wanted]
    assert any(np.abs(np.array(c.logp) - c.logq).max() > 0.01 for c in drawn) is moves


def test_rows_with_the_same_past_have_the_same_distribution(run: Run, engine: Any) -> None:
    drawn = run(answers(engine, group("esamp(beta=0.5)", "same", 340, 16)))
    firsts: dict[int, list[tuple[float, float]]] = {}
    for completion in drawn:
        firsts.setdefault(completion.tokens[0], []).append((completion.logp[0], completion.logq[0]))
    assert max(map(len, firsts.values())) > 1
    for values in firsts.values():
        np.testing.assert_allclose(values, [values[0]] * len(values), atol=1e-6)


@pytest.mark.parametrize("explore", ["esamp(beta=0.5)", "esamp(learner='ridge')", "lss", "css"])
def test_the_order_of_a_group_changes_no_draw(run: Run, engine: Any, explore: str) -> None:
    """Nor do plain and guided rows between its own."""
    alone = run(answers(engine, group(explore, f"order {explore}", 360)))
    asks = group(explore, f"order {explore}", 360)[::-1]
    beside = [ask._replace(max_tokens=30) for ask in PLAIN[:8]]
    plain = [ask._replace(want=("tokens",)) for ask in beside[::2]] + beside[1::2]
    mixed = [ask for pair in zip(asks, plain, strict=True) for ask in pair]
    drawn = run(answers(engine, mixed))
    assert_same([c._replace(explored=None) for c in drawn[::2][::-1]], [c._replace(explored=None) for c in alone])
    (report,) = [c.explored for c in drawn if c.explored]
    assert (report["together"], report["problem"]) == (True, "")


@pytest.mark.parametrize("together", [True, False])
def test_css_leaves_every_draw_its_distribution(run: Run, engine: Any, narrow: Any, local: Any, together: bool) -> None:
    """Also where vLLM begins the rows of a group apart, so that they are coupled otherwise."""
    sampling = Sampling(1.5, explore="css")
    asks = [
        Generate(PROMPTS[0], (), sampling, 1, seed=2 * name + draw, want=("tokens",))._replace(
            group=f"css {together} {name}", group_size=2, draw=draw
        )
        for name in range(250)
        for draw in range(2)
    ]
    drawn = run(answers(engine if together else narrow, asks))
    steps = {completion.explored["together"] for completion in drawn if completion.explored}
    assert steps == {True} if together else False in steps
    for draw in range(2):
        tokens = [completion.tokens[0] for completion in drawn[draw::2]]
        assert_distributed(run, local, PROMPTS[0], Sampling(1.5), tokens)


def test_states_are_those_of_the_model(run: Run, engine: Any, local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head of the deep states gives the logits of every row, and the shallow states are what the first block of the
    model in transformers gives: at first tokens and later ones, in a batch with rows of others."""
    worker = engine._client._engine.model_executor.driver_worker.worker
    bridge, head = worker.samplewise_bridge, read_head(worker.model_runner)
    inner, states = bridge.draw, bridge._taps.states
    seen: list[tuple[str, int, Any, Any]] = []  # uid, position, shallow state, gap

    def draw(logits: Any, rows: Any, is_drawn: Any, num_tokens: Any) -> Any:
        gaps = (head(states.deep) - logits).abs().amax(1) if len(logits) else []
        for line, row in enumerate(rows):
            if row is not None and is_drawn[line]:
                position = int(num_tokens[line]) - row.draw.num_prompt
                seen.append((row.draw.uid, position, states.shallow[line].clone(), float(gaps[line])))
        return inner(logits, rows, is_drawn, num_tokens)

    monkeypatch.setattr(bridge, "draw", draw)
    asks = group("esamp(beta=0.5)", "states", 380, 3, 1)
    beside = [ask._replace(want=("tokens",), max_tokens=9) for ask in PLAIN[:4]]
    drawn = run(answers(engine, [beside[0], asks[0], *beside[1:], *asks[1:]]))
    mine = [drawn[1], *drawn[5:]]
    by_uid = {uid: [line[1:] for line in seen if line[0] == uid] for uid, *_ in seen}
    prompt = local._language.prompt(PROMPTS[1])
    for steps, completion in zip(by_uid.values(), mine, strict=True):
        ids = torch.tensor([[*prompt, *completion.tokens]])
        with torch.inference_mode():
            first = local.checkpoint.model(input_ids=ids, output_hidden_states=True).hidden_states[1][0]
        assert [position for position, *_ in steps] == list(range(len(completion.tokens)))
        for position, shallow, gap in steps:
            assert gap < TOLERANCE
            torch.testing.assert_close(shallow, first[len(prompt) - 1 + position], atol=TOLERANCE, rtol=1e-4)
    scores = run(answers(local, [Likelihood(PROMPTS[1], c.tokens) for c in mine]))
    for one, other in zip(mine, scores, strict=True):
        np.testing.assert_allclose(one.logp, other.logp, atol=TOLERANCE)
