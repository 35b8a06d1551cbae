"""Which tokens end a response. They are named in four places, and each of the four is often incomplete.

A generation config may name several ids; a config or tokenizer may name another one; and a chat model that was trained
from a base model may end its turns with a token that none of them names (`<|im_end|>` beside `<|endoftext|>`): only its
chat template shows it. A token that is missed makes every response run on to its limit, so all of them count.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import transformers

from samplewise.core.reasoning import CHANNEL_TOKENS, is_reasoning_tag

hugging: Any = transformers  # its functions are only partly typed

CONTENT = "the last word"  # of the trial message


def end_tokens(source: str, tokenizer: Any) -> tuple[int, ...]:
    """Return every id that ends a response of the checkpoint in `source`, a folder or a name on the Hub.

    The files are read again: a loaded config holds the default of its class where its file names no token.
    """
    config, _ = hugging.PreTrainedConfig.get_config_dict(source)
    try:
        generation = hugging.GenerationConfig.from_pretrained(source).eos_token_id
    except OSError:  # there is none
        generation = None
    text_config = config.get("text_config") or {}
    named = [generation, config.get("eos_token_id"), text_config.get("eos_token_id"), tokenizer.eos_token_id]
    return tuple(sorted({*(i for ids in named for i in _ids(ids)), *end_of_turn(tokenizer)}))


def _ids(value: Any) -> Iterable[int]:
    values = value if isinstance(value, list | tuple) else [value]
    return [int(i) for i in values if i is not None and i >= 0]


def end_of_turn(tokenizer: Any) -> tuple[int, ...]:
    """Return the token that the chat template writes after the assistant's message, as a tuple of one id or none.

    Only a token that was added to the vocabulary can be it, so that no ordinary word ends a response. A tag of
    reasoning cannot, since the answer follows it, nor can what also stands right before the message: its header.
    """
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": CONTENT}]
    try:
        conversation = str(tokenizer.apply_chat_template(messages, tokenize=False))
    except Exception:  # there is no template, or it is a program that raises anything
        return ()
    before, mark, after = conversation.rpartition(CONTENT)
    added = {str(token.content): int(index) for index, token in tokenizer.added_tokens_decoder.items()}
    fitting = [text for text in added if text.strip() and after.lstrip().startswith(text)] if mark else []
    text = max(fitting, key=len, default="")
    is_reasoning = is_reasoning_tag(text) or ("<|channel|>" in added and text in CHANNEL_TOKENS)
    return () if not text or is_reasoning or before.rstrip().endswith(text) else (added[text],)
