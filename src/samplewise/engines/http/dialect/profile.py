"""What an endpoint supports, as data. The probe fills it, the engine obeys it and adds what replies reveal.

Endpoints that speak the same protocol differ in what they support. A field is None while nothing is known; the engine
then tries the feature and looks at the effect.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self, get_args

from samplewise.core.types import Json

Api = Literal["chat", "completions"]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]

LIMIT_NOTE = "draws more tokens than max_tokens allows: a limit may end a run early"


class Profile(NamedTuple):
    """Features of an endpoint. True: supported. False: refused or ignored. None: not known."""

    api: Api = "chat"
    n: bool | None = None  # several choices in one reply
    seed: bool | None = None  # the same seed gives the same text
    logprobs: bool | None = None  # the log-probability of every drawn token
    top_logprobs: int | None = None  # the most alternatives it lists per token
    token_ids_out: bool | None = None  # `return_token_ids`
    token_ids_in: bool | None = None  # a prompt given as token ids
    continues: bool | None = None  # continues a given beginning of the assistant's message
    max_tokens_field: MaxTokensField | None = None
    temperature: bool | None = None  # any temperature, not its default alone
    usage: bool | None = None  # counts tokens plausibly
    likelihood: bool | None = None  # `prompt_logprobs`
    frozen_seed: bool | None = None  # gives the same text again and again, whatever the seed
    tokenize: bool | None = None  # POST //tokenize
    notes: tuple[str, ...] = ()  # what a user should know, one line each
    refused: tuple[str, ...] = ()  # other request fields that it answers with an error
    json_schema: bool | None = None  # follows a JSON schema for the response (chat)
    tools: bool | None = None  # calls the tool that it is told to call (chat)
    raw_logprobs: bool | None = None  # log-probs are the model's own at any temperature; False: those after it
    reasons: bool | None = None  # its model thinks before it answers
    top_ids: bool | None = None  # names the likeliest tokens by their ids (completions)
    forces_token: bool | None = None  # a logit_bias of 100 makes a token certain
    detokenize: bool | None = None  # POST //detokenize

    def with_note(self, note: str) -> Self:
        """Return the profile with this note added once."""
        return self if note in self.notes else self._replace(notes=(*self.notes, note))

    def with_refused(self, field: str) -> Self:
        """Return the profile with one more field that must not be sent."""
        return self if field in self.refused else self._replace(refused=(*self.refused, field))

    def to_json(self) -> dict[str, Json]:
        """Return the profile as a JSON object."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """Return the profile that `to_json` wrote, without fields of later versions. Raises ValueError if invalid."""
        if not isinstance(data, dict):
            raise ValueError(f"a profile is a JSON object, got {data!r:.80}")
        values = {name: value for name, value in data.items() if name in cls._fields}
        for name, value in values.items():
            if not _is_valid(name, value):
                raise ValueError(f"a profile's {name} cannot be {value!r:.80}")
        for name in ("notes", "refused"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)


def _is_valid(name: str, value: Json) -> bool:
    if name == "api":
        return value in get_args(Api)
    if name in ("notes", "refused"):
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if name == "max_tokens_field":
        return value is None or value in get_args(MaxTokensField)
    if name == "top_logprobs":
        return value is None or (type(value) is int and value >= 0)
    return value is None or isinstance(value, bool)
