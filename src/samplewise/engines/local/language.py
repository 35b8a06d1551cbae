"""Between text and token ids: render and encode prompts, decode responses, find stop strings.

The only tensors here are the tables of tokens that the batch gets.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from samplewise.core.errors import BadRequest, SetupError
from samplewise.core.reasoning import CHANNEL_TOKENS, ends_reasoning, is_reasoning_tag, mentions_reasoning, opening_tag
from samplewise.core.text import find_stop
from samplewise.core.types import Json, Message

MAX_PROMPTS = 4096  # that are kept
INCOMPLETE = "\ufffd"  # stands for the bytes of an incomplete character


class Prompt(NamedTuple):
    """A prompt's token ids. `tag` is the opening tag of reasoning in which it ends, "" if it does not."""

    ids: tuple[int, ...]
    tag: str
    is_off: bool  # it ends in a closing tag


class Language:
    """A tokenizer and its chat template, called with the arguments `template`. Any thread may call it."""

    def __init__(self, tokenizer: Any, vocab_size: int, template: Mapping[str, Json] | None = None) -> None:
        self.tokenizer, self.vocab_size = tokenizer, vocab_size
        self._decoder = getattr(tokenizer, "backend_tokenizer", None)  # the same without what transformers adds
        self._lock = threading.Lock()
        self._prompts: OrderedDict[tuple[Message, ...], Prompt] = OrderedDict()
        self._template = dict(template or {})
        self._source = _template_source(tokenizer, self._template.get("chat_template"))
        self._fits: dict[tuple[str, ...], bool] = {}  # roles of a conversation -> whether the template shows them all
        self._in_parts = self._source != "" and not self._shows(("user",), False) and self._shows(("user",), True)
        self._special = _special_tokens(tokenizer)
        self._markers = _reasoning_markers(self._special)
        self._pieces: list[str] | None = None
        self._tokens_of: dict[str, tuple[int, ...]] = {}

    def prompt(self, messages: tuple[Message, ...]) -> tuple[int, ...]:
        """Return the token ids of a prompt. Raises BadRequest where the template refuses it."""
        return self._prompt(messages).ids

    def opening_tag(self, messages: tuple[Message, ...]) -> str:
        """Return the tag of reasoning in which the prompt ends, "" if there is none."""
        return self._prompt(messages).tag

    @property
    def has_template(self) -> bool:
        """Whether there is a chat template. Without one a prompt is the text of its messages, joined."""
        return self._source != ""

    @property
    def reasons(self) -> bool:
        """Whether the chat template knows reasoning, and a prompt does not switch it off."""
        return mentions_reasoning(self._source) and not self._prompt((Message("user", "1"),)).is_off

    def _prompt(self, messages: tuple[Message, ...]) -> Prompt:
        with self._lock:
            prompt = self._prompts.get(messages)
            if prompt is None:
                prompt = self._prompts[messages] = self._encode(messages)
                if len(self._prompts) > MAX_PROMPTS:
                    self._prompts.popitem(last=False)
            else:
                self._prompts.move_to_end(messages)
            return prompt

    def _encode(self, messages: tuple[Message, ...]) -> Prompt:
        if self._source:
            text = self._rendered(messages)
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has written them
        else:
            text = "".join(m.content for m in messages)
            ids = self.tokenizer(text)["input_ids"]
            end = self.tokenizer.eos_token_id
            while ids and ids[-1] == end and not text.endswith(str(self.tokenizer.eos_token)):
                ids.pop()  # some tokenizers end every text, as for training
            if not ids and self.tokenizer.bos_token_id is not None:
                ids = [self.tokenizer.bos_token_id]
        if not ids:
            raise BadRequest("the prompt is empty, and the model has no token to begin with")
        return Prompt(tuple(ids), opening_tag(text), ends_reasoning(text))

    def _rendered(self, messages: tuple[Message, ...]) -> str:
        """Return the messages as the chat template writes them. Raises BadRequest where it refuses or loses one."""
        roles = tuple(m.role for m in messages)
        try:
            text = self._render([(m.role, m.content) for m in messages], self._in_parts)
        except Exception as error:  # a template is a program and can raise anything
            advice = self._advice(roles)
            raise BadRequest(f"the model's chat template refuses the messages: {error}", hint=advice) from error
        if not self._takes(roles):
            refused = f"the model's chat template leaves out what one of the roles says: {', '.join(roles)}"
            raise BadRequest(refused, hint=self._advice(roles))
        return text

    def _render(self, messages: Sequence[tuple[str, str]], in_parts: bool) -> str:
        open_end = bool(messages) and messages[-1][0] == "assistant"  # continue a response that has begun
        rendered = self.tokenizer.apply_chat_template(
            [{"role": role, "content": [{"type": "text", "text": t}] if in_parts else t} for role, t in messages],
            tokenize=False,
            add_generation_prompt=not open_end,
            continue_final_message=open_end,
            **self._template,
        )
        return str(rendered)

    def _shows(self, roles: tuple[str, ...], in_parts: bool) -> bool:
        """Return whether the template takes a trial conversation of these roles and writes all of its messages."""
        words = [f"word{i}end" for i in range(len(roles))]
        try:
            text = self._render(list(zip(roles, words, strict=True)), in_parts)
        except Exception:
            return False
        return all(word in text for word in words)

    def _takes(self, roles: tuple[str, ...]) -> bool:
        if roles not in self._fits:
            if len(self._fits) >= MAX_PROMPTS:
                self._fits.clear()
            self._fits[roles] = self._shows(roles, self._in_parts)
        return self._fits[roles]

    def _advice(self, roles: tuple[str, ...]) -> str:
        """Return what to do about messages that the template does not take, "" where that is not known."""
        if "developer" in roles and self._takes(tuple("system" if r == "developer" else r for r in roles)):
            return 'it does not know the role "developer": use "system"'
        others = tuple(r for r in roles if r not in ("system", "developer"))
        if others != roles and self._takes(others):
            return "it takes no system message: put that text at the beginning of the user's message"
        return ""

    def texts(self, responses: Sequence[Sequence[int]]) -> list[str]:
        """Decode responses, without special tokens other than those that tell reasoning apart."""
        with self._lock:
            return [self._text(list(ids)) for ids in responses]

    def _text(self, ids: list[int]) -> str:
        shows_markers = not self._markers.isdisjoint(ids)
        if shows_markers:  # the decoder keeps or drops all special tokens
            ids = [i for i in ids if i in self._markers or i not in self._special]
        if self._decoder is not None:
            return str(self._decoder.decode(ids, skip_special_tokens=not shows_markers))
        decode = self.tokenizer.decode
        return str(decode(ids, skip_special_tokens=not shows_markers, clean_up_tokenization_spaces=False))

    def continued(self, prefix: Sequence[int], tokens: Sequence[int]) -> str:
        """Return the text that `tokens` add to that of `prefix`; a decoder may drop the space a text begins with."""
        if not prefix:
            return self.texts([tokens])[0]
        before, whole, alone = self.texts([prefix, [*prefix, *tokens], tokens])
        return whole[len(before) :] if whole.startswith(before) else alone

    def find_stop(self, prefix: Sequence[int], tokens: Sequence[int], stop: tuple[str, ...]) -> int:
        """Return where in the text of `tokens` the first stop string begins; -1 if there is none."""
        tail = tokens[-(64 + 4 * max(map(len, stop), default=0)) :]  # ample for one that has just become complete
        if len(tail) < len(tokens) and find_stop(self.texts([tail])[0], stop) < 0:
            return -1
        return find_stop(self.continued(prefix, tokens), stop)

    def tokens_of(self, text: str) -> tuple[int, ...]:
        """Return the tokens that are this text and nothing else but white space around it: as the tokenizer writes it
        at the start, after a space, or after a line end."""
        if text not in self._tokens_of:
            last = dict.fromkeys(self._last_token(f"{before}{text}") for before in ("", " ", "\n"))
            tokens = [token for token in last if token is not None]
            pieces = self.texts([[token] for token in tokens])
            self._tokens_of[text] = tuple(
                token for token, piece in zip(tokens, pieces, strict=True) if piece.strip() == text
            )
        return self._tokens_of[text]

    def _last_token(self, text: str) -> int | None:
        try:
            with self._lock:
                ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        except Exception:  # a tokenizer without a token for what it does not know can raise anything
            return None
        return int(ids[-1]) if len(ids) else None

    def ends_in(self, tokens: Sequence[int], text: str) -> bool:
        """Return whether the text of `tokens` ends in `text`; spaces at either end do not count."""
        tail = tokens[-(64 + 4 * len(text)) :]  # ample
        return self.texts([tail])[0].rstrip().endswith(text.rstrip())

    def completes(self, stop: tuple[str, ...]) -> Tensor:
        """Return the tokens (V,) bool that can complete a stop string; the text is only searched after one of them.

        A token completes a string only if its own text holds the string's last character. Spaces can appear or vanish
        when tokens are joined, and bytes form a character together, so these tokens always count.
        """
        last = {s[-1:] for s in stop}
        if not last.isdisjoint(("", " ")):
            return torch.ones(self.vocab_size, dtype=torch.bool)
        if self._pieces is None:
            self._pieces = self.texts([[i] for i in range(self.vocab_size)])
        return torch.tensor([INCOMPLETE in piece or not last.isdisjoint(piece) for piece in self._pieces])


def _template_source(tokenizer: Any, named: Json) -> str:
    """Return the source of the chat template, "" if there is none. `named`: one of several, or the source itself."""
    if not getattr(tokenizer, "chat_template", None) and not named:
        return ""
    try:
        return str(tokenizer.get_chat_template(named))
    except Exception as error:  # such as ValueError where there are several and none is the default
        raise SetupError(f"the tokenizer's chat template cannot be used: {error}") from error


def _special_tokens(tokenizer: Any) -> dict[int, str]:
    """Return the tokens that a decoder drops, by id."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return {int(index): str(token.content) for index, token in added.items() if token.special}


def _reasoning_markers(special: Mapping[int, str]) -> frozenset[int]:
    """Return the special tokens that tell reasoning apart."""
    is_channeled = "<|channel|>" in special.values()
    return frozenset(
        index for index, text in special.items() if is_reasoning_tag(text) or (is_channeled and text in CHANNEL_TOKENS)
    )


def checked_language(language: Language) -> Language:
    """Return the language. Raises SetupError where its template or tokenizer cannot be used at all."""
    try:
        language.prompt((Message("user", "1"),))
    except BadRequest as error:
        raise SetupError(f"the tokenizer cannot make a prompt: {error}") from error
    return language
