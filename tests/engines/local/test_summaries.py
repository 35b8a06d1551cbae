"""What a group says of itself when it ends: which completion carries it, and that it follows from the group alone."""

from __future__ import annotations

import asyncio
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from samplewise.core.types import Completion, Generate, Sampling  # noqa: E402
from samplewise.engines.local import local  # noqa: E402
from samplewise.engines.local.batch import Batch  # noqa: E402
from samplewise.engines.local.exploring import exploration_summary  # noqa: E402
from samplewise.engines.local.prepared import PreparedAsk  # noqa: E402
from samplewise.explore.explorer import Explorer, GroupReport  # noqa: E402


def group(kit: SimpleNamespace, number: int, lengths: list[int], explore: str = "css") -> list[Generate]:
    """A whole group's asks; no response ends before its length, as no token of the vocabulary is an end."""
    return [
        Generate(
            kit.question(number),
            sampling=Sampling(explore=explore),
            seed=100 * number + i,
            draw=i,
            max_tokens=length,
            want=("logq",),
            group=f"g{number}",
            group_size=len(lengths),
        )
        for i, length in enumerate(lengths)
    ]


@pytest.fixture
def endless(engine: Any) -> Batch:
    return Batch(engine._forward, engine._language, (), torch.device("cpu"), max_rows=16, chunk=16, prefix_bytes=0)


def drawn(batch: Batch, engine: Any, asks: list[Generate]) -> list[Completion]:
    with torch.inference_mode():
        jobs = [PreparedAsk(ask, engine._language.prompt(ask.messages), i) for i, ask in enumerate(asks)]
        done = batch.join(jobs)
        while batch.num_rows:
            done += batch.step()
    return [each.completion for each in sorted(done, key=lambda each: int(each.tag))]


def test_what_is_not_known_is_left_out() -> None:
    report = GroupReport("css", {"seen": 4.0, "clipped": math.nan, "heat": math.inf}, "")
    assert exploration_summary(report, 2) == {"policy": "css", "samples": 2, "numbers": {"seen": 4.0}, "problem": ""}


@pytest.mark.parametrize("explore", ["css", "lss", "esamp", "zero", "hot", "arithmetic"])
def test_the_last_one_tells_of_its_group(explore: str, endless: Batch, engine: Any, kit: SimpleNamespace) -> None:
    asks = group(kit, 1, [9, 3, 6], explore)
    one, two, three = drawn(endless, engine, [*asks, *kit.draws(2)])[:3]
    assert one.explored is not None
    assert two.explored is three.explored is None
    assert json.loads(json.dumps(one.explored, allow_nan=False)) == one.explored
    assert one.explored["samples"] == 3
    assert one.explored["problem"] == ""
    assert one.explored["numbers"].get("seen", 18.0) == 18.0
    (report,) = endless.exploring.reports
    assert one.explored == exploration_summary(report, 3)


@pytest.mark.parametrize("lengths", [[5, 5, 5, 5], [2, 7, 7, 3], [7, 2, 3, 7]], ids=str)
def test_of_rows_that_end_at_once_the_highest_sample_is_the_last(
    lengths: list[int], endless: Batch, engine: Any, kit: SimpleNamespace
) -> None:
    """Wherever it stands: rows change places when others leave, and whoever else runs makes them leave."""
    last = max(i for i, length in enumerate(lengths) if length == max(lengths))
    asks = group(kit, 2, lengths)
    company = [ask._replace(max_tokens=2) for ask in kit.draws(2)]
    for order in ([*asks, *company], [*company, *asks], [company[0], *asks, company[1]], asks[::-1]):
        done = dict(zip(order, drawn(endless, engine, order), strict=True))
        assert [done[ask].explored is not None for ask in asks] == [i == last for i in range(4)]


def test_waves_are_one_group(endless: Batch, engine: Any, kit: SimpleNamespace) -> None:
    asks = group(kit, 1, [4, 4, 4, 4], "lss")
    first, second = drawn(endless, engine, asks[:2]), drawn(endless, engine, asks[2:])
    assert [c.explored is not None for c in (*first, *second)] == [False, False, False, True]
    assert second[1].explored is not None
    assert second[1].explored["numbers"]["seen"] == 16.0


def test_drawn_again_it_says_the_same(checkpoint: Any, kit: SimpleNamespace) -> None:
    """A group that was cut off and is asked for again, and has its prompt at hand now: nothing else is left."""
    engine = local(checkpoint("llama"), device="cpu")
    asks = [ask._replace(max_tokens=3 + 20 * ask.draw) for ask in group(kit, 1, [1] * 3, "esamp(beta=0.5)")]
    whole = kit.answers(engine, asks)
    assert sum(c.explored is not None for c in whole) == 1

    async def cut() -> None:
        stream = engine.answer(asks)
        await anext(stream)
        await stream.aclose()
        while engine._batch.num_rows:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(cut(), 120))
    for one, two in zip(kit.answers(engine, asks), whole, strict=True):
        assert (one.explored is None) is (two.explored is None)
        if one.explored is not None and two.explored is not None:
            assert one.explored["numbers"] == pytest.approx(two.explored["numbers"], rel=1e-4)
    asyncio.run(engine.close())


def test_a_group_that_went_wrong_says_so(
    endless: Batch, engine: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = Explorer.close

    def short(self: Explorer, number: int, sampled: int | None = None) -> GroupReport:
        return close(self, number, None if sampled is None else sampled + 1)

    monkeypatch.setattr(Explorer, "close", short)
    done = drawn(endless, engine, group(kit, 1, [3, 4]))
    assert done[0].explored is None
    assert done[1].finish == "error"
    assert done[1].explored is not None
    assert done[1].explored["problem"] == "exploration saw 7 tokens of a group for which 8 were drawn"
    assert done[1].failure is not None
    assert done[1].failure.message == done[1].explored["problem"]


def test_others_say_nothing(engine: Any, kit: SimpleNamespace) -> None:
    assert {c.explored for c in kit.answers(engine, kit.draws(5))} == {None}
