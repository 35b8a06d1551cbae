"""The engine as the loop sees it: many calls, cancellation, memory, loading, identity."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from samplewise.core.errors import MissingExtra, SetupError  # noqa: E402
from samplewise.core.types import Capability, Generate, Likelihood  # noqa: E402
from samplewise.engines import local as package  # noqa: E402
from samplewise.engines.local import cache, local, tiny  # noqa: E402
from samplewise.models import TINY  # noqa: E402
from samplewise.models.loading import load_causal_model  # noqa: E402


def test_protocol(engine: Any, kit: SimpleNamespace) -> None:
    assert engine.name == "local(llama)"
    no_letters = {Capability.SCORE_FIRST}  # its vocabulary has words alone
    assert engine.can == frozenset(Capability) - {Capability.ENUMERATE, Capability.TOP} - no_letters
    assert len(engine.digest) == 64
    assert engine.identity == f"local:llama:{engine.digest}:float32:cpu"
    ask = Generate(kit.question(0), prefix=(8, 9), max_tokens=7)
    num_prompt = len(engine._language.prompt(ask.messages))
    assert engine.worst_case(ask) == (1, num_prompt + 2, 7, 0, 0, 0.0, 0.0)
    assert engine.worst_case(Likelihood(ask.messages, (8,))) == (1, num_prompt + 1, 0, 0, 0, 0.0, 0.0)


def test_spending_stays_within_the_worst_case(engine: Any, kit: SimpleNamespace) -> None:
    for ask, completion in zip(asks := kit.draws(20), kit.answers(engine, asks), strict=True):
        worst = engine.worst_case(ask)
        assert completion.usage.prompt_tokens == worst.prompt_tokens
        assert completion.usage.completion_tokens <= worst.completion_tokens


def test_more_asks_than_rows(checkpoint: Any, engine: Any, kit: SimpleNamespace) -> None:
    few = local(checkpoint("llama"), device="cpu", max_rows=3)
    most = 0
    step = few._batch.step

    def counted() -> Any:
        nonlocal most
        most = max(most, few._batch.num_rows)
        return step()

    few._batch.step = counted
    asks = kit.draws(25)
    assert [c.tokens for c in kit.answers(few, asks)] == [c.tokens for c in kit.answers(engine, asks)]
    assert most == 3
    asyncio.run(few.close())


def test_rows_are_fewer_where_memory_is_short(checkpoint: Any, engine: Any, kit: SimpleNamespace) -> None:
    per_token = engine._forward.bytes_per_token
    small = local(checkpoint("llama"), device="cpu", max_bytes=200 * per_token)  # three quarters of it for rows
    most = 0
    step = small._batch.step

    def counted() -> Any:
        nonlocal most
        most = max(most, small._batch.num_rows)
        return step()

    small._batch.step = counted
    asks = [Generate(kit.question(i), max_tokens=22, seed=i, want=("tokens",)) for i in range(12)]
    need = len(small._language.prompt(asks[0].messages)) + 22
    assert [c.tokens for c in kit.answers(small, asks)] == [c.tokens for c in kit.answers(engine, asks)]
    assert most == 150 // need
    long = Generate(kit.question(0), max_tokens=110, want=("tokens",))  # alone it runs, whatever it takes
    assert kit.bare(kit.answers(small, [long])[0]) == kit.bare(kit.answers(engine, [long])[0])
    assert small._batch.prefixes.num_bytes <= 50 * per_token
    asyncio.run(small.close())


def test_calls_share_one_batch(engine: Any, kit: SimpleNamespace) -> None:
    asks = kit.draws(60)
    wanted = [c.tokens for c in kit.answers(engine, asks)]

    async def one(part: list[Any]) -> list[Any]:
        got = [arrival async for arrival in engine.answer(part)]
        return [a.completion.tokens for a in sorted(got, key=lambda a: a.position)]

    async def both() -> list[Any]:
        parts = await asyncio.gather(*(one(asks[i : i + 20]) for i in (0, 20, 40)), one([]))
        return [tokens for part in parts for tokens in part]

    assert asyncio.run(both()) == wanted


def test_closing_the_iterator_frees_its_rows(engine: Any, kit: SimpleNamespace) -> None:
    """A cancelled call ends within a step: neither its rows nor its waiting asks are drawn any more."""
    long = [Generate(kit.question(i), max_tokens=100, seed=i) for i in range(40)]
    short = kit.draws(5)

    forwarded = 0

    async def cancel() -> list[Any]:
        nonlocal forwarded
        stream = engine.answer(long)
        async for _ in stream:
            break
        await stream.aclose()
        forwarded = engine._forward.num_forwarded
        return [a async for a in engine.answer(short)]

    arrivals = asyncio.run(cancel())
    assert len(arrivals) == 5
    deadline = time.monotonic() + 120
    while engine._batch.num_rows and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine._batch.num_rows == 0
    assert not engine._open
    wanted = sum(a.completion.usage.prompt_tokens + a.completion.usage.completion_tokens for a in arrivals)
    assert engine._forward.num_forwarded - forwarded < wanted + 2 * 40, "the step under way, and perhaps one more"
    assert kit.answers(engine, short)[0].failure is None


def test_a_caller_that_went_away_does_no_harm(engine: Any, kit: SimpleNamespace) -> None:
    """Its event loop is closed while its asks are being answered."""

    async def leave() -> Any:
        stream = engine.answer(kit.draws(30))
        await anext(stream)
        return stream

    loop = asyncio.new_event_loop()
    stream = loop.run_until_complete(leave())
    loop.run_until_complete(stream.aclose())
    loop.close()
    assert all(c.failure is None for c in kit.answers(engine, kit.draws(4)))


def test_many_waiting_asks_cost_nothing_until_they_join(checkpoint: Any, kit: SimpleNamespace) -> None:
    """20,000 asks wait behind four rows; each would hold a generator, ids and uniforms, if it were made ready."""
    engine = local(checkpoint("llama"), device="cpu", max_rows=4)
    questions = [kit.question(i) for i in range(5)]
    asks = [Generate(questions[i % 5], max_tokens=20, seed=i) for i in range(20_000)]

    async def some() -> int:
        stream = engine.answer(asks)
        num = 0
        async for _ in stream:
            num += 1
            if num == 8:
                break
        call = next(iter(engine._open)).call
        waiting = len(asks) - call.next
        await stream.aclose()
        return waiting

    assert asyncio.run(some()) > 19_000
    assert len(engine._batch.columns.limit) == 4
    assert len(engine._language._prompts) <= 5 + 1
    asyncio.run(engine.close())
    assert not engine._open


def test_close_ends_the_thread_and_fails_what_is_left(checkpoint: Any, kit: SimpleNamespace) -> None:
    engine = local(checkpoint("llama"), device="cpu", max_rows=2)
    asks = [Generate(kit.question(i), max_tokens=100, seed=i) for i in range(30)]

    async def interrupted() -> list[Any]:
        stream = engine.answer(asks)
        first = await anext(stream)
        await engine.close()
        rest = [arrival async for arrival in stream]
        late = [arrival async for arrival in engine.answer(asks[:2])]
        return [first, *rest, *late]

    arrivals = asyncio.run(interrupted())
    assert sorted(a.position for a in arrivals[:30]) == list(range(30))
    assert {a.completion.failure.kind for a in arrivals[-2:]} == {"EngineUnavailable"}
    assert not any(thread.name == engine.name and thread is engine._thread for thread in threading.enumerate())


def test_a_fault_of_our_own_fails_the_asks_and_not_the_engine(
    checkpoint: Any, kit: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this a bug in the worker's thread would leave every caller waiting for ever."""
    engine = local(checkpoint("llama"), device="cpu")
    asks = kit.draws(4)
    wanted = kit.answers(engine, asks)

    def broken(rows: Any, lost: Any) -> Any:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr(engine._batch, "_leave", broken)
        assert {c.failure.kind for c in kit.answers(engine, asks)} == {"EngineError"}
    assert [c.tokens for c in kit.answers(engine, asks)] == [c.tokens for c in wanted]
    asyncio.run(engine.close())


