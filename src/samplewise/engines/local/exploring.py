"""The rows of a batch that explore: their groups, what their policies advise, and when a group ends.

Rows of one group draw together, step by step; a group ends when as many draws have ended as its asks say it has. A
group may come in waves: between them it has no rows and is kept, and when there are too many the longest idle one goes.
Rows of a group that meets (`ExploreSettings.meets_at`) wait at its cue, without a pass of their own, until every row of
the group waits there, has ended, or has too few tokens left; those that wait then go on together.

What a group learned depends on all of its rows. So when one is lost (cancelled, or its step failed), the group is lost
and can only be asked for again from its first draw on. Of an ended group only its report is kept.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from torch import Tensor

from samplewise.core.errors import BadRequest, EngineError
from samplewise.core.keys import Key
from samplewise.core.numerics import Ints
from samplewise.core.types import Generate, Json, explores
from samplewise.engines.base import GROUP_SCOPE, failed
from samplewise.explore.base import Advice, EngineStep, Flags, Head
from samplewise.explore.explorer import Explorer, GroupReport

from .prepared import Done, PreparedAsk, explore_settings
from .sample import Filters, TokenDraws, draw

NONE, APART, WAITING, MET, ALONE = range(5)  # how far a row of a group that meets has come; NONE: its group does not
IDLE = 256  # groups that wait for their next wave: 64 questions at once, each with up to four arms
REPORTS = 1024  # of ended groups, kept for people
LOST = 4096  # names of lost groups that are remembered


class States(NamedTuple):
    """The states at all positions of a prompt, (T, d) each."""

    deep: Tensor
    shallow: Tensor


class StateTaps(Protocol):
    """What listens to a model's forward pass."""

    @property
    def deep(self) -> Tensor:
        """What entered the head at the last pass (N, d)."""
        ...

    @property
    def shallow(self) -> Tensor:
        """What left the first block at the last pass (N, d)."""
        ...

    def open(self) -> None: ...

    def close(self) -> None: ...

    def prompt(self, ids: Sequence[int]) -> States:
        """Compute the states of a prompt in a pass of its own."""
        ...


class _Group:
    __slots__ = ("drawn", "ended", "first", "in_flight", "lost", "name", "number", "samples", "size")

    def __init__(self, ask: Generate, number: int) -> None:
        self.name, self.number, self.size, self.first = ask.group, number, ask.group_size, ask.draw
        self.samples: set[int] = set()
        self.in_flight = self.ended = self.drawn = 0
        self.lost = False


def exploration_summary(report: GroupReport, samples: int) -> dict[str, Json]:
    """Return the report of a group that ended after `samples` draws, as plain data. Unknown numbers are left out."""
    numbers = {name: number for name, number in report.numbers.items() if math.isfinite(number)}
    return {"policy": report.settings, "samples": samples, "numbers": numbers, "problem": report.problem}


def meeting_point(ask: Generate) -> str:
    """Return the text at whose end a draw of this ask waits for its group; "" where it never does."""
    return explore_settings(ask.sampling.explore).meets_at if ask.sampling.explore else ""


def too_few(ask: Generate, num: int) -> str:
    """Return why a group that meets cannot be drawn, of which `num` draws are asked for."""
    few = f"and {num} of {ask.group_size} are asked for"
    return f"explore={ask.sampling.explore} draws a group at once, {few}; leave out wave="


