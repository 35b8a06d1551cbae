"""Reward models as verifiers: the bundled one, random ones of every kind that is read, and what is refused.

Each score is compared with one computed by transformers directly, row by row, without padding.
"""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from samplewise.core.errors import MissingExtra, SetupError  # noqa: E402
from samplewise.core.types import Candidate, Generate, Message, Question  # noqa: E402
from samplewise.engines.local import tiny  # noqa: E402
from samplewise.models import TINY  # noqa: E402
from samplewise.tasks.game24 import game24, puzzle_question  # noqa: E402
from samplewise.verify.puzzle import puzzle  # noqa: E402
from samplewise.verify.reward import reward  # noqa: E402
from samplewise.verify.reward.score import MAX_TOKENS, SPREAD, Reward, slices  # noqa: E402

BUNDLED = TINY.parent / "reward"
FLOOR = 0.97  # of the AUC on the draws below; measured when the checkpoint was made: see its card

TEXTS = (
    "8 - 7 = 1 , 4 * 1 = 4 , 6 * 4 = 24",
    "8 - 6 = 2 , 7 - 4 = 3 , 3 * 2 = 6",
    "8 minus 7 is 1 , then 4 times 1 is 4 , then 6 times 4 is 24",
    "8 - 7 = 1 ( left 4 6 1 ) , 4 * 1 = 4 ( left 6 4 ) , 6 * 4 = 24 ( left 24 )",
    "24",
    "",
)
QUESTIONS = (puzzle_question((4, 6, 7, 8)), puzzle_question((8, 7, 6, 4)), puzzle_question((3, 3, 8, 8)))
PAIRS = [(question, Candidate(text)) for question in QUESTIONS for text in TEXTS]


def llama(folder: Path, kind: str, seed: int = 0, **settings: Any) -> Path:
    """A random one-layer Llama of some kind, with the tiny model's tokenizer."""
    words = {"num_labels": 1, "pad_token_id": 0, **settings}
    config = transformers.LlamaConfig(
        vocab_size=351,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=2,
        eos_token_id=3,
        **words,
    )
    model = getattr(transformers, kind)(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(TINY / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "outcome", "LlamaForSequenceClassification")


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "process", "LlamaForTokenClassification", num_labels=2)


@pytest.fixture(scope="module")
def bundled() -> Reward:
    return reward()


