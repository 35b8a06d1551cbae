"""A real model of 260,000 parameters in the engine: the converter that benches use, and rejection on real text."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from samplewise.core.types import Generate, Message, RejectionBound, Sampling  # noqa: E402
from samplewise.engines.local import llama, local  # noqa: E402

_spec = importlib.util.spec_from_file_location(
    "samplewise_bench_stories", Path(__file__).parents[3] / "bench" / "stories.py"
)
assert _spec is not None
assert _spec.loader is not None
stories = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = stories
_spec.loader.exec_module(stories)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    source = stories.folder()
    if source is None:
        pytest.skip("stories260K is not in the data folder (SAMPLEWISE_DATA)")
    place: Path = tmp_path_factory.mktemp("stories")
    stories.write(source, place)
    made = local(str(place), device="cpu")
    yield made
    asyncio.run(made.close())


def test_it_tells_its_story(engine: Any, kit: SimpleNamespace) -> None:
    """A wrong order of heads or halves, or one matrix out of place, gives no English."""
    ask = Generate((Message("user", ""),), sampling=Sampling(0.0), max_tokens=20)
    (told,) = kit.answers(engine, [ask])
    assert told.text.startswith("Once upon a time, there was a little girl named Lily.")
    assert type(engine._forward) is llama.Lean
    assert engine.checkpoint.stops == (1, 2)


@pytest.mark.parametrize(
    "text", ["Once upon a time, there was a happy dog.", "  two  spaces", "naïve — \n tab\t 中", "Hi!" * 20]
)
def test_its_tokenizer_keeps_texts(text: str, engine: Any) -> None:
    ids = engine._language.prompt((Message("user", text),))
    assert ids[0] == stories.BOS
    assert engine._language.texts([ids]) == [text]


def test_the_tokenizer_joins_the_lowest_pair_first(engine: Any) -> None:
    """As llama2.c does, by the scores, which fall with the id."""
    pieces = stories.read_pieces(stories.folder() / "tok512.bin")  # type: ignore[operator]
    ids = {piece: i for i, piece in enumerate(pieces)}
    for text in ("Once upon a time, there was a big dog.", "the other mother then bothered them"):
        row = [ids[letter] for letter in " " + text]
        while True:
            pairs = [(ids.get(pieces[a] + pieces[b], 10**6), i) for i, (a, b) in enumerate(zip(row, row[1:]))]  # noqa: B905, RUF007
            best, place = min(pairs)
            if best == 10**6:
                break
            row[place : place + 2] = [best]
        assert engine._language.prompt((Message("user", text),))[1:] == tuple(row)


def test_a_floor_is_met_as_soon_as_it_can_be_and_changes_no_decision(engine: Any, kit: SimpleNamespace) -> None:
    """Of 40 stories with bounds drawn for them: those that their whole sum takes below the bound are given up, all of
    them and no other, and before the token that crosses it."""
    asks = [
        Generate(prompt, (), Sampling(0.25, top_k), 40, seed=i, want=("tokens", "logp", "logq"))
        for i, prompt in enumerate(stories.beginnings()[:40])
        for top_k in (0, 10)
    ]
    free = kit.answers(engine, asks)
    sums = [sum(4 * p - q for p, q in zip(c.logp, c.logq, strict=True)) for c in free]
    bounds = [RejectionBound(4.0, (0.2 + 1.6 * i / len(asks)) * sorted(sums)[len(sums) // 2]) for i in range(len(asks))]
    cut = kit.answers(engine, [ask._replace(reject_below=bound) for ask, bound in zip(asks, bounds, strict=True)])
    for total, bound, whole, part in zip(sums, bounds, free, cut, strict=True):
        assert (part.finish == "rejected") == (total < bound.value)
        assert part.tokens == whole.tokens[: len(part.tokens)]
        assert sum(4 * p - q for p, q in zip(part.logp, part.logq, strict=True)) >= bound.value
    assert 10 < sum(part.finish == "rejected" for part in cut) < len(cut) - 10
