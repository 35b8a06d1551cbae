"""The bridge: samplewise's own draw inside a vLLM worker. It knows tensors and rows, and does not import vLLM.

    bridge = WorkerBridge(device, states, head)
    row = bridge.join(draw)                             # a request has come to the worker
    bridge.draw(logits, rows, is_drawn, num_tokens)     # once a step, in place of vLLM's sampler
    bridge.take([uid])                                  # after its end: what was drawn

The bridge draws with the distribution and the policies of the local engine, and turns the logits of its rows into
one-hot rows, from which vLLM's sampler can choose nothing else. Rows of others are left as they are. A row's uniforms
are those of its seed, one a position, and positions come from the runner: a token that is drawn again, after preemption
or ahead of its time, is the same one.

A draw that is given up (`RejectionBound`) takes its end token instead, so the request ends in the same step. A fault of
the bridge ends its own rows and nobody else's. Columns are on the device and no step waits for them.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from samplewise.core.errors import BadRequest
from samplewise.core.keys import Key
from samplewise.core.numerics import Floats, Ints, ratio_cannot_rise
from samplewise.core.types import Generate, Json, Sampling
from samplewise.engines.local.columns import NUM_LOGGED, Columns, Reals, Wholes
from samplewise.engines.local.exploring import Exploring, States, exploration_summary
from samplewise.engines.local.prepared import explore_settings
from samplewise.engines.local.sample import Filters, TokenDraws
from samplewise.explore.base import Flags, Head
from samplewise.explore.softmax import Softmax

from .guided import GuidedDraw, RowRecord

BLOCK = 64  # uniforms of a row that are drawn ahead
MAX_ROWS = 1 << 20
FORGET_S = 3600.0  # rows that drew nothing for so long, and that nobody fetched, are dropped
FORGET_EVERY_S = 60.0
ENDS = {1: "rejected", 2: "doomed", 4: "stuck", 8: "broken"}  # by code; a higher one counts before a lower one


class StepStates(Protocol):
    """The states of the step that is being drawn, one for each row of logits."""

    @property
    def deep(self) -> Tensor:
        """What enters the head (N, d)."""
        ...

    @property
    def shallow(self) -> Tensor:
        """What leaves the first block (N, d)."""
        ...


class Row:
    """A request in the worker. `slot` is its row of the columns; -1 once it has left, though a runner that is a step
    ahead may still show it."""

    __slots__ = ("begins", "draw", "error", "first", "held", "rng", "sampling", "seen_s", "slot", "uniforms")

    def __init__(self, draw: GuidedDraw, slot: int) -> None:
        self.draw, self.slot = draw, slot
        self.sampling = Sampling(draw.temperature, draw.top_k, draw.top_p, draw.min_p)
        self.rng = Key(draw.seed).generator()
        self.uniforms: Floats = np.zeros(0)
        self.first: Tensor | None = None  # log-probs at the first position
        self.begins = 0  # position at which it joined its group
        self.held = False  # whether its group was not whole when it was last to be drawn
        self.error = ""
        self.seen_s = time.monotonic()

    def uniform(self, position: int) -> float:
        """Return number `position` of the seed's stream."""
        while position >= len(self.uniforms):
            self.uniforms = np.concatenate([self.uniforms, self.rng.random(BLOCK)])
        return float(self.uniforms[position])

    @property
    def num_statistics(self) -> int:
        return 1 + len(self.draw.exponents) if self.draw.statistics else 0


class _Taps:
    """The states of the rows that the bridge draws, as exploration reads them."""

    def __init__(self, states: StepStates) -> None:
        self.states, self.lines = states, torch.zeros(0, dtype=torch.int64)

    @property
    def deep(self) -> Tensor:
        return self.states.deep[self.lines]

    @property
    def shallow(self) -> Tensor:
        return self.states.shallow[self.lines]

    def open(self) -> None:
        """The runner keeps the states of every step."""

    def close(self) -> None:
        """Nothing is held."""

    def prompt(self, ids: Sequence[int]) -> States:
        raise NotImplementedError  # see unfit