# ------------------------------------------------------------------------------------------------------------- loading


def test_the_digest_follows_the_files(checkpoint: Callable[[str], str], tmp_path: Path, kit: SimpleNamespace) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint("llama"), folder)
    same = load_causal_model(str(folder), "cpu", None)
    assert same.digest == load_causal_model(checkpoint("llama"), "cpu", None).digest
    (folder / "notes.md").write_text("not a part of the model")
    assert load_causal_model(str(folder), "cpu", None).digest == same.digest
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert load_causal_model(str(folder), "cpu", None).digest != same.digest


def test_precision_is_part_of_the_identity(checkpoint: Callable[[str], str], kit: SimpleNamespace) -> None:
    half = local(checkpoint("llama"), device="cpu", dtype="bfloat16")
    assert ":bfloat16:cpu" in half.identity
    assert all(c.failure is None for c in kit.answers(half, kit.draws(6)))
    asyncio.run(half.close())


def make_bert(folder: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.5,  # with the usual .02 some random weights hardly look ahead at all
    )
    transformers.BertForMaskedLM(config).save_pretrained(folder)


def make_bert_in_disguise(folder: Path) -> None:
    make_bert(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["BertLMHeadModel"]}))


def make_empty(folder: Path) -> None:
    folder.mkdir()


