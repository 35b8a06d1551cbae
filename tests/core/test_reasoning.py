"""Reasoning is cut from a response, whatever tags its model writes; a tag that is only mentioned cuts nothing."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.reasoning import ends_reasoning, opening_tag, split_reasoning

PAIRS = (
    ("<think>", "</think>"),
    ("<Think>", "</Think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<reason>", "</reason>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>\n\n<|begin_of_solution|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<unused94>thought\n", "<unused95>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("<|start|>assistant<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
    ("Here is my thought process:", "\nHere is my response:"),
    ("Here's my thought process:\n", "\n\nHere's my response:\n"),
)
OPENED = [pair for pair in PAIRS if pair[0] not in ("Here is my thought process:", "Here's my thought process:\n")]

CASES = (
    # inputs that people report
    ("<think>perhaps the answer is 5. No.</think>\n72", "perhaps the answer is 5. No.", "72"),
    ("The answer is 340?\nNo.\n</think>\n391", "The answer is 340?\nNo.", "391"),
    ("<think>France, so</think>\n\nParis", "France, so", "Paris"),
    ("so it is 340.</think>391", "so it is 340.", "391"),
    ("\n\n <think>\nhm\n</think>\n\n391", "hm", "391"),
    ("<think>\n\n</think>\n\n391", "", "391"),  # reasoning switched off
    ("<think></think>", "", ""),
    ("391</think>", "391", ""),
    # a fence on the tag's line; indentation is the program's
    ("<think>a</think>```python\nx = 1\n```", "a", "```python\nx = 1\n```"),
    ("a loop\n</think>```python\nx = 1\n```\nDone.", "a loop", "```python\nx = 1\n```\nDone."),
    ("<think>```python\nx = 2\n```\n</think>\n```python\nx = 1\n```", "```python\nx = 2\n```", "```python\nx = 1\n```"),
    ("<think>```python\nx = 2\n</think>\n```python\nx = 1\n```", "```python\nx = 2", "```python\nx = 1\n```"),
    ("```python\nx = 2\n```\nno\n</think>\n\n    return x", "```python\nx = 2\n```\nno", "    return x"),
    ("```python\nx = 2\n</think>\n```python\nx = 1\n```", "```python\nx = 2", "```python\nx = 1\n```"),
    # several blocks
    ("<think>a</think>\n<think>b</think>\nso 391", "a\n\nb", "so 391"),
    ("<think>a</think>Let me check.\n<think>b</think>\n391", "a\n\nb", "Let me check.\n\n391"),
    ("<think>a <think>b</think> c</think> d", "a <think>b\n\nc", "d"),
    ("a</think>b</think>c", "a\n\nb", "c"),
    ("Sure. <think>is it #### 5?</think> 42", "is it #### 5?", "Sure.  42"),
    ("Sure.\n<reason>is it 5?</reason>\n42", "is it 5?", "Sure.\n\n42"),
    ("<think>a</think>391</think>", "a", "391"),  # a closing tag too many, after the answer
    ("<|im_start|>assistant\n<reasoning>a</reasoning>391", "a", "391"),
    # channels
    ("<|channel|>final<|message|>391<|return|>", "", "391"),
    (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        '<|constrain|>json<|message|>{}<|call|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{"a": 1}',
        "a\n\n{}",
        '{"a": 1}',
    ),
    ("think about it<|end|><|start|>assistant<|channel|>final<|message|>391", "think about it", "391"),
    ("analysisWe add.assistantanalysisAgain.assistantfinal391", "We add.\n\nAgain.", "391"),
    ("We add them: 391.assistantfinal391", "We add them: 391.", "391"),
    ("<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>391<|END_RESPONSE|>", "a", "391"),
    ("<|begin_of_thought|>a<|end_of_thought|>\n<|begin_of_solution|>391<|end_of_solution|>", "a", "391"),
    # tags that are mentioned while reasoning do not end it
    ('<think>I close with "</think>", then 5.</think>391', 'I close with "</think>", then 5.', "391"),
    ("<think>It's 5. I don't know.</think>It's 391", "It's 5. I don't know.", "It's 391"),
    ('<think>say "Paris"</think>"Paris"', 'say "Paris"', '"Paris"'),
)

UNCLOSED = (
    "<think>so the answer is 5, wait",
    "\n<think>\nso the answer is 5, wait",
    "<reasoning>so the answer is 5",
    "[THINK]so the answer is 5",
    "◁think▷so the answer is 5",
    "Sure.\n<think>so the answer is 5, wait",
    "<think>a</think>Perhaps 5.\n<think>or",
    "<|channel|>analysis<|message|>so the answer is 5",
    "<|channel|>analysis<|message|>it is 5<|end|><|start|>assistant",
    "<|channel|>analysis",
    "analysisWe add: the answer is 5",
    "<|channel>thought\nso 5",
    "<think>",
)

PLAIN = (
    "",
    "391",
    "  The answer is 391.\n",
    "The tags `<think>` and `</think>` mark reasoning. Answer: 391",
    'Split at "</think>" and take the rest: 391',
    '```python\nreply.split("</think>")[-1]\n```',
    "```python\nTEMPLATE = '''\n</think>\n'''\n```\nDone.",
    "```\n<think>\nhm\n</think>\n391\n```\nis what such a model writes.",
    "~~~\nhm\n</think>\n391\n~~~",
    "def after(reply):\n    return reply.rpartition('</think>')[2]",
    'PROMPT = """\n<think>\nhm\n</think>\n"""\nprint(PROMPT)',
    'import re\npattern = re.compile(r"<think>(.*?)</think>", re.DOTALL)\n',
    "<answer>391</answer>\n<reason>17 * 23 =",
    "<result><reason>it is so</reason><answer>391</answer></result>",
    "analysis of the data gives 391",
    "analysisResult = 391\nprint(analysisResult)",
    "Here is my thought process: 17 * 23 = 391. The answer is 391.",
    "The assistantfinal field is 3.",
    "if a<b then [THINKING] (think) <b>391</b>",
)


@pytest.mark.parametrize(("text", "reasoning", "answer"), CASES)
def test_reasoning_is_cut_from_the_text(text: str, reasoning: str, answer: str) -> None:
    assert split_reasoning(text)[:3] == (reasoning, answer, True)


@pytest.mark.parametrize("text", UNCLOSED)
def test_reasoning_that_never_closes_leaves_no_text(text: str) -> None:
    reply = split_reasoning(text)
    assert (reply.text, reply.closed) == ("", False)
    assert reply.reasoning or text == "<think>"


@pytest.mark.parametrize("text", PLAIN)
def test_a_text_without_reasoning_is_kept_to_the_letter(text: str) -> None:
    assert split_reasoning(text)[:3] == ("", text, True)


@pytest.mark.parametrize("text", PLAIN)
@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_what_follows_reasoning_may_mention_tags(text: str, opening: str, closing: str) -> None:
    reply = split_reasoning(f"{opening}We add. So it is.{closing}\n\n{text}")
    if opening == "<reason>" and "\n<reason>" in text:  # it is this model's own tag, and reasons again
        assert not reply.closed
    else:
        assert reply[:3] == ("We add. So it is.", reply.text, True)
        assert reply.text.strip() == text.strip()


@pytest.mark.parametrize(("opening", "closing"), OPENED)
def test_the_template_may_have_opened_the_reasoning(opening: str, closing: str) -> None:
    assert split_reasoning(f"Is it 5?\nNo.{closing}\n391", opened=True)[:3] == ("Is it 5?\nNo.", "391", True)
    assert split_reasoning(f"Is it 5?\nNo.{closing}\n391")[:3] == ("Is it 5?\nNo.", "391", True)
    assert split_reasoning("Is it 5?\nNo", opened=True)[:3] == ("Is it 5?\nNo", "", False)
    repeated = split_reasoning(f"{opening}Is it 5? No.{closing}\n391", opened=True)
    assert repeated[:3] == ("Is it 5? No.", "391", True)


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<>[]◁▷`~'\"\\|"), max_size=60).filter(
    lambda text: not text.lstrip().startswith(("Here", "analysis")) and "assistantfinal" not in text
)


@given(WORDS)
def test_words_are_text(text: str) -> None:
    assert split_reasoning(text)[:3] == ("", text, True)


@given(st.sampled_from(PAIRS), WORDS, WORDS)
def test_the_two_parts_come_back(pair: tuple[str, str], reasoning: str, text: str) -> None:
    reply = split_reasoning(f"{pair[0]}{reasoning}{pair[1]}\n{text}")
    if pair[0] in ("analysis", "Here's my thought process:\n", "Here is my thought process:"):
        reasoning = reasoning.strip()
    assert reply.closed
    assert reply.text.strip() == text.strip()
    assert reply.reasoning == reasoning.strip()


PIECES = st.sampled_from(
    [piece for pair in PAIRS for piece in pair]
    + ["\n", " ", "391", "It's ", '"', "`", "```", "```python\n", '"""', "x. "]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.booleans())
