"""What an endpoint honours, as data: the probe fills it, the engine obeys it and adds what it learns on the way.

Endpoints that speak the same protocol differ in what they do with it. Every field is None where nothing is known, and
then the engine tries and looks at the effect.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self, get_args

from samplewise.types import Json

Api = Literal["chat", "completions"]
MaxTokensField = Literal["max_tokens", "max_completion_tokens"]


class Profile(NamedTuple):
    """True: honoured. False: refused, or ignored. None: not known."""

    api: Api = "chat"
    n: bool | None = None  # several choices in one reply
    seed: bool | None = None  # the same seed, the same text
    logprobs: bool | None = None  # the log-probability of every token drawn
    top_logprobs: int | None = None  # how many alternatives per token it lists at most
    token_ids_out: bool | None = None  # `return_token_ids`
    token_ids_in: bool | None = None  # a prompt given as token ids
    continues: bool | None = None  # goes on from a beginning of the assistant's message
    max_tokens_field: MaxTokensField | None = None
    temperature: bool | None = None  # any temperature, not its own alone
    usage: bool | None = None  # counts tokens, and believably
    likelihood: bool | None = None  # `prompt_logprobs`
    frozen_seed: bool | None = None  # the same text again and again, whatever the seed
    tokenize: bool | None = None  # POST //tokenize
    notes: tuple[str, ...] = ()  # what a person should know, one line each
    refused: tuple[str, ...] = ()  # other fields of a request that it answers with an error
    json_schema: bool | None = None  # a response of just the form that a JSON schema asks for (chat)
    tools: bool | None = None  # a call of the tool that it is told to call (chat)

    def noting(self, note: str) -> Self:
        """The same with one more note; a note that is there already is not repeated."""
        return self if note in self.notes else self._replace(notes=(*self.notes, note))

    def refusing(self, field: str) -> Self:
        """The same with one more field that must not be sent."""
        return self if field in self.refused else self._replace(refused=(*self.refused, field))

    def to_json(self) -> dict[str, Json]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The profile that `to_json` gave. Fields of a later version are left out. Raises ValueError for no profile."""
        if not isinstance(data, dict):
            raise ValueError(f"a profile is a JSON object, not {data!r:.80}")
        known = {name: value for name, value in data.items() if name in cls._fields}
        for name, value in known.items():
            if not _fits(name, value):
                raise ValueError(f"a profile's {name} cannot be {value!r:.80}")
        for name in ("notes", "refused"):
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)


def _fits(name: str, value: Json) -> bool:
    if name == "api":
        return value in get_args(Api)
    if name in ("notes", "refused"):
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if name == "max_tokens_field":
        return value is None or value in get_args(MaxTokensField)
    if name == "top_logprobs":
        return value is None or (type(value) is int and value >= 0)
    return value is None or isinstance(value, bool)
