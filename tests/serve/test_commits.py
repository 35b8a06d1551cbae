"""Draws that are committed together: what is seen of them, and what becomes of them when the disk says no."""

from __future__ import annotations

import asyncio
import json
import signal
import time
import urllib.request
from pathlib import Path

import pytest
from tests.serve.running import running

from samplewise.core.errors import StoreError
from samplewise.core.types import Completion, Generate, Usage
from samplewise.serve.commits import COMMIT_S, GroupCommit
from samplewise.store.database import Store
from samplewise.store.digests import digest_of

ASKS = [Generate((), seed=seed) for seed in range(1, 9)]
DIGESTS = [digest_of("toy", ask) for ask in ASKS]


def drawn(text: str) -> Completion:
    return Completion(text, "stop", Usage(1, 2, 3))


class FullDisk(Store):
    """A store whose disk is full as long as `is_full` says."""

    is_full = False

    def put_draw(self, *args: object) -> None:  # type: ignore[override]
        if self.is_full:
            raise StoreError("the disk is full")
        super().put_draw(*args)  # type: ignore[arg-type]


def stored(path: Path) -> set[str]:
    with Store(path) as store:
        return {completion.text for _, _, completion in store.all_draws()}


def test_draws_are_on_disk_a_moment_later_without_anybody_asking(tmp_path: Path) -> None:
    path = tmp_path / "draws.db"

    async def draw() -> None:
        with Store(path) as store:
            draws = GroupCommit(store)
            for index in range(4):
                draws.put_draw(DIGESTS[index], "toy", ASKS[index], drawn(f"draw {index}"))
            assert stored(path) == set()
            await asyncio.sleep(3 * COMMIT_S)
            assert stored(path) == {f"draw {index}" for index in range(4)}
            draws.put_draw(DIGESTS[5], "toy", ASKS[5], drawn("draw 5"))
            await asyncio.sleep(3 * COMMIT_S)
            assert len(stored(path)) == 5

    asyncio.run(draw())


def test_a_draw_that_waits_is_found_and_the_first_of_two_stays(tmp_path: Path) -> None:
    async def draw() -> None:
        with Store(tmp_path / "draws.db") as store:
            draws = GroupCommit(store)
            draws.put_draw(DIGESTS[0], "toy", ASKS[0], drawn("first"))
            assert draws.draws(DIGESTS)[DIGESTS[0]].text == "first"
            draws.put_draw(DIGESTS[0], "toy", ASKS[0], drawn("second"))
            draws.put_draw(DIGESTS[1], "toy", ASKS[1], drawn("other"))
            draws.put_draw(DIGESTS[1], "toy", ASKS[1], drawn("another"))
            draws.commit()
            assert {c.text for _, _, c in store.all_draws()} == {"first", "other"}

    asyncio.run(draw())


def test_a_full_disk_is_told_to_who_draws_next_and_loses_nothing_of_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "draws.db"

    async def draw() -> None:
        with FullDisk(path) as store:
            draws = GroupCommit(store)
            store.is_full = True
            for index in (0, 1):
                draws.put_draw(DIGESTS[index], "toy", ASKS[index], drawn(f"draw {index}"))
            await asyncio.sleep(3 * COMMIT_S)
            assert "full" in caplog.text
            with pytest.raises(StoreError, match="full"):
                draws.put_draw(DIGESTS[2], "toy", ASKS[2], drawn("draw 2"))
            with pytest.raises(StoreError, match="full"):
                draws.draws(DIGESTS[:1])
            store.is_full = False
            draws.put_draw(DIGESTS[3], "toy", ASKS[3], drawn("draw 3"))
            draws.commit()
            draws.commit()  # nothing waits
        assert stored(path) == {"draw 0", "draw 1", "draw 3"}

    asyncio.run(draw())


def test_a_draw_that_no_store_can_hold_takes_no_other_with_it(tmp_path: Path) -> None:
    path = tmp_path / "draws.db"

    async def draw() -> None:
        with Store(path) as store:
            draws = GroupCommit(store)
            texts = ["draw 0", "draw 1", "draw 2"]
            for index, text in enumerate(texts):
                tokens = (1 << 70,) if index == 1 else (index,)  # more than a column of the store has room for
                draws.put_draw(DIGESTS[index], "toy", ASKS[index], drawn(text)._replace(tokens=tokens))
            with pytest.raises(OverflowError):
                draws.commit()
            assert stored(path) == set()
            draws.put_draw(DIGESTS[3], "toy", ASKS[3], drawn("draw 3"))
            draws.commit()
        assert stored(path) == {"draw 0", "draw 2", "draw 3"}

    asyncio.run(draw())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_has_kept_what_it_answered(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "draws.db"
    runs = set()
    with running(tmp_path / "log", "--engine", "toy", "--store", str(path), stop=number) as url:
        for _ in range(3):  # the same, drawn anew each time
            asked = {"model": "toy", "messages": [{"role": "user", "content": "a word"}], "max_tokens": 4}
            request = urllib.request.Request(
                f"{url}/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as reply:
                evidence = json.load(reply)["samplewise"]
                assert evidence["draws"] == 1
                runs.add(evidence["run"])
        if number == signal.SIGKILL:
            time.sleep(0.5)  # far longer than a draw waits
    assert len(runs) == 3
    with Store(path) as store:
        assert store.num_draws() == 3
