"""One row of a user's question file, validated. Imports pydantic: import this module late."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, ValidationError, model_validator

ASKED = ("prompt", "question", "problem", "input", "messages")
ANSWERED = ("answer", "target", "expected_answer")

Text = Annotated[StrictStr, Field(pattern=r"\S")]
Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Part(_Strict):
    type: Literal["text", "input_text"]
    text: StrictStr


class RowMessage(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[tuple[Part, ...], Field(min_length=1)]

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class Row(_Strict):
    """Fields that are not named here are passed over."""

    prompt: Text | None = None
    question: Text | None = None
    problem: Text | None = None
    input: Text | None = None
    messages: Annotated[tuple[RowMessage, ...], Field(min_length=1)] | None = None
    answer: Text | Number | None = None
    target: Text | Number | None = None
    expected_answer: Text | Number | None = None
    id: Text | StrictInt | None = None
    facts: dict[str, Any] = {}
    metadata: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> Row:
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
        """Role and text of each message."""
        if self.messages is not None:
            return tuple((message.role, message.text) for message in self.messages)
        (name,) = self._present(ASKED)
        return (("user", getattr(self, name)),)

    @property
    def reference(self) -> str | None:
        names = self._present(ANSWERED)
        return str(getattr(self, names[0])) if names else None


_EXPECTED = {
    **dict.fromkeys(ASKED, "a text"),
    **dict.fromkeys(ANSWERED, "a text or a number; leave the field out where the answer is not known"),
    **{"id": "a text or a whole number", "facts": "an object", "metadata": "an object"},
    **{"messages": 'a list of objects such as {"role": "user", "content": "..."}'},
    **{
        "role": "system, developer, user or assistant",
        "content": 'a text or a list of {"type": "text", "text": "..."}',
    },
}


def explain(error: ValidationError) -> str:
    """What is wrong with a row, in one line: the first complaint, with what the field is expected to hold."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(step) for step in first["loc"] if isinstance(step, int) or step in _EXPECTED)
    if not place:
        return first["msg"].removeprefix("Value error, ")
    field = next(step for step in reversed(first["loc"]) if step in _EXPECTED)
    got = {"missing": "nothing", "string_pattern_mismatch": "an empty one", "too_short": "an empty one"}
    value = first["input"]
    plain = json.dumps(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    return f"{place}: expected {_EXPECTED[str(field)]}; got {got.get(first['type'], plain[:60])}"
