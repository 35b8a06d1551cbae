"""Exploring on the engine itself: what is tapped, what is seen, what stays plain, and that nothing is kept."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from scipy.stats import chi2  # noqa: E402

from samplewise.core.types import Capability, Generate, RejectionBound, Sampling  # noqa: E402
from samplewise.engines.distribution import draw_log_probs  # noqa: E402
from samplewise.engines.local import exploring, local  # noqa: E402
from samplewise.engines.local.taps import head_of  # noqa: E402
from samplewise.explore.base import EngineStep, Head  # noqa: E402
from samplewise.explore.explorer import Explorer  # noqa: E402

KINDS = ["llama", "qwen3", "mistral", "gemma2", "gpt2"]
EVERY = ["css", "lss", "arithmetic", "hot", "esamp", "esamp(beta=1.0, learner='ridge', compensate='entropy')", "zero"]


def group(kit: SimpleNamespace, number: int, size: int, explore: str = "css", **changed: Any) -> list[Generate]:
    """A whole group's asks; equal numbers are equal prompts, names and seeds."""
    given: dict[str, Any] = {"max_tokens": 10, "want": ("tokens", "logp", "logq"), **changed}
    sampling = given.pop("sampling", Sampling())._replace(explore=explore)
    return [
        Generate(
            kit.question(number),
            sampling=sampling,
            seed=1000 * number + i,
            draw=i,
            **{"group": f"g{number}", "group_size": size, **given},
        )
        for i in range(size)
    ]


def steps_of(monkeypatch: pytest.MonkeyPatch) -> list[EngineStep]:
    """Every step that an explorer is handed from now on, its tensors copied."""
    seen: list[EngineStep] = []
    plain = Explorer.advise

    def advise(self: Explorer, step: EngineStep) -> Any:
        seen.append(step._replace(logits=step.logits.clone(), deep=step.deep.clone(), log_probs=step.log_probs.clone()))
        if step.shallow is not None:
            seen[-1] = seen[-1]._replace(shallow=step.shallow.clone())
        return plain(self, step)

    monkeypatch.setattr(Explorer, "advise", advise)
    return seen