def make_garbage(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{")


def make_without_weights(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))


@pytest.mark.parametrize(
    "make", [make_bert, make_bert_in_disguise, make_empty, make_garbage, make_without_weights], ids=lambda f: f.__name__
)
def test_what_is_no_causal_model_is_one_clear_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make(folder)
    with pytest.raises(SetupError) as raised:
        local(str(folder), device="cpu")
    assert "\n" not in str(raised.value)
    assert "model" in str(raised.value)


def test_a_model_that_looks_ahead_is_refused(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files name a causal architecture; its passes are not."""
    layer = transformers.models.llama.modeling_llama.LlamaMLP
    plain = layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, states: plain(self, states + states.mean(dim=1, keepdim=True)))
    with pytest.raises(SetupError, match=r"not a causal language model|depends on the tokens after it"):
        local(checkpoint("llama"), device="cpu")


def test_a_model_that_is_said_to_look_ahead_is_refused(checkpoint: Any, tmp_path: Path) -> None:
    folder = tmp_path / "ahead"
    shutil.copytree(checkpoint("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "is_causal": False}))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        first = [loaded(input_ids=torch.tensor([[4, 5, last]])).logits[0, 0] for last in (6, 7)]
    if torch.equal(*first):
        pytest.skip("this release of transformers takes no notice of is_causal in a config")
    with pytest.raises(SetupError, match=r"not a causal language model|depends on the tokens after it"):
        local(str(folder), device="cpu")


@pytest.mark.parametrize("source", ["./nowhere", "/no/such/model", "~/no such", "a b", "x/y/z"])
def test_no_such_folder(source: str) -> None:
    with pytest.raises(SetupError, match=r"no model folder|neither a folder nor a name"):
        local(source)


@pytest.mark.parametrize("error", [OSError("We couldn't connect\nto the Hub"), ValueError("")])
def test_the_hub_cannot_be_reached(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    with pytest.raises(SetupError) as raised:
        local("someone/some-model", device="cpu")
    assert str(raised.value).startswith("cannot load someone/some-model as a causal language model: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("arguments", [{"device": "tpu9"}, {"device": "mps"}, {"dtype": "int3"}])
def test_settings_that_cannot_be(arguments: dict[str, str], checkpoint: Any) -> None:
    with pytest.raises(SetupError):
        local(checkpoint("llama"), **arguments)


def test_max_rows_must_be_one_or_more(checkpoint: Any) -> None:
    with pytest.raises(ValueError, match="max_rows"):
        local(checkpoint("llama"), device="cpu", max_rows=0)


def test_a_missing_extra_says_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"samplewise\[local\]"):
        package.local("tiny")


def test_torch_is_imported_late() -> None:
    code = "import sys, samplewise.engines.local; print('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.skipif(not (TINY / "config.json").is_file(), reason="the bundled checkpoint is not there")
def test_the_bundled_model_answers(kit: SimpleNamespace) -> None:
    engine = tiny(device="cpu")
    assert engine.identity.startswith(f"local:tiny:{engine.digest}:float32:cpu")
    assert kit.answers(engine, [Generate(kit.question(0), max_tokens=4)])[0].failure is None
    asyncio.run(engine.close())


# ------------------------------------------------------------------------------------------------------------ prefixes


def saved(length: int) -> cache.Saved:
    return ((torch.zeros(2, length, 4), torch.zeros(2, length, 4)),)  # 64 bytes a token


def test_prefixes_are_found_by_their_longest_part() -> None:
    known = cache.Prefixes(10_000)
    known.put((1, 2, 3, 4), saved(4))
    known.put((1, 2, 9), saved(3))
    assert [known.longest(ids).length for ids in [(1, 2, 3, 7), (1, 2, 9, 9), (1, 5), (2, 1), ()]] == [3, 3, 1, 0, 0]


def test_a_prefix_outlives_the_entry_that_was_known_for_it() -> None:
    """Two responses share a prompt, and the younger one, known for it, left first: the prompt was forgotten, although
    the older one still began with it."""
    known = cache.Prefixes(64 * 10)
    known.put((1, 2, 3, 4), saved(4))
    known.put((1, 2, 9, 9), saved(4))
    assert known.longest((1, 2, 3)).length == 3  # the older one was used just now
    known.put((5,) * 4, saved(4))
    assert known.longest((1, 2, 9, 9)).length == 2
    assert known.longest((1, 2, 3, 4)).length == 4
    known.put((6,) * 4, saved(4))
    known.put((7,) * 4, saved(4))
    assert known.longest((1, 2)).length == 0
    assert set(known._count) == set(known._owner)
    assert len(known._count) == 8


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=25), st.integers(4, 20))
def test_prefixes_against_brute_force(rows: list[list[int]], room: int) -> None:
    """The longest prefix that any kept entry shares, whatever has come and gone."""
    known = cache.Prefixes(64 * room)
    for ids in rows:
        shared = [
            sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(entry.ids, ids, strict=False)))
            for entry in known._entries.values()
        ]
        match = known.longest(ids)
        assert match.length == max(shared, default=0)
        known.put(ids, saved(len(ids)))
        assert known.num_bytes == sum(entry.num_bytes for entry in known._entries.values()) <= 64 * room


def test_prefixes_keep_within_their_bytes_and_forget_the_longest_unused() -> None:
    known = cache.Prefixes(64 * 10)
    known.put((1, 1, 1, 1), saved(4))
    known.put((2, 2, 2, 2), saved(4))
    assert known.longest((1, 1, 1, 1)).length == 4  # used just now
    known.put((3, 3, 3, 3), saved(4))
    assert known.num_bytes == 64 * 8
    assert [known.longest((i,) * 4).length for i in (1, 2, 3)] == [4, 0, 4]
    known.put((4,) * 11, saved(11))  # does not fit at all
    assert len(known) == 2
    known.put((3, 3, 3, 3), saved(4))
    assert known.num_bytes == 64 * 8
    known.clear()
    assert (known.num_bytes, known.longest((1, 1)).length) == (0, 0)


LEAVES_EARLY = """
import asyncio, atexit, threading, time
def show():
    print([thread.name for thread in threading.enumerate() if thread is not threading.main_thread()])
atexit.register(show)  # the first, so it runs after those of the engine
from samplewise.core.types import Generate, Message
from samplewise.engines.local import tiny
engine = tiny()
step = engine._batch.step
def slow_step():  # as that of a large model
    time.sleep(0.3)
    return step()
engine._batch.step = slow_step
async def first():
    await engine.open()
    asks = [Generate((Message("user", "make 24 from 4 6 7 8"),), max_tokens=12, seed=seed) for seed in range(400)]
    async for arrival in engine.answer(asks):
        return arrival.completion.failure
print(asyncio.run(first()))
"""


@pytest.mark.slow
def test_a_program_may_end_while_the_engine_draws() -> None:
    """Nobody closes the engine, and its thread is in the middle of a step: it has ended before Python does."""
    done = subprocess.run([sys.executable, "-c", LEAVES_EARLY], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n[]\n", "")
