"""Turn results into replies of the OpenAI API: whole, in chunks, or an error. Pure.

`n` choices are the n best different answers of one pool, best first; where it holds fewer different ones, further
candidates follow. A plain model has no pool to choose from: its choices are its draws, in their order.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from samplewise.core.types import Candidate, Completion, Json, Pool, Selection, Usage
from samplewise.loop.result import Result
from samplewise.serve.fields import Route
from samplewise.serve.wire import RequestError

WORDS_PER_CHUNK = 8
MAX_ANSWER = 500  # characters of the answer as it was read
PLAIN_TYPES = frozenset((int, bool, type(None)))  # whose values JSON can hold, whatever they are
WORDS = re.compile(rf"(?:\s*\S+){{1,{WORDS_PER_CHUNK}}}\s*|\s+")


class TokenLogprob(NamedTuple):
    """A drawn token with its log-probability (nats), and the likeliest ones at its position."""

    token: str  # its text, or token_id:N where only its id is known
    logp: float
    top: tuple[tuple[str, float], ...] = ()


class FinalChoice(NamedTuple):
    """One of the n responses.

    What an endpoint itself replied has further `parts` of its message, calls of tools among them, and its log-probs as
    they came.
    """

    text: str
    finish: str = "stop"  # or "length"
    reasoning: str = ""
    logprobs: tuple[TokenLogprob, ...] | None = None
    parts: Mapping[str, Json] = {}
    raw_logprobs: Json = None


class Answer(NamedTuple):
    """What a request is answered with. `evidence` is the reply's field `samplewise`."""

    id: str
    created: int  # seconds since 1970
    model: str
    choices: tuple[FinalChoice, ...]
    usage: Usage
    evidence: Mapping[str, Json]


# --- which candidates -------------------------------------------------------------------------------------------------


def ranked_positions(
    pool: Pool,
    answers: Sequence[str | None],
    selection: Selection,
    n: int,
    *,
    verifier: str | None = None,
    in_order: bool = False,
) -> list[int]:
    """Return the positions of the n candidates to show, at most as many as there are.

    First the chosen one, then the best candidate of each other answer: by the weight that the selection gives to the
    answer, then its best score by `verifier`, then how often it was drawn, then the order of draws. Then further
    candidates, those of better answers first, and last those without a readable answer. With `in_order` the candidates
    are shown as they were drawn.
    """
    num = len(pool.candidates)
    if in_order:
        return list(range(min(n, num)))
    weights = selection.weights or (0.0,) * num
    scores = [_score(candidate, verifier) for candidate in pool.candidates]
    of_answer: dict[str, list[int]] = {}
    for position, answer in enumerate(answers):
        if answer is not None:
            of_answer.setdefault(answer, []).append(position)
    counts = Counter(answers)

    def order_of(answer: str) -> tuple[float, ...]:
        positions = of_answer[answer]
        weight, best = math.fsum(weights[i] for i in positions), max(scores[i] for i in positions)
        return (answer != selection.answer, -round(weight, 12), -best, -counts[answer], positions[0])

    firsts, others = [], []
    for answer in sorted(of_answer, key=order_of):
        positions = sorted(of_answer[answer], key=lambda i: (-scores[i], i))
        if answer == selection.answer and selection.position is not None:
            positions.remove(selection.position)
            positions.insert(0, selection.position)
        firsts.append(positions[0])
        others += positions[1:]
    unread = [position for position, answer in enumerate(answers) if answer is None]
    unread.sort(key=lambda i: (not pool.candidates[i].text.strip(), i))
    return [*firsts, *others, *unread][:n]


def _score(candidate: Candidate, verifier: str | None) -> float:
    score = candidate.scores.get(verifier, math.nan) if verifier is not None else math.nan
    return -math.inf if math.isnan(score) else score