# --- taps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_taps_are_where_they_should_be(
    kind: str, checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head of the deep state is the logits, and the shallow state is what an independent pass through the first
    block gives, for every row of every step, whatever the forward pass of the engine."""
    engine = local(checkpoint(kind), device="cpu")
    steps = steps_of(monkeypatch)
    done = kit.answers(engine, group(kit, 3, 4, "frozen", max_tokens=6))
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(kind), dtype=torch.float32)
    prompt = engine._language.prompt(kit.question(3))
    head = head_of(model)
    assert sum(len(step.group) for step in steps) == sum(c.usage.completion_tokens for c in done)
    for step in steps:
        torch.testing.assert_close(head(step.deep), step.logits, atol=1e-4, rtol=1e-4)
        for row, sample in enumerate(step.sample.tolist()):
            ids = prompt + done[sample].tokens[: step.position[row]]
            with torch.no_grad():
                states = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True).hidden_states
            assert step.shallow is not None
            torch.testing.assert_close(step.shallow[row], states[1][0, -1], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(step.deep[row], states[-1][0, -1], atol=1e-4, rtol=1e-4)
    asyncio.run(engine.close())


def test_an_engine_without_taps_refuses(checkpoint: Any, kit: SimpleNamespace) -> None:
    engine = local(checkpoint("mamba"), device="cpu", allow_slow=True)
    assert Capability.EXPLORE not in engine.can
    plain, one = kit.answers(engine, [*kit.draws(1), *group(kit, 1, 1)])
    assert plain.finish != "error"
    assert one.failure is not None
    assert "cannot explore" in one.failure.message
    asyncio.run(engine.close())


def test_a_head_that_is_not_the_models_is_an_error(
    checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from samplewise.engines.local import batch, taps

    engine = local(checkpoint("llama"), device="cpu")
    right = head_of(engine.checkpoint.model)
    wrong = Head(right.weight, scale=2.0)
    monkeypatch.setattr(batch, "head_of", lambda model: wrong)
    monkeypatch.setattr(taps, "head_of", lambda model: wrong)
    for completion in kit.answers(engine, group(kit, 1, 3)):
        assert completion.failure is not None
        assert completion.failure.message.startswith("cannot explore with this model")
    assert Capability.EXPLORE not in local(checkpoint("llama"), device="cpu").can
    asyncio.run(engine.close())


def test_nobody_listens_where_nobody_explores(engine: Any, kit: SimpleNamespace) -> None:
    kit.answers(engine, group(kit, 2, 3, "esamp"))
    head = engine.checkpoint.model.get_output_embeddings()
    assert not head._forward_pre_hooks
    assert not engine._forward.tapped
    assert engine._batch.exploring._taps.deep.numel() == 0


# --- plain rows and plain laws ----------------------------------------------------------------------------------------


def test_plain_rows_do_not_notice(checkpoint: Any, kit: SimpleNamespace) -> None:
    """Beside rows that explore, plain rows are bit for bit what they are beside plain rows in the same places: one
    batch of the same shape, so the logits are rounded alike."""
    samplings = [Sampling(), Sampling(0.7), Sampling(top_k=5), Sampling(min_p=0.1)]
    plain = [ask._replace(sampling=samplings[i % 4], max_tokens=8) for i, ask in enumerate(kit.draws(12))]
    exploring = group(kit, 5, 6, "css", max_tokens=8, stop=())
    without = [ask._replace(sampling=Sampling(), group="", group_size=0) for ask in exploring]
    found = []
    for others in (exploring, without):
        engine = local(checkpoint("llama"), device="cpu")
        # No row ends before its length, so that the batch shrinks alike whatever is drawn.
        engine._batch._ends[:] = False
        found.append(kit.answers(engine, [*plain, *others]))
        asyncio.run(engine.close())
    beside, alone = found
    assert beside[:12] == alone[:12]
    assert [c.tokens for c in beside[12:]] != [c.tokens for c in alone[12:]]


@pytest.mark.parametrize("explore", ["esamp(beta=0.0)", "lss(strength=0.0)", "reshape"])
def test_no_strength_is_plain_bit_for_bit(explore: str, engine: Any, kit: SimpleNamespace) -> None:
    asks = group(kit, 6, 8, explore)
    plain = [ask._replace(sampling=Sampling(), group="", group_size=0) for ask in asks]
    if explore.startswith("lss"):  # its own uniforms: the law alone is plain
        for completion in kit.answers(engine, asks):
            np.testing.assert_allclose(completion.logq, completion.logp, atol=1e-12)
    else:
        kit.answers(engine, plain)  # from now on the prompt is at hand, and rounded as it is
        done = [completion._replace(explored=None) for completion in kit.answers(engine, asks)]
        assert done == kit.answers(engine, plain)


def test_css_draws_from_the_plain_law(engine: Any, plain: Any, kit: SimpleNamespace) -> None:
    """Groups of one token: in each, the samples share out the law, and each by itself follows it. Chi-square of one
    sample of each of 400 groups; a right engine fails with odds of 1e-3 over the seeds, which are fixed."""
    sampling, num = Sampling(min_p=0.02), 400
    asks = [
        ask._replace(group=f"css{g}", messages=kit.question(5))
        for g in range(num)
        for ask in group(kit, g, 4, "css", max_tokens=1, sampling=sampling)
    ]
    done = kit.answers(engine, asks)
    log_probs = draw_log_probs(plain("llama", engine._language.prompt(kit.question(5)))[-1], sampling)
    for completion in done:
        np.testing.assert_allclose(completion.logq[0], log_probs[completion.tokens[0]], atol=1e-4)
    counts = Counter(c.tokens[0] for c in done[2::4])
    often = [t for t in range(kit.vocab) if num * np.exp(log_probs[t]) >= 5]
    seen = np.array([*(counts[t] for t in often), num - sum(counts[t] for t in often)])
    wanted = num * np.array([*np.exp(log_probs[often]), max(0.0, 1 - np.exp(log_probs[often]).sum())])
    kept = wanted > 1
    assert ((seen - wanted)[kept] ** 2 / wanted[kept]).sum() < chi2.isf(1e-3, kept.sum() - 1)
    distinct = np.mean([len({c.tokens for c in done[4 * g : 4 * g + 4]}) for g in range(num)])
    mass = np.exp(log_probs)
    assert distinct > (1 - (1 - mass) ** 4).sum() + 0.1  # than four independent draws have


@pytest.mark.parametrize("explore", EVERY)
def test_logq_is_the_law_drawn_from(
    explore: str, checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The advised laws, noted down, give back every log-probability, and are laws. `arithmetic` draws by itself: its
    law is the plain one."""
    engine = local(checkpoint("llama"), device="cpu")
    found: dict[tuple[int, int], float] = {}
    plain = Explorer.advise

    def advise(self: Explorer, step: EngineStep) -> Any:
        advices = plain(self, step)
        for advice in advices:
            for i, row in enumerate(advice.rows.tolist()):
                at = int(step.sample[row]), int(step.position[row])
                if advice.log_probs is not None:
                    assert abs(float(advice.log_probs[i].exp().sum()) - 1) < 1e-9
                    found[at] = advice.log_probs[i]
                else:
                    found[at] = float(advice.logq[i])
        return advices

    monkeypatch.setattr(Explorer, "advise", advise)
    done = kit.answers(engine, group(kit, 4, 6, explore, sampling=Sampling(0.9, min_p=0.01)))
    assert found
    for (sample, position), log_probs in found.items():
        token, logq = done[sample].tokens[position], done[sample].logq[position]
        wanted = log_probs if isinstance(log_probs, float) else float(log_probs[token])
        assert logq == pytest.approx(wanted, abs=1e-9)
    assert {c.finish for c in done} <= {"stop", "length"}
    asyncio.run(engine.close())