class _Pace:
    """Whether the rows of a group have drawn in step, from the first token of all of them on: one that begins late is
    at its first position when the group no longer is."""

    __slots__ = ("steps", "together")

    def __init__(self) -> None:
        self.steps, self.together = 0, True

    def count(self, positions: Sequence[int]) -> None:
        self.together &= all(position == self.steps for position in positions)
        self.steps += 1


class _Lineup(NamedTuple):
    """The rows of a step, kept while the batch stays the same."""

    rows: list[Row]
    slots: Ints  # (N,)
    slots_there: Tensor  # (N,) on the device
    lines: Tensor | None  # (N,) rows of the logits; None: all of them, in order
    kinds: list[Sampling]
    num_statistics: int
    groups: dict[str, list[int]]  # name -> indices of its rows


class WorkerBridge:
    """The guided rows of one worker."""

    def __init__(self, device: torch.device, states: StepStates, head: Callable[[], Head]) -> None:
        """`head` is called when the first group opens. It raises SetupError where the model's own cannot be read."""
        self.device = device
        self._taps = _Taps(states)
        self._exploring = Exploring(self._taps, head, MAX_ROWS)
        self._columns = Columns(device)
        self._ends = torch.zeros(0, dtype=torch.int64, device=device)  # (R,) the id that ends a row, or -1
        self._end_at = torch.zeros(0, dtype=torch.int64, device=device)  # (R,) position at which a code was set
        self._rows: dict[str, Row] = {}
        self._free: list[int] = []
        self._paces: dict[str, _Pace] = {}
        self._lineup: tuple[list[Row], list[int], _Lineup] | None = None
        self._forget_at = 0.0

    def __len__(self) -> int:
        return len(self._rows)

    # ------------------------------------------------------------------------------------------------ joining, leaving

    def join(self, draw: GuidedDraw) -> Row:
        """Return the row of a draw: a new one, or the one it had, after preemption and where it goes on."""
        if (row := self._rows.get(draw.uid)) is not None:
            self._go_on(row, draw)
            return row
        self._forget()
        if not self._free:
            self._grow()
        row = self._rows[draw.uid] = Row(draw, self._free.pop())
        columns, slot = self._columns, row.slot
        columns.widen(row.num_statistics)
        alpha, value = draw.bound or (0.0, -math.inf)
        power = 1 / draw.temperature if ratio_cannot_rise(alpha, draw.temperature) else math.nan
        reals = Reals(draw.temperature, draw.top_p, draw.min_p, alpha, value, 0.0, power)
        columns.write(slot, [reals], [Wholes(0, draw.top_k, 0, draw.forbid_first)])
        columns.num_drawn[slot] = columns.codes[slot] = 0
        self._ends[slot], self._end_at[slot] = draw.end, -1
        if row.num_statistics:
            columns.exponents[slot, : len(draw.exponents)] = torch.tensor(draw.exponents, dtype=torch.float64)
        self._exploring.enter(slot, [Generate(())])  # plain, and so it stays where it cannot explore
        if draw.explore:
            self._explore(row, draw)
        return row

    def _explore(self, row: Row, draw: GuidedDraw) -> None:
        """Let a row join its group. One that cannot draws plainly until its request has ended, and says why."""
        try:
            if why := unfit(draw.explore, met=draw.members > 0):
                raise BadRequest(why)
            self._exploring.enter(row.slot, [draw.as_ask()], at_once=False)
        except Exception as error:
            row.error = _line(error)
            return
        if draw.members:
            self._exploring.let_meet(row.slot)
        else:
            self._paces.setdefault(draw.group, _Pace())

    def _go_on(self, row: Row, draw: GuidedDraw) -> None:
        """Continue a row with another request for the same draw."""
        is_met, row.draw = row.draw.members > 0, draw
        if draw.members and not is_met:
            row.begins = draw.num_before
            self._explore(row, draw)

    def _grow(self) -> None:
        old = len(self._columns)
        self._columns.grow(max(64, 2 * old), MAX_ROWS)
        new = len(self._columns)
        more = torch.full((new - old,), -1, dtype=torch.int64, device=self.device)
        self._ends, self._end_at = torch.cat([self._ends, more]), torch.cat([self._end_at, more])
        self._free += range(new - 1, old - 1, -1)

    def _forget(self) -> None:
        """Drop rows whose client never came back."""
        now = time.monotonic()
        if now >= self._forget_at:
            self._forget_at = now + FORGET_EVERY_S
            self.drop([uid for uid, row in self._rows.items() if row.seen_s < now - FORGET_S])

    def drop(self, uids: Iterable[str]) -> None:
        """Forget rows before their end; their groups are lost. Names that are not here are skipped."""
        rows = [row for uid in uids if (row := self._rows.pop(uid, None)) is not None]
        for row in rows:
            self._paces.pop(row.draw.group, None)
        self._exploring.lose([row.slot for row in rows], self._columns.num_drawn)
        self._release(rows)

    def _release(self, rows: Sequence[Row]) -> None:
        self._free += [row.slot for row in rows]
        for row in rows:
            row.slot = -1
        if rows:
            self._lineup = None

    def take(self, uids: Iterable[str]) -> dict[str, RowRecord]:
        """Return what was drawn for requests that have ended, and forget them. Names that are not here are left out."""
        rows = [row for uid in uids if (row := self._rows.pop(uid, None)) is not None]
        if not rows:
            return {}
        columns, slots = self._columns, [row.slot for row in rows]
        there = torch.tensor(slots, device=self.device)
        longest = int(columns.num_drawn[slots].max())
        log = columns.log[there, :, :longest].cpu().numpy()
        codes, end_at = columns.codes[there].tolist(), self._end_at[there].tolist()
        in_group = columns.num_drawn.copy()
        in_group[slots] -= [row.begins for row in rows]
        closed = self._exploring.close(slots, in_group)
        taken = {}
        for index, row in enumerate(rows):
            num = int(columns.num_drawn[row.slot])
            tokens, logp, logq, *statistics = log[index, : NUM_LOGGED + row.num_statistics, :num]
            explored: dict[str, Json] | None = None
            if index in closed:
                report, size = closed[index]
                pace = self._paces.pop(row.draw.group, None)
                explored = {**exploration_summary(report, size), "together": pace is not None and pace.together}
            taken[row.draw.uid] = RowRecord(
                tokens=tokens.astype(np.int64).tolist(),
                logp=logp.tolist(),
                logq=logq.tolist(),
                statistics=np.stack(statistics, axis=1).tolist() if statistics else [],
                score_first=[] if row.first is None else row.first.tolist(),
                end=next((name for code, name in reversed(ENDS.items()) if codes[index] & code), ""),
                end_at=end_at[index],
                error=row.error,
                explored=explored,
            )
        self._release(rows)
        return taken

    def held(self, uids: Iterable[str]) -> list[str]:
        """Return which of these rows were ended because their group was not whole."""
        return [uid for uid in uids if (row := self._rows.get(uid)) is not None and row.held]

    # ---------------------------------------------------------------------------------------------------------- drawing

    def draw(self, logits: Tensor, rows: Sequence[Row | None], is_drawn: Flags, num_tokens: Ints) -> Tensor:
        """Draw the next token of every guided row of a step, and make its line of `logits` (N, V) one-hot, in place.

        `rows` are those of the lines, None where a request is not guided. `is_drawn` (N,) is False where a prompt is
        still being computed, so that nothing is drawn. `num_tokens` (N,) counts the tokens of each sequence so far.
        """
        lines = [line for line, row in enumerate(rows) if row is not None and row.slot >= 0 and is_drawn[line]]
        if any(row.draw.members for line in lines if (row := rows[line]) is not None):
            lines = self._hold(logits, rows, lines)
        if not lines:
            return logits
        guided = [row for row in (rows[line] for line in lines) if row is not None]
        lineup = self._lined_up(guided, lines, logits)
        position: Ints = num_tokens[lines] - np.array([row.draw.num_prompt for row in guided], dtype=np.int64)
        try:
            chosen = self._draw(logits, lineup, position)
        except Exception as error:  # nobody else's request may end with ours
            logging.getLogger(__name__).exception("a guided step failed")
            chosen = self._failed(logits, lineup, _line(error))
        if lineup.lines is None:
            logits.fill_(-math.inf).scatter_(1, chosen[:, None], 0.0)
        else:
            logits.index_fill_(0, lineup.lines, -math.inf)
            logits[lineup.lines, chosen] = 0.0
        return logits

    def _hold(self, logits: Tensor, rows: Sequence[Row | None], lines: list[int]) -> list[int]:
        """End the rows whose group is not whole in this step, without a token of theirs. Return the other lines."""
        present = Counter(row.draw.group for line in lines if (row := rows[line]) is not None and row.draw.members)
        drawn = []
        for line in lines:
            row = rows[line]
            assert row is not None
            row.held = 0 < row.draw.members != present[row.draw.group]
            if row.held:
                logits[line] = -math.inf
                logits[line, row.draw.end] = 0.0
            else:
                drawn.append(line)
        return drawn

    def _lined_up(self, rows: list[Row], lines: list[int], logits: Tensor) -> _Lineup:
        if self._lineup is not None and self._lineup[0] == rows and self._lineup[1] == lines:
            kept = self._lineup[2]
            if (kept.lines is None) == (len(lines) == len(logits)):
                return kept
        slots = np.array([row.slot for row in rows], dtype=np.int64)
        groups: dict[str, list[int]] = {}
        for index, row in enumerate(rows):
            if row.draw.explore and not row.error:
                groups.setdefault(row.draw.group, []).append(index)
        lineup = _Lineup(
            rows,
            slots,
            torch.from_numpy(slots).to(self.device),
            None if len(lines) == len(logits) else torch.tensor(lines, device=self.device),
            list(dict.fromkeys(row.sampling for row in rows)),
            max(row.num_statistics for row in rows),
            groups,
        )
        self._lineup = rows, lines, lineup
        return lineup

    def _draw(self, logits: Tensor, lineup: _Lineup, position: Ints) -> Tensor:
        """Draw and log a token for each row of a lineup. Return the tokens (N,) that vLLM shall take."""
        columns, slots = self._columns, lineup.slots_there
        log_ratio = self._log_ratio(lineup, position)
        reals, wholes = columns.reals(slots), columns.wholes(slots)
        uniforms = [row.uniform(int(at)) for row, at in zip(lineup.rows, position, strict=True)]
        is_first = position == 0
        banned = None
        if any(first and row.draw.forbid_first >= 0 for first, row in zip(is_first, lineup.rows, strict=True)):
            banned = torch.where(self._there(is_first), wholes.banned, -1)
        width = lineup.num_statistics
        self._pace(lineup, position)
        now = time.monotonic()
        for row in lineup.rows:
            row.seen_s = now
        self._taps.lines = slice(None) if lineup.lines is None else lineup.lines  # type: ignore[assignment]
        columns.num_drawn[lineup.slots] = position
        drawn = self._exploring.draw(
            lineup.slots,
            columns.num_drawn,
            logits if lineup.lines is None else logits[lineup.lines],
            Filters.of(lineup.kinds, reals.temperature, wholes.top_k, reals.top_p, reals.min_p),
            self._there(np.array(uniforms)),
            None,
            banned,
            columns.exponents[slots, : width - 1] if width else None,
        )
        self._score_first(logits, lineup, is_first)
        columns.log_draws(slots, int(position.max()) + 1, self._there(position), drawn)
        columns.num_drawn[lineup.slots] = position + 1
        return self._ended(lineup, self._there(position), drawn, reals._replace(log_ratio=log_ratio))

    def _there(self, values: Ints | Floats | Flags) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _log_ratio(self, lineup: _Lineup, position: Ints) -> Tensor:
        """Return the sums (N,) of alpha * logp - logq before `position`. A token that is drawn again counts once."""
        columns, slots = self._columns, lineup.slots_there
        sums = columns.reals(slots).log_ratio.clone()
        again = np.flatnonzero(columns.num_drawn[lineup.slots] != position)
        for index in again.tolist():
            _, logp, logq = columns.log[int(lineup.slots[index]), :NUM_LOGGED, : int(position[index])]
            alpha = (lineup.rows[index].draw.bound or (0.0, 0.0))[0]
            sums[index] = alpha * logp.sum() - logq.sum()
        return sums

    def _pace(self, lineup: _Lineup, position: Ints) -> None:
        for name, indices in lineup.groups.items():
            if (pace := self._paces.get(name)) is not None:
                pace.count(position[indices].tolist())

    def _ended(self, lineup: _Lineup, position: Tensor, drawn: TokenDraws, reals: Reals[Tensor]) -> Tensor:
        """Note which rows are given up, as engines/local/batch.py does. Return the tokens (N,) that vLLM shall take."""
        columns, slots = self._columns, lineup.slots_there
        most = reals.log_ratio + reals.power * drawn.logp - drawn.logq
        sums = reals.log_ratio + reals.alpha * drawn.logp - drawn.logq
        columns.set_log_ratio(slots, sums)
        new = (
            (sums < reals.bound) * 1
            + (most < reals.bound) * 2
            + drawn.stuck.to(torch.int64) * 4
            + torch.isnan(drawn.logp) * 8
        )
        old = columns.codes[slots].to(torch.int64)
        is_over = (old > 0) & (self._end_at[slots] < position)
        self._end_at[slots] = torch.where(is_over, self._end_at[slots], torch.where(new > 0, position, -1))
        code = torch.where(is_over, old, new)
        columns.codes[slots] = code.to(torch.uint8)
        ends = self._ends[slots]
        return torch.where((code > 0) & (ends >= 0), ends, drawn.tokens)

    def _score_first(self, logits: Tensor, lineup: _Lineup, is_first: Flags) -> None:
        for index in np.flatnonzero(is_first).tolist():
            row = lineup.rows[index]
            if row.draw.score_first:
                line = index if lineup.lines is None else int(lineup.lines[index])
                ids = torch.tensor([row.draw.score_first], device=self.device)
                row.first = Softmax(logits[line : line + 1]).log_probs(ids)[0]

    def _failed(self, logits: Tensor, lineup: _Lineup, error: str) -> Tensor:
        """Note a failed step. Its rows end; without an end token they go on greedily, to no effect."""
        for row in lineup.rows:
            row.error = row.error or error
        lines = logits if lineup.lines is None else logits[lineup.lines]
        ends = self._ends[lineup.slots_there]
        self._lineup = None
        return torch.where(ends >= 0, ends, lines.argmax(-1))


def unfit(explore: str, *, met: bool = False) -> str:
    """Return why a policy cannot run inside vLLM, "" if it can. Raises SamplewiseError for one that does not exist.

    `met`: the draws of a group are where they wait for one another, which is the client's part (meeting.py)."""
    settings = explore_settings(explore)
    if settings.reads_prompt:
        return f"explore={explore} reads the states of the prompt, which vLLM does not give: leave out warm_start"
    if settings.meets_at and not met:
        return f"explore={explore} lets draws wait for one another, which a request of its own cannot"
    return ""


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
