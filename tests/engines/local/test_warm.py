"""Groups that learn from their prompt first: what they are handed, what it is worth, and that nobody else notices."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from samplewise.core.types import Generate, Sampling  # noqa: E402
from samplewise.engines.local import local  # noqa: E402
from samplewise.explore.explorer import Explorer  # noqa: E402

KINDS = ["llama", "qwen3", "mistral", "gemma2", "gemma3", "gpt2"]
WARM = "esamp(learner='ridge', penalty=0.01, warm_start=True)"


def group(kit: SimpleNamespace, number: int, size: int, explore: str = WARM, **changed: Any) -> list[Generate]:
    given: dict[str, Any] = {"max_tokens": 8, "want": ("tokens", "logp", "logq"), "group": f"g{number}", **changed}
    return [
        Generate(
            kit.question(number, 9),
            sampling=Sampling(explore=explore),
            seed=1000 * number + i,
            draw=i,
            **{"group_size": size, **given},
        )
        for i in range(size)
    ]


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Any, Any]]:
    """What explorers are handed of prompts from now on: number of the group, deep and shallow states."""
    found: list[tuple[int, Any, Any]] = []
    plain = Explorer.warm

    def warm(self: Explorer, number: int, deep: Any, shallow: Any) -> None:
        found.append((number, deep.clone(), shallow.clone()))
        plain(self, number, deep, shallow)

    monkeypatch.setattr(Explorer, "warm", warm)
    return found


def first_error(engine: Any) -> float:
    return float(engine._batch.exploring.reports[-1].numbers["error_first"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_states_of_a_prompt_are_those_of_a_pass_of_its_own(
    kind: str, checkpoint: Any, kit: SimpleNamespace, handed: list[Any]
) -> None:
    """At every position, for every pass that the engine may have; and the pass is counted where tokens are."""
    engine = local(checkpoint(kind), device="cpu")
    ids = list(engine._language.prompt(kit.question(3, 9)))
    plain = group(kit, 3, 4, "esamp(learner='ridge', penalty=0.01)")
    before = engine._forward.num_forwarded
    cold = kit.answers(engine, plain)
    one = engine._forward.num_forwarded - before - sum(c.usage.completion_tokens - 1 for c in cold)
    assert not handed
    before = engine._forward.num_forwarded
    warm = kit.answers(engine, group(kit, 3, 4))
    more = engine._forward.num_forwarded - before - sum(c.usage.completion_tokens - 1 for c in warm)
    assert one == len(ids)
    assert more == len(ids) + 1  # the prompt is at hand by now, but for its last token
    assert [c.usage.prompt_tokens for c in warm] == [c.usage.prompt_tokens for c in cold] == [len(ids)] * 4
    ((_, deep, shallow),) = handed
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint(kind), dtype=torch.float32)
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    torch.testing.assert_close(deep, states[-1][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shallow, states[1][0], atol=1e-5, rtol=1e-5)
    (report,) = list(engine._batch.exploring.reports)[1:]
    assert report.problem == ""
    assert report.numbers["warmed"] == len(ids)
    assert report.numbers["trained"] == report.numbers["seen"] == sum(c.usage.completion_tokens for c in warm)
    asyncio.run(engine.close())


def test_the_first_error_is_lower(engine: Any, kit: SimpleNamespace) -> None:
    """The first step stands at the prompt's last position, which ridge has met; Adam has taken one gradient step."""
    for learner, most in (("learner='ridge', penalty=0.01, ", 0.05), ("", 0.99)):
        errors = []
        for warm in (False, True):
            kit.answers(engine, group(kit, 4, 3, f"esamp({learner}warm_start={warm})"))
            errors.append(first_error(engine))
        assert errors[1] < most * errors[0]