def token_logprobs(completion: Completion, num_top: int) -> tuple[TokenLogprob, ...] | None:
    """Return the log-probs of a draw token by token, or None where they, or the tokens, are not known.

    A token's text is known if it is among the likeliest of its position; otherwise it is named by its id.
    """
    logp, tokens, tops = completion.logp, completion.tokens, completion.top
    if logp is None or (tops is not None and len(tops) != len(logp)):
        return None
    entries = []
    for position, value in enumerate(logp):
        top = tops[position] if tops is not None else ()
        text = next((text for text, listed in top if listed == value), None)
        if text is None:
            if tokens is None or len(tokens) != len(logp):
                return None
            text = f"token_id:{tokens[position]}"
        entries.append(TokenLogprob(text, value, top[:num_top]))
    return tuple(entries)


# --- evidence ---------------------------------------------------------------------------------------------------------


def evidence_of(
    result: Result,
    *,
    run: str,
    recipe: str,
    usage: Usage,
    paid: Usage,
    returned: frozenset[str] = frozenset(),
    verifier: str | None = None,
    is_plain: bool = False,
    **more: Json,
) -> dict[str, Json]:
    """Return what a reply says of its run: recipe, draws, agreement or score, why it stopped, what it cost.

    `agreement` is the share of all candidates that gave the chosen answer, None where nothing was chosen. `usage` is
    the cost of all that the answer rests on, `paid` what this request caused. Texts of candidates and votes are given
    only if they are among `returned`. `more` are further fields; None leaves one out.
    """
    num = len(result.pool.candidates)
    position = result.selection.position
    evidence: dict[str, Json] = {
        "run": run,
        "recipe": recipe,
        "draws": num,
        "failed": result.pool.num_failed,
        "answer": None if is_plain or result.answer is None else result.answer[:MAX_ANSWER],
        "agreement": None if is_plain or num < 2 else result.votes.get(result.answer or "", 0) / num,
        "stop": {"reason": result.stop.reason, "evidence": dict(result.stop.evidence)},
        "spent": _cost(usage),
        "paid": _cost(paid),
    }
    if result.num_unanswered:
        evidence["unanswered"] = result.num_unanswered
    if result.tied > 1:
        evidence["tied"] = result.tied
    if verifier is not None:
        evidence["score"] = None if position is None else result.pool.candidates[position].scores.get(verifier)
    if "votes" in returned:
        evidence["votes"] = result.votes
    if "candidates" in returned:
        evidence["candidates"] = result.to_dict()["candidates"]
    plain: dict[str, Json] = plain_json({**evidence, **{k: v for k, v in more.items() if v is not None}})
    return plain


def relayed_evidence(run: str, recipe: str, draws: int, usage: Usage, aside: str | None) -> dict[str, Json]:
    """Return what a reply says of a request that the endpoint answered as it stood. `recipe` is a plain draw's."""
    stop = {"reason": "finished", "evidence": {}}
    evidence: dict[str, Json] = {"run": run, "recipe": recipe, "draws": draws, "failed": 0, "answer": None}
    evidence |= {"agreement": None, "stop": stop, "spent": _cost(usage), "paid": _cost(usage), "relayed": True}
    plain: dict[str, Json] = plain_json({**evidence, **({"aside": aside} if aside else {})})
    return plain


def _cost(usage: Usage) -> dict[str, Json]:
    return {
        "requests": usage.requests,
        "tokens": usage.tokens,
        "usd": usage.usd if usage.usd else 0.0,
        "seconds": round(usage.seconds, 3),
    }


def plain_json(value: Json) -> Json:
    """Return a value that JSON and UTF-8 can hold: unknown numbers are None, halves of characters are replaced."""
    if isinstance(value, str):
        return without_halves(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict | Mapping):  # a dict is one at a glance
        items = {str(key): item if type(item) in PLAIN_TYPES else plain_json(item) for key, item in value.items()}
        return items if all(map(str.isascii, items)) else {without_halves(key): item for key, item in items.items()}
    return [plain_json(item) for item in value] if isinstance(value, list | tuple) else value


