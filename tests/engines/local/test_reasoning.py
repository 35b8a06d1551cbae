"""A local model that reasons: its tags may be special tokens, and its chat template may open them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: E402

from samplewise.core.types import Completion, Generate, Message  # noqa: E402
from samplewise.engines.base import tell_reasoning  # noqa: E402
from samplewise.engines.local import local  # noqa: E402

MESSAGES = (Message("user", "w7 w8"),)
TAGS = {"plain": ("<think>", "</think>", False), "special": ("[THINK]", "[/THINK]", True)}


def _checkpoint(path: Path, kind: str, opens: bool) -> str:
    """Write a random model of 24 words, two of which are the tags, that favors the closing one."""
    opening, closing, special = TAGS[kind]
    words = ["<pad>", "</s>", "<s>", opening, closing, "user", "assistant", *(f"w{i}" for i in range(7, 24))]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<pad>"
    )
    tokenizer.add_tokens([AddedToken(opening, special=special), AddedToken(closing, special=special)])
    begin = f" {opening}" if opens else ""
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant" + begin + "' }}"
        "{% if enable_thinking is defined and not enable_thinking %}{{ ' " + f"{opening} {closing}" + "' }}{% endif %}"
        "{% endif %}"
    )
    tokenizer.save_pretrained(path)
    config = transformers.LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.05, generator=generator)
    model.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module", params=[(kind, opens) for kind in TAGS for opens in (False, True)], ids=str)
def thinker(request: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    kind, opens = request.param
    path = _checkpoint(tmp_path_factory.mktemp("thinker") / kind, kind, opens)
    return SimpleNamespace(path=path, engine=local(path, device="cpu"), tags=TAGS[kind][:2], opens=opens)


def _expected(thinker: SimpleNamespace, tokens: list[str]) -> tuple[str, str]:
    """Return reasoning and text of a response that is made of words, the opening tag only ever first."""
    opening, closing = thinker.tags
    tokens = [opening, *tokens] if thinker.opens else tokens
    if closing in tokens:
        cut = tokens.index(closing)
        return " ".join(tokens[:cut]).removeprefix(opening).strip(), " ".join(tokens[cut + 1 :]).strip()
    if tokens[:1] == [opening]:
        return " ".join(tokens[1:]), ""
    return "", " ".join(tokens)


def test_reasoning_is_cut_and_every_token_counted(thinker: SimpleNamespace, kit: SimpleNamespace) -> None:
    asks = [Generate(MESSAGES, max_tokens=20, seed=seed, want=("tokens", "logp", "logq")) for seed in range(120)]
    words = thinker.engine.checkpoint.tokenizer.convert_ids_to_tokens
    seen = {"cut": 0, "unclosed": 0, "plain": 0}
    for completion in kit.answers(thinker.engine, asks):
        shown = [word for word in words(list(completion.tokens)) if word not in ("</s>", "<s>", "<pad>")]
        assert (
            len(completion.tokens) == len(completion.logp) == len(completion.logq) == completion.usage.completion_tokens
        )
        opening, closing = thinker.tags
        if opening in shown or shown.count(closing) > 1:
            continue  # the model opens again or closes twice: the properties of the cut hold, not this simple rule
        reasoning, text = _expected(thinker, shown)
        assert (completion.reasoning.split(), completion.text.split()) == (reasoning.split(), text.split())
        seen["cut" if closing in shown else "unclosed" if thinker.opens else "plain"] += 1
        if closing in shown or thinker.opens:
            assert "".join(completion.raw.split()) == "".join([opening] * thinker.opens + shown)
    assert seen["cut"] > 10
    assert max(seen["unclosed"], seen["plain"]) > 10


def test_the_whole_of_a_continued_response_is_cut(thinker: SimpleNamespace, kit: SimpleNamespace) -> None:
    """A prefix that ends within the reasoning: the text of the whole response is cut, a piece is left as it is."""
    tokenizer = thinker.engine.checkpoint.tokenizer
    opening, closing = thinker.tags
    begun = ["w7", "w8"] if thinker.opens else [opening, "w7", "w8"]
    prefix = tuple(tokenizer.convert_tokens_to_ids(begun))
    ask = Generate(MESSAGES, prefix, max_tokens=12, want=("tokens", "whole"))
    asks = [ask._replace(seed=seed) for seed in range(60)]
    num_cut = 0
    for whole, piece in zip(
        kit.answers(thinker.engine, asks),
        kit.answers(thinker.engine, [a._replace(want=("tokens",)) for a in asks]),
        strict=True,
    ):
        shown = [w for w in tokenizer.convert_ids_to_tokens(list(whole.tokens)) if w not in ("</s>", "<s>", "<pad>")]
        assert piece.tokens == whole.tokens
        assert (piece.text.split(), piece.reasoning, piece.raw) == (shown, "", None)
        if opening in shown or shown.count(closing) > 1:
            continue
        reasoning, text = _expected(thinker, begun + shown)
        assert (whole.reasoning.split(), whole.text.split()) == (reasoning.split(), text.split())
        num_cut += closing in shown
    assert num_cut > 5


def test_the_template_takes_switches(thinker: SimpleNamespace, kit: SimpleNamespace) -> None:
    """Reasoning that is switched off by a closed pair in the prompt is not opened by it."""
    if thinker.opens:
        pytest.skip("this template opens in any case")
    off = local(thinker.path, device="cpu", enable_thinking=False)
    ask = Generate(MESSAGES, max_tokens=8)
    on, switched = kit.answers(thinker.engine, [ask])[0], kit.answers(off, [ask])[0]
    assert switched.usage.prompt_tokens == on.usage.prompt_tokens + 2
    assert off.identity == thinker.engine.identity + '?{"enable_thinking": false}'
    assert local(thinker.path, device="cpu", template={}).identity == thinker.engine.identity


def test_a_piece_is_left_as_it_is() -> None:
    piece = Completion("hm</think>391", "stop")
    assert tell_reasoning(piece, Generate(MESSAGES, prefix=(7,))) == piece
    whole = tell_reasoning(piece, Generate(MESSAGES, prefix=(7,), want=("whole",)))
    assert (whole.reasoning, whole.text, whole.raw) == ("hm", "391", None)
