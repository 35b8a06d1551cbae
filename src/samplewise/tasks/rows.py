"""One row of a user's question file, validated. Imports pydantic: import this module late."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError, model_validator

from samplewise.core.text import as_one_line

ASKED = ("prompt", "question", "problem", "input", "messages")
ANSWERED = ("answer", "target", "expected_answer")

Text = Annotated[StrictStr, Field(pattern=r"\S")]
Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
Accepted = Text | Number | Annotated[tuple[Text | Number, ...], Field(min_length=1)]  # of several any one is right


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TextPart(_Strict):
    type: Literal["text", "input_text"]
    text: StrictStr


class RowMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[tuple[TextPart, ...], Field(min_length=1)]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class QuestionRow(_Strict):
    """One row. Fields that are not named here are not asked; the file's reader says which there are."""

    prompt: Text | None = None
    question: Text | None = None
    problem: Text | None = None
    input: Text | None = None
    messages: Annotated[tuple[RowMessage, ...], Field(min_length=1)] | None = None
    answer: Accepted | None = None
    target: Accepted | None = None
    expected_answer: Accepted | None = None
    id: Text | StrictInt | None = None
    facts: dict[str, Any] = {}
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> QuestionRow:
        asked = self._present(ASKED)
        if not asked:
            raise ValueError(f"no question; give one of {', '.join(ASKED)}")
        if len(asked) > 1:
            raise ValueError(f"{' and '.join(asked)} both ask the question; keep one of them")
        answered = self._present(ANSWERED)
        if len(answered) > 1:
            raise ValueError(f"{' and '.join(answered)} both give the answer; keep one of them")
        return self

    def _present(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if getattr(self, name) is not None]

    @property
    def asked(self) -> tuple[tuple[str, str], ...]:
        """Return role and text of each message."""
        if self.messages is not None:
            return tuple((message.role, message.text) for message in self.messages)
        (name,) = self._present(ASKED)
        return (("user", getattr(self, name)),)

    @property
    def reference(self) -> str | list[str] | None:
        """Return the answer as a text, or the texts that are accepted."""
        names = self._present(ANSWERED)
        if not names:
            return None
        value = getattr(self, names[0])
        return [str(text) for text in value] if isinstance(value, tuple) else str(value)


_EXPECTED = {
    **dict.fromkeys(ASKED, "a text"),
    **dict.fromkeys(ANSWERED, "a text, a number or a list of them; leave the field out where the answer is not known"),
    **{"id": "a text or a whole number", "facts": "an object", "metadata": "an object"},
    **{"messages": 'a list of objects such as {"role": "user", "content": "..."}'},
    **{
        "role": "system, developer, user or assistant",
        "content": 'a text or a list of {"type": "text", "text": "..."}',
    },
}


def unknown_fields(row: Mapping[str, Any]) -> list[str]:
    """Return the names of a row's fields that nothing is made of."""
    return [name for name in row if name not in QuestionRow.model_fields]


def explain(error: ValidationError) -> str:
    """Return what is wrong with a row, in one line: the first error, with what the field is expected to hold."""
    first = error.errors(include_url=False)[0]
    path = ".".join(str(step) for step in first["loc"] if isinstance(step, int) or step in _EXPECTED)
    if not path:
        message = first["msg"].removeprefix("Value error, ")
        if first["input"] and not any(name in first["input"] for name in ASKED):
            names = ", ".join(json.dumps(name, ensure_ascii=False) for name in first["input"])
            message += f"; this row has {as_one_line(names, 100)}"
        return message
    field = next(step for step in reversed(first["loc"]) if step in _EXPECTED)
    shown = {"missing": "nothing", "string_pattern_mismatch": "an empty one", "too_short": "an empty one"}
    value = first["input"]
    plain = json.dumps(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return f"{path}: expected {_EXPECTED[str(field)]}; got {shown.get(first['type'], plain[:60])}"