def without_halves(text: str) -> str:
    """Return the text, halves of characters (lone surrogates) replaced."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def header_text(text: str, most: int = 1000) -> str:
    """Return a text as a header may hold it: printable ASCII, other characters as \\u escapes."""
    if text.isascii() and text.isprintable():
        return text[:most].strip()
    escaped = text.encode("ascii", "backslashreplace").decode()
    return "".join(c if " " <= c <= "~" else " " for c in escaped)[:most].strip()


def headers_of(evidence: Mapping[str, Json]) -> dict[str, str]:
    """Return the headers that a reply with this evidence has."""
    headers = {
        "X-Samplewise-Run": str(evidence["run"]),
        "X-Samplewise-Recipe": header_text(str(evidence["recipe"])),
    }
    if "stop" in evidence:
        headers["X-Samplewise-Stop"] = header_text(str(evidence["stop"]["reason"]))
        headers["X-Samplewise-Draws"] = str(evidence["draws"])
        headers["X-Samplewise-Tokens"] = str(evidence["spent"]["tokens"])
    if evidence.get("agreement") is not None:
        headers["X-Samplewise-Agreement"] = f"{evidence['agreement']:.3f}"
    if evidence.get("aside"):
        headers["X-Samplewise-Aside"] = header_text(str(evidence["aside"]))
    return headers


# --- bodies -----------------------------------------------------------------------------------------------------------


def usage_json(usage: Usage) -> dict[str, Json]:
    """Return the tokens of the whole run, helpers, judges and failed attempts included."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def reply_json(answer: Answer, route: Route) -> dict[str, Json]:
    """Return the body of a reply that is not streamed."""
    choices = [
        _chat_choice(index, choice) if route == "chat" else _text_choice(index, choice)
        for index, choice in enumerate(answer.choices)
    ]
    kind = "chat.completion" if route == "chat" else "text_completion"
    return {**_head(answer, kind), "choices": choices, "usage": usage_json(answer.usage), "samplewise": answer.evidence}


def _head(answer: Answer, kind: str) -> dict[str, Json]:
    return {
        "id": answer.id,
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "system_fingerprint": None,
    }


def _chat_choice(index: int, choice: FinalChoice) -> dict[str, Json]:
    text = without_halves(choice.text)
    content = None if choice.parts.get("tool_calls") and not text else text
    message: dict[str, Json] = {"role": "assistant", "content": content, "refusal": None}
    if choice.reasoning:
        message["reasoning_content"] = without_halves(choice.reasoning)
    return {
        "index": index,
        "message": {**message, **plain_json(choice.parts)},
        "logprobs": plain_json(choice.raw_logprobs) or _chat_logprobs(choice.logprobs),
        "finish_reason": choice.finish,
    }


def _text_choice(index: int, choice: FinalChoice) -> dict[str, Json]:
    return {
        "index": index,
        "text": without_halves(choice.text),
        "logprobs": _text_logprobs(choice.logprobs),
        "finish_reason": choice.finish,
    }


def _chat_logprobs(entries: tuple[TokenLogprob, ...] | None) -> Json:
    if entries is None:
        return None
    return {"content": [{**_entry(e.token, e.logp), "top_logprobs": [_entry(*t) for t in e.top]} for e in entries]}


def _entry(token: str, logp: float) -> dict[str, Json]:
    is_id = token.startswith("token_id:")
    return {
        "token": without_halves(token),
        "logprob": logp,
        "bytes": None if is_id else list(without_halves(token).encode()),
    }


def _text_logprobs(entries: tuple[TokenLogprob, ...] | None) -> Json:
    if entries is None:
        return None
    offsets, offset = [], 0
    for entry in entries:
        offsets.append(offset)
        offset += len(entry.token)
    tops = [{without_halves(token): logp for token, logp in entry.top} for entry in entries]
    return {
        "tokens": [without_halves(entry.token) for entry in entries],
        "token_logprobs": [entry.logp for entry in entries],
        "top_logprobs": tops if any(tops) else None,
        "text_offset": offsets,
    }