# --- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("explore", EVERY)
def test_a_group_does_not_depend_on_its_company(explore: str, checkpoint: Any, kit: SimpleNamespace) -> None:
    """Alone, beside plain rows, beside other groups with other settings, and with its asks in another order.

    `arithmetic` is given few tokens: each multiplies what its code was rounded by, by one over the token's odds."""
    engine = local(checkpoint("llama"), device="cpu")
    own = group(kit, 4, 5, explore, max_tokens=3 if explore == "arithmetic" else 12)
    alone = [c.tokens for c in kit.answers(engine, own)]
    other = group(kit, 4, 7, "esamp(beta=0.5)", group="other")
    third = group(kit, 2, 3, explore)
    company = kit.answers(engine, [*kit.draws(9), *other, *own, *third])
    assert [c.tokens for c in company[16:21]] == alone
    assert [c.tokens for c in kit.answers(engine, own[::-1])][::-1] == alone
    assert all(c.finish != "error" for c in company)
    asyncio.run(engine.close())


@pytest.mark.parametrize("explore", EVERY)
def test_rows_observed_are_rows_sampled(explore: str, checkpoint: Any, kit: SimpleNamespace) -> None:
    """Samples of ragged lengths, so that the batch shrinks and rows move; every token kept was seen once, by the
    explorer and by the policy, and those that learn learnt from it."""
    engine = local(checkpoint("llama"), device="cpu", max_rows=24)
    asks = [ask._replace(max_tokens=2 + 3 * (i % 5)) for i, ask in enumerate(group(kit, 1, 12, explore))]
    done = kit.answers(engine, [*asks, *kit.draws(30), *group(kit, 2, 8, explore)])
    drawn = [sum(c.usage.completion_tokens for c in part) for part in (done[:12], done[42:])]
    assert len({len(c.tokens) for c in done[:12]}) > 2
    exploring = engine._batch.exploring
    assert not [report.problem for report in exploring.reports if report.problem]
    seen = sorted(report.numbers.get("seen", 0.0) for report in exploring.reports)
    if explore != "arithmetic":  # it counts samples, and the explorer holds it to the tokens
        assert seen == sorted(map(float, drawn))
    for report in exploring.reports:
        if "trained" in report.numbers and explore != "zero":
            assert report.numbers["trained"] == report.numbers["seen"]
    asyncio.run(engine.close())


def test_an_ended_group_leaves_nothing(checkpoint: Any, kit: SimpleNamespace) -> None:
    engine = local(checkpoint("llama"), device="cpu")
    for round_ in range(3):
        kit.answers(engine, [ask for g in range(4) for ask in group(kit, g, 3, EVERY[(g + round_) % len(EVERY)])])
    exploring = engine._batch.exploring
    assert len(exploring) == exploring.num_rows == 0
    assert len(exploring.reports) == 12
    explorer = exploring._explorer
    assert explorer is not None
    assert len(explorer) == 0
    assert not explorer._policies
    assert not explorer._names
    assert not exploring._by_number
    asyncio.run(engine.close())


