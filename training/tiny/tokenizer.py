"""The tokenizer of the tiny model: whole numbers and words, one token each."""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from .puzzles import CAP, Row, words

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<system>", "<user>", "<assistant>")
TEMPLATE = (
    "{{ '<s>' }}"
    "{% for message in messages %}"
    "{{ ' <' + message['role'] + '> ' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ ' </s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' <assistant>' }}{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Token to id: specials, then 0 to `CAP`, then words."""
    return {token: i for i, token in enumerate([*SPECIAL, *map(str, range(CAP + 1)), *words()])}


def build() -> PreTrainedTokenizerFast:
    """The Hugging Face tokenizer, chat template included."""
    inner = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    pattern = Regex(r"[0-9]+|[a-z]+|[^\sa-z0-9]")
    inner.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="removed", invert=True)
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=256,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def encode(row: Row, vocab: dict[str, int]) -> tuple[list[int], int]:
    """Token ids of a row as the chat template writes it, and the length of its prompt part."""
    system = f"<system> {row.system} " if row.system else ""
    prompt = [vocab[token] for token in f"<s> {system}<user> {row.prompt} <assistant>".split()]
    return prompt + [vocab[token] for token in f"{row.response} </s>".split()], len(prompt)