class Exploring:
    """The groups of a batch, and host columns for its R rows."""

    def __init__(self, taps: StateTaps, head: Callable[[], Head], max_rows: int) -> None:
        """`head` is called when the first group opens."""
        self._taps, self._head, self._max_groups = taps, head, max_rows + IDLE
        self._explorer: Explorer | None = None
        self._numbers = np.zeros(0, dtype=np.int64)  # (R,) -1: draws plainly
        self._samples = np.zeros(0, dtype=np.int64)  # (R,)
        self._phase = np.zeros(0, dtype=np.int64)  # (R,)
        self._after = np.zeros(0, dtype=np.int64)  # (R,) tokens that a row must have left to meet its group
        self._groups: OrderedDict[str, _Group] = OrderedDict()  # the longest unused first
        self._by_number: dict[int, _Group] = {}
        self._lost: OrderedDict[str, int] = OrderedDict()  # name -> its first sample
        self._prompts: dict[str, tuple[int, ...]] = {}  # of the groups that join next
        self.num_rows = 0
        self.reports: deque[GroupReport] = deque(maxlen=REPORTS)

    def __len__(self) -> int:
        """Return the number of groups that are kept."""
        return len(self._groups)

    # ------------------------------------------------------------------------------------------------- joining, leaving

    def refusal(self, asks: Iterable[Generate], *, at_once: bool = True) -> str:
        """Return why asks that would join together cannot, or "". `at_once`: a group that meets has to come whole."""
        begun: dict[str, set[int]] = {}
        meeting: dict[str, Generate] = {}
        for ask in asks:
            held, first = self._groups.get(ask.group), self._lost.get(ask.group, ask.draw)
            if ask.group not in begun:
                if held is not None and ask.draw == held.first and not held.in_flight:
                    held = None  # it begins anew
                elif held is None and ask.draw != first:
                    return f"group {ask.group!r} is no longer kept; ask for it again from its first draw"
                begun[ask.group] = set() if held is None else set(held.samples)
            if ask.draw in begun[ask.group]:
                return f"sample {ask.draw} of group {ask.group!r} is drawn already; ask for a group once at a time"
            begun[ask.group].add(ask.draw)
            if len(begun[ask.group]) > ask.group_size:
                return f"group {ask.group!r} has {ask.group_size} samples, and more of them are asked for"
            if at_once and meeting_point(ask):
                meeting[ask.group] = ask
        for name, ask in meeting.items():
            if len(begun[name]) < ask.group_size:
                return too_few(ask, len(begun[name]))
        return ""

    def listen(self, jobs: Iterable[PreparedAsk]) -> None:
        """Get ready for jobs that are about to join: if one explores, listen to the next pass."""
        asks = [(job.ask, job.ids) for job in jobs if explores(job.ask)]
        self._prompts = {ask.group: ids for ask, ids in asks if isinstance(ask, Generate)}
        if asks:
            self._taps.open()

    def enter(self, first: int, asks: Sequence[Generate], *, at_once: bool = True) -> None:
        """Let rows from `first` on join. Raises BadRequest with what `refusal` returns, or SetupError."""
        end = first + len(asks)
        if end > len(self._numbers):
            more = np.zeros(end - len(self._numbers), dtype=np.int64)
            self._numbers, self._samples, self._phase, self._after = (
                np.concatenate([old, more]) for old in (self._numbers, self._samples, self._phase, self._after)
            )
        self._numbers[first:end], self._phase[first:end] = -1, NONE
        exploring = [(row, ask) for row, ask in enumerate(asks, first) if ask.sampling.explore]
        if not exploring:
            return
        if why := self.refusal((ask for _, ask in exploring), at_once=at_once):
            raise BadRequest(why)
        begun: set[str] = set()
        for row, ask in exploring:
            held = self._groups.get(ask.group)
            if held is not None and ask.group not in begun and ask.draw == held.first:
                self._forget(held)
            begun.add(ask.group)
            self._begin(row, ask)

    def _begin(self, row: int, ask: Generate) -> None:
        if self._explorer is None:
            self._explorer = Explorer(self._head(), max_groups=self._max_groups)
        settings = explore_settings(ask.sampling.explore)
        seed = Key(0).fold(ask.group.rpartition(GROUP_SCOPE)[2]).seed()
        number = self._explorer.open(ask.group, settings, seed)
        group = self._groups.get(ask.group)
        warm = group is None and settings.reads_prompt
        if group is None:
            group = self._groups[ask.group] = self._by_number[number] = _Group(ask, number)
            self._lost.pop(ask.group, None)
        self._groups.move_to_end(ask.group)
        group.samples.add(ask.draw)
        group.in_flight += 1
        self._numbers[row], self._samples[row] = number, ask.draw
        if settings.meets_at:
            self._phase[row], self._after[row] = APART, settings.tokens_after
        self.num_rows += 1
        if warm:  # one more pass over the prompt for each group (taps.py)
            self._explorer.warm(number, *self._taps.prompt(self._prompts[ask.group]))

    def end(self, rows: Sequence[int], count: Ints, done: list[Done]) -> list[Done]:
        """Return the completions of rows that have ended. A group's last one carries its report, and is an error if the
        group went wrong."""
        for index, (report, size) in self.close(rows, count).items():
            last = failed(EngineError(report.problem)) if report.problem else done[index].completion
            done[index] = done[index]._replace(completion=last._replace(explored=exploration_summary(report, size)))
        return done

    def close(self, rows: Sequence[int], count: Ints) -> Mapping[int, tuple[GroupReport, int]]:
        """Remove rows that have ended after `count` (R,) tokens. Return the reports and sizes of the groups that ended
        with them, by the index of the row that ended each."""
        closed: dict[int, tuple[GroupReport, int]] = {}
        # Of rows that end at once the highest draw counts as the last, wherever it is in the batch.
        for index, row in sorted(enumerate(rows), key=lambda pair: int(self._samples[pair[1]])):
            if (group := self._leave(row, count)) is None:
                continue
            group.ended += 1
            if group.ended == group.size and not group.lost:
                assert self._explorer is not None
                report = self._explorer.close(group.number, group.drawn)
                self.reports.append(report)
                self._drop(group)
                closed[index] = report, group.size
        self._tidy()
        return closed

    def lose(self, rows: Collection[int], count: Ints) -> None:
        """Remove rows before their end, and lose their groups. Rows that have ended are skipped."""
        for row in rows:
            if row < len(self._numbers) and (group := self._leave(row, count)) is not None:
                group.lost = True
        self._tidy()

    def move(self, holes: Sequence[int], movers: Sequence[int]) -> None:
        """Move rows into the gaps of others that have left."""
        self._copy(holes, movers)
        self._numbers[movers], self._phase[movers] = -1, NONE

    def _copy(self, to: Sequence[int], source: Sequence[int]) -> None:
        for column in (self._numbers, self._samples, self._phase, self._after):
            column[to] = column[source]

    def _leave(self, row: int, count: Ints) -> _Group | None:
        number, self._numbers[row] = int(self._numbers[row]), -1
        self._phase[row] = NONE
        if number < 0:
            return None
        assert self._explorer is not None
        self._explorer.leave(number)
        group = self._by_number[number]
        group.in_flight -= 1
        group.drawn += int(count[row])
        self.num_rows -= 1
        return group

    def _tidy(self) -> None:
        """Forget lost groups without rows, and the oldest idle groups beyond the limit."""
        idle = [group for group in self._groups.values() if not group.in_flight]
        whole = [group for group in idle if not group.lost]
        for group in [*(group for group in idle if group.lost), *whole[: max(0, len(whole) - IDLE)]]:
            self._lost[group.name] = group.first
            self._forget(group)
        while len(self._lost) > LOST:
            self._lost.popitem(last=False)
        if not self.num_rows:
            self._taps.close()

    def _forget(self, group: _Group) -> None:
        assert self._explorer is not None
        self._explorer.close(group.number)
        self._drop(group)

    def _drop(self, group: _Group) -> None:
        del self._groups[group.name], self._by_number[group.number]

    # ---------------------------------------------------------------------------------------------------------- meeting

    @property
    def meets(self) -> bool:
        """Whether some row is of a group that meets."""
        return self.num_rows > 0 and bool(self._phase.any())

    def is_apart(self, row: int) -> bool:
        """Return whether a row still draws by itself on the way to where its group meets."""
        return bool(self._phase[row] == APART)

    def arrive(self, row: int, left: int) -> None:
        """Let a row that has come to its cue wait; with too few tokens left it goes on alone."""
        self._phase[row] = WAITING if left >= self._after[row] else ALONE

    def let_meet(self, row: int) -> None:
        """Let a row draw with the others of its group from here on."""
        self._phase[row] = MET

    def meet(self, left: Ints) -> list[tuple[int, int]]:
        """Let groups go on of which no row is under way any more. `left` (R,) is how many tokens each row may draw yet.
        Return the rows that have met, and how many tokens each of them has from here."""
        phase, numbers = self._phase[: len(left)], self._numbers[: len(left)]
        phase[(phase == APART) & (left < self._after[: len(left)])] = ALONE  # it could not answer with the others
        is_waiting = phase == WAITING
        rows = np.flatnonzero(is_waiting & ~np.isin(numbers, numbers[phase == APART])) if is_waiting.any() else ()
        phase[list(rows)] = MET
        return [(int(row), int(self._after[row])) for row in rows]

    def waiting(self, num_rows: int) -> Flags:
        """Return which of the rows (R,) wait for others of their group."""
        is_waiting: Flags = self._phase[:num_rows] == WAITING
        return is_waiting

    def swap(self, rows: Sequence[int], others: Sequence[int]) -> None:
        """Let rows change places."""
        self._copy([*rows, *others], [*others, *rows])

    # ---------------------------------------------------------------------------------------------------------- drawing

    def draw(
        self,
        part: slice | Ints,
        count: Ints,
        logits: Tensor,
        filters: Filters,
        uniforms: Tensor,
        pick: Tensor | None,
        banned: Tensor | None,
        exponents: Tensor | None,
    ) -> TokenDraws:
        """Draw a token for each row of `part`, by advice where it explores (see sample.draw)."""
        numbers = self._numbers[part].copy()
        if self._explorer is None or not bool((numbers >= 0).any()):
            return draw(logits, filters, uniforms, pick, banned, exponents)
        explorer, samples, position = self._explorer, self._samples[part].copy(), count[part].copy()
        met = self._phase[part] == MET
        deep, shallow = self._taps.deep, self._taps.shallow if explorer.shallow else None
        if pick is not None:
            deep, shallow = deep[pick], None if shallow is None else shallow[pick]

        def advise(lines: Tensor, log_probs: Tensor) -> list[Advice]:
            step = EngineStep(
                numbers,
                samples,
                position,
                filters.temperature,
                lines,
                log_probs,
                deep,
                shallow,
                filters.filtered,
                uniforms,
                met if met.any() else None,
            )
            return explorer.advise(step)

        try:
            drawn = draw(logits, filters, uniforms, pick, banned, exponents, advise)
            explorer.took(drawn.tokens)
        except BaseException:
            explorer.drop()
            raise
        return drawn