def test_a_warm_group_does_not_depend_on_its_company(checkpoint: Any, kit: SimpleNamespace) -> None:
    """Alone, beside plain rows and beside other groups, cold and warm, that join with it or run when it comes."""
    engine = local(checkpoint("llama"), device="cpu")
    own = group(kit, 4, 5, max_tokens=12)
    alone = [c.tokens for c in kit.answers(engine, own)]
    cold = kit.answers(engine, group(kit, 4, 5, WARM.replace("True", "False"), max_tokens=12))
    assert [c.tokens for c in cold] != alone
    others = [*kit.draws(9), *group(kit, 2, 3), *group(kit, 5, 2, "esamp"), *group(kit, 6, 3, "css")]
    company = kit.answers(engine, [*others, *own])
    assert [c.tokens for c in company[-5:]] == alone
    assert all(c.finish != "error" for c in company)

    async def later() -> list[Any]:
        """The group comes when the others are under way."""
        stream = engine.answer([*others, *kit.draws(1, max_tokens=60)])
        await anext(stream)
        found = {a.position: a.completion async for a in engine.answer(own)}
        async for _ in stream:
            pass
        return [found[i].tokens for i in range(5)]

    assert asyncio.run(later()) == alone
    asyncio.run(engine.close())


def test_the_others_do_not_notice(checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tapped for the step at hand, and what the batch's cache holds, outlive a prompt's pass, bit for bit:
    cold groups that join with a warm one draw what they draw beside the same group without learning from its prompt."""
    for kind in ("llama", "qwen3"):
        engine = local(checkpoint(kind), device="cpu")
        engine._batch._ends[:] = False
        cold = [*group(kit, 2, 3, "esamp(beta=1.0)"), *kit.draws(3, max_tokens=8, stop=())]
        found = []
        for explore in (WARM, WARM.replace("True", "False")):
            engine._batch.prefixes.clear()
            found.append(kit.answers(engine, [*cold, *group(kit, 4, 3, explore)]))
        assert found[0][:6] == found[1][:6]
        assert [c.tokens for c in found[0][6:]] != [c.tokens for c in found[1][6:]]
        asyncio.run(engine.close())


def test_a_group_is_warmed_as_often_as_it_begins(checkpoint: Any, kit: SimpleNamespace, handed: list[Any]) -> None:
    """Once for all of its waves; again when it begins anew, cut short or done; and never for what does not want it."""
    engine = local(checkpoint("llama"), device="cpu")
    asks = group(kit, 3, 6)
    first = kit.answers(engine, asks[:3])
    assert len(handed) == 1
    second = kit.answers(engine, asks[3:])
    assert len(handed) == 1
    again = kit.answers(engine, asks[:3])
    kit.answers(engine, asks[:3])  # it is held, and begins anew
    assert len(handed) == 3
    assert [c.tokens for c in kit.answers(engine, asks[3:])] == [c.tokens for c in second]
    assert [c.tokens for c in again] == [c.tokens for c in first]
    kit.answers(engine, [*group(kit, 1, 2, "esamp"), *group(kit, 2, 2, "lss"), *kit.draws(3)])
    assert len(handed) == 3
    kit.answers(engine, [*group(kit, 1, 2), *group(kit, 2, 2)])
    assert len(handed) == 5
    assert all(torch.equal(a, b) for a, b in zip(handed[0][1:], handed[1][1:], strict=True))
    asyncio.run(engine.close())


def test_a_prompt_that_fails_takes_its_group_along(
    checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that join with it say so, nothing is left of them, no hook hangs, and the next time all is well."""
    engine = local(checkpoint("llama"), device="cpu")
    whole = kit.answers(engine, group(kit, 3, 3))

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(engine.checkpoint.model, "forward", broken)
        failed = kit.answers(engine, group(kit, 3, 3))
    assert all(c.failure is not None and "out of memory" in c.failure.message for c in failed)
    exploring = engine._batch.exploring
    assert len(exploring) == exploring.num_rows == 0
    assert not engine.checkpoint.model.get_output_embeddings()._forward_pre_hooks
    assert not engine.checkpoint.model.model.layers[0]._forward_hooks
    assert [c.tokens for c in kit.answers(engine, group(kit, 3, 3))] == [c.tokens for c in whole]
    asyncio.run(engine.close())