def test_waves_share_what_was_learnt(checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second wave goes on with the group's state: not what fresh samples would be. A group begins anew from its first
    samples, and what is not held any more must be asked for from there."""
    monkeypatch.setattr(exploring, "IDLE", 8)
    engine = local(checkpoint("llama"), device="cpu")
    asks = group(kit, 3, 8, "lss(strength=8.0, sigma=1.0)", max_tokens=6)
    first, second = kit.answers(engine, asks[:4]), kit.answers(engine, asks[4:])
    assert len(engine._batch.exploring) == 0
    fresh = kit.answers(engine, [a._replace(group_size=4, group="g3") for a in asks[4:]])
    assert [c.tokens for c in second] != [c.tokens for c in fresh]
    again = [kit.answers(engine, asks[:4]), kit.answers(engine, asks[:4]), kit.answers(engine, asks[4:])]
    assert [c.tokens for c in again[0]] == [c.tokens for c in again[1]] == [c.tokens for c in first]
    assert [c.tokens for c in again[2]] == [c.tokens for c in second]
    kit.answers(engine, asks[:4])
    others = [ask for g in range(9) for ask in group(kit, 2, 2, group=f"idle{g}")[:1]]
    kit.answers(engine, others)
    assert len(engine._batch.exploring) == 8
    refused = kit.answers(engine, asks[4:])
    assert all(c.failure is not None and "again from its first draw" in c.failure.message for c in refused)
    asyncio.run(engine.close())


def test_a_wave_joins_together(checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for eight rows and nine plain ones in the way, the group waits until all of it fits; more than fit at
    all is refused, and so is a group while it is at work."""
    engine = local(checkpoint("llama"), device="cpu", max_rows=8)
    engine._batch.chunk = 3  # rows that explore are not split all the same
    steps = steps_of(monkeypatch)
    done = kit.answers(engine, [*kit.draws(9), *group(kit, 1, 6, max_tokens=5)])
    assert all(c.finish != "error" for c in done)
    assert int((steps[0].group >= 0).sum()) == 6
    assert int((steps[1].group >= 0).sum()) > 3
    refused = kit.answers(engine, [*group(kit, 1, 9), *kit.draws(2)])
    assert all(c.failure is not None and "max_rows=8" in c.failure.message for c in refused[:9])
    assert all(c.finish != "error" for c in refused[9:])
    twice = kit.answers(engine, [*group(kit, 1, 3), *group(kit, 1, 3)])
    assert all(c.failure is not None and "once at a time" in c.failure.message for c in twice)
    asyncio.run(engine.close())


def test_a_cancelled_group_begins_anew(checkpoint: Any, kit: SimpleNamespace) -> None:
    engine = local(checkpoint("llama"), device="cpu")
    asks = [ask._replace(max_tokens=3 + 30 * i) for i, ask in enumerate(group(kit, 1, 3, "esamp"))]
    whole = kit.answers(engine, asks)

    async def cut() -> None:
        stream = engine.answer(asks)
        await anext(stream)
        await stream.aclose()
        while engine._batch.num_rows:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(cut(), 120))
    assert [c.tokens for c in kit.answers(engine, asks)] == [c.tokens for c in whole]
    assert len(engine._batch.exploring) == 0
    asyncio.run(engine.close())


def test_a_failed_step_loses_the_group(checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = local(checkpoint("llama"), device="cpu")
    decode, calls = engine._forward.decode, 0

    def broken(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise RuntimeError("a fault of the model")
        return decode(*args)

    whole = kit.answers(engine, group(kit, 1, 4, "lss"))
    monkeypatch.setattr(engine._forward, "decode", broken)
    cut = kit.answers(engine, group(kit, 1, 4, "lss"))
    assert any(c.finish == "error" for c in cut)
    assert [c.tokens for c in kit.answers(engine, group(kit, 1, 4, "lss"))] == [c.tokens for c in whole]
    exploring = engine._batch.exploring
    assert len(exploring) == exploring.num_rows == 0
    asyncio.run(engine.close())


def test_a_policy_that_misses_a_token_is_found_out(
    checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last sample of the group is then an error: its group is not what was asked for."""
    engine = local(checkpoint("llama"), device="cpu")
    close = Explorer.close
    monkeypatch.setattr(
        Explorer,
        "close",
        lambda self, number, sampled=None: close(self, number, None if sampled is None else sampled + 1),
    )
    done = kit.answers(engine, group(kit, 1, 4))
    assert sorted(c.finish == "error" for c in done) == [False, False, False, True]
    asyncio.run(engine.close())


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"sampling": Sampling(0.0)}, "temperature of 0"),
        ({"forbid_first": 3}, "forbid_first"),
        ({"reject_below": RejectionBound(1.0, -5.0)}, "reject_below"),
        ({"exponents": (2.0,), "want": ("logz",)}, "exponents"),
        ({"prefix": (7, 8)}, "prefix"),
        ({"group": ""}, "the name of a group"),
        ({"group_size": 0}, "how many samples"),
        ({"explore": "nonsense"}, "no explore is called"),
        ({"explore": "css(min_cosine=7)"}, "min_cosine must be at least"),
    ],
    ids=str,
)
def test_what_cannot_explore_is_refused(changed: dict[str, Any], why: str, engine: Any, kit: SimpleNamespace) -> None:
    for completion in kit.answers(engine, group(kit, 1, 2, **changed)):
        assert completion.failure is not None
        assert why in completion.failure.message
        assert completion.failure.kind == "BadRequest"