def raw(folder: Path, questions: Sequence[tuple[Question, Candidate]]) -> list[float]:
    """The logit of every pair, one by one, by transformers alone."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = []
    for question, candidate in questions:
        chat = [m._asdict() for m in question.messages] + [{"role": "assistant", "content": candidate.text}]
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        with torch.inference_mode():
            found.append(model(input_ids=torch.tensor([ids])).logits.item())
    return found


def close(first: Sequence[float], second: Sequence[float]) -> bool:
    return [*first] == pytest.approx([*second], abs=1e-5)


# ----------------------------------------------------------------------------------------------------- the bundled one


def test_the_bundled_checkpoint_is_small_and_ordinary() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 2_000_000
    assert (BUNDLED / "README.md").is_file()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(BUNDLED)
    assert model.dtype == torch.float16
    assert model.config.num_labels == 1
    assert json.loads((BUNDLED / "config.json").read_text())["calibrated"] is True
    loaded, known = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (BUNDLED, TINY))
    assert loaded.get_vocab() == known.get_vocab()
    assert loaded.chat_template == known.chat_template


def test_its_score_is_the_sigmoid_of_the_logit(bundled: Reward) -> None:
    expected = [1 / (1 + math.exp(-logit)) for logit in raw(BUNDLED, PAIRS)]
    assert close([bundled(question, candidate).value for question, candidate in PAIRS], expected)


def test_it_knows_right_from_wrong(bundled: Reward) -> None:
    """On an easy puzzle: a last step that is off, and another target. A number that the puzzle does not have it often
    misses: see its card."""
    right = bundled(QUESTIONS[0], Candidate(TEXTS[0])).value
    assert right > 0.8
    for text in ("8 - 7 = 1 , 4 * 1 = 4 , 6 + 4 = 24", "8 - 6 = 2 , 7 - 4 = 3 , 3 * 2 = 6"):
        assert bundled(QUESTIONS[0], Candidate(text)).value < 0.2


def draws(num_puzzles: int, num_draws: int) -> list[tuple[Question, Candidate]]:
    """Responses of the bundled tiny model to held-out puzzles."""
    questions = game24("dev", limit=num_puzzles).questions
    asks = [Generate(q.messages, max_tokens=64, seed=1_000 + k, draw=k) for q in questions for k in range(num_draws)]

    async def answered() -> dict[int, Candidate]:
        engine = tiny()
        found = {position: Candidate(completion.text) async for position, completion in engine.answer(asks)}
        await engine.close()
        return found

    found = asyncio.run(answered())
    return [(questions[i // num_draws], found[i]) for i in range(len(asks))]


@pytest.mark.slow
def test_it_ranks_fresh_draws(bundled: Reward) -> None:
    """30 puzzles that neither model has seen. A random score fails with all but certainty: its AUC has a standard
    deviation of about .03 around .5."""
    pairs = draws(30, 16)
    scores, check = bundled.score_all(pairs), puzzle()
    right = [check(question, candidate).value == 1.0 for question, candidate in pairs]
    assert 0.1 < sum(right) / len(right) < 0.4
    beaten = [
        (good > bad) + (good == bad) / 2
        for good, is_good in zip(scores, right, strict=True)
        if is_good
        for bad, is_bad in zip(scores, right, strict=True)
        if not is_bad
    ]
    assert sum(beaten) / len(beaten) > FLOOR
    assert abs(sum(scores) / len(scores) - sum(right) / len(right)) < 0.06  # calibrated, on the whole


# ------------------------------------------------------------------------------------------------------ outcome models


def test_a_score_that_is_not_calibrated_is_the_raw_logit(outcome: Path) -> None:
    scores = reward(str(outcome)).score_all(PAIRS)
    assert close(scores, raw(outcome, PAIRS))
    assert not all(0 <= score <= 1 for score in scores)


@pytest.mark.parametrize("which", ["outcome", "process", "bundled"])
def test_company_changes_nothing(which: str, request: pytest.FixtureRequest) -> None:
    folder = BUNDLED if which == "bundled" else request.getfixturevalue(which)
    pairs = [(q, Candidate(c.text.replace(" , ", "\n\n"))) for q, c in PAIRS] + PAIRS if which == "process" else PAIRS
    together = reward(str(folder)).score_all(pairs)
    alone = reward(str(folder))
    one_by_one = [alone(question, candidate).value for question, candidate in pairs]
    backwards = reward(str(folder)).score_all(pairs[::-1])[::-1]
    assert together == pytest.approx(one_by_one, abs=1e-5, nan_ok=True)
    assert together == pytest.approx(backwards, abs=1e-5, nan_ok=True)


def test_nothing_is_scored_twice(outcome: Path) -> None:
    verifier = reward(str(outcome))
    seen: list[int] = []
    verifier.checkpoint.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    first = verifier.score_all(PAIRS + PAIRS)
    assert sum(seen) == len(set(PAIRS_TEXTS)) == len(PAIRS)
    again = [verifier(question, candidate._replace(arm="other")).value for question, candidate in PAIRS]
    assert sum(seen) == len(PAIRS)
    assert first == again + again
    verifier.forget()
    verifier(*PAIRS[0])
    assert sum(seen) == len(PAIRS) + 1
    assert verifier.score_all([]) == []


PAIRS_TEXTS = [(question.messages, candidate.text) for question, candidate in PAIRS]


def test_threads_may_score_together(outcome: Path) -> None:
    verifier = reward(str(outcome))
    expected = reward(str(outcome)).score_all(PAIRS)
    turns = [[(i * step + start) % len(PAIRS) for i in range(len(PAIRS))] for start in range(4) for step in (1, 5, 7)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda turn: [verifier(*PAIRS[i]).value for i in turn], turns))
    for turn, scores in zip(turns, found, strict=True):
        assert close(scores, [expected[i] for i in turn])


def test_tokens_are_question_and_response(bundled: Reward) -> None:
    # <s> <user> make 24 from 4 6 7 8 <assistant> ... </s>
    assert bundled.tokens_of(QUESTIONS[0], Candidate("")) == 11
    assert bundled.tokens_of(QUESTIONS[0], Candidate(TEXTS[0])) == 11 + len(TEXTS[0].split())
    assert bundled.tokens_of(QUESTIONS[0], Candidate("1 " * 300)) == 0


def test_too_long_is_not_judged(bundled: Reward) -> None:
    fits, over = Candidate("1 " * 245), Candidate("1 " * 246)
    assert not math.isnan(bundled(QUESTIONS[0], fits).value)
    score = bundled(QUESTIONS[0], over)
    assert math.isnan(score.value)
    assert score.reason == "longer than the reward model's context: 257 > 256 tokens"
    values = bundled.score_all([(QUESTIONS[0], over), PAIRS[0]])
    assert math.isnan(values[0])
    assert values[1] == pytest.approx(bundled(*PAIRS[0]).value, abs=1e-5)


def test_a_template_that_refuses_is_a_value(outcome: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(outcome, tmp_path / "strict")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no chats please') }}")
    score = reward(str(folder))(*PAIRS[0])
    assert math.isnan(score.value)
    assert "no chats please" in score.reason


def test_a_number_that_is_none_is_not_judged(outcome: Path) -> None:
    verifier = reward(str(outcome))
    with torch.no_grad():
        verifier.checkpoint.model.score.weight.fill_(math.nan)
    score = verifier(*PAIRS[0])
    assert math.isnan(score.value)
    assert score.reason == "the model gave no number"


def test_a_response_that_was_begun_goes_on(outcome: Path) -> None:
    begun = Question("b", (*QUESTIONS[0].messages, Message("assistant", "8 - 7 = 1 , ")))
    verifier = reward(str(outcome))
    assert close(
        [verifier(begun, Candidate("4 * 1 = 4 , 6 * 4 = 24")).value],
        [verifier(QUESTIONS[0], Candidate(TEXTS[0])).value],
    )


def test_without_a_template_the_texts_are_read(outcome: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(outcome, tmp_path / "plain")
    (folder / "chat_template.jinja").unlink()
    verifier = reward(str(folder))
    ids = verifier.checkpoint.tokenizer("make 24 from 4 6 7 8\n" + TEXTS[0])["input_ids"]
    with torch.inference_mode():
        expected = verifier.checkpoint.model(input_ids=torch.tensor([ids])).logits.item()
    assert verifier(*PAIRS[0]).value == pytest.approx(expected, abs=1e-5)


def test_a_model_without_padding_is_asked_one_by_one(tmp_path: Path) -> None:
    folder = llama(tmp_path / "bare", "LlamaForSequenceClassification", pad_token_id=None)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    verifier = reward(str(folder))
    assert verifier.checkpoint.pad is None
    assert close(verifier.score_all(PAIRS), raw(folder, PAIRS))


def test_an_encoder_reads_question_and_response_as_a_pair(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *("make", "from", "24", "4", "6", "7", "8", "1", "-", "*", "=", ",")]
    tokenizer = transformers.BertTokenizerFast(
        vocab={word: i for i, word in enumerate(words)}, model_max_length=40, pad_token="[PAD]", sep_token="[SEP]"
    )
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=1,
        max_position_embeddings=64,
    )
    folder = tmp_path / "encoder"
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    verifier = reward(str(folder))
    assert verifier.checkpoint.max_context == 40
    model = verifier.checkpoint.model
    expected = []
    for question, candidate in PAIRS:
        inputs = verifier.checkpoint.tokenizer(question.messages[0].content, candidate.text, return_tensors="pt")
        with torch.inference_mode():
            expected.append(math.nan if inputs["input_ids"].shape[1] > 40 else model(**inputs).logits.item())
    assert verifier.score_all(PAIRS) == pytest.approx(expected, abs=1e-5, nan_ok=True)


@given(st.lists(st.integers(1, 12_000), max_size=60), st.booleans())
def test_batches_are_of_about_one_length(lengths: list[int], alone: bool) -> None:
    lengths.sort()
    parts = list(slices(lengths, alone))
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(len(lengths)))
    for part in parts:
        inside = lengths[part]
        assert len(inside) == 1 or (
            not alone and inside[-1] * len(inside) <= MAX_TOKENS and inside[-1] <= SPREAD * inside[0]
        )


# ------------------------------------------------------------------------------------------------------ process models

FOLD: dict[str, Callable[[list[float]], float]] = {"last": lambda s: s[-1], "min": min, "product": math.prod}


@pytest.mark.parametrize("aggregate", ["last", "min", "product"])
@pytest.mark.parametrize("num_labels", [1, 2])
def test_steps_are_scored_at_their_separators(aggregate: Any, num_labels: int, tmp_path: Path) -> None:
    folder = llama(tmp_path / "steps", "LlamaForTokenClassification", seed=3, num_labels=num_labels)
    verifier = reward(str(folder), aggregate=aggregate, separator=" , ")
    model, tokenizer = verifier.checkpoint.model, verifier.checkpoint.tokenizer
    for question, candidate in PAIRS[:4]:
        chat = [m._asdict() for m in question.messages]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        ids = prompt + tokenizer.encode(f"{candidate.text} ,", add_special_tokens=False)
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        commas = [i for i, token in enumerate(ids) if token == tokenizer.convert_tokens_to_ids(",")]
        right = logits.sigmoid()[:, 0] if num_labels == 1 else logits.softmax(dim=-1)[:, 1]
        expected = FOLD[aggregate]([right[i].item() for i in commas])
        assert len(commas) == candidate.text.count(",") + 1
        assert verifier(question, candidate).value == pytest.approx(expected, abs=1e-6)
        assert verifier.tokens_of(question, candidate) == len(ids)


def test_a_response_without_steps_is_not_judged(process: Path) -> None:
    verifier = reward(str(process), separator=" , ")
    for text in ("", "  ", " , "):
        score = verifier(QUESTIONS[0], Candidate(text))
        assert math.isnan(score.value)
        assert score.reason == "the response has no steps"
    assert verifier.tokens_of(QUESTIONS[0], Candidate("")) == 0


# ------------------------------------------------------------------------------------------------------------- refused


def test_what_is_no_reward_model_is_refused(outcome: Path, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="LlamaForCausalLM; a reward model is"):
        reward(str(TINY))
    several = llama(tmp_path / "several", "LlamaForSequenceClassification", num_labels=3)
    with pytest.raises(SetupError, match="several sorts responses into 3 classes; a reward model has one label"):
        reward(str(several))
    tagger = llama(tmp_path / "tagger", "LlamaForTokenClassification", num_labels=5)
    with pytest.raises(SetupError, match="tagger has 5 labels for a token"):
        reward(str(tagger))
    headless = shutil.copytree(outcome, tmp_path / "headless")
    config = json.loads((TINY / "config.json").read_text())
    shutil.copy(TINY / "model.safetensors", headless)
    (headless / "config.json").write_text(
        json.dumps({**config, "architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "r"}})
    )
    with pytest.raises(SetupError, match="lack 1 of its weights, such as score"):
        reward(str(headless))
    with pytest.raises(SetupError, match="holds no model"):
        reward(str(tmp_path))
    with pytest.raises(SetupError, match="there is no model folder"):
        reward("./nothing")
    with pytest.raises(SetupError, match="neither a folder nor a name"):
        reward("a b c")
    with pytest.raises(SetupError, match="not on meta"):
        reward(device="meta")


def test_misuse_is_told() -> None:
    with pytest.raises(ValueError, match="aggregate must be one of last, min, product, got 'mean'"):
        reward(aggregate="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="separator must be"):
        reward(separator="")


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="a reward model needs an extra"):
        reward()


def test_nothing_heavy_is_imported_before_a_model_is_made() -> None:
    code = "import sys, samplewise.verify.reward; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers"} & set(loaded)
