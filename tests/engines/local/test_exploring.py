"""The rows of a batch that explore, driven by hand: what a failed join leaves behind, and who is refused."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from samplewise.core.types import Generate, Sampling  # noqa: E402
from samplewise.engines.local.batch import Batch  # noqa: E402
from samplewise.engines.local.prepared import Done, PreparedAsk  # noqa: E402


@pytest.fixture
def batch(engine: Any) -> Batch:
    return Batch(engine._forward, engine._language, (), torch.device("cpu"), max_rows=16, chunk=16, prefix_bytes=0)


def jobs(engine: Any, kit: SimpleNamespace, lengths: list[int], explore: str = "esamp") -> list[PreparedAsk]:
    messages = kit.question(2)
    asks = [
        Generate(
            messages,
            sampling=Sampling(explore=explore),
            seed=i,
            draw=i,
            max_tokens=length,
            group="g" if explore else "",
            group_size=len(lengths) if explore else 0,
        )
        for i, length in enumerate(lengths)
    ]
    return [PreparedAsk(ask, engine._language.prompt(messages), i) for i, ask in enumerate(asks)]


def finished(batch: Batch) -> list[Done]:
    done = []
    while batch.num_rows:
        done += batch.step()
    return done


def test_a_failed_join_takes_no_other_row_along(
    batch: Batch, engine: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last row has moved into the place of one that ended. A join behind it fails before anything is entered: what
    the rows there were is not theirs."""
    with torch.inference_mode():
        done = batch.join(jobs(engine, kit, [2, 8, 8]))
        done += batch.step()
        assert batch.num_rows == 2

        def full(*args: Any) -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(batch.forward, "reserve", full)
            (failure,) = batch.join(jobs(engine, kit, [4], ""))
        assert failure.completion.finish == "error"
        assert batch.exploring.num_rows == 2
        done += finished(batch)
    assert all(each.completion.finish == "length" for each in done)
    (report,) = batch.exploring.reports
    assert (report.problem, report.numbers["seen"]) == ("", 18.0)
    assert batch.exploring.num_rows == len(batch.exploring) == 0


def test_who_did_not_ask_is_told_and_leaves_nothing(batch: Batch, engine: Any, kit: SimpleNamespace) -> None:
    """The engine asks `refusal` before rows join; a batch refuses by itself as well."""
    one, two = jobs(engine, kit, [3, 3])
    with torch.inference_mode():
        done = batch.join([two, one, two])
    assert all("once at a time" in each.completion.failure.message for each in done if each.completion.failure)
    assert [each.completion.finish for each in done] == ["error"] * 3
    assert batch.exploring.num_rows == len(batch.exploring) == batch.num_rows == 0
    assert not engine.checkpoint.model.get_output_embeddings()._forward_pre_hooks


def test_a_cancelled_row_loses_its_group(batch: Batch, engine: Any, kit: SimpleNamespace) -> None:
    """The others end as they would; the group is not held, has no report, and is asked for from its start."""
    with torch.inference_mode():
        batch.join(jobs(engine, kit, [6, 6, 6]))
        batch.step()
        batch.drop([1])
        assert batch.exploring.refusal([jobs(engine, kit, [6, 6, 6])[1].ask])  # type: ignore[list-item]
        done = finished(batch)
    assert len(done) == 2
    assert not batch.exploring.reports
    assert "again from its first draw" in batch.exploring.refusal([jobs(engine, kit, [6, 6, 6])[1].ask])  # type: ignore[list-item]
    assert batch.exploring.refusal([job.ask for job in jobs(engine, kit, [6, 6, 6])]) == ""  # type: ignore[misc]


@pytest.mark.parametrize("learner", ["", "learner='ridge', warm_start=True, "])
def test_learning_aside_draws_what_learning_in_place_draws(
    batch: Batch, engine: Any, kit: SimpleNamespace, learner: str
) -> None:
    """Rows of ragged lengths, bit for bit, log-probabilities too; the thread ends with the group. Dropped or not, every
    token is accounted for."""
    found = []
    for when in ("no", "wait", "drop"):
        with torch.inference_mode():
            batch.join(jobs(engine, kit, [12, 30, 7, 30], f"esamp({learner}aside={when!r})"))
            threads = [t for t in threading.enumerate() if t.name.startswith("samplewise-aside")]
            assert len(threads) == (when != "no")
            found.append(finished(batch))
        assert not [t for t in threading.enumerate() if t in threads]
        report = batch.exploring.reports[-1]
        assert report.problem == ""
        assert report.numbers["trained"] + report.numbers["dropped"] == report.numbers["seen"]
    assert [bare(each) for each in found[0]] == [bare(each) for each in found[1]]
    assert all(each.completion.finish == "length" for each in found[2])


def bare(done: Done) -> Any:
    """All but the text of the settings."""
    return done.tag, done.completion._replace(explored=None)
