"""Find out what an endpoint really supports: ask for a few tokens and look at the effect.

    1, 2, 3  two draws each of eight tokens with every feature on; seeds 1, 1, 2              n, seeds, log-probs, ids
    4        where these were too short to tell: seed 2 again, twice as long
    5        where every request gives the same list: a single draw each with two seeds       n, frozen seeds
    6        two draws of eight tokens at temperature 2, if there are log-probs               raw log-probs or others
    7, 8     a greedy draw each with two seeds; two more where these differ                   temperature
    9        the greedy draw's first half as the beginning of the assistant's message         continuing
    10       prompt and first half as token ids, with the prompt's log-probs                  ids in, likelihood, names
    11       the prompt to be tokenized                                                       tokenize
    12, 13   one token that a logit bias makes certain; the greedy draw's text from its ids   for drafts
    14, 15   chat only: a color by a JSON schema, and a tool that must be called              schemas, tools

Every refused parameter costs one request more, which draws nothing. In all at most 20 requests are answered, and an
endpoint that respects `max_tokens` draws at most 260 tokens; up to 12 more requests may fail and are retried. What
stays undecided is None, never False. A feature does not count as supported because a request was accepted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from samplewise.core.errors import AuthError, BadRequest, EngineError, EngineTimeout, EngineUnavailable, RateLimited
from samplewise.core.types import Json
from samplewise.engines.http.dialect.failures import explain_not_found
from samplewise.engines.http.dialect.profile import LIMIT_NOTE, Api, MaxTokensField, Profile
from samplewise.engines.http.dialect.refusals import FEWER_TOP, OTHER_NAME, refused_field
from samplewise.engines.http.dialect.replies import reported_usage
from samplewise.engines.http.dialect.requests import NEUTRAL
from samplewise.engines.http.probe import evidence
from samplewise.engines.http.transport.client import Client, Reply, was_sent
from samplewise.engines.http.transport.pace import retry_after_s

MAX_REQUESTS = 20  # that are answered
MAX_FAILED = 12  # that are not
MAX_ATTEMPTS = 5  # at one request
MAX_WAIT_S = 20.0  # for `Retry-After` in all; a server that asks for more is not waited for
PROMPT = "Write 8 random words, and nothing else."  # no preface, which would be the same every time
NUM_TOKENS, MORE_TOKENS = 8, 14  # of one draw; not 16, which some servers draw where they ignore the limit
NUM_CHOICES = 2  # per reply
FORM_TOKENS = 20  # enough for a color in JSON
TOP = 20  # alternatives asked for, the most that chat allows; completions once allowed `FEWER_TOP`
VERDICTS = {"seed": "seed", "n": "n", "logprobs": "logprobs", "return_token_ids": "token_ids_out"}
TRANSIENT = (408, 425, 429)  # statuses below 500 that may differ the next time


class _OutOfRequests(Exception):
    """The limits of the probe are reached."""


class _Answer(NamedTuple):
    num_listed: int  # choices in the reply, readable or not
    draws: list[evidence.ProbeDraw]


async def probe_endpoint(
    client: Client, model: str, api: Api, *, timeout_s: float = 60.0, backoff_s: float = 0.1
) -> Profile:
    """Return what the endpoint supports for this model. `timeout_s` limits one request.

    Raises EngineUnavailable or EngineTimeout if the endpoint cannot be reached or never answers, AuthError if it
    refuses the key, BadRequest if it has no such model or route.
    """
    return await _Prober(client, model, api, timeout_s, backoff_s).run()


class _Prober:
    def __init__(self, client: Client, model: str, api: Api, timeout_s: float, backoff_s: float) -> None:
        self._client, self._model, self._api = client, model, api
        self._timeout_s, self._backoff_s = timeout_s, backoff_s
        self._profile = Profile(api=api)
        self._num_answered = self._num_failed = 0
        self._error: EngineError | None = None  # the last
        self._refused: set[str] = set()  # by name
        self._suspects: set[str] = set()  # left out since the server refused something that it did not name
        self._max_tokens_field: MaxTokensField = "max_tokens"
        self._exceeds_limit = False
        self._top = TOP
        self._answers: list[_Answer] = []  # at temperature 1
        self._plausible: list[bool] = []  # usages
        self._ids: tuple[int, ...] | None = None  # of the prompt
        self._greedy_draw: evidence.ProbeDraw | None = None  # where greedy draws agree
        self._waited_s = 0.0

    async def run(self) -> Profile:
        for step in (self._draw, self._apart, self._hot, self._greedy, self._tokenize, self._draft, self._forms):
            try:
                await step()
            except _OutOfRequests:
                self._note("the probe reached its limits before it was done")
                break
        if not self._answers:
            raise self._error or EngineUnavailable(f"{self._client.shown} answered no request for completions")
        usage = evidence.combine_signs(self._plausible) if self._plausible else None
        if usage and not all(self._plausible):
            usage = None
            self._note("some replies count their tokens wrongly")
        if self._exceeds_limit:
            self._learn(max_tokens_field=None)
            self._note(LIMIT_NOTE)
        return self._profile._replace(usage=usage, refused=tuple(sorted(self._refused & NEUTRAL.keys())))

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _draw(self) -> None:
        """Draw at temperature 1: see what a reply holds, and when two texts are the same."""
        try:
            for seed in (1, 1, 2):
                await self._complete(seed, NUM_TOKENS)
            if evidence.honors_seed(self._draws) is None or evidence.looks_frozen(self._draws) is None:
                for _ in range(2):
                    await self._complete(2, MORE_TOKENS, key=-2)
        finally:
            self._conclude()

    @property
    def _draws(self) -> list[evidence.ProbeDraw]:
        return [draw for answer in self._answers for draw in answer.draws]

    def _conclude(self) -> None:
        draws, readable = self._draws, [answer.draws for answer in self._answers if answer.draws]
        combine = evidence.combine_signs
        findings: dict[str, Json] = {
            "n": combine([answer.num_listed > 1 for answer in self._answers]),
            "logprobs": combine([any(draw.logp is not None for draw in reply) for reply in readable]),
            "token_ids_out": combine([any(draw.tokens is not None for draw in reply) for reply in readable]),
            "seed": evidence.honors_seed(draws),
            "frozen_seed": evidence.looks_frozen(draws),
            "reasons": any(draw.reasons for draw in draws) or None,
        }
        findings |= {VERDICTS[name]: None for name in self._suspects & VERDICTS.keys()}
        findings |= {VERDICTS[name]: False for name in self._refused & VERDICTS.keys()}
        if evidence.are_alike(readable) and not findings["frozen_seed"]:
            findings["n"] = False
            self._note('the choices of one request are all the same: one request for each draw, as with n="never"')
        tops = [draw.num_top for draw in draws if draw.num_top is not None]
        findings["top_logprobs"] = max(tops) if tops else 0 if findings["logprobs"] is False else None
        self._learn(**findings)
        if findings["frozen_seed"]:
            self._note("draws of one prompt are all the same, whatever their seed")
        if findings["n"] and any(answer.num_listed != NUM_CHOICES for answer in self._answers):
            self._note("some replies hold more or fewer choices than were asked for")

    async def _apart(self) -> None:
        """Where every request gives the same list of draws: see whether single draws differ."""
        if not evidence.gives_one_list(self._draws):
            return
        listed, singles = len(self._answers), list[evidence.ProbeDraw]()
        for seed in (3, 4):
            answer = await self._complete(seed, MORE_TOKENS, num=1)
            singles += answer.draws[:1] if answer is not None else []
        self._answers = self._answers[:listed]
        frozen = evidence.looks_frozen(singles)
        self._learn(seed=False, frozen_seed=frozen)
        note = "every request gives the same list of draws, whatever its seed"
        if frozen is False:
            self._learn(n=False)
            self._note(f'{note}: one request for each draw, as with n="never"')
        else:
            self._note(f'{note}, and n="never" may not help: look for a fixed seed or a cache in front of the model')

    async def _hot(self) -> None:
        """Draw at temperature 2: see whether the log-probs are still the model's own."""
        if self._profile.logprobs is not True or "temperature" in self._refused:
            return
        plain = self._draws
        answer = await self._complete(3, NUM_TOKENS, temperature=2)
        if answer is not None and "temperature" not in self._refused:
            kind = evidence.keeps_logp(plain, answer.draws)
            self._learn(raw_logprobs={"raw": True, "tempered": False}.get(kind or ""))
            if kind == "tempered":
                self._note("its log-probs are those after the temperature: the model's own at temperature 1 alone")
            elif kind == "other":
                self._note(
                    "its log-probs at temperature 2 are neither the model's own nor those of the distribution drawn "
                    "from: relied on at temperature 1 alone"
                )

    async def _greedy(self) -> None:
        """Draw greedily, which is the same whatever the seed, and so tells a true continuation from a false one."""
        draws: list[evidence.ProbeDraw] = []
        for seed in (1, 2, 3, 4):
            if "temperature" not in self._refused and (seed < 3 or len({draw.shown for draw in draws}) > 1):
                answer = await self._complete(seed, MORE_TOKENS, temperature=0)
                draws += answer.draws if answer is not None else []
        are_equal = len({draw.shown for draw in draws}) == 1
        if "temperature" in self._refused:
            self._learn(temperature=False)
        elif len(draws) > 1:
            obeys = evidence.obeys_temperature(draws, self._draws)
            frozen = self._profile.frozen_seed is not False
            self._learn(temperature=None if frozen and obeys else obeys)
            if obeys and not are_equal:
                self._note("greedy draws differ now and then: a draw at temperature 0 may not be repeatable")
        if len(draws) > 1 and are_equal:
            self._greedy_draw = draws[0]
            await self._continue(draws[0])
            await self._by_ids(draws[0])
        else:
            await self._by_ids(None)

    async def _continue(self, whole: evidence.ProbeDraw) -> None:
        """Send the greedy text's first half as the beginning of a response, which its second half must follow."""
        beginning = evidence.first_half(whole.text)
        if beginning is None:
            return
        body = self._body(NUM_TOKENS // 2, 0)  # few, so that the limit on tokens shows
        if self._api == "chat":
            body["messages"] = [*body["messages"], {"role": "assistant", "content": beginning}]
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        else:
            body["prompt"] = PROMPT + beginning
        reply = await self._send(self._route, body)
        draws = evidence.probe_draws(reply.body, 0) if reply is not None and reply.status == 200 else []
        if reply is not None and _is_refused(reply):
            self._learn(continues=False)
        elif draws and reply is not None:
            self._check_limit(reply.body, draws, NUM_TOKENS // 2)
            self._learn(continues=evidence.continues_text(whole.text, beginning, draws[0].text))

    async def _by_ids(self, whole: evidence.ProbeDraw | None) -> None:
        """Continue the first half by token ids, and ask for the log-probs of the ids that are sent.

        Without ids to send this can only find that none are accepted.
        """
        tokens = whole.tokens if whole is not None and self._ids is not None else None
        half = len(tokens) // 2 if tokens is not None else 0
        ids = (*(self._ids or ()), *tokens[:half]) if tokens is not None else (1, 2, 3)
        body: dict[str, Json] = {"model": self._model, "prompt": list(ids), "max_tokens": 1}
        more: dict[str, Json] = {}
        if tokens is not None:
            body |= {"max_tokens": NUM_TOKENS, "temperature": 0, "return_token_ids": True}
            more = {"prompt_logprobs": 0}
            if self._profile.top_logprobs:
                more |= {"logprobs": self._profile.top_logprobs, "return_tokens_as_token_ids": True}
        findings: dict[str, Json] = {}
        while True:
            reply = await self._send("completions", body | more)
            if reply is None:
                return
            if reply.status not in (400, 422) or not (field := refused_field(reply.body, reply.text, more)):
                break
            findings |= {"likelihood": False} if field == "prompt_logprobs" else {"top_ids": False}
            others = () if field == "prompt_logprobs" else ("logprobs", "return_tokens_as_token_ids")
            more = {name: value for name, value in more.items() if name not in (field, *others)}
        if reply.status in (404, 405) or (reply.status in (400, 422) and "prompt" in reply.message):
            findings |= {"token_ids_in": False, "likelihood": False}
        elif reply.status == 200 and whole is not None and tokens is not None:
            draws = evidence.probe_draws(reply.body, 0)
            if draws and draws[0].tokens:
                num = min(len(tokens) - half, len(draws[0].tokens))
                findings["token_ids_in"] = draws[0].tokens[:num] == tokens[half : half + num]
            if "logprobs" in more:
                findings["top_ids"] = evidence.names_by_id(reply.body)
            logp = evidence.prompt_logp(reply.body, ids)
            pairs = zip((logp or ())[::-1], (whole.logp or ())[:half][::-1], strict=False)
            findings.setdefault("likelihood", logp is not None and all(abs(a - b) < 0.05 for a, b in pairs))
        self._learn(**findings)

    async def _tokenize(self) -> None:
        body = {name: value for name, value in self._body(0, 0).items() if name in ("model", "messages", "prompt")}
        reply = await self._send("//tokenize", body, attempts=2)  # a website may have a page there
        if reply is None:
            return
        tokens = reply.body.get("tokens") if reply.status == 200 and isinstance(reply.body, dict) else None
        ids = tuple(tokens) if isinstance(tokens, list) and all(isinstance(id, int) for id in tokens) else ()
        self._learn(tokenize=bool(ids) and self._ids in (None, ids))

    async def _draft(self) -> None:
        """See whether a logit bias forces a token, and whether token ids are given as text: drafts need both."""
        greedy = self._greedy_draw
        if greedy is None or not greedy.tokens or self._ids is None or self._profile.token_ids_in is not True:
            return
        drawn = (token for draw in (*self._draws, greedy) for token in draw.tokens or ())
        if (token := next((token for token in drawn if token != greedy.tokens[0]), None)) is not None:
            body = {"model": self._model, "prompt": list(self._ids), "max_tokens": 1, "temperature": 0}
            body |= {"return_token_ids": True, "logit_bias": {str(token): 100}}
            reply = await self._send("completions", body)
            draws = evidence.probe_draws(reply.body, 0) if reply is not None and reply.status == 200 else []
            if reply is not None:
                self._learn(
                    forces_token=draws[0].tokens == (token,) if draws else False if _is_refused(reply) else None
                )
        tokens = greedy.tokens[:-1] if greedy.finish == "stop" else greedy.tokens
        reply = await self._send("//detokenize", {"model": self._model, "tokens": list(tokens)}, attempts=2)
        if reply is not None:
            self._learn(detokenize=False if _is_refused(reply) else evidence.gives_text(reply.body, greedy))

    async def _forms(self) -> None:
        """Ask for a JSON schema and a tool call (chat only), which no model would give by itself."""
        if self._api != "chat":
            return
        schema = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": evidence.SCHEMA}}
        function = {"name": evidence.TOOL, "description": "Keeps a note.", "parameters": evidence.SCHEMA}
        forms: dict[str, tuple[dict[str, Json], Callable[[Json], bool | None]]] = {
            "json_schema": ({"response_format": schema}, evidence.follows_schema),
            "tools": (
                {
                    "tools": [{"type": "function", "function": function}],
                    "tool_choice": {"type": "function", "function": {"name": evidence.TOOL}},
                },
                evidence.calls_tool,
            ),
        }
        for name, (more, verdict) in forms.items():
            reply = await self._send(self._route, self._body(FORM_TOKENS, 0) | more)
            if reply is not None:
                self._learn(**{name: verdict(reply.body) if reply.status == 200 else False})

    # --- requests -----------------------------------------------------------------------------------------------------

    @property
    def _route(self) -> str:
        return "chat/completions" if self._api == "chat" else "completions"

    def _body(self, max_tokens: int, temperature: float) -> dict[str, Json]:
        """Return a body without anything that is refused."""
        body: dict[str, Json] = {"model": self._model}
        body |= {"messages": [{"role": "user", "content": PROMPT}]} if self._api == "chat" else {"prompt": PROMPT}
        body |= {self._max_tokens_field: max_tokens, "temperature": temperature, **NEUTRAL}
        return {name: value for name, value in body.items() if name not in self._refused}

    async def _complete(
        self,
        seed: int,
        max_tokens: int,
        *,
        temperature: float = 1,
        key: int | None = None,
        num: int = NUM_CHOICES,
    ) -> _Answer | None:
        """Draw with every feature on; what is refused is left out from then on. None if there is no answer.

        `key` replaces the seed where the draws must not be compared with shorter ones of that seed.
        """
        while True:
            more: dict[str, Json] = {"seed": seed, "return_token_ids": True}
            if temperature > 0 and num > 1:  # vLLM refuses several greedy draws
                more["n"] = num
            more |= {"logprobs": True, "top_logprobs": self._top} if self._api == "chat" else {"logprobs": self._top}
            more = {name: value for name, value in more.items() if name not in self._refused | self._suspects}
            reply = await self._send(self._route, self._body(max_tokens, temperature) | more)
            if reply is None:
                return None
            if reply.status == 200:
                return self._accept(reply.body, seed if key is None else key, max_tokens, temperature == 1)
            if reply.status not in (400, 422):
                await self._raise_refusal(reply)
                return None
            field = refused_field(reply.body, reply.text, self._body(max_tokens, temperature) | more)
            if field in OTHER_NAME:
                if self._refused & OTHER_NAME.keys():
                    await self._raise_refusal(reply)
                    return None
                self._refused.add(field)
                other: MaxTokensField = "max_tokens" if field == "max_completion_tokens" else "max_completion_tokens"
                self._max_tokens_field = other
                self._learn(max_tokens_field=other)
            elif field in ("logprobs", "top_logprobs") and self._top > FEWER_TOP:
                self._top = FEWER_TOP  # perhaps they were too many
            elif field is not None:
                self._refused |= {field, "top_logprobs"} if field == "logprobs" else {field}
            elif more:
                self._suspects |= more.keys()
                self._note(f"refuses a request and does not name what it refuses: {reply.message}")
            else:
                await self._raise_refusal(reply)
                return None

    def _accept(self, body: Json, key: int, max_tokens: int, plain: bool) -> _Answer:
        """Return what an accepted request gave, and learn from it."""
        draws = evidence.probe_draws(body, key)
        listed = body.get("choices") if isinstance(body, dict) else None
        answer = _Answer(len(listed) if isinstance(listed, list) else 0, draws)
        if draws:
            self._plausible.append(evidence.is_plausible(reported_usage(body), draws))
        self._ids = self._ids or evidence.prompt_ids(body)
        if self._check_limit(body, draws, max_tokens):  # shorter ones follow, with which these cannot be compared
            self._answers = [earlier._replace(draws=[]) for earlier in self._answers]
            answer = answer._replace(draws=[])
        if plain:
            self._answers.append(answer)
        return answer

    def _check_limit(self, body: Json, draws: list[evidence.ProbeDraw], max_tokens: int) -> bool:
        """Check whether the limit on tokens was kept, and ended a draw.

        Return True if the limit is sent by its other name from now on.
        """
        lengths = [len(draw.tokens or draw.logp or ()) for draw in draws]
        usage = reported_usage(body)
        if draws and not any(lengths) and evidence.is_plausible(usage, draws):
            lengths = [(usage.completion or 0) // len(draws)]
        if any(length > max_tokens for length in lengths):
            if self._max_tokens_field == "max_tokens" and self._refused.isdisjoint(OTHER_NAME):
                self._max_tokens_field = "max_completion_tokens"
                return True
            self._exceeds_limit = True
        elif max_tokens in lengths and any(draw.finish == "length" for draw in draws):
            self._learn(max_tokens_field=self._max_tokens_field)
        return False

    async def _raise_refusal(self, reply: Reply) -> None:
        """Raise the error that a refusal stands for, unless there have been answers already."""
        if self._answers:
            return
        message = f"{self._client.shown}/{self._route} says: {reply.message}"
        if reply.status in (401, 403):
            raise AuthError(message, hint="set OPENAI_API_KEY, or api_key=", status=reply.status)
        hint = await explain_not_found(self._client, self._model, self._api) if reply.status in (404, 405) else ""
        raise BadRequest(message, hint=hint, status=reply.status)

    async def _send(self, path: str, body: dict[str, Json], attempts: int = MAX_ATTEMPTS) -> Reply | None:
        """Return a reply that is an answer, possibly a refusal; None if several attempts gave none.

        A bad request that names no field is retried once: it may be a transient fault.
        """
        retried = False
        for attempt in range(attempts):
            if self._num_answered >= MAX_REQUESTS or self._num_failed >= MAX_FAILED:
                raise _OutOfRequests
            wait_s = self._backoff_s * 2**attempt
            try:
                reply = await asyncio.wait_for(self._client.post(path, body), self._timeout_s)
                if _is_refused(reply) or (
                    reply.status == 200 and isinstance(reply.body, dict) and "error" not in reply.body
                ):
                    self._num_answered += 1
                    if retried or reply.status not in (400, 422) or refused_field(reply.body, reply.text, body):
                        return reply
                    retried = True
                    continue
                why = f"{self._client.shown} answers with status {reply.status}: {reply.message}"
                self._error = RateLimited(why, status=429) if reply.status == 429 else EngineUnavailable(why)
                asked_s = retry_after_s(reply.headers) or 0.0
                if self._waited_s + asked_s > MAX_WAIT_S:
                    why = f"{why}; it asks for a pause of {asked_s:.0f} s"
                    self._error = type(self._error)(why, status=reply.status)
                    raise _OutOfRequests
                self._waited_s += asked_s
                wait_s = max(wait_s, asked_s)
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

    def _learn(self, **findings: Json) -> None:
        self._profile = self._profile._replace(**findings)

    def _note(self, note: str) -> None:
        self._profile = self._profile.with_note(note)


def _is_refused(reply: Reply) -> bool:
    """Return whether it is a refusal that will not change."""
    return 300 <= reply.status < 500 and reply.status not in TRANSIENT
