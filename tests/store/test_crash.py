"""A run that is killed at any moment loses nothing, pays for nothing twice, and ends as one that was never killed.

The bench kills a run of 2,000 draws a hundred times; here is the same with a handful of kills, and a bad store. Another
bench kills shards of one run, and merges them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def figures(*options: str) -> Any:
    command = [sys.executable, "-m", "bench.store", "--questions", "20", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_kills_lose_nothing_and_repeat_nothing() -> None:
    found = figures("--kills", "8")
    assert found["kills"] == 8
    assert (found["lost"], found["paid_twice"], found["identical"]) == (0, 0, True)
    assert found["in_flight_repeated"] <= 8 * found["kills"]  # eight questions under way, one ask each


@pytest.mark.slow
def test_kills_beside_an_endpoint_with_faults() -> None:
    found = figures("--endpoint", "--kills", "6")
    assert (found["kills"], found["lost"], found["paid_twice"], found["identical"]) == (6, 0, 0, True)


@pytest.mark.slow
def test_a_store_that_commits_late_is_found_out() -> None:
    """Every kill loses what was not committed, 10 draws on average: that none of 8 does has odds below 1e-6."""
    found = figures("--kills", "8", "--batched")
    assert found["lost"] > 0
    assert found["paid_twice"] > 0
    assert found["identical"]  # what is lost is drawn again, with the same seeds


@pytest.mark.slow
def test_killed_shards_merge_into_the_undisturbed_run() -> None:
    """And a small store of many draws is filled, opened, checked, decided again, exported, merged and packed."""
    options = ["--questions", "24", "--kills", "5", "--timed", "0", "--tiny", "0", "--draws", "800"]
    command = [sys.executable, "-m", "bench.scale", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=True, cwd=ROOT)
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["lost"], found["paid_twice"], found["identical"]) == (0, 0, True)
    assert 1 <= found["kills"] <= 5
    assert (found["questions"], found["draws"], found["shards"], found["speedup"]) == (24, 192, [1, 2, 4], {})
    (store,) = found["stores"]
    assert (store["draws"], store["parquet_equal"]) == (800, True)
    assert store["bytes"] > 600  # a response of 300 bytes, in its draw and in its record