def reply_chunks(
    answer: Answer, route: Route, *, include_usage: bool = False, is_begun: bool = False
) -> Iterator[dict[str, Json]]:
    """Yield the chunks of a streamed reply: role, text in chunks of words, the end of each choice, then the usage.

    The evidence rides on the last choice's end. `is_begun`: a chunk with the first choice's role was sent before.
    """
    head = _head(answer, "chat.completion.chunk" if route == "chat" else "text_completion")
    if include_usage:
        head["usage"] = None
    for index, choice in enumerate(answer.choices):
        is_last = index == len(answer.choices) - 1
        for delta, logprobs in _deltas(choice, route, has_role=is_begun and index == 0):
            yield {**head, "choices": [_delta_choice(index, delta, logprobs, None, route)]}
        end = _delta_choice(index, {} if route == "chat" else {"text": ""}, None, choice.finish, route)
        yield {**head, "choices": [end], **({"samplewise": answer.evidence} if is_last else {})}
    if include_usage:
        yield {**head, "choices": [], "usage": usage_json(answer.usage)}


def _deltas(choice: FinalChoice, route: Route, has_role: bool) -> Iterator[tuple[dict[str, Json], Json]]:
    """Yield what each chunk of a choice adds, with the log-probs of all tokens beside the first piece of text."""
    if route == "chat":
        if not has_role:
            yield {"role": "assistant", "content": ""}, None
        for piece in pieces(choice.reasoning):
            yield {"reasoning_content": piece}, None
        for name, value in plain_json(choice.parts).items():
            is_list = name == "tool_calls" and isinstance(value, list)
            yield {name: [_numbered(i, call) for i, call in enumerate(value)] if is_list else value}, None
    logprobs = _chat_logprobs(choice.logprobs) if route == "chat" else _text_logprobs(choice.logprobs)
    logprobs = plain_json(choice.raw_logprobs) or logprobs
    for piece in pieces(choice.text) or ([""] if logprobs else []):
        yield {"content" if route == "chat" else "text": piece}, logprobs
        logprobs = None


def _numbered(index: int, call: Json) -> Json:
    """Return a call of a tool as a stream has it: with its index."""
    return {"index": index, **call} if isinstance(call, dict) else call


def pieces(text: str) -> list[str]:
    """Return the text in pieces of a few words, which join to it."""
    return WORDS.findall(without_halves(text))


def _delta_choice(
    index: int, delta: dict[str, Json], logprobs: Json, finish: str | None, route: Route
) -> dict[str, Json]:
    content = {"delta": delta} if route == "chat" else delta
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish}


def progress_chunk(answer_head: Answer, text: str, *, is_first: bool) -> dict[str, Json]:
    """Return a chunk that says how a run gets on, as reasoning. `answer_head` has no choices yet."""
    role = {"role": "assistant", "content": ""} if is_first else {}
    choice = _delta_choice(0, {**role, "reasoning_content": text}, None, None, "chat")
    return {**_head(answer_head, "chat.completion.chunk"), "choices": [choice]}


def piece_chunk(
    answer_head: Answer, route: Route, text: str, is_reasoning: bool, *, is_first: bool
) -> dict[str, Json] | None:
    """Return a chunk with a piece of the one choice as it is drawn. None for reasoning on a route that has none."""
    if route == "chat":
        role = {"role": "assistant", "content": ""} if is_first else {}
        delta = {**role, "reasoning_content" if is_reasoning else "content": without_halves(text)}
        choice, kind = _delta_choice(0, delta, None, None, "chat"), "chat.completion.chunk"
    elif is_reasoning:
        return None
    else:
        choice, kind = _delta_choice(0, {"text": without_halves(text)}, None, None, route), "text_completion"
    return {**_head(answer_head, kind), "choices": [choice]}


def error_json(error: RequestError) -> dict[str, Json]:
    """Return the body of an error."""
    return {
        "error": {
            "message": without_halves(error.message),
            "type": error.kind,
            "param": None if error.param is None else without_halves(error.param),
            "code": error.code,
        }
    }


def error_headers(error: RequestError) -> dict[str, str]:
    """Return the headers of an error: when to try again, and whether at all."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    if error.retry is not None:
        headers["x-should-retry"] = "true" if error.retry else "false"
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return headers
