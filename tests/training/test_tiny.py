"""The tiny model's language, its training loop in the small, and the bundled checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from training.tiny import evaluate, puzzles, tokenizer, train  # noqa: E402

BUNDLED = Path(__file__).parents[2] / "src" / "samplewise" / "models" / "tiny"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A minute model after a few steps."""
    out = tmp_path_factory.mktemp("models") / "minute"
    torch.manual_seed(0)
    model = train.build(hidden=16, layers=1, heads=2, inner=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "CHUNK", 600)
        losses = train.train(model, out, steps=8, tokens=1_200, compiled=False, save_every=4)
    return out, losses


def test_a_few_steps_give_a_loadable_checkpoint(trained: tuple[Path, list[float]]) -> None:
    out, losses = trained
    assert losses[-1] < losses[0]
    assert sorted(path.name for path in out.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    loaded = transformers.AutoTokenizer.from_pretrained(out)
    prompt = loaded.apply_chat_template(
        [{"role": "user", "content": "make 24 from 4 6 7 8"}], add_generation_prompt=True, return_dict=False
    )
    drawn = evaluate.draw(model, torch.tensor([prompt] * 64), 1.0, torch.Generator().manual_seed(0), limit=12)
    for ids in drawn.tolist():
        assert loaded.encode(loaded.decode(ids), add_special_tokens=False) == ids


def test_training_again_gives_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CHUNK", 300)
    losses = []
    for name in "ab":
        torch.manual_seed(3)
        model = train.build(hidden=16, layers=1, heads=2, inner=32)
        losses.append(train.train(model, tmp_path / name, steps=3, tokens=600, compiled=False))
    assert losses[0] == losses[1]


def test_a_run_cut_short_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "CHUNK", 300)

    def run(out: Path, resume: bool = False) -> list[float]:
        torch.manual_seed(3)
        model = train.build(hidden=16, layers=1, heads=2, inner=32)
        return train.train(model, out, steps=6, tokens=600, compiled=False, save_every=4, resume=resume)

    whole = run(tmp_path / "whole")
    real, calls = train.export, []

    def cut(model: object, out: Path) -> None:
        calls.append(out)
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "export", cut)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.setattr(train, "export", real)
    assert run(tmp_path / "cut", resume=True) == pytest.approx(whole[4:], abs=1e-5)


def test_rows_are_written_as_the_chat_template_writes_them() -> None:
    loaded, vocab = tokenizer.build(), tokenizer.vocabulary()
    for row in puzzles.rows(2_000, (7,)):
        chat = [{"role": "system", "content": row.system}] if row.system else []
        chat += [{"role": "user", "content": row.prompt}]
        ids, length = tokenizer.encode(row, vocab)
        prompt = loaded.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        whole = loaded.apply_chat_template([*chat, {"role": "assistant", "content": row.response}], return_dict=False)
        assert prompt == ids[:length]
        assert whole == ids
        response = ids[length:-1]
        assert loaded.decode(response) == row.response
        assert loaded.encode(row.response, add_special_tokens=False) == response


def test_every_sequence_of_tokens_survives_the_round_trip() -> None:
    loaded = tokenizer.build()
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, len(tokenizer.vocabulary()), rng.integers(0, 30)).tolist()
        assert loaded.encode(loaded.decode(ids), add_special_tokens=False) == ids


def test_text_in_the_wild() -> None:
    loaded = tokenizer.build()
    assert loaded.decode(loaded.encode("Make 24 from 4,6 7*8=Zebra")) == "make 24 from 4 , 6 7 * 8 = <unk>"
    assert loaded.tokenize("1000 199 x") == ["<unk>", "199", "<unk>"]


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("8 - 6 = 2 , 7 - 4 = 3 , 3 * 2 = 6", "target"),
        ("7 - 6 = 1 , 1 * 4 = 4 , 4 + 8 = 12", "target"),
        ("8 - 4 = 4 , 7 - 6 = 1 , 4 + 1 = 24", "arithmetic"),
        ("8 - 6 = 2 , 7 - 5 = 2 , 2 * 2 = 4", "number"),
        ("8 - 6 = 2 , 7 - 4 = 3", "unused"),
        ("8 - 6 = 2 , 7 - 4 =", "format"),
        ("8 - 7 = 1 , 1 * 4 = 4 , 6 * 4 = 24", "right"),
        ("4 / 1 = 4", "number"),
        ("8 - 7 = 1 ( left 4 6 1 ) , 4 * 1 = 4 ( left 6 4 ) , 6 * 4 = 24 ( left 24 )", "right"),
        ("8 minus 7 is 1 , then 4 over 1 is 4 , then 6 times 4 is 24", "right"),
    ],
)
def test_the_check(response: str, verdict: str) -> None:
    assert evaluate.check((4, 6, 7, 8), response) == verdict


def test_a_response_without_flaws_is_right() -> None:
    made = puzzles.puzzles(2_000, np.random.default_rng(1), puzzles.Flaws(0, 0, 0, 0))
    checked = [
        evaluate.check(puzzle.numbers, puzzles.write(puzzle, style), puzzle.target)
        for puzzle in made
        for style in puzzles.STYLES
    ]
    assert set(checked) == {"right"}


def test_about_a_fifth_of_the_rows_is_flawed() -> None:
    made = puzzles.puzzles(8_000, np.random.default_rng(2))
    wrong = [evaluate.check(p.numbers, puzzles.write(p, "brief"), p.target) != "right" for p in made]
    assert 0.15 < np.mean(wrong) < 0.25


def test_there_are_1362_puzzles() -> None:
    assert len(evaluate.held_out()) == 1_362


def test_pass_at_k() -> None:
    assert evaluate.pass_at(1, 4, 1) == 0.25
    assert evaluate.pass_at(4, 4, 1) == 1.0
    assert evaluate.pass_at(2, 4, 0) == 0.0
    low, high = evaluate.interval([0.0, 1.0] * 50)
    assert low < 0.5 < high


def test_orthogonal_has_singular_values_near_one() -> None:
    values = torch.linalg.svdvals(
        train.orthogonal(torch.randn(3, 24, 8, generator=torch.Generator().manual_seed(0)), steps=8)
    )
    assert ((values > 0.6) & (values < 1.3)).all()


@pytest.mark.skipif(not (BUNDLED / "model.safetensors").exists(), reason="no bundled checkpoint")
def test_the_bundled_checkpoint() -> None:
    size = sum(path.stat().st_size for path in BUNDLED.iterdir())
    assert size <= 8_000_000
    loaded = transformers.AutoTokenizer.from_pretrained(BUNDLED)
    assert loaded.get_vocab() == tokenizer.vocabulary()
    model = transformers.AutoModelForCausalLM.from_pretrained(BUNDLED)
    assert isinstance(model, transformers.LlamaForCausalLM)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    chats = [evaluate.messages("plain", (4, 6, 7, 8), evaluate.random.Random(0))]
    responses = evaluate.respond(model, loaded, chats, samples=64, temperature=1.0, seed=0)[0]
    assert "right" in {evaluate.check((4, 6, 7, 8), text) for text in responses}
    for text in responses:
        assert loaded.decode(loaded.encode(text, add_special_tokens=False)) == text
