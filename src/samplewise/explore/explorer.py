"""The engine's one door: opens groups, asks their policies at each step, and checks that it saw what it should.

    explorer = Explorer(head)
    number = explorer.open(group, settings, seed)          # the first row of a group makes it, a later one joins it
    for advice in explorer.advise(step): ...               # once a step, before tokens are drawn
    explorer.took(tokens)                                  # once a step, after
    explorer.leave(number)                                 # a row ends
    report = explorer.close(number, sampled)               # nothing of the group is kept

A group's state comes from its seed and its own rows alone. At most `max_groups` are held; to make room, the group goes
that has been idle longest, and where every one of them has rows in flight that is an error and not a silent loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samplewise.errors import SetupError

from .base import Advice, Head, Ints, Layout, Policy, Rows, Step
from .settings import Settings


class Report(NamedTuple):
    """What a group has to say when it ends. `problem` is not empty where its draws are not what was asked for."""

    settings: str
    numbers: Mapping[str, float]
    problem: str = ""


class _Group:
    __slots__ = ("in_flight", "name", "place", "policy", "seen", "settings")

    def __init__(self, name: str, settings: Settings, policy: Policy, place: int) -> None:
        self.name, self.settings, self.policy, self.place = name, settings, policy, place
        self.in_flight = self.seen = 0


class _Part(NamedTuple):
    """The rows of a step that one policy has, as long as the batch stays the same."""

    policy: Policy
    rows: Tensor  # (n,)
    host: Ints  # (n,)
    every: bool  # all rows of the step, in their order
    layout: Layout


class Explorer:
    """All groups of an engine."""

    def __init__(self, head: Head, *, max_groups: int = 256) -> None:
        self.head, self.max_groups = head, max_groups
        self._policies: dict[str, Policy] = {}
        self._groups: dict[int, _Group] = {}  # in the order of their last use
        self._names: dict[str, int] = {}
        self._next = 0
        self._checked = False
        self._batch: tuple[bytes, bytes] = (b"", b"")
        self._parts: list[_Part] = []
        self._waiting: list[_Part] = []
        self._num_rows = 0

    @property
    def shallow(self) -> bool:
        """Whether some open group looks at the states after the first block."""
        return any(group.settings.shallow for group in self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    # ------------------------------------------------------------------------------------------------------- groups

    def open(self, name: str, settings: Settings, seed: int) -> int:
        """One more row of a group is in flight; its number. ValueError where the group has other settings."""
        number = self._names.get(name)
        if number is not None:
            group = self._groups.pop(number)
            self._groups[number] = group
            if str(group.settings) != str(settings):
                raise ValueError(f"group {name!r} explores by {group.settings}, and an ask of it by {settings}")
            group.in_flight += 1
            return number
        if len(self._groups) >= self.max_groups:
            self._make_room()
        text = str(settings)
        policy = self._policies.get(text)
        if policy is None:
            policy = self._policies[text] = settings.policy(self.head)
        policy.open(seed)
        place = sum(group.policy is policy for group in self._groups.values())
        number, self._next = self._next, self._next + 1
        self._groups[number] = _Group(name, settings, policy, place)
        self._groups[number].in_flight = 1
        self._names[name] = number
        self._forget_batch()
        return number

    def _make_room(self) -> None:
        idle = next((number for number, group in self._groups.items() if not group.in_flight), None)
        if idle is None:
            raise SetupError(
                f"{len(self._groups)} groups explore at once and each has draws in flight; ask fewer questions at a "
                "time or raise max_groups"
            )
        self.close(idle)

    def leave(self, number: int) -> None:
        """A row of the group has ended, or was given up."""
        self._groups[number].in_flight -= 1

    def warm(self, number: int, deep: Tensor, shallow: Tensor) -> None:
        """The states (T, d) of a group's prompt, before its first row is drawn."""
        group = self._groups[number]
        if group.seen == 0:
            group.policy.warm(group.place, deep, shallow)

    def close(self, number: int, sampled: int | None = None) -> Report:
        """The group ends. `sampled` is how many tokens the engine drew for it, to be held against what was seen."""
        group = self._groups.pop(number)
        del self._names[group.name]
        numbers = group.policy.close(group.place)
        for other in self._groups.values():
            if other.policy is group.policy and other.place > group.place:
                other.place -= 1
        if all(other.policy is not group.policy for other in self._groups.values()):
            del self._policies[str(group.settings)]
        self._forget_batch()
        return Report(str(group.settings), numbers, self._problem(group, numbers, sampled))

    def _problem(self, group: _Group, numbers: Mapping[str, float], sampled: int | None) -> str:
        if sampled is not None and group.seen != sampled:
            return f"exploration saw {group.seen} tokens of a group for which {sampled} were drawn"
        if numbers.get("seen", group.seen) != group.seen:
            return f"a policy saw {numbers['seen']:.0f} of the {group.seen} tokens of its group"
        if numbers.get("broken"):
            return "the learner failed or gave what is no number; from there on the group's draws are plain"
        learnt = numbers.get("trained", 0.0) + numbers.get("dropped", 0.0)
        if learnt not in (0.0, group.seen):
            return f"the learner has {learnt:.0f} of the {group.seen} tokens of its group"
        guided = numbers.get("guided", 0.0)
        if getattr(group.settings, "beta", 0.0) and group.seen:
            if numbers.get("choices", 0.0) and not numbers.get("moved_nats", 0.0) > 0:
                return "exploration guided tokens and moved none of their odds"
            if not guided and getattr(group.settings, "compensate", "") != "gate":
                return "exploration was asked for and guided no token"
        return ""

    # --------------------------------------------------------------------------------------------------------- steps

    def advise(self, step: Step) -> list[Advice]:
        """What policies want of the rows of a step, a row in one advice at most."""
        if self._waiting:
            raise ValueError("took() must be called between two steps")
        self._split(step)
        self._waiting = self._parts
        self._num_rows = len(step.group)
        if not self._parts:
            return []
        if not self._checked:
            some = self._parts[0].rows[:8]
            self.head.check(step.deep[some], step.logits[some])
            self._checked = True
        advices = []
        for part in self._parts:
            if advice := part.policy.advise(self._rows(step, part)):
                advices.append(advice if part.every else advice._replace(rows=part.rows[advice.rows]))
        return advices

    def drop(self) -> None:
        """The step failed: there are no tokens. Its groups are short of one from here on, and say so when they end."""
        self._waiting, self._num_rows = [], 0

    def took(self, tokens: Tensor) -> None:
        """The tokens (N,) of all rows of the step."""
        if len(tokens) != self._num_rows:
            raise ValueError(f"{self._num_rows} rows were advised and {len(tokens)} tokens were drawn")
        for part in self._waiting:
            part.policy.took(tokens if part.every else tokens[part.rows])
        self.drop()

    def _rows(self, step: Step, part: _Part) -> Rows:
        chosen = [step.temperature, step.logits, step.law, step.deep]
        if not part.every:
            chosen = [column[part.rows] for column in chosen]
        temperature, logits, law, deep = chosen
        shallow = step.shallow if step.shallow is None or part.every else step.shallow[part.rows]
        return Rows(part.layout, step.position[part.host], temperature, logits, law, deep, shallow, step.filtered)

    def _forget_batch(self) -> None:
        self._batch, self._parts = (b"", b""), []

    def _split(self, step: Step) -> None:
        """The rows by policy. Batches mostly stay the same from step to step, and then so does this."""
        numbers, counts = np.unique(step.group, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number >= 0:
                self._groups[number].seen += count
        batch = (step.group.tobytes(), step.sample.tobytes())
        if batch == self._batch:
            return
        mine: dict[int, list[int]] = {}
        for row, number in enumerate(step.group.tolist()):
            if number >= 0:
                mine.setdefault(id(self._groups[number].policy), []).append(row)
        self._parts = []
        for rows in mine.values():
            host = np.array(rows, dtype=np.int64)
            groups = [self._groups[number] for number in step.group[host].tolist()]
            places = np.array([group.place for group in groups], dtype=np.int64)
            device = step.logits.device
            layout = Layout(places, step.sample[host], device)
            every = len(host) == len(step.group)
            self._parts.append(_Part(groups[0].policy, torch.from_numpy(host).to(device), host, every, layout))
        self._batch = batch
