"""What an engine talks to: open groups, ask their policies at each step, and check that every token was seen.

    explorer = Explorer(head)
    number = explorer.open(group, settings, seed)          # the first row of a group makes it, later ones join it
    for advice in explorer.advise(step): ...               # once a step, before tokens are drawn
    explorer.took(tokens)                                  # once a step, after
    explorer.leave(number)                                 # a row ends
    report = explorer.close(number, sampled)               # nothing of the group is kept

A group's state comes from its seed and its own rows alone. At most `max_groups` are kept; to make room, the group that
has been idle longest is closed. Where all of them have rows in flight, that is an error and not a silent loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samplewise.core.errors import SetupError
from samplewise.core.numerics import Ints

from .base import Advice, EngineStep, Head, Layout, PolicyStep, TokenPolicy
from .policies import policy_of
from .settings import ExploreSettings


class GroupReport(NamedTuple):
    """What a group reports when it ends. `problem` is not empty where its draws are not what was asked for."""

    settings: str
    numbers: Mapping[str, float]
    problem: str = ""


class _Group:
    __slots__ = ("in_flight", "index", "name", "policy", "seen", "settings")

    def __init__(self, name: str, settings: ExploreSettings, policy: TokenPolicy, index: int) -> None:
        self.name, self.settings, self.policy, self.index = name, settings, policy, index
        self.in_flight = self.seen = 0


class _Part(NamedTuple):
    """The rows of a step that belong to one policy, reused while the batch stays the same."""

    policy: TokenPolicy
    rows: Tensor  # (n,)
    host: Ints  # (n,)
    every: bool  # all rows of the step, in their order
    layout: Layout


class Explorer:
    """All groups of an engine."""

    def __init__(self, head: Head, *, max_groups: int = 256) -> None:
        self.head, self.max_groups = head, max_groups
        self._policies: dict[str, TokenPolicy] = {}
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
        """Whether some open group reads the states after the first block."""
        return any(group.settings.reads_shallow for group in self._groups.values())

    def __len__(self) -> int:
        return len(self._groups)

    # ------------------------------------------------------------------------------------------------------- groups

    def open(self, name: str, settings: ExploreSettings, seed: int) -> int:
        """Count one more row of a group in flight. Return the group's number. ValueError if it has other settings."""
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
            policy = self._policies[text] = policy_of(settings, self.head)
        policy.open(seed)
        index = sum(group.policy is policy for group in self._groups.values())
        number, self._next = self._next, self._next + 1
        self._groups[number] = _Group(name, settings, policy, index)
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
        """Count a row of the group as ended or given up."""
        self._groups[number].in_flight -= 1

    def warm(self, number: int, deep: Tensor, shallow: Tensor) -> None:
        """Show a group the states (T, d) of its prompt, before its first row is drawn."""
        group = self._groups[number]
        if group.seen == 0:
            group.policy.warm(group.index, deep, shallow)

    def close(self, number: int, sampled: int | None = None) -> GroupReport:
        """End a group. `sampled` is how many tokens the engine drew for it, compared with what was seen."""
        group = self._groups.pop(number)
        del self._names[group.name]
        numbers = group.policy.close(group.index)
        for other in self._groups.values():
            if other.policy is group.policy and other.index > group.index:
                other.index -= 1
        if all(other.policy is not group.policy for other in self._groups.values()):
            del self._policies[str(group.settings)]
        self._forget_batch()
        return GroupReport(str(group.settings), numbers, self._problem(group, numbers, sampled))

    def _problem(self, group: _Group, numbers: Mapping[str, float], sampled: int | None) -> str:
        if sampled is not None and group.seen != sampled:
            return f"exploration saw {group.seen} tokens of a group for which {sampled} were drawn"
        if numbers.get("seen", group.seen) != group.seen:
            return f"a policy saw {numbers['seen']:.0f} of the {group.seen} tokens of its group"
        return group.policy.problem(numbers)

    # --------------------------------------------------------------------------------------------------------- steps

    def advise(self, step: EngineStep) -> list[Advice]:
        """Return what policies want of the rows of a step; each row is in one advice at most."""
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
        """Give up a failed step, which has no tokens. Its groups report the gap when they end."""
        self._waiting, self._num_rows = [], 0

    def took(self, tokens: Tensor) -> None:
        """Pass the tokens (N,) of all rows of the step to their policies."""
        if len(tokens) != self._num_rows:
            raise ValueError(f"{self._num_rows} rows were advised and {len(tokens)} tokens were drawn")
        for part in self._waiting:
            part.policy.took(tokens if part.every else tokens[part.rows])
        self.drop()

    def _rows(self, step: EngineStep, part: _Part) -> PolicyStep:
        chosen = [step.temperature, step.logits, step.log_probs, step.deep]
        if not part.every:
            chosen = [column[part.rows] for column in chosen]
        temperature, logits, log_probs, deep = chosen
        shallow, uniforms = (
            column if column is None or part.every else column[part.rows] for column in (step.shallow, step.uniforms)
        )
        met = None if step.met is None else step.met[part.host]
        return PolicyStep(
            part.layout,
            step.position[part.host],
            temperature,
            logits,
            log_probs,
            deep,
            shallow,
            step.filtered,
            uniforms,
            met,
        )

    def _forget_batch(self) -> None:
        self._batch, self._parts = (b"", b""), []

    def _split(self, step: EngineStep) -> None:
        """Split the rows by policy. Batches mostly stay the same from step to step, and then so does this."""
        numbers, counts = np.unique(step.group, return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            if number >= 0:
                self._groups[number].seen += count
        batch = (step.group.tobytes(), step.sample.tobytes())
        if batch == self._batch:
            return
        by_policy: dict[int, list[int]] = {}
        for row, number in enumerate(step.group.tolist()):
            if number >= 0:
                by_policy.setdefault(id(self._groups[number].policy), []).append(row)
        self._parts = []
        for rows in by_policy.values():
            host = np.array(rows, dtype=np.int64)
            groups = [self._groups[number] for number in step.group[host].tolist()]
            indices = np.array([group.index for group in groups], dtype=np.int64)
            device = step.logits.device
            layout = Layout(indices, step.sample[host], device)
            every = len(host) == len(step.group)
            self._parts.append(_Part(groups[0].policy, torch.from_numpy(host).to(device), host, every, layout))
        self._batch = batch
