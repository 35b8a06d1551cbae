"""Serves recorded draws of real models as if drawn now: real data to choose stop rules and selectors on.

Nothing is invented. A prompt that was not recorded, more draws than there are, another temperature, a prefix or a
likelihood is a failed ask that says so. `max_tokens` does not cut a recorded response; a stop string does.

Without replacement, draw `ask.draw` of a question is draw `ask.draw` of its recorded draws in a seeded order: another
`seed` gives another order, as if the experiment had been repeated on the same draws. With replacement each ask picks by
its own seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import AsyncIterator, Sequence

from samplewise.core.errors import BadRequest
from samplewise.core.keys import Key
from samplewise.core.registry import build
from samplewise.core.text import cut_at_stop, find_stop
from samplewise.core.types import Ask, Capability, Completion, Generate, Message, Sampling, Usage
from samplewise.engines.base import Arrival, Engine, failed
from samplewise.recorded import Draw, Recording, load_recording

MAX_NOTES = 3
PLAIN = Sampling()  # what a sampler asks for by default


class Replay(Engine):
    """An engine over a recording. Costs are the recorded ones, or estimates where none were recorded."""

    def __init__(self, recording: Recording, *, seed: int = 0, replace: bool = False) -> None:
        self.recording = recording
        self._replace, self._key = replace, Key(seed).fold("replay")
        self._draws: dict[tuple[Message, ...], list[Draw]] = {}
        content = hashlib.blake2b(digest_size=6)
        for problem, draws in zip(recording.problems, recording.draws, strict=True):
            self._draws.setdefault(problem.question.messages, []).extend(draws)
            for draw in draws:
                text = draw.completion.text if draw.completion.raw is None else draw.completion.raw
                content.update(text.encode(errors="surrogatepass") + b"\0")
        self._orders: dict[tuple[tuple[Message, ...], Sampling], tuple[Draw, ...]] = {}
        self._refused: dict[str, int] = {}  # reason -> number of asks
        every = [draw.completion for draws in recording.draws for draw in draws]
        self._can = frozenset(
            {Capability.GENERATE, Capability.SEED}
            | ({Capability.TOKENS} if all(c.tokens is not None for c in every) else set())
            | ({Capability.LOGP} if all(c.logp is not None for c in every) else set())
        )
        self._has_logp = any(not math.isnan(c.logp_sum) for c in every)
        self.name = f"replay({recording.name}, seed={seed}{', replace=True' if replace else ''})"
        self.identity = f"{self.name} {content.hexdigest()}"

    @property
    def can(self) -> frozenset[Capability]:
        return self._can

    def why_no_logp(self, sampling: Sampling) -> str:
        """Return why recorded draws cannot be scored by their log-probs, "" if some have been recorded with them."""
        return "" if self._has_logp else "was recorded without log-probs"

    @property
    def notes(self) -> tuple[str, ...]:
        """Why asks failed, the most frequent reason first: a line for each of `MAX_NOTES`, and one for the rest."""
        most = sorted(self._refused.items(), key=lambda each: -each[1])
        left = sum(num for _, num in most[MAX_NOTES:])
        lines = [f"{num} {'request' if num == 1 else 'requests'} failed: {why}" for why, num in most[:MAX_NOTES]]
        return (*lines, *([f"{left} more failed, for {len(most) - MAX_NOTES} other reasons"] if left else []))

    def worst_case(self, ask: Ask) -> Usage:
        usages = [draw.completion.usage for draw in self._draws.get(ask.messages, ())]
        return Usage(
            requests=1,
            prompt_tokens=max((usage.prompt_tokens for usage in usages), default=0),
            completion_tokens=max((usage.completion_tokens for usage in usages), default=0),
        )

    def may_bill(self, ask: Ask) -> bool:
        """Return False: this process computes, so nobody bills what it is not asked to finish."""
        return False

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            yield Arrival(position, self.one(ask))

    def one_of(self, messages: tuple[Message, ...], number: int) -> Draw:
        """Return the recorded draw that is served as draw `number` of a prompt, with its grade and scores."""
        return self._order(messages, PLAIN)[number]

    def one(self, ask: Ask) -> Completion:
        """Return the completion of one ask."""
        if not isinstance(ask, Generate) or ask.prefix or ask.reject_below is not None or ask.forbid_first is not None:
            return self._refuse("a replay serves whole responses only: no likelihoods, prefixes or rejection bounds")
        order = self._order(ask.messages, ask.sampling)
        if not order:
            return self._refuse(self._why_none(ask))
        if self._replace:
            index = int(Key(ask.seed).fold("replay").generator().integers(len(order)))
        elif ask.draw < len(order):
            index = ask.draw
        else:
            return self._refuse(
                f"{self.recording.name} has {len(order)} draws of this prompt, and draw {ask.draw + 1} was asked for; "
                "ask for fewer, or draw with replacement: replace=True"
            )
        return _cut(order[index].completion, ask)

    def _refuse(self, why: str) -> Completion:
        self._refused[why] = self._refused.get(why, 0) + 1
        return failed(BadRequest(why))

    def _order(self, messages: tuple[Message, ...], sampling: Sampling) -> tuple[Draw, ...]:
        """Return the draws that fit, in the order in which they are served."""
        if (messages, sampling) not in self._orders:
            fitting = [draw for draw in self._draws.get(messages, ()) if self._fits(draw, sampling)]
            key = self._key.fold(*(part for message in messages for part in message))
            order = key.generator().permutation(len(fitting)).tolist()
            self._orders[messages, sampling] = tuple(fitting[index] for index in order)
        return self._orders[messages, sampling]

    def _fits(self, draw: Draw, sampling: Sampling) -> bool:
        if self.recording.is_exact:
            return draw.sampling == sampling
        return sampling in (PLAIN, draw.sampling)

    def _why_none(self, ask: Generate) -> str:
        if ask.messages in self._draws:
            samplings = {draw.sampling for draw in self._draws[ask.messages]}
            recorded = ", ".join(sorted(_in_words(sampling) for sampling in samplings))
            return f"{self.recording.name} was recorded at {recorded}, not at {_in_words(ask.sampling)}"
        asked = ask.messages[-1].content if ask.messages else ""
        return f"{self.recording.name} has no draws of the prompt {' '.join(asked.split())[:60]!r}"


def _in_words(sampling: Sampling | None) -> str:
    if sampling is None:
        return "settings that are not known"
    changed = [f"{name}={value}" for name, value in sampling._asdict().items() if value != PLAIN._asdict()[name]]
    return " ".join(changed) or "temperature=1"


def _cut(completion: Completion, ask: Generate) -> Completion:
    """Return the completion up to the first stop string, with the arrays that are wanted."""
    if find_stop(completion.text, ask.stop) >= 0:
        completion = completion._replace(text=cut_at_stop(completion.text, ask.stop), finish="stop")
    return completion._replace(
        tokens=completion.tokens if "tokens" in ask.want else None,
        logp=completion.logp if "logp" in ask.want else None,
        logq=completion.logq if "logq" in ask.want else None,
        raw=completion.raw if "tokens" in ask.want else None,
    )


def replay(
    recording: str, *, seed: int = 0, replace: bool = False, task: str | None = None, engine: str = ""
) -> Replay:
    """Recorded draws of a real model, as an engine: a published folder, a JSON-lines file, or a samplewise store.

    `task` names the problems of a file with ids and no prompts. Costs nothing; the recorded usage is counted.
    """
    problems = build("task", task).problems if task else ()
    return Replay(load_recording(recording, problems, engine), seed=seed, replace=replace)
