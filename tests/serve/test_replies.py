"""Replies: which candidates, what evidence, and the bytes that clients read."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplewise.core.bill import CostSplit
from samplewise.core.keys import Key
from samplewise.core.types import Candidate, Completion, Pool, Question, Selection, Stop, Usage
from samplewise.loop.result import Result
from samplewise.select.best import best
from samplewise.select.votes import vote, weighted
from samplewise.serve import replies
from samplewise.serve.replies import Answer, FinalChoice, TokenLogprob, ranked_positions
from samplewise.serve.wire import RequestError

USAGE = Usage(3, 10, 7, cached_tokens=4, reasoning_tokens=2, usd=0.5, seconds=1.25)
EVIDENCE = {"run": "r1", "recipe": "repeat(2) | vote"}


def pool(answers: Sequence[str | None], scores: Sequence[float] | None = None) -> Pool:
    """Return candidates whose texts say what they answer and where they stand."""
    return Pool(
        tuple(
            Candidate(f"{answer}@{i}" if answer else "", scores={} if scores is None else {"v": scores[i]})
            for i, answer in enumerate(answers)
        )
    )


def ranked(answers: Sequence[str | None], n: int, selector: Any = None, scores: Sequence[float] | None = None) -> Any:
    drawn = pool(answers, scores)
    selection = (selector or vote()).choose(Key(0), drawn, tuple(answers))
    verifier = None if scores is None else "v"
    return selection, ranked_positions(drawn, tuple(answers), selection, n, verifier=verifier)


# --- which candidates -------------------------------------------------------------------------------------------------


def test_a_vote_shows_the_most_frequent_answers_first() -> None:
    answers = ("b", "a", "c", "a", None, "b", "a")
    assert ranked(answers, 1)[1] == [1]
    assert ranked(answers, 3)[1] == [1, 0, 2]
    assert ranked(answers, 7)[1] == [1, 0, 2, 3, 6, 5, 4]


def test_best_shows_the_best_candidate_of_each_answer() -> None:
    answers = ("a", "b", "a", "c", "b")
    scores = (0.1, 0.7, 0.9, 0.2, 0.8)
    assert ranked(answers, 5, best("v"), scores)[1] == [2, 4, 3, 0, 1]
    assert ranked(answers, 2, best("v"), scores)[1] == [2, 4]


def test_weights_go_before_scores() -> None:
    """Three votes of 0.3 outweigh one of 0.8, and the best of the three stands for them."""
    answers = ("b", "a", "a", "a")
    scores = (0.8, 0.3, 0.35, 0.3)
    assert ranked(answers, 4, weighted("v"), scores)[1][:2] == [1, 0]
    assert ranked(("c", "b", "a", "a"), 3, weighted("v"), (0.1, 0.2, 0.9, 0.9))[1] == [2, 1, 0]


def test_a_weighted_vote_ranks_by_weight_before_the_best_score() -> None:
    """Two votes of 0.3 outweigh one of 0.5, also for the second place."""
    answers = ("c", "b", "a", "a", "b")
    assert ranked(answers, 3, weighted("v"), (0.5, 0.3, 0.9, 0.9, 0.3))[1] == [2, 1, 0]


def test_unscored_candidates_come_last() -> None:
    assert ranked(("a", "b", "c"), 3, best("v"), (math.nan, 0.5, math.nan))[1] == [1, 0, 2]
    assert ranked(("a", "b", "c", "d"), 4, best("v"), (math.nan, 0.1, 0.5, math.nan))[1] == [2, 1, 0, 3]


def test_a_pool_without_an_answer_is_shown_all_the_same() -> None:
    drawn = Pool((Candidate(""), Candidate("x"), Candidate(" ")))
    chosen = ranked_positions(drawn, (None, None, None), Selection(None, None, (0.0, 0.0, 0.0)), 2)
    assert chosen == [1, 0]
    assert ranked_positions(Pool(), (), Selection(None, None), 3) == []


def test_a_plain_models_draws_are_shown_as_they_were_drawn() -> None:
    answers = ("b", "a", "a")
    selection = vote().choose(Key(0), pool(answers), answers)
    assert ranked_positions(pool(answers), answers, selection, 2, in_order=True) == [0, 1]


@given(
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=9),
    st.lists(st.floats(0, 1) | st.just(math.nan), min_size=9, max_size=9),
    st.integers(1, 12),
    st.booleans(),
)
def test_the_first_n_are_distinct_answers_and_the_first_is_the_chosen(
    answers: list[str | None], scores: list[float], n: int, is_vote: bool
) -> None:
    selection, positions = ranked(answers, n, vote() if is_vote else best("v"), scores[: len(answers)])
    assert len(positions) == min(n, len(answers)) == len(set(positions))
    if selection.position is not None:
        assert positions[0] == selection.position
    num_different = len(set(answers) - {None})
    shown = [answers[i] for i in positions[:num_different]]
    assert len(set(shown)) == len(shown)
    assert None not in shown
    counts = Counter(answers)
    if is_vote:
        assert [counts[answer] for answer in shown] == sorted((counts[answer] for answer in shown), reverse=True)
    assert ranked(answers, n + 1, vote() if is_vote else best("v"), scores[: len(answers)])[1][:n] == positions


# --- log-probs --------------------------------------------------------------------------------------------------------


def test_tokens_are_named_by_the_likeliest_or_by_their_ids() -> None:
    top = ((("a", -0.1), ("b", -2.0)), (("c", -0.2),))
    drawn = Completion("bz", "stop", tokens=(5, 9), logp=(-2.0, -3.0), top=top)
    assert replies.token_logprobs(drawn, 1) == (
        TokenLogprob("b", -2.0, (("a", -0.1),)),
        TokenLogprob("token_id:9", -3.0, (("c", -0.2),)),
    )
    assert replies.token_logprobs(drawn._replace(top=None), 0) == (
        TokenLogprob("token_id:5", -2.0),
        TokenLogprob("token_id:9", -3.0),
    )


def test_log_probs_that_are_not_known_are_not_shown() -> None:
    drawn = Completion("bz", "stop", tokens=(5, 9), logp=(-2.0, -3.0))
    assert replies.token_logprobs(drawn._replace(logp=None), 0) is None
    assert replies.token_logprobs(drawn._replace(tokens=None), 0) is None
    assert replies.token_logprobs(drawn._replace(tokens=(5,)), 0) is None
    assert replies.token_logprobs(drawn._replace(top=((("a", -2.0),),)), 0) is None


# --- bodies -----------------------------------------------------------------------------------------------------------

LOGPROBS = (TokenLogprob("ä", -0.5, (("ä", -0.5), ("b", -1.0))), TokenLogprob("token_id:7", -2.0))
ANSWER = Answer("id1", 123, "m", (FinalChoice("hello", "stop", "hm", LOGPROBS), FinalChoice("x", "length")), USAGE, {})


def test_a_chat_reply() -> None:
    body = replies.reply_json(ANSWER._replace(evidence=EVIDENCE), "chat")
    assert json.loads(json.dumps(body, allow_nan=False)) == {
        "id": "id1",
        "object": "chat.completion",
        "created": 123,
        "model": "m",
        "system_fingerprint": None,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hello", "refusal": None, "reasoning_content": "hm"},
                "logprobs": {
                    "content": [
                        {
                            "token": "ä",
                            "logprob": -0.5,
                            "bytes": [0xC3, 0xA4],
                            "top_logprobs": [
                                {"token": "ä", "logprob": -0.5, "bytes": [0xC3, 0xA4]},
                                {"token": "b", "logprob": -1.0, "bytes": [0x62]},
                            ],
                        },
                        {"token": "token_id:7", "logprob": -2.0, "bytes": None, "top_logprobs": []},
                    ]
                },
                "finish_reason": "stop",
            },
            {
                "index": 1,
                "message": {"role": "assistant", "content": "x", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            },
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 7,
            "total_tokens": 17,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 2},
        },
        "samplewise": EVIDENCE,
    }


def test_a_text_reply() -> None:
    body = replies.reply_json(ANSWER, "completions")
    assert body["object"] == "text_completion"
    assert body["choices"][0] == {
        "index": 0,
        "text": "hello",
        "logprobs": {
            "tokens": ["ä", "token_id:7"],
            "token_logprobs": [-0.5, -2.0],
            "top_logprobs": [{"ä": -0.5, "b": -1.0}, {}],
            "text_offset": [0, 1],
        },
        "finish_reason": "stop",
    }
    assert body["choices"][1] == {"index": 1, "text": "x", "logprobs": None, "finish_reason": "length"}


def test_a_chat_stream_in_its_order() -> None:
    chunks = list(replies.reply_chunks(ANSWER._replace(evidence=EVIDENCE), "chat", include_usage=True))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["usage"] for chunk in chunks] == [None] * (len(chunks) - 1) + [replies.usage_json(USAGE)]
    listed = [(c["index"], c["delta"], bool(c["logprobs"]), c["finish_reason"]) for k in chunks for c in k["choices"]]
    assert listed == [
        (0, {"role": "assistant", "content": ""}, False, None),
        (0, {"reasoning_content": "hm"}, False, None),
        (0, {"content": "hello"}, True, None),
        (0, {}, False, "stop"),
        (1, {"role": "assistant", "content": ""}, False, None),
        (1, {"content": "x"}, False, None),
        (1, {}, False, "length"),
    ]
    assert [index for index, chunk in enumerate(chunks) if "samplewise" in chunk] == [6]
    assert chunks[6]["samplewise"] == EVIDENCE
    assert chunks[7]["choices"] == []


def test_a_text_stream_in_its_order() -> None:
    chunks = list(replies.reply_chunks(ANSWER, "completions"))
    assert [(c["index"], c["text"], c["finish_reason"]) for chunk in chunks for c in chunk["choices"]] == [
        (0, "hello", None),
        (0, "", "stop"),
        (1, "x", None),
        (1, "", "length"),
    ]
    assert not any("usage" in chunk for chunk in chunks)


def test_a_stream_that_has_begun_sends_no_second_role() -> None:
    begun = list(replies.reply_chunks(ANSWER, "chat", is_begun=True))
    roles = [choice["index"] for chunk in begun for choice in chunk["choices"] if "role" in choice["delta"]]
    assert roles == [1]
    first = replies.progress_chunk(ANSWER, "3 draws\n", is_first=True)["choices"][0]["delta"]
    assert first == {"role": "assistant", "content": "", "reasoning_content": "3 draws\n"}
    later = replies.progress_chunk(ANSWER, "4 draws\n", is_first=False)["choices"][0]["delta"]
    assert later == {"reasoning_content": "4 draws\n"}


def test_log_probs_of_an_empty_text_are_sent() -> None:
    answer = ANSWER._replace(choices=(FinalChoice("", logprobs=LOGPROBS),))
    sent = [choice["logprobs"] for chunk in replies.reply_chunks(answer, "chat") for choice in chunk["choices"]]
    assert len([logprobs for logprobs in sent if logprobs]) == 1


@given(st.text(st.characters(codec=None) | st.sampled_from(" \n\t"), max_size=200))
def test_pieces_join_to_the_text(text: str) -> None:
    parts = replies.pieces(text)
    assert "".join(parts) == replies.without_halves(text)
    assert all(parts)
    assert all(len(part.split()) <= replies.WORDS_PER_CHUNK for part in parts)


def test_words_are_not_cut() -> None:
    words = [f"w{i}" for i in range(20)]
    assert [part.split() for part in replies.pieces(" ".join(words))] == [words[:8], words[8:16], words[16:]]


# --- evidence, headers, errors ----------------------------------------------------------------------------------------


def result(answers: tuple[str | None, ...], **fields: Any) -> Result:
    drawn = pool(answers)
    selection = vote().choose(Key(0), drawn, answers)
    bill = CostSplit(draws=(Usage(1, 2, 3),) * len(answers))
    base = Result(Question("q", ()), selection.answer, drawn, answers, selection, USAGE, USAGE, Stop("finished"))
    return base._replace(bill=bill, **fields)


def evidence(of: Result, **fields: Any) -> dict[str, Any]:
    return replies.evidence_of(of, run="r1", recipe="line", usage=USAGE, paid=Usage(1, 2, 3), **fields)


def test_evidence_of_a_vote() -> None:
    stop = Stop("settled", {"rule": "lead", "p": math.nan})
    assert evidence(result(("a", "b", "a", None), stop=stop)) == {
        "run": "r1",
        "recipe": "line",
        "draws": 4,
        "failed": 0,
        "answer": "a",
        "agreement": 0.5,
        "stop": {"reason": "settled", "evidence": {"rule": "lead", "p": None}},
        "spent": {"requests": 3, "tokens": 17, "usd": 0.5, "seconds": 1.25},
        "paid": {"requests": 1, "tokens": 5, "usd": 0.0, "seconds": 0.0},
    }


def test_evidence_on_demand() -> None:
    shown = evidence(result(("a", "b", "a")), returned=frozenset({"votes", "candidates"}), aside=None, resumed=True)
    assert shown["votes"] == {"a": 2, "b": 1}
    assert [candidate["text"] for candidate in shown["candidates"]] == ["a@0", "b@1", "a@2"]
    assert shown["resumed"] is True
    assert "aside" not in shown
    assert {"votes", "candidates"}.isdisjoint(evidence(result(("a", "b", "a"))))


def test_a_single_draw_agrees_with_nobody() -> None:
    assert evidence(result(("a",)))["agreement"] is None
    plain = evidence(result(("a", "a")), is_plain=True)
    assert (plain["answer"], plain["agreement"]) == (None, None)
    assert evidence(result((None, None)))["agreement"] == 0


def test_evidence_is_plain_and_bounded() -> None:
    shown = evidence(result(("x" * 9999, "\ud800", "\ud800")), returned=frozenset({"votes"}))
    json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()
    assert shown["answer"] == "\ufffd"
    assert len(evidence(result(("x" * 9999,)))["answer"]) == replies.MAX_ANSWER
    unpriced = replies.evidence_of(
        result(("a",)), run="r", recipe="l", usage=USAGE._replace(usd=math.nan), paid=Usage()
    )
    assert unpriced["spent"]["usd"] is None


def test_the_score_of_the_chosen_one() -> None:
    scored = result(("a", "b"))
    candidates = tuple(c._replace(scores={"v": s}) for c, s in zip(scored.pool.candidates, (0.25, 0.5), strict=True))
    scored = scored._replace(pool=Pool(candidates), selection=Selection("b", 1, (0.0, 1.0)))
    assert evidence(scored, verifier="v")["score"] == 0.5
    assert "score" not in evidence(scored)


def test_headers_say_the_main_points() -> None:
    shown = evidence(result(("a", "b", "a", "c")), aside="temperature")
    assert replies.headers_of(shown) == {
        "X-Samplewise-Run": "r1",
        "X-Samplewise-Recipe": "line",
        "X-Samplewise-Stop": "finished",
        "X-Samplewise-Draws": "4",
        "X-Samplewise-Tokens": "17",
        "X-Samplewise-Agreement": "0.500",
        "X-Samplewise-Aside": "temperature",
    }
    assert replies.headers_of({**EVIDENCE, "aside": None}) == {
        "X-Samplewise-Run": "r1",
        "X-Samplewise-Recipe": "repeat(2) | vote",
    }


@given(st.text(max_size=50))
def test_no_text_breaks_a_header(text: str) -> None:
    shown = replies.header_text(text)
    assert shown.isascii()
    assert not any(ord(character) < 32 or ord(character) == 127 for character in shown)


def test_errors_have_the_apis_shape() -> None:
    error = RequestError("no\nway", status=429, param="n", code="c", retry=True, retry_after_s=0.2)
    assert replies.error_json(error) == {
        "error": {"message": "no way", "type": "rate_limit_error", "param": "n", "code": "c"}
    }
    assert replies.error_headers(error) == {"Retry-After": "1", "x-should-retry": "true"}
    assert replies.error_headers(RequestError("x", status=401)) == {"WWW-Authenticate": "Bearer"}
    assert replies.error_headers(RequestError("x", retry=False)) == {"x-should-retry": "false"}
    assert replies.error_headers(RequestError("x", retry_after_s=2.1)) == {"Retry-After": "3"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_types_of_errors(status: int, kind: str) -> None:
    assert RequestError("x", status=status).kind == kind
