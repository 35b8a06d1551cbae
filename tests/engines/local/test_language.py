"""Prompts as token ids, for chat templates and tokenizers of many kinds; and which tokens end a response."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402

from samplewise.core.errors import BadRequest, SetupError  # noqa: E402
from samplewise.core.types import Message  # noqa: E402
from samplewise.engines.local.language import Language, checked_language  # noqa: E402
from samplewise.models.ends import end_of_turn, end_tokens  # noqa: E402

SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|channel|>", "<|message|>", "<|end|>", "[INST]", "[/INST]")
TEXT = "What is 2 + 2? The answer is four. system user assistant model You are helpful. ünïcode 漢字 \n\n  x"

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_BOS = "{{ bos_token }}" + CHATML
REASONING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{{ message['content'].split('</think>')[-1] }}{% else %}{{ message['content'] }}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)
STRICT = (  # as Gemma's and Mistral's
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
PARTS = (  # as those of models that also see
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
KNOWN_ROLES = CHATML.replace(  # as Qwen's, which writes nothing for other roles
    "{{ '<|im_start|>' + message",
    "{% if message['role'] in ('system', 'user', 'assistant') %}{{ '<|im_start|>' + message",
).replace("'<|im_end|>\n' }}{% endfor %}", "'<|im_end|>\n' }}{% endif %}{% endfor %}")

CONVERSATIONS: dict[str, Sequence[tuple[str, str]]] = {
    "one question": [("user", "What is 2 + 2?")],
    "blanks and other letters": [("user", "\n  ünïcode 漢字\n\n")],
    "several turns": [("user", "2 + 2?"), ("assistant", "The answer is four."), ("user", "You are helpful.")],
    "a response that has begun": [("user", "What is 2 + 2?"), ("assistant", "The answer is")],
    "one that ends in a space": [("user", "What is 2 + 2?"), ("assistant", "The answer is ")],
    "one that has not begun": [("user", "What is 2 + 2?"), ("assistant", "")],
    "a system prompt": [("system", "You are helpful."), ("user", "What is 2 + 2?")],
}


def _words() -> Tokenizer:
    words = dict.fromkeys([*SPECIAL, *TEXT.split(), "<think>", "</think>", "2?", "<unk>"])
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return inner


def _bytes() -> Tokenizer:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator([TEXT] * 4, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet))
    return inner


def _pieces() -> Tokenizer:
    """As the tokenizers of sentencepiece: a space before the first word, unknown letters as bytes."""
    pieces = [("<unk>", 0.0), *((f"<0x{i:02X}>", -20.0) for i in range(256))]
    words = dict.fromkeys(["▁", *(f"▁{word}" for word in TEXT.split()), *TEXT.replace(" ", "▁"), *"+24?<>|/_"])
    inner = Tokenizer(models.Unigram([*pieces, *((word, -len(word) / 2) for word in words)], 0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")])
    return inner


KINDS = {"words": _words, "bytes": _bytes, "pieces": _pieces}


def tokenizer_of(kind: str = "words", template: Any = CHATML, adds: str = "", **changes: Any) -> Any:
    """A tokenizer of a kind. `adds`: which of "<s>" and "</s>" it writes around every text by itself."""
    inner = KINDS[kind]()
    inner.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    if adds:
        single = " ".join(["<s>"] * ("<s>" in adds) + ["$A"] + ["</s>"] * ("</s>" in adds))
        ids = [(text, inner.token_to_id(text)) for text in ("<s>", "</s>")]
        inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, **{"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", **changes}
    )
    tokenizer.chat_template = template
    return tokenizer


def language_of(*args: Any, settings: dict[str, Any] | None = None, **changes: Any) -> Language:
    tokenizer = tokenizer_of(*args, **changes)
    return Language(tokenizer, len(tokenizer), settings)


def messages_of(conversation: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(role, text) for role, text in conversation)  # type: ignore[arg-type]


def reference(tokenizer: Any, conversation: Sequence[tuple[str, str]], in_parts: bool = False, **settings: Any) -> Any:
    """What `transformers` itself makes of a conversation."""
    is_open = conversation[-1][0] == "assistant"
    made = tokenizer.apply_chat_template(
        [{"role": role, "content": [{"type": "text", "text": t}] if in_parts else t} for role, t in conversation],
        tokenize=True,
        return_dict=False,
        add_generation_prompt=not is_open,
        continue_final_message=is_open,
        **settings,
    )
    return tuple(made)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("template", [CHATML, WITH_BOS, REASONING, STRICT, KNOWN_ROLES], ids=lambda t: "")
@pytest.mark.parametrize("adds", ["", "<s>", "<s></s>"])
@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_transformers(kind: str, adds: str, template: str, conversation: str) -> None:
    language = language_of(kind, template, adds)
    given = CONVERSATIONS[conversation]
    if template == STRICT and given[0][0] == "system":
        with pytest.raises(BadRequest):
            language.prompt(messages_of(given))
    else:
        ids = language.prompt(messages_of(given))
        assert ids == reference(language.tokenizer, given)
        assert ids.count(language.tokenizer.bos_token_id) == (template in (WITH_BOS, STRICT))
        assert ids.count(language.tokenizer.eos_token_id) == (template == STRICT and len(given) == 3)


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_a_prompt_by_hand(kind: str) -> None:
    """One bos, though both template and tokenizer would write it; the end of the default system prompt and no other."""
    tokenizer = tokenizer_of(kind, WITH_BOS, "<s></s>")
    ids = Language(tokenizer, len(tokenizer)).prompt((Message("user", "user"),))
    shown = [tokenizer.convert_ids_to_tokens(i) for i in ids if i in tokenizer.added_tokens_decoder]
    assert shown == ["<s>", *["<|im_start|>", "<|im_end|>"] * 2, "<|im_start|>"]
    assert ids[0] == tokenizer.bos_token_id
    system = "<s><|im_start|>system\nYou are helpful.<|im_end|>\n"
    assert tokenizer.decode(ids) == f"{system}<|im_start|>user\nuser<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_template_the_text_is_the_prompt(kind: str) -> None:
    conversation = (Message("system", "You are helpful. "), Message("user", "The answer is"))
    plain = tokenizer_of(kind, None)("You are helpful. The answer is")["input_ids"]
    for adds, before in [("", []), ("<s>", [0]), ("<s></s>", [0])]:
        language = language_of(kind, None, adds)
        bos = [language.tokenizer.bos_token_id for _ in before]
        assert language.prompt(conversation) == (*bos, *plain)  # never an end: nothing would follow it
        assert not language.reasons
    written = language_of(kind, None, "<s></s>")
    assert written.prompt((Message("user", "four.</s>"),))[-1] == written.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
def test_tokens_of_a_letter(kind: str) -> None:
    """Every spelling of a letter that the vocabulary has, and no other token."""
    language = language_of(kind)
    tokens = language.tokens_of("T")
    assert tokens
    assert len(set(tokens)) == len(tokens)
    assert {text.strip() for text in language.texts([[token] for token in tokens])} == {"T"}
    assert language.tokens_of("no such token") == ()
    assert language_of("words").tokens_of("T") == ()


def test_messages_as_parts() -> None:
    """A template that reads lists of parts writes nothing of a string, and says nothing."""
    language = language_of("bytes", PARTS)
    for conversation in CONVERSATIONS.values():
        ids = language.prompt(messages_of(conversation))
        assert ids == reference(language.tokenizer, conversation, in_parts=True)
        assert conversation[0][1].strip() in language.tokenizer.decode(ids)
    assert not language_of("bytes", CHATML)._in_parts


def test_a_template_that_opens_or_skips_reasoning() -> None:
    question = (Message("user", "2 + 2?"),)
    language = language_of("bytes", REASONING)
    assert language.reasons
    assert language.opening_tag(question) == "<think>"
    assert language.opening_tag((*question, Message("assistant", "The answer"))) == ""
    off = language_of("bytes", REASONING, settings={"enable_thinking": False})
    assert not off.reasons
    assert off.opening_tag(question) == ""
    assert off.prompt(question) == reference(off.tokenizer, [("user", "2 + 2?")], enable_thinking=False)


def test_one_of_several_templates() -> None:
    several = {"default": CHATML, "other": REASONING}
    conversation = CONVERSATIONS["one question"]
    language = language_of("bytes", several)
    assert not language.reasons
    assert language.prompt(messages_of(conversation)) == reference(language.tokenizer, conversation)
    other = language_of("bytes", several, settings={"chat_template": "other"})
    assert other.reasons
    wanted = reference(language.tokenizer, conversation, chat_template="other")
    assert other.prompt(messages_of(conversation)) == wanted != language.prompt(messages_of(conversation))
    with pytest.raises(SetupError, match="chat template cannot be used"):
        language_of("bytes", {"other": REASONING})


REFUSALS = {
    "no system role": (
        STRICT,
        ("system", "user"),
        "the model's chat template refuses the messages: System role not supported (it takes no system message: put "
        "that text at the beginning of the user's message)",
    ),
    "two questions in a row": (
        STRICT,
        ("user", "user"),
        "the model's chat template refuses the messages: Conversation roles must alternate user/assistant",
    ),
    "a role that it drops": (
        KNOWN_ROLES,
        ("developer", "user"),
        "the model's chat template leaves out what one of the roles says: developer, user (it does not know the role "
        '"developer": use "system")',
    ),
    "a role that neither name helps": (
        STRICT,
        ("developer", "user"),
        "the model's chat template refuses the messages: Conversation roles must alternate user/assistant (it takes no "
        "system message: put that text at the beginning of the user's message)",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_a_template_does_not_take_is_refused_with_advice(case: str) -> None:
    template, roles, message = REFUSALS[case]
    language = checked_language(language_of("bytes", template))
    for _ in range(2):
        with pytest.raises(BadRequest) as caught:
            language.prompt(tuple(Message(role, f"text {i}") for i, role in enumerate(roles)))  # type: ignore[arg-type]
        assert str(caught.value) == message
    language.prompt((Message("user", "text 0"),))


def test_a_message_that_the_template_changes_is_not_lost() -> None:
    """A template may cut switches out of a message; only one that writes nothing at all of a role loses it."""
    cuts = CHATML.replace("message['content'] +", "message['content'].replace('/no_think', '') +")
    language = language_of("bytes", cuts)
    assert language.prompt((Message("system", "/no_think"), Message("user", "2 + 2?")))


def test_a_template_that_takes_nothing_cannot_be_set_up() -> None:
    with pytest.raises(SetupError, match=r"the tokenizer cannot make a prompt: .* refuses the messages: never"):
        checked_language(language_of("bytes", "{{ raise_exception('never') }}"))
    with pytest.raises(SetupError, match=r"cannot make a prompt: .* leaves out what one of the roles says: user"):
        checked_language(language_of("bytes", "<|im_start|>"))


# ---------------------------------------------------------------------------------------------------- ends of responses


def ends_of(path: Path, config: Any, generation: Any = None, template: Any = None, **changes: Any) -> list[str]:
    """The end tokens, as texts, of a folder with these files."""
    path.mkdir(exist_ok=True)
    tokenizer = tokenizer_of("words", template, **changes)
    ids = {text: tokenizer.convert_tokens_to_ids(text) for text in SPECIAL}

    def named(values: Any) -> Any:
        if isinstance(values, dict):
            return {key: named(value) for key, value in values.items()}
        return [ids.get(v, v) for v in values] if isinstance(values, list) else ids.get(values, values)

    (path / "config.json").write_text(json.dumps({"model_type": "llama", **named(config)}))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(named(generation)))
    return [str(tokenizer.convert_ids_to_tokens(i)) for i in end_tokens(str(path), tokenizer)]


def test_end_tokens_of_every_place_count(tmp_path: Path) -> None:
    assert ends_of(tmp_path / "a", {"eos_token_id": "</s>"}) == ["</s>"]
    both = {"eos_token_id": ["</s>", "<|im_end|>"]}
    assert ends_of(tmp_path / "b", {"eos_token_id": "<|end|>"}, both) == ["</s>", "<|im_end|>", "<|end|>"]
    assert ends_of(tmp_path / "c", {}, {"eos_token_id": "<|end|>"}) == ["</s>", "<|end|>"]
    assert ends_of(tmp_path / "d", {"text_config": {"eos_token_id": "<|end|>"}}) == ["</s>", "<|end|>"]
    assert ends_of(tmp_path / "e", {"eos_token_id": None}, {}, eos_token=None, pad_token=None) == []
    assert ends_of(tmp_path / "f", {"eos_token_id": -1}, {"eos_token_id": [-1]}) == ["</s>"]


def test_the_default_of_a_class_is_no_end_token(tmp_path: Path) -> None:
    """LlamaConfig() ends at 2, which is a word here: the files do not name it."""
    assert transformers.LlamaConfig().eos_token_id == 2
    assert ends_of(tmp_path, {}) == ["</s>"]


def test_the_end_of_a_turn_ends_a_response(tmp_path: Path) -> None:
    """A chat model on a base model's files: only the template knows <|im_end|>."""
    base = {"eos_token_id": "</s>"}
    assert ends_of(tmp_path, base, base, CHATML) == ["</s>", "<|im_end|>"]
    assert ends_of(tmp_path, base, base, STRICT) == ["</s>"]


