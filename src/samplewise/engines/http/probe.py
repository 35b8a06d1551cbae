"""Finds out what an endpoint really honours, by asking for a few tokens and looking at the effect.

    1, 2, 3  two draws each of eight tokens with everything switched on; seeds 1, 1, 2        n, seeds, log-probs, ids
    4        where these were too short to tell: seed 2 again, twice as long
    5, 6     a greedy draw each with two seeds                                                temperature
    7        the greedy draw's first half as the beginning of the assistant's message         continuing
    8        prompt and first half as token ids, with the prompt's log-probs                  ids in, likelihood
    9        the prompt to be tokenized                                                       tokenize
    10, 11   of chat: a colour by a JSON schema, and a tool that must be called               schemas, tools

Every refused parameter costs one request more, which draws nothing. In all at most 14 requests are answered, and at
most 200 tokens drawn by an endpoint that keeps to `max_tokens`; up to 12 more may fail, and are made again. What is
left open then is None, never False. Nothing is believed because a request was accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from samplewise.engines.http import evidence
from samplewise.engines.http.cache import entry, load, save
from samplewise.engines.http.client import Client, Reply, was_sent
from samplewise.engines.http.endings import whereabouts
from samplewise.engines.http.pace import retry_after_s
from samplewise.engines.http.profile import Api, MaxTokensField, Profile
from samplewise.engines.http.refusals import OTHER_NAME, refused_field
from samplewise.engines.http.wire import NEUTRAL, error_text
from samplewise.errors import AuthError, BadRequest, EngineError, EngineTimeout, EngineUnavailable, RateLimited
from samplewise.types import Json

__all__ = ["entry", "load", "probe", "save"]

MAX_REQUESTS = 14  # that are answered
MAX_FAILED = 12  # that are not
MAX_ATTEMPTS = 5  # at one request
MAX_WAIT_S = 5.0  # between two attempts, whatever Retry-After says
PROMPT = "Write 8 random words, and nothing else."  # no preface, which would be the same every time
NUM_TOKENS, MORE_TOKENS = 8, 14  # of one draw; not 16, which some servers draw where they ignore the limit
SEVERAL = 2  # choices asked for
FORM_TOKENS = 20  # for a colour in JSON
TOP, FEWER_TOP = 20, 5  # alternatives asked for: the most that chat knows, and the most that completions knew
VERDICTS = {"seed": "seed", "n": "n", "logprobs": "logprobs", "return_token_ids": "token_ids_out"}
PASSING = (408, 425, 429)  # statuses below 500 that may be another the next time


class _Spent(Exception):
    """The limits of the probe are reached."""


class _Answer(NamedTuple):
    num_listed: int  # choices in the reply, whether or not they can be read
    draws: list[evidence.Draw]


async def probe(client: Client, model: str, api: Api, *, timeout_s: float = 60.0, backoff_s: float = 0.1) -> Profile:
    """What the endpoint honours for this model.

    Raises EngineUnavailable or EngineTimeout where it cannot be reached or gives no answer at all, AuthError where it
    does not accept the key, BadRequest where it knows no such model or route. `timeout_s` is for one request.
    """
    return await _Probe(client, model, api, timeout_s, backoff_s).run()


class _Probe:
    def __init__(self, client: Client, model: str, api: Api, timeout_s: float, backoff_s: float) -> None:
        self._client, self._model, self._api = client, model, api
        self._timeout_s, self._backoff_s = timeout_s, backoff_s
        self._found = Profile(api=api)
        self._num_answered = self._num_failed = 0
        self._error: EngineError | None = None  # the last
        self._refused: set[str] = set()  # by name
        self._unsaid: set[str] = set()  # left out since something was refused that was not named
        self._limit: MaxTokensField = "max_tokens"
        self._limitless = False
        self._top = TOP
        self._replies: list[_Answer] = []  # at temperature 1
        self._believed: list[bool] = []
        self._ids: tuple[int, ...] | None = None  # of the prompt

    async def run(self) -> Profile:
        for step in (self._draw, self._greedy, self._tokenize, self._forms):
            try:
                await step()
            except _Spent:
                self._note("the probe came to its limits before it had found out everything")
                break
        if not self._replies:
            raise self._error or EngineUnavailable(f"{self._client.shown} answered no request for completions")
        usage = evidence.agreed(self._believed) if self._believed else None
        if usage and not all(self._believed):
            usage = None
            self._note("some replies count their tokens wrongly")
        if self._limitless:
            self._found = self._found._replace(max_tokens_field=None)
            self._note("draws more tokens than max_tokens allows: budgets cannot be kept")
        return self._found._replace(usage=usage, refused=tuple(sorted(self._refused & NEUTRAL.keys())))

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _draw(self) -> None:
        """Plain draws: what does a reply hold, and when are two texts the same?"""
        try:
            for seed in (1, 1, 2):
                await self._complete(seed, NUM_TOKENS)
            if evidence.seeded(self._draws) is None or evidence.frozen(self._draws) is None:
                for _ in range(2):
                    await self._complete(2, MORE_TOKENS, key=-2)
        finally:
            self._conclude()

    @property
    def _draws(self) -> list[evidence.Draw]:
        return [draw for answer in self._replies for draw in answer.draws]

    def _conclude(self) -> None:
        draws, readable = self._draws, [answer.draws for answer in self._replies if answer.draws]
        told: dict[str, Json] = {
            "n": evidence.agreed([answer.num_listed > 1 for answer in self._replies]),
            "logprobs": evidence.agreed([any(draw.logp is not None for draw in reply) for reply in readable]),
            "token_ids_out": evidence.agreed([any(draw.tokens is not None for draw in reply) for reply in readable]),
            "seed": evidence.seeded(draws),
            "frozen_seed": evidence.frozen(draws),
        }
        told |= {VERDICTS[name]: None for name in self._unsaid & VERDICTS.keys()}
        told |= {VERDICTS[name]: False for name in self._refused & VERDICTS.keys()}
        tops = [draw.num_top for draw in draws if draw.num_top is not None]
        told["top_logprobs"] = max(tops) if tops else 0 if told["logprobs"] is False else None
        self._found = self._found._replace(**told)
        if told["frozen_seed"]:
            self._note("draws of one prompt are all the same, whatever their seed")
        if told["n"] and any(answer.num_listed != SEVERAL for answer in self._replies):
            self._note("some replies hold more or fewer choices than were asked for")

    async def _greedy(self) -> None:
        """Greedy draws are the same whatever the seed, so what continues them can be told from what does not."""
        draws: list[evidence.Draw] = []
        for seed in (1, 2):
            if "temperature" not in self._refused:
                answer = await self._complete(seed, MORE_TOKENS, temperature=0)
                draws += answer.draws if answer is not None else []
        if "temperature" in self._refused:
            self._found = self._found._replace(temperature=False)
        elif len(draws) > 1 and len({draw.text for draw in draws}) > 1:
            # rounding may turn a late token; draws at temperature 1 differ early
            early = {draw.text[: max(1, len(draw.text) // 3)] for draw in draws}
            self._found = self._found._replace(temperature=None if len(early) == 1 else False)
        elif len(draws) > 1:
            self._found = self._found._replace(temperature=True if self._found.frozen_seed is False else None)
            await self._continue(draws[0])
            await self._by_ids(draws[0])
            return
        await self._by_ids(None)

    async def _continue(self, whole: evidence.Draw) -> None:
        """The greedy text's first half as the beginning of a response, which its second half must follow."""
        beginning = evidence.beginning_of(whole.text)
        if beginning is None:
            return
        asked = self._asked(NUM_TOKENS // 2, 0)  # few, so that the limit on tokens shows
        if self._api == "chat":
            asked["messages"] = [*asked["messages"], {"role": "assistant", "content": beginning}]
            asked |= {"continue_final_message": True, "add_generation_prompt": False}
        else:
            asked["prompt"] = PROMPT + beginning
        reply = await self._send(self._route, asked)
        draws = evidence.draws_of(reply.body, 0) if reply is not None and reply.status == 200 else []
        if reply is not None and _refused(reply):
            self._found = self._found._replace(continues=False)
        elif draws and reply is not None:
            self._limits(reply.body, draws, NUM_TOKENS // 2)
            self._found = self._found._replace(continues=evidence.continued(whole.text, beginning, draws[0].text))

    async def _by_ids(self, whole: evidence.Draw | None) -> None:
        """The same by token ids, through the completions route; and what it says of the ids that it is given.

        Without ids to give it this can only find that none are accepted."""
        tokens = whole.tokens if whole is not None and self._ids is not None else None
        half = len(tokens) // 2 if tokens is not None else 0
        ids = (*(self._ids or ()), *tokens[:half]) if tokens is not None else (1, 2, 3)
        asked: dict[str, Json] = {"model": self._model, "prompt": list(ids), "max_tokens": 1}
        more: dict[str, Json] = {}
        if tokens is not None:
            asked |= {"max_tokens": NUM_TOKENS, "temperature": 0, "return_token_ids": True}
            more = {"prompt_logprobs": 0}
        reply = await self._send("completions", asked | more)
        told: dict[str, Json] = {}
        if reply is not None and reply.status in (400, 422) and refused_field(reply.body, reply.text, more):
            told["likelihood"] = False
            reply = await self._send("completions", asked)
        if reply is None:
            return
        if reply.status in (404, 405) or (reply.status in (400, 422) and "prompt" in _message(reply)):
            told |= {"token_ids_in": False, "likelihood": False}
        elif reply.status == 200 and whole is not None and tokens is not None:
            draws = evidence.draws_of(reply.body, 0)
            if draws and draws[0].tokens:
                num = min(len(tokens) - half, len(draws[0].tokens))
                told["token_ids_in"] = draws[0].tokens[:num] == tokens[half : half + num]
            logp = evidence.prompt_logp(reply.body, ids)
            near = zip((logp or ())[::-1], (whole.logp or ())[:half][::-1], strict=False)
            told.setdefault("likelihood", logp is not None and all(abs(a - b) < 0.05 for a, b in near))
        self._found = self._found._replace(**told)

    async def _tokenize(self) -> None:
        asked = {name: value for name, value in self._asked(0, 0).items() if name in ("model", "messages", "prompt")}
        reply = await self._send("//tokenize", asked, attempts=2)  # a website may have a page there
        if reply is None:
            return
        tokens = reply.body.get("tokens") if reply.status == 200 and isinstance(reply.body, dict) else None
        ids = tuple(tokens) if isinstance(tokens, list) and all(isinstance(id, int) for id in tokens) else ()
        self._found = self._found._replace(tokenize=bool(ids) and self._ids in (None, ids))

    async def _forms(self) -> None:
        """Chat alone: what has the form that it is told to have, and would not have it by itself."""
        if self._api != "chat":
            return
        schema = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": evidence.SCHEMA}}
        function = {"name": evidence.TOOL, "description": "Keeps a note.", "parameters": evidence.SCHEMA}
        forms: dict[str, tuple[dict[str, Json], Callable[[Json], bool | None]]] = {
            "json_schema": ({"response_format": schema}, evidence.followed_schema),
            "tools": (
                {
                    "tools": [{"type": "function", "function": function}],
                    "tool_choice": {"type": "function", "function": {"name": evidence.TOOL}},
                },
                evidence.called_tool,
            ),
        }
        for name, (more, verdict) in forms.items():
            reply = await self._send(self._route, self._asked(FORM_TOKENS, 0) | more)
            if reply is not None:
                told: dict[str, Json] = {name: verdict(reply.body) if reply.status == 200 else False}
                self._found = self._found._replace(**told)

    # --- requests -----------------------------------------------------------------------------------------------------

    @property
    def _route(self) -> str:
        return "chat/completions" if self._api == "chat" else "completions"

    def _asked(self, max_tokens: int, temperature: float) -> dict[str, Json]:
        """A body without anything that is refused."""
        asked: dict[str, Json] = {"model": self._model}
        asked |= {"messages": [{"role": "user", "content": PROMPT}]} if self._api == "chat" else {"prompt": PROMPT}
        asked |= {self._limit: max_tokens, "temperature": temperature, **NEUTRAL}
        return {name: value for name, value in asked.items() if name not in self._refused}

    async def _complete(
        self, seed: int, max_tokens: int, *, temperature: float = 1, key: int | None = None
    ) -> _Answer | None:
        """Draws with everything switched on; what is refused is left out from then on. None where there is no answer.

        `key` stands for the seed where draws must not be compared with the shorter ones of that seed.
        """
        while True:
            more: dict[str, Json] = {"seed": seed, "return_token_ids": True}
            if temperature > 0:  # vLLM refuses several greedy draws
                more["n"] = SEVERAL
            more |= {"logprobs": True, "top_logprobs": self._top} if self._api == "chat" else {"logprobs": self._top}
            more = {name: value for name, value in more.items() if name not in self._refused | self._unsaid}
            reply = await self._send(self._route, self._asked(max_tokens, temperature) | more)
            if reply is None:
                return None
            if reply.status == 200:
                return self._taken(reply.body, seed if key is None else key, max_tokens, temperature == 1)
            if reply.status not in (400, 422):
                await self._refuse(reply)
                return None
            named = refused_field(reply.body, reply.text, self._asked(max_tokens, temperature) | more)
            if named in OTHER_NAME:
                if self._refused & OTHER_NAME.keys():
                    await self._refuse(reply)
                    return None
                self._refused.add(named)
                self._limit = "max_tokens" if named == "max_completion_tokens" else "max_completion_tokens"
                self._found = self._found._replace(max_tokens_field=self._limit)
            elif named in ("logprobs", "top_logprobs") and self._top > FEWER_TOP:
                self._top = FEWER_TOP  # perhaps they were too many
            elif named is not None:
                self._refused |= {named, "top_logprobs"} if named == "logprobs" else {named}
            elif more:
                self._unsaid |= more.keys()
                self._note(f"refuses a request and does not name what it refuses: {_message(reply)}")
            else:
                await self._refuse(reply)
                return None

    def _taken(self, body: Json, key: int, max_tokens: int, plain: bool) -> _Answer:
        """What an accepted request gave."""
        draws = evidence.draws_of(body, key)
        listed = body.get("choices") if isinstance(body, dict) else None
        answer = _Answer(len(listed) if isinstance(listed, list) else 0, draws)
        if draws:
            self._believed.append(evidence.believable(evidence.counts_of(body), draws))
        self._ids = self._ids or evidence.prompt_ids(body)
        if self._limits(body, draws, max_tokens):  # shorter ones follow, with which these cannot be compared
            self._replies = [earlier._replace(draws=[]) for earlier in self._replies]
            answer = answer._replace(draws=[])
        if plain:
            self._replies.append(answer)
        return answer

    def _limits(self, body: Json, draws: list[evidence.Draw], max_tokens: int) -> bool:
        """Was the limit on tokens kept, and was it that which ended a draw? True where it is given by its other name
        from now on."""
        drawn = [len(draw.tokens or draw.logp or ()) for draw in draws]
        counts = evidence.counts_of(body)
        if counts is not None and draws and not any(drawn) and evidence.believable(counts, draws):
            drawn = [counts.completion_tokens // len(draws)]
        if any(num > max_tokens for num in drawn):
            if self._limit == "max_tokens" and self._refused.isdisjoint(OTHER_NAME):
                self._limit = "max_completion_tokens"
                return True
            self._limitless = True
        elif max_tokens in drawn and any(draw.finish == "length" for draw in draws):
            self._found = self._found._replace(max_tokens_field=self._limit)
        return False

    async def _refuse(self, reply: Reply) -> None:
        """Raise the error that a refusal stands for, unless there have been answers already."""
        if self._replies:
            return
        message = f"{self._client.shown}/{self._route} says: {_message(reply)}"
        if reply.status in (401, 403):
            raise AuthError(message, hint="set OPENAI_API_KEY, or api_key=", status=reply.status)
        hint = await whereabouts(self._client, self._model, self._api) if reply.status in (404, 405) else ""
        raise BadRequest(message, hint=hint, status=reply.status)

    async def _send(self, path: str, body: dict[str, Json], attempts: int = MAX_ATTEMPTS) -> Reply | None:
        """A reply that is an answer, be it a refusal. None where several attempts gave none.

        A bad request that names no field is made once more: it may be a fault that passes."""
        excused = False
        for attempt in range(attempts):
            if self._num_answered >= MAX_REQUESTS or self._num_failed >= MAX_FAILED:
                raise _Spent
            wait_s = self._backoff_s * 2**attempt
            try:
                reply = await asyncio.wait_for(self._client.post(path, body), self._timeout_s)
                if _refused(reply) or (
                    reply.status == 200 and isinstance(reply.body, dict) and "error" not in reply.body
                ):
                    self._num_answered += 1
                    if excused or reply.status not in (400, 422) or refused_field(reply.body, reply.text, body):
                        return reply
                    excused = True
                    continue
                why = f"{self._client.shown} answers with status {reply.status}: {_message(reply)}"
                self._error = RateLimited(why, status=429) if reply.status == 429 else EngineUnavailable(why)
                wait_s = max(wait_s, min(MAX_WAIT_S, retry_after_s(reply.headers) or 0.0))
            except TimeoutError:
                self._error = EngineTimeout(f"{self._client.shown}: no answer within {self._timeout_s:g} s")
                self._num_failed += MAX_FAILED // 3  # three of these are enough
            except EngineError as error:
                self._error = error
                if not was_sent(error) and attempt and not self._num_answered:
                    raise  # nobody is there
            self._num_failed += 1
            await asyncio.sleep(wait_s)
        return None

    def _note(self, note: str) -> None:
        self._found = self._found.noting(note)


def _refused(reply: Reply) -> bool:
    """Whether it is an answer that will not change."""
    return 300 <= reply.status < 500 and reply.status not in PASSING


def _message(reply: Reply) -> str:
    return error_text(reply.body, reply.text)
