"""Between text and token ids: prompts rendered and encoded, responses decoded, stop strings found. Knows no tensors
but the tables of tokens that it hands to the batch."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from samplewise.errors import BadRequest, SetupError
from samplewise.types import Message

KNOWN_PROMPTS = 4096
LOST = "\ufffd"  # what a decoder puts where the bytes of a character are not complete


class Language:
    """A tokenizer and its chat template. Any thread may call it."""

    def __init__(self, tokenizer: Any, vocab_size: int) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self._decoder = getattr(tokenizer, "backend_tokenizer", None)  # the same without what transformers adds
        self._lock = threading.Lock()
        self._prompts: OrderedDict[tuple[Message, ...], tuple[int, ...]] = OrderedDict()
        self._pieces: list[str] | None = None

    def prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """The token ids of a prompt; BadRequest where the template refuses it."""
        with self._lock:
            ids = self._prompts.get(messages)
            if ids is None:
                ids = self._prompts[messages] = self._encode(messages)
                if len(self._prompts) > KNOWN_PROMPTS:
                    self._prompts.popitem(last=False)
            else:
                self._prompts.move_to_end(messages)
            return ids

    def _encode(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        if getattr(self.tokenizer, "chat_template", None):
            open_end = bool(messages) and messages[-1].role == "assistant"  # a response already begun is continued
            try:
                text = self.tokenizer.apply_chat_template(
                    [{"role": m.role, "content": m.content} for m in messages],
                    tokenize=False,
                    add_generation_prompt=not open_end,
                    continue_final_message=open_end,
                )
            except Exception as error:  # a template is a program of its author's
                raise BadRequest(f"the model's chat template refuses the messages: {error}") from error
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = self.tokenizer("".join(m.content for m in messages))["input_ids"]
            if not ids and self.tokenizer.bos_token_id is not None:
                ids = [self.tokenizer.bos_token_id]
        if not ids:
            raise BadRequest("the prompt is empty, and the model has no token to begin with")
        return tuple(ids)

    def texts(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """The texts of responses, special tokens left out."""
        with self._lock:
            if self._decoder is not None:
                return [self._decoder.decode(list(ids), skip_special_tokens=True) for ids in responses]
            decode = self.tokenizer.decode
            return [
                decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False) for ids in responses
            ]

    def continued(self, prefix: Sequence[int], tokens: Sequence[int]) -> str:
        """The text that `tokens` add to that of `prefix`: a decoder may drop the space a text begins with."""
        if not prefix:
            return self.texts([tokens])[0]
        before, whole, alone = self.texts([prefix, [*prefix, *tokens], tokens])
        return whole[len(before) :] if whole.startswith(before) else alone

    def cut(self, prefix: Sequence[int], tokens: Sequence[int], stop: tuple[str, ...]) -> int:
        """Where in the text of `tokens` the first stop string begins; -1 if there is none."""
        tail = tokens[-(64 + 4 * max(map(len, stop), default=0)) :]  # ample for one that has just become complete
        if len(tail) < len(tokens) and cut(self.texts([tail])[0], stop) < 0:
            return -1
        return cut(self.continued(prefix, tokens), stop)

    def completes(self, stop: tuple[str, ...]) -> Tensor:
        """Tokens (V,) bool with which one of the stop strings can become complete: only then is the text looked at.

        A token completes a string only if its own text holds the string's last character. Spaces come and go as tokens
        are joined, and bytes make a character together, so these always count.
        """
        last = {s[-1:] for s in stop}
        if not last.isdisjoint(("", " ")):
            return torch.ones(self.vocab_size, dtype=torch.bool)
        if self._pieces is None:
            self._pieces = self.texts([[i] for i in range(self.vocab_size)])
        return torch.tensor([LOST in piece or not last.isdisjoint(piece) for piece in self._pieces])


def cut(text: str, stop: tuple[str, ...]) -> int:
    """Where the first stop string in `text` begins; -1 if there is none."""
    return min((i for s in stop if (i := text.find(s)) >= 0), default=-1)


def checked(language: Language) -> Language:
    """The same language, or SetupError where its template or tokenizer cannot be used at all."""
    try:
        language.prompt((Message("user", "1"),))
    except BadRequest as error:
        raise SetupError(f"the tokenizer cannot make a prompt: {error}") from error
    return language
