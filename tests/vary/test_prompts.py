from __future__ import annotations

import time

import pytest

from samplewise.core.errors import BadSpec, UsageError
from samplewise.core.keys import Key
from samplewise.core.types import Message, Question
from samplewise.vary.base import Arm, ArmResult, as_arm
from samplewise.vary.domains import DOMAINS, domain_of
from samplewise.vary.levels import LEVELS, family_of, level_of
from samplewise.vary.pools.instructions import INSTRUCTIONS
from samplewise.vary.pools.roles import ROLES
from samplewise.vary.pools.unrelated import NONSENSE, POEM, REMARKS
from samplewise.vary.prompts import LETTERS, instruction, irrelevant, jabberwocky, role, ssot, verbatim
from samplewise.vary.slots import QuestionParts, inserted, reworded, split_rules, wording

TEXT = "How many apples has Tom?"
QUESTION = Question("q", (Message("system", "Be brief."), Message("user", TEXT)))


def made(arm: object, question: Question = QUESTION, key: Key = Key(0)) -> ArmResult:  # noqa: B008
    assert callable(arm) or isinstance(arm, Arm)
    return as_arm(arm).make(key, question, ())


def texts(arm: object, question: Question = QUESTION, key: Key = Key(0)) -> dict[str, str]:  # noqa: B008
    return {
        variant.arm: wording(question._replace(messages=variant.messages)) for variant in made(arm, question, key)[0]
    }


def test_a_role_stands_before_the_question() -> None:
    assert texts(role(pick="maths/03")) == {"role/maths/03": f"{ROLES['maths'][2]}\n\n{TEXT}"}
    assert texts(role(pick="code/12", slot="after")) == {"role/code/12@after": f"{TEXT}\n\n{ROLES['code'][11]}"}
    assert texts(instruction(pick=("general/01", "maths/02"))) == {
        "instruction/general/01": f"{INSTRUCTIONS['general'][0]}\n\n{TEXT}",
        "instruction/maths/02": f"{INSTRUCTIONS['maths'][1]}\n\n{TEXT}",
    }


def test_members_are_drawn_without_replacement_for_each_question() -> None:
    drawn = [tuple(texts(role(4), key=Key(seed))) for seed in range(40)]
    assert all(len(set(names)) == 4 for names in drawn)
    assert len(set(drawn)) > 30
    assert {name for names in drawn for name in names} == {f"role/maths/{place:02}" for place in range(1, 13)}
    assert len(texts(role(12))) == 12
    assert tuple(texts(role(2), key=Key(3))) == tuple(texts(role(4), key=Key(3)))[:2]  # fewer are the first of more


def test_unrelated_texts() -> None:
    assert texts(jabberwocky(pick="07")) == {"jabberwocky/07": f"{POEM[6]}\n\n{TEXT}"}
    assert texts(jabberwocky(pick="13")) == {"jabberwocky/13": f"{NONSENSE[0]}\n\n{TEXT}"}
    assert set(texts(jabberwocky(12))) == {f"jabberwocky/{place:02}" for place in range(1, 13)}
    assert set(texts(jabberwocky(12, ours=True))) == {f"jabberwocky/{place:02}" for place in range(13, 25)}
    assert texts(irrelevant(pick="24")) == {"irrelevant/24": f"{REMARKS[23]}\n\n{TEXT}"}
    assert texts(verbatim()) == {"verbatim": f"{TEXT}\n\n{TEXT}"}


