"""A synthetic model in which every probability is known: text in, text out, behind the ordinary engine interface.

A question has one right *mode* (a way to solve it) and an ease s. An arm shifts which mode a response tries: arm j
tries mode m with probability modes_j(m), and a response that tries the right mode is right with probability s times the
arm's fidelity. So P(right) = s_r fidelity_j modes_j(mode_r) on question r, and every estimator of `samplewise.measure`
can be compared with the truth, on simulated counts (`World.success`) or on texts drawn through the loop (`Policy`).

Prompts describe themselves with tags anywhere in their text: [question 17], [arm mode/3], [idea 3:841], and the task
with [task idea], [task rephrase] or [task judge]. Without a task tag the task is to answer; without an arm tag the arm
is direct. Answers are 0 to 9, in a line "Answer: 7".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from samplewise.core.errors import BadRequest
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats
from samplewise.core.types import Ask, Capability, Completion, Generate, Message, Problem, Question, Usage
from samplewise.engines.base import Arrival, Engine, failed
from samplewise.samplers.base import Variant
from samplewise.vary.base import PlainArm

NUM_ANSWERS = 10
NUM_NODES = 100  # of the quadrature over ease: exact up to 199 draws
MODE_LAW = (0.35, 0.2, 0.15, 0.12, 0.1, 0.08)
DIRECT = (0.8, 0.1, 0.05, 0.03, 0.015, 0.005)
LEVELS = {1: (0.5, 0.2), 2: (0.9, 0.3), 3: (0.95, 0.8), 4: (0.97, 0.4), 5: (1.0, 0.0)}  # fidelity, spread


class Slant(NamedTuple):
    """What an arm does to the model: the distribution of the mode it tries, and how much worse it makes it."""

    name: str
    modes: tuple[float, ...]
    fidelity: float = 1.0


class Items(NamedTuple):
    """The questions of a world."""

    modes: NDArray[np.int64]  # (P,) the right one
    ease: Floats  # (P,)


class World(NamedTuple):
    """Arms, of which arm 0 is direct, and the distribution of the questions."""

    arms: tuple[Slant, ...]
    mode_law: tuple[float, ...] = MODE_LAW
    ease: tuple[float, float] = (0.8, 2.0)  # Beta(a, b)
    own_attractors: bool = False  # each arm has its own favorite wrong answer; else all share one
    attraction: float = 0.65  # of a wrong response to that answer; the rest spreads evenly

    def items(self, key: Key, num: int) -> Items:
        """Draw `num` questions by the key."""
        generator = key.generator()
        modes = generator.choice(len(self.mode_law), size=num, p=self.mode_law)
        return Items(modes.astype(np.int64), generator.beta(*self.ease, num))

    def success(self, items: Items) -> Floats:
        """Return P(right) of each question and arm (P, M)."""
        tried = np.array([arm.modes for arm in self.arms])[:, items.modes].T  # (P, M)
        return np.asarray(items.ease[:, None] * tried * [arm.fidelity for arm in self.arms], dtype=np.float64)

    def failure(self, allocation: ArrayLike) -> float:
        """Return the exact probability that all draws of `allocation` (M,) fail on a question of this world."""
        items, weights = self.grid()
        return float(weights @ np.prod((1 - self.success(items)) ** np.asarray(allocation), axis=1))

    def grid(self) -> tuple[Items, Floats]:
        """Return questions and weights (G,) that sum to 1, for expectations over this world.

        A Gauss-Jacobi rule over ease under each mode, exact for polynomials of degree 199.
        """
        from scipy.special import roots_jacobi

        a, b = self.ease
        nodes, weights = roots_jacobi(NUM_NODES, b - 1, a - 1)
        modes = np.repeat(np.arange(len(self.mode_law)), NUM_NODES)
        ease = np.tile((1 + nodes) / 2, len(self.mode_law))
        return Items(modes, ease), np.outer(self.mode_law, weights / weights.sum()).ravel()


def standard_world(*, own_attractors: bool = False) -> World:
    """Return direct, a verbatim copy of it, five arms that each lean to another mode, and an irrelevant one."""
    arms = [Slant("direct", DIRECT), Slant("copy", DIRECT)]
    arms += [Slant(f"mode/{mode}", leaning(mode), 0.9) for mode in range(1, 6)]
    return World((*arms, Slant("irrelevant", (1 / 6,) * 6, 0.15)), own_attractors=own_attractors)


def level_world(level: int) -> World:
    """Return direct and five arms of one relevance level, 1 (unrelated) to 5 (the question): best at 3 by design."""
    fidelity, spread = LEVELS[level]
    mixed = (tuple((1 - spread) * d + spread * m for d, m in zip(DIRECT, leaning(k), strict=True)) for k in range(1, 6))
    return World((Slant("direct", DIRECT), *(Slant(f"level/{level}/{k}", m, fidelity) for k, m in enumerate(mixed, 1))))


def leaning(mode: int) -> tuple[float, ...]:
    """.45 on `mode`, .23 on mode 0, .08 on each other one. `mode` is not 0."""
    return tuple(0.45 if m == mode else 0.23 if m == 0 else 0.08 for m in range(len(MODE_LAW)))


class Request(NamedTuple):
    """What a prompt asks for, as its tags say."""

    task: str  # "answer", "idea", "rephrase", "judge"
    question: int
    arm: str
    idea: str  # "3:841": mode and number; "" without
    given: str  # the answer to be judged, or the one that an idea leaks; "" without


class Policy(Engine):
    """The engine: `num` questions of `world`, drawn by `seed`. Their texts are `problems`, their truth `items`.

    `judge` is (true-positive, false-positive) rate. Of ideas, a share `leak` states a wrong answer, which responses
    then repeat, and a share `refusal` fails. `correlation` is that of two outcomes of one idea, given the question.
    """

    can = frozenset({Capability.GENERATE, Capability.SEED})

    def __init__(
        self,
        world: World,
        num: int,
        *,
        seed: int = 0,
        judge: tuple[float, float] = (1.0, 0.0),
        leak: float = 0.0,
        refusal: float = 0.0,
        correlation: float = 0.0,
    ) -> None:
        for name, share in (
            ("judge", judge[0]),
            ("judge", judge[1]),
            ("leak", leak),
            ("refusal", refusal),
            ("correlation", correlation),
        ):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {share}")
        self.world, self.judge, self.leak, self.refusal, self.correlation = world, judge, leak, refusal, correlation
        self._key = Key(seed).fold("policy")
        self.items = world.items(self._key.fold("items"), num)
        self.right = self._key.fold("right").generator().integers(NUM_ANSWERS, size=num)  # (P,)
        skip = self._key.fold("attractors").generator().integers(1, NUM_ANSWERS, size=(num, len(world.arms)))
        shift = skip if world.own_attractors else np.broadcast_to(skip[:, :1], skip.shape)
        self.attractors = (self.right[:, None] + shift) % NUM_ANSWERS  # (P, M) each arm's favorite wrong answer
        self.name = f"policy({num}, seed={seed})"
        options = (world, num, seed, judge, leak, refusal, correlation)
        self.identity = f"policy{options!r}"

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The questions with their right answers."""
        return tuple(
            Problem(Question(f"policy/{i}", (Message("user", f"Which digit fits? [question {i}]"),)), str(answer))
            for i, answer in enumerate(self.right.tolist())
        )

    @property
    def arms(self) -> tuple[PlainArm, ...]:
        """The world's arms but the direct one, for `vary`."""
        return tuple(_tagged(arm.name) for arm in self.world.arms[1:])

    def answer_distributions(self) -> Floats:
        """Return the distribution of the answers of each question and arm (P, M, 10), without ideas."""
        right = self.world.success(self.items)
        num = len(right)
        distributions = np.empty((*right.shape, NUM_ANSWERS))
        rest = (1 - self.world.attraction) / (NUM_ANSWERS - 2)
        for arm in range(right.shape[1]):
            distributions[:, arm] = ((1 - right[:, arm]) * rest)[:, None]
            pull = self.attractors[:, arm]
            distributions[np.arange(num), arm, pull] = (1 - right[:, arm]) * self.world.attraction
            distributions[np.arange(num), arm, self.right] = right[:, arm]
        return distributions

    def worst_case(self, ask: Ask) -> Usage:
        new = ask.max_tokens if isinstance(ask, Generate) else 0
        return Usage(1, sum(len(m.content.split()) for m in ask.messages), new)

    async def answer(self, asks: Sequence[Ask]) -> AsyncIterator[Arrival]:
        for position, ask in enumerate(asks):
            yield Arrival(position, self.one(ask))

    def one(self, ask: Ask) -> Completion:
        """Return the completion of one ask, cut after `max_tokens` words."""
        if not isinstance(ask, Generate):
            return failed(BadRequest(f"{self.name} draws responses and knows no likelihoods"))
        request = recognise("\n".join(m.content for m in ask.messages))
        if not 0 <= request.question < len(self.right):
            return failed(BadRequest(f"the prompt must hold [question 0] to [question {len(self.right) - 1}]"))
        generator = Key(ask.seed).generator()
        if request.task == "idea" and generator.random() < self.refusal:
            return failed(BadRequest("the helper gave no idea"))
        if request.task == "answer" and not request.idea and request.arm not in self._names():
            return failed(BadRequest(f"no arm is called {request.arm!r}; known: {', '.join(self._names())}"))
        words = self._write(request, generator).split(" ")
        cut = words[: ask.max_tokens]
        usage = self.worst_case(ask)._replace(completion_tokens=len(cut))
        return Completion(" ".join(cut), "stop" if len(cut) == len(words) else "length", usage)

    def _names(self) -> list[str]:
        return [arm.name for arm in self.world.arms]

    def _write(self, request: Request, generator: np.random.Generator) -> str:
        right = int(self.right[request.question])
        if request.task == "idea":
            idea = f"Try method {(mode := int(generator.integers(1, 6)))}. [idea {mode}:{generator.integers(1 << 30)}]"
            wrong = int(self.attractors[request.question, 0])
            return f"{idea} [answer {wrong}]" if generator.random() < self.leak else idea
        if request.task == "rephrase":
            return f"Say which digit is the fitting one. [question {request.question}]"
        if request.task == "judge":
            accepts = generator.random() < self.judge[0 if request.given == str(right) else 1]
            return "yes" if accepts else "no"
        if request.given:  # a leaked answer
            return f"As stated.\nAnswer: {request.given}"
        arm = 0 if request.idea else self._names().index(request.arm)
        slant = self.world.arms[arm]
        if request.idea:
            mode = int(request.idea.partition(":")[0])
            slant = Slant("idea", leaning(mode), 0.9)
            if generator.random() < self.correlation**0.5:  # both of a pair take the idea's own draw with its square
                generator = self._key.fold("idea", request.question, request.idea).generator()
        tried = int(generator.choice(len(slant.modes), p=slant.modes))
        fits = tried == self.items.modes[request.question]
        if fits and generator.random() < self.items.ease[request.question] * slant.fidelity:
            return f"Method {tried}.\nAnswer: {right}"
        pull = int(self.attractors[request.question, arm])
        others = [a for a in range(NUM_ANSWERS) if a not in (right, pull)]
        attracted = generator.random() < self.world.attraction
        return f"Method {tried}.\nAnswer: {pull if attracted else others[int(generator.integers(len(others)))]}"


def recognise(prompt: str) -> Request:
    """Return the tags of a prompt; of a repeated tag the last counts, as an arm may quote another."""

    def last(pattern: str) -> str:
        return found[-1] if (found := re.findall(pattern, prompt)) else ""

    task = last(r"\[task (\w+)\]") or "answer"
    given = last(r"Answer: (\d)") if task == "judge" else last(r"\[answer (\d)\]")
    arm = last(r"\[arm ([^\]]+)\]") or "direct"
    return Request(task, int(last(r"\[question (\d+)\]") or -1), arm, last(r"\[idea ([1-5]:\d+)\]"), given)


def _tagged(name: str) -> PlainArm:
    def arm(question: Question) -> tuple[Variant, ...]:
        return (Variant(name, (Message("system", f"[arm {name}]"), *question.messages)),)

    return arm
