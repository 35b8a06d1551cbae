from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.vary.reading import MAX_REPLY, Item, is_none, json_items, list_items, single_text, without_thoughts

IDEA = "Work backwards from the target."


@pytest.mark.parametrize(
    "reply",
    [
        IDEA,
        f"  {IDEA}\n",
        f"Sure! Here is a suggestion:\n\n{IDEA}",
        f"Here's one approach you could take:\n{IDEA}",
        f"Idea: {IDEA}",
        f"**Approach:** {IDEA}",
        f"My suggestion: {IDEA}",
        f'"{IDEA}"',
        f"“{IDEA}”",
        f"<think>hmm, 6 * 4</think>\n{IDEA}",
        f"hmm</think>{IDEA}",
        f"```\n{IDEA}\n```",
        f"```text\n{IDEA}\n```",
        f'{{"idea": "{IDEA}"}}',
        f'```json\n{{"text": "{IDEA}", "probability": 0.2}}\n```',
        f'["{IDEA}"]',
    ],
)
def test_one_text_out_of_what_stands_around_it(reply: str) -> None:
    assert single_text(reply) == IDEA


@pytest.mark.parametrize("reply", ["", "  \n", "<think>never ends", "<think>a</think>", "```\n```"])
def test_nothing_to_read(reply: str) -> None:
    assert single_text(reply) in ("", "```\n```")
    assert json_items(reply) == list_items(reply) == ()


def test_code_stays_fenced_so_that_it_is_seen() -> None:
    assert single_text("```python\nprint(1)\n```").startswith("```python")


def test_a_question_of_several_paragraphs_stays_whole() -> None:
    text = "Tom has 3 cats.\n\nHow many legs do they have?"
    assert single_text(f"Rephrased question:\n{text}") == text
    assert single_text(text) == text
    assert single_text('He said "yes" and she said "no"') == 'He said "yes" and she said "no"'
    assert single_text('"yes" or "no"') == '"yes" or "no"'


@pytest.mark.parametrize(
    "reply",
    [
        '[{"text": "one", "probability": 0.3}, {"text": "two", "probability": "20%"}, {"text": "three"}]',
        'Of course!\n```json\n[{"idea": "one", "p": 0.3}, {"idea": "two", "prob": 0.2}, "three"]\n```\nSee [a]!',
        '{"ideas": [{"text": "one", "p": "0.3"}, {"approach": "two", "p": 0.2}, {"text": "three", "p": 7}]}',
        'Like [this]: [{"text": "one", "p": 0.3}, {"text": " two ", "p": 0.2}, {"text": "three"}, {"text": ""}]',
        '{"text": "one", "p": 0.3}',
    ],
)
def test_items_of_json(reply: str) -> None:
    found = json_items(reply)
    assert [item.text for item in found] == ["one", "two", "three"][: len(found)]
    assert found[0] == Item("one", 0.3)
    assert all(math.isclose(item.probability, p) for item, p in zip(found, (0.3, 0.2), strict=False))
    assert all(math.isnan(item.probability) for item in found[2:])


@pytest.mark.parametrize(
    "reply", ["no json", "[1, 2]", "{}", '{"a": 1}', "[[[]]]", "[" * 5_000, '{"a":' * 5_000, '[{"text": "cut']
)
def test_no_items(reply: str) -> None:
    assert json_items(reply) == ()


@pytest.mark.parametrize(
    "reply",
    [
        "1. one\n2. two\n   continued\n3. three",
        "Here they are:\n\n1) one\n\n2) two\ncontinued\n\n3) three\n\nI hope this helps!",
        "- one (probability: 0.3)\n- two continued\n- three",
        "* **one**\n* two continued\n* three",
        "one\ntwo continued\n\nthree",
    ],
)
def test_lines_of_a_list(reply: str) -> None:
    assert [item.text for item in list_items(reply)] == ["one", "two continued", "three"]


def test_probabilities_of_lines() -> None:
    found = list_items("1. Use parity (probability: 0.25)\n2. Induction, p = 10%\n3. Squares; probability 0.4.")
    assert [item.text for item in found[:2]] == ["Use parity", "Induction"]
    assert [item.probability for item in found[:2]] == [0.25, 0.1]


def test_a_single_line_is_no_list() -> None:
    assert list_items("I am sorry, but I cannot help with that.") == ()


@pytest.mark.parametrize(
    "text", ["none", "None.", "NONE!", "**none**", "There is no other concept.", "No new concepts"]
)
def test_the_stop_word(text: str) -> None:
    assert is_none(text)


@pytest.mark.parametrize("text", ["", "Nonetheless, induction", "Non-standard analysis", "Pigeonhole: no two ..."])
def test_other_words_do_not_stop(text: str) -> None:
    assert not is_none(text)


@given(st.text(alphabet=st.sampled_from('ab1.-*[]{}":,\n `<>/think'), max_size=300))
def test_any_text_can_be_read(reply: str) -> None:
    assert single_text(reply) == single_text(reply).strip()
    assert all(item.text.strip() for item in (*json_items(reply), *list_items(reply)))


@pytest.mark.parametrize("text", [" ", "\n", "[", "{", "1. ", "- ", '"', "here is ", "<think>", "* ", "(p ", "[1,"])
def test_no_reply_takes_long(text: str) -> None:
    started = time.process_time()
    reply = text * (2 * MAX_REPLY // len(text))
    without_thoughts(reply), single_text(reply), json_items(reply), list_items(reply), is_none(reply)
    assert time.process_time() - started < 2.0