def test_seeds_of_thought() -> None:
    own = texts(ssot(4, size=20))
    assert set(own) == {f"ssot/{place}" for place in range(1, 5)}
    assert all("20 " in text and text.endswith(f"\n\n{TEXT}") for text in own.values())
    supplied = texts(ssot(4, supplied=True, size=20))
    strings = [word.strip(".:,") for text in supplied.values() for word in text.split() if len(word.strip(".:,")) == 20]
    assert len(strings) == len(set(strings)) == 4
    assert set("".join(strings)) <= set(LETTERS)
    assert set(supplied) == {f"ssot.supplied/{place}" for place in range(1, 5)}
    assert texts(ssot(4, supplied=True), key=Key(1)) != texts(ssot(4, supplied=True), key=Key(2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: role(13), "at most 12"),
        (lambda: role(0), "num"),
        (lambda: role(pick="maths/13"), "no 'maths/13'; there are reasoning/01 to general/12"),
        (lambda: role(pick=("maths/01", "maths/01")), "twice"),
        (lambda: role(domain="cooking"), "domain must be auto, reasoning"),
        (lambda: role(slot="system"), "slot must be one of before, after"),
        (lambda: jabberwocky(13), "at most 12"),
        (lambda: irrelevant(25), "at most 24"),
        (lambda: ssot(5), "at most 4"),
        (lambda: ssot(size=0), "size"),
    ],
)
def test_misuse(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises((ValueError, BadSpec), match=message):
        make()


def test_rules_for_the_response_come_last() -> None:
    rules = "Please reason step by step, and put your final answer within \\boxed{}."
    question = QUESTION._replace(messages=(Message("user", f"{TEXT}\n\n{rules}"),))
    after = texts(role(pick="maths/01", slot="after"), question)["role/maths/01@after"]
    assert after == f"{TEXT}\n\n{ROLES['maths'][0]}\n\n{rules}"


@pytest.mark.parametrize(
    ("text", "body"),
    [
        ("One.\n\nTwo.", "One.\n\nTwo."),
        ("What?\n\nPut your final answer within \\boxed{}.", "What?"),
        ("What?\n \nEnd with one line of this form:\nAnswer: <expression> = 24", "What?"),
        ("What?\n\nA. x\nB. y\n\nAnswer with the letter of the correct option alone.", "What?\n\nA. x\nB. y"),
        ("What?\n\nThink, then finish your answer with it.\n\nReply with JSON.", "What?"),
        ("Put the answer in \\boxed{}.", "Put the answer in \\boxed{}."),  # never nothing
        (
            "Tom runs.\n\nWhat is the answer in metres?",
            "Tom runs.\n\nWhat is the answer in metres?",
        ),  # the question itself
        ("Tom runs.\n\nFind x. Give your answer in metres.", "Tom runs.\n\nFind x. Give your answer in metres."),
        ("What?\n\nWork step by step if it helps. End with one line: Answer: x", "What?"),
        ("The answer is 3. Why?\n\nExplain.", "The answer is 3. Why?\n\nExplain."),
        ("", ""),
    ],
)
def test_parts_of_a_prompt(text: str, body: str) -> None:
    assert split_rules(text) == QuestionParts(body, text[len(body) :])


def test_the_last_message_of_the_user_is_the_question() -> None:
    chat = (Message("user", "Hello"), Message("assistant", "Hi"), Message("user", TEXT), Message("assistant", "Let me"))
    question = Question("q", chat)
    assert wording(question) == TEXT
    assert inserted(question, "Think.") == (*chat[:2], Message("user", f"Think.\n\n{TEXT}"), chat[3])
    assert reworded(question, "x")[2].content == "x"
    with pytest.raises(UsageError, match="'q' has no message of a user"):
        wording(Question("q", (Message("system", "x"),)))


@pytest.mark.parametrize(
    ("question", "domain"),
    [
        (Question("q", (Message("user", "?"),), {"entry_point": "f"}), "code"),
        (Question("q", (Message("user", "?"),), {"numbers": [1], "target": 2}), "puzzles"),
        (Question("q", (Message("user", "?"),), {"options": ["a", "b"]}), "reasoning"),
        (Question("q", (Message("user", "What is $x^2$?"),)), "maths"),
        (Question("q", (Message("user", "How many apples?"),)), "maths"),
        (Question("q", (Message("user", "def f(x):\n    pass"),)), "code"),
        (Question("q", (Message("user", "Write a Python function."),)), "code"),
        (Question("q", (Message("user", "The function $f$ is even.\nFrom which point does it rise?"),)), "maths"),
        (Question("q", (Message("user", "How many pieces has the puzzle?"),)), "maths"),
        (Question("q", (Message("user", "Here is a riddle: what has keys but no locks?"),)), "puzzles"),
        (Question("q", (Message("user", "Which?\nA. cat\nB. dog"),)), "reasoning"),
        (Question("q", (Message("user", "make 24 from 4 6 7 8"),)), "puzzles"),
        (Question("q", (Message("user", "Write a letter to my landlord."),)), "general"),
    ],
)
def test_the_domain_of_a_question(question: Question, domain: str) -> None:
    assert domain_of(question) == domain
    assert domain in DOMAINS
    (name,) = texts(role(1), question)
    assert name.startswith(f"role/{domain}/")
    (name,) = texts(role(1, domain="code"), question)
    assert name.startswith("role/code/")


@pytest.mark.parametrize(
    "text", ["A. x" + "\n" * 20_000, "A. x\n" * 5_000, " " * 20_000, "\n \n" * 8_000, "$" * 20_000]
)
def test_no_question_takes_long(text: str) -> None:
    """Nested repetition over blank lines took exponential time."""
    started = time.process_time()
    assert domain_of(Question("q", (Message("user", text),))) in DOMAINS
    assert "".join(split_rules(text)) == text
    assert time.process_time() - started < 2.0


def test_levels() -> None:
    assert family_of("idea.dual/5") == "idea"
    assert family_of("role/code/01@after+idea.single/2") == "role+idea"
    assert family_of("temperature/0.5") == "temperature"
    assert level_of("direct") == level_of("temperature/0.4") == 0
    assert [level_of(arm) for arm in ("remark/01", "prefer/plus", "step.single/1", "permute/2", "again")] == [
        1,
        2,
        3,
        4,
        5,
    ]
    assert level_of("role/code/01+idea.single/2") == 3
    assert level_of("mine") is None
    assert level_of("mine+role/code/01") is None
    assert set(LEVELS.values()) == set(range(6))