def test_any_soup_of_tags_is_cut_without_loss_of_words(text: str, opened: bool) -> None:
    reply = split_reasoning(text, opened)
    assert reply.closed or not reply.text
    assert (reply.reasoning + reply.text).count("391") == text.count("391")


@given(st.sampled_from(PAIRS[:16]), WORDS, st.sampled_from(PLAIN[:14]))
def test_cutting_twice_is_cutting_once(pair: tuple[str, str], reasoning: str, text: str) -> None:
    once = split_reasoning(f"{pair[0]}{reasoning}{pair[1]}\n{text}")
    assert split_reasoning(once.text)[:3] == ("", once.text, True)


@pytest.mark.parametrize(
    "piece",
    [
        "<think>",
        "</think>",
        '"<think>"',
        "`</think>",
        "```\n</think>\n",
        '"""</think>',
        "a<reason>",
        "\n</think>\n\n\n",
        "<|channel|>",
        "<|channel|>final<|message|>a",
        "assistantfinal",
        "analysis assistantfinal",
        "Here is my thought process:\n",
        "\n",
        "```",
        "  ",
    ],
)
@pytest.mark.parametrize(
    "begin", ["", "<think>a</think>", "</think>", "<|channel|>final<|message|>", "Here's my thought process:"]
)
def test_long_texts_take_linear_time(begin: str, piece: str) -> None:
    text = begin + piece * (60_000 // len(piece)) + "b"  # quadratic time would be tens of seconds
    start = time.perf_counter()
    split_reasoning(text)
    assert time.perf_counter() - start < 5


def test_a_response_that_begins_inside_its_reasoning_says_so() -> None:
    assert split_reasoning("is it 5? No.\n</think>\n391").opened
    assert split_reasoning("is it 5", opened=True).opened
    assert not split_reasoning("<think>is it 5? No.</think>391").opened
    assert not split_reasoning("391").opened


@pytest.mark.parametrize(("opening", "closing"), [pair for pair in OPENED if pair[0] != "analysis"])
def test_how_a_prompt_ends(opening: str, closing: str) -> None:
    assert opening.strip().endswith(opening_tag(f"user: 1\n{opening}\n"))
    assert opening_tag(f"user: 1\n{opening}\n")
    assert opening_tag(f"{opening}\n\n{closing}\n\n") == opening_tag("1") == ""
    if "message" not in opening:
        assert ends_reasoning(f"{opening}\n\n{closing}\n\n")
    assert not ends_reasoning(f"user: 1\n{opening}\n")
