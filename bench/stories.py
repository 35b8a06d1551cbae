"""A real language model of 260,000 parameters for benches and tests: `write` makes a Hugging Face checkpoint of it.

It tells stories that a small child understands. The file is llama2.c's first format (MIT): seven int32 (width, hidden
width, layers, heads, heads of keys and values, vocabulary, context), then float32 matrices layer by layer, then two
tables that nobody needs. The embedding is the output matrix too. It is found in `samplewise.core.files.data_folder()`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, processors

from samplewise.core.files import data_folder
from samplewise.core.types import Message

BOS, EOS = 1, 2  # a story ends where another begins
SPACE = "\u2581"  # how a tokenizer of this kind writes a space
hugging: Any = transformers

ADJECTIVES = ("big", "little", "happy", "sad", "red", "old", "brave", "funny")
ANIMALS = ("dog", "cat", "bird", "bear", "fish", "frog", "girl", "boy")


class Sizes(NamedTuple):
    width: int
    hidden: int
    layers: int
    heads: int
    shared: int  # heads of keys and values
    vocab: int
    context: int


def folder() -> Path | None:
    """Where the weights are; None where they are not at hand."""
    data = data_folder()
    place = None if data is None else data / "models" / "stories260K"
    return place if place is not None and (place / "stories260K.bin").is_file() else None


def beginnings() -> tuple[tuple[Message, ...], ...]:
    """64 prompts, each the beginning of a story."""
    return tuple(
        (Message("user", f"Once upon a time, there was a {adjective} {animal}."),)
        for adjective in ADJECTIVES
        for animal in ANIMALS
    )


def write(source: Path, place: Path) -> None:
    """The checkpoint of the weights and the tokenizer in `source`, in the folder `place`."""
    sizes, weights = read_weights(source / "stories260K.bin")
    config = hugging.LlamaConfig(
        vocab_size=sizes.vocab,
        hidden_size=sizes.width,
        intermediate_size=sizes.hidden,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.shared,
        max_position_embeddings=sizes.context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=[BOS, EOS],
        pad_token_id=0,
    )
    hugging.utils.logging.disable_progress_bar()
    model = hugging.LlamaForCausalLM(config)
    lost = model.load_state_dict(weights, strict=False)
    if lost.unexpected_keys or set(lost.missing_keys) - {"lm_head.weight"}:
        raise ValueError(f"the weights do not fit: {lost}")
    model.tie_weights()
    model.save_pretrained(place)
    pieces = read_pieces(source / "tok512.bin")
    hugging.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(pieces), bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    ).save_pretrained(place)


def read_weights(path: Path) -> tuple[Sizes, dict[str, torch.Tensor]]:
    """Sizes and matrices by the names that `LlamaForCausalLM` has for them."""
    data = path.read_bytes()
    sizes = Sizes(*struct.unpack_from("<7i", data))
    numbers = np.frombuffer(data, dtype="<f4", offset=28)
    width, hidden, layers, heads, shared = sizes[:5]
    keys = width * shared // heads
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens": (sizes.vocab, width),
        "input_layernorm": (layers, width),
        "self_attn.q_proj": (layers, width, width),
        "self_attn.k_proj": (layers, keys, width),
        "self_attn.v_proj": (layers, keys, width),
        "self_attn.o_proj": (layers, width, width),
        "post_attention_layernorm": (layers, width),
        "mlp.gate_proj": (layers, hidden, width),
        "mlp.down_proj": (layers, width, hidden),
        "mlp.up_proj": (layers, hidden, width),
        "norm": (width,),
    }
    found: dict[str, torch.Tensor] = {}
    start = 0
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        part = torch.from_numpy(numbers[start : start + size].reshape(shape).copy())
        start += size
        if name in ("embed_tokens", "norm"):
            found[f"model.{name}.weight"] = part
            continue
        for layer in range(layers):
            matrix = part[layer]
            if name in ("self_attn.q_proj", "self_attn.k_proj"):
                # The file turns neighbours against each other, transformers the halves of a head.
                matrix = matrix.view(-1, width // heads // 2, 2, width).transpose(1, 2).reshape(matrix.shape)
            found[f"model.layers.{layer}.{name}.weight"] = matrix.contiguous()
    return sizes, found


def read_pieces(path: Path) -> list[str]:
    """The text of every token, by id. In the file: the longest's length, then a score, a length and bytes for each."""
    return list(_pieces(path.read_bytes()))


def _pieces(data: bytes) -> Iterator[str]:
    place = 4
    while place < len(data):
        _, length = struct.unpack_from("<fi", data, place)
        yield data[place + 8 : place + 8 + length].decode()
        place += 8 + length


def tokenizer(pieces: list[str]) -> Tokenizer:
    """Byte-pair encoding: of all pairs that are a token together, the one with the lowest id is joined first."""
    words = ["<unk>", "<s>", "</s>", *(piece.replace(" ", SPACE) for piece in pieces[3:])]
    ids = {word: i for i, word in enumerate(words)}
    merges = [
        (word[:cut], word[cut:])
        for word in words[3 + 256 :]
        for cut in range(1, len(word))
        if word[:cut] in ids and word[cut:] in ids
    ]
    made = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    made.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return made