HARMONY = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '<|channel|>final<|message|>' }}"
    "{{ message['content'] + '<|end|>' }}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (REASONING, "<|im_end|>"),
        (STRICT, "</s>"),
        (CHATML.replace("message['content'] +", "message['content'] + '\n' +"), "<|im_end|>"),
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}", ""),  # a word ends nothing
        ("{% for m in messages %}{{ '[INST]' + m['content'] }}{% endfor %}{{ '[INST]' }}", ""),  # the next header
        ("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '[INST]' }}{% endfor %}", "[INST]"),
        (HARMONY, ""),  # it ends a channel; the answer may follow
        ("{{ raise_exception('never') }}", ""),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}<|im_end|>", ""),
        (None, ""),
    ],
)
def test_the_end_of_a_turn(template: str | None, end: str) -> None:
    tokenizer = tokenizer_of("words", template)
    assert end_of_turn(tokenizer) == ((tokenizer.convert_tokens_to_ids(end),) if end else ())


def test_a_tag_of_reasoning_ends_no_turn() -> None:
    tokenizer = tokenizer_of("words", "{% for m in messages %}{{ m['content'] + '</think>' }}{% endfor %}")
    tokenizer.add_tokens([AddedToken("</think>", special=True)])
    assert end_of_turn(tokenizer) == ()


def test_a_response_ends_at_its_turn(tmp_path: Path, kit: Any) -> None:
    """Through the engine: the token ends the row and has no text, though no file of the model names it."""
    from samplewise.core.types import Generate
    from samplewise.engines.local import local

    kit.write(tmp_path, "llama", eos_token_id=1)
    (tmp_path / "generation_config.json").unlink(missing_ok=True)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    template = "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' </turn> ' }}{% endfor %}"
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert settings["eos_token"] == "</s>"
    loaded.add_special_tokens({"additional_special_tokens": ["</turn>"]})
    loaded.chat_template = template
    loaded.save_pretrained(tmp_path)
    engine = local(str(tmp_path), device="cpu")
    assert engine.checkpoint.stops == (1, 3)
    asks = [Generate((Message("user", "w7 w8"),), max_tokens=40, seed=i, want=("tokens",)) for i in range(60)]
    completions = kit.answers(engine, asks)
    ended = [c for c in completions if c.tokens[-1] == 3]
    assert len(ended) > 5
    assert {c.finish for c in ended} == {"stop"}
    assert not any("</turn>" in c.text for c in completions)
    assert not any(3 in c.tokens[:-1] for c in completions)
