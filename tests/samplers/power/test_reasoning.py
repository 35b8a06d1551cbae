"""Power sampling of a model that reasons: what a chain or a particle ends as is cut as a whole, never a piece."""

from __future__ import annotations

from samplewise.core.keys import Key
from samplewise.core.types import Completion, Generate, Message, Question, Usage
from samplewise.engines.base import tell_reasoning
from samplewise.samplers.base import direct
from samplewise.samplers.power.response import continuation_of, response_candidate, splice
from samplewise.samplers.power.smc import smc

WORDS = ["is ", "it ", "#### 5? ", "No.", "</think>", "#### ", "391"]
QUESTION = Question("q", (Message("user", "17 * 23?"),))


def _answer(ask: Generate, tag: str, words: list[str]) -> Completion:
    """Return what an engine whose model writes `words`, one a token, says to an ask."""
    begin = len(ask.prefix)
    new = words[begin : begin + ask.max_tokens]
    ended = begin + len(new) == len(words)
    text = "".join(words[: begin + len(new)] if "whole" in ask.want else new)
    ids = tuple(range(begin, begin + len(new)))
    logp = (-1.0,) * len(new)
    whole = Completion(text, "stop" if ended else "length", Usage(1, 1, len(new)), ids, logp, logp, -1.0 * len(new))
    return tell_reasoning(whole, ask, tag)


def _particles(tag: str, words: list[str], max_tokens: int = 20) -> set[tuple[str, str, str]]:
    sampler = smc(3, 2, max_tokens=max_tokens, block=2)
    state, step = sampler.step(Key(0), sampler.init((direct(QUESTION),)), ())
    while step.asks:
        asks = [ask for ask in step.asks if isinstance(ask, Generate)]
        state, step = sampler.step(Key(0), state, [_answer(ask, tag, words) for ask in asks])
    return {(c.text, c.reasoning, c.finish) for c in sampler.pool(state).candidates}


def test_particles_are_cut_as_a_whole() -> None:
    """A block may end within the reasoning, or within the answer; the template may have opened the tag."""
    told = ("#### 391", "is it #### 5? No.", "stop")
    assert _particles("", ["<think>", *WORDS]) == {told}
    assert _particles("<think>", WORDS) == {told}
    assert _particles("", WORDS) == {told}


def test_a_particle_that_ends_while_reasoning_has_no_text() -> None:
    assert _particles("", ["<think>", *WORDS], 4) == {("", "is it #### 5?", "length")}
    assert _particles("<think>", WORDS, 3) == {("", "is it #### 5?", "length")}


def test_a_chains_response_keeps_its_reasoning() -> None:
    want = ("tokens", "logp", "logq")
    first = _answer(Generate(QUESTION.messages, max_tokens=20, want=want), "<think>", WORDS)
    second = _answer(Generate(QUESTION.messages, (0, 1, 2), max_tokens=17, want=(*want, "whole")), "<think>", WORDS)
    for completion, position, earlier in ((first, 0, None), (second, 3, first)):
        old = None
        if earlier is not None:
            drawn = continuation_of(earlier, (1.0,))
            assert drawn is not None
            old = splice(None, 0, earlier, drawn, 20)
        continuation = continuation_of(completion, (1.0,))
        assert continuation is not None
        response = splice(old, position, completion, continuation, 20)
        candidate = response_candidate(response, "direct")
        assert (candidate.text, candidate.reasoning) == ("#### 391", "is it #### 5? No.")
        assert candidate.num_tokens == len(WORDS)
