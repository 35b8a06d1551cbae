"""The running batch: rows join, draw a token each at every step, and leave. One thread calls it; it does no I/O.

Rows 0 ... n-1 run. A row that ends is replaced by the last one, so that what runs is always the first n rows of every
buffer. What a row draws follows from its ask alone: its uniforms come from its own seed, one per position, whoever runs
beside it. (Another batch shape rounds the logits differently: see engine.py.)

Asks with one context, prompt and prefix, that join together are computed once, in the first of their rows, and copied.
Contexts, and responses whose token ids were asked for, stay in `Prefixes`, where a later ask that begins so finds them.
A row whose context is at hand but for the last token has no pass of its own: it draws with the next step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samplewise.engines.base import failed
from samplewise.engines.law import falls
from samplewise.errors import BadRequest, EngineError
from samplewise.keys import Key
from samplewise.types import Completion, Finish, Floor, Generate, Likelihood, Sampling, Usage

from .cache import Prefixes
from .exploring import Exploring
from .forward import Forward, Ints
from .jobs import Done, Drawn, Job, completion, fail, num_marks
from .language import Language
from .plans import Plan, parts
from .sample import Filters, log_probs

BLOCK = 64  # uniforms of a row that are drawn ahead
EOS, FLOOR, WATCH, STUCK, BROKEN, DOOMED = 1, 2, 4, 8, 16, 32  # what a draw can say of its row

TEMPERATURE, TOP_P, MIN_P, ALPHA, VALUE, RUNNING, POWER = range(7)  # columns of a row's reals
TOKEN, TOP_K, WATCHED, BANNED = range(4)  # columns of its whole numbers


class _Row(NamedTuple):
    job: Job
    ask: Generate
    rng: np.random.Generator


class _Ended(NamedTuple):
    row: int
    drawn: Drawn
    shown: list[int]  # the tokens that have a text
    finish: Finish = "stop"
    cut: int = -1
    error: EngineError | None = None


def _kind(ask: Generate) -> tuple[Sampling, int]:
    return ask.sampling, num_marks(ask)


class Batch:
    def __init__(
        self,
        forward: Forward,
        language: Language,
        stops: Sequence[int],
        device: torch.device,
        *,
        max_rows: int,
        chunk: int,
        prefix_bytes: int,
    ) -> None:
        self.forward, self.language, self.device = forward, language, device
        self.max_rows, self.chunk = max_rows, chunk
        self.prefixes = Prefixes(prefix_bytes if forward.reuses else 0)
        self.exploring = Exploring(forward, max_rows)
        self.num_rows = 0
        self._banning = False  # whether some row may not draw some token first
        self._rows: list[_Row] = []
        self._kinds: Counter[tuple[Sampling, int]] = Counter()  # sampling and number of marks -> rows
        self._stops = frozenset(stops)
        self._ends = torch.zeros(language.vocab_size, dtype=torch.bool, device=device)
        self._ends[[i for i in stops if i < language.vocab_size]] = True
        self._lines: dict[tuple[str, ...], int] = {(): 0}  # stop strings -> their line of the table
        self._table = torch.zeros(1, language.vocab_size, dtype=torch.bool, device=device)
        # On the host, so that no step waits to learn a length; (R,) each.
        self._held = np.zeros(0, dtype=np.int64)  # tokens that went through the model
        self._count = np.zeros(0, dtype=np.int64)  # tokens drawn: the last one is still to go through
        self._limit = np.zeros(0, dtype=np.int64)
        # On the device, a line for each row.
        self._reals = torch.zeros(0, 7, dtype=torch.float64, device=device)
        self._wholes = torch.zeros(0, 4, dtype=torch.int64, device=device)
        self._uniforms = torch.zeros(0, BLOCK, dtype=torch.float64, device=device)
        self._drawn = torch.zeros(0, 3, 0, dtype=torch.float64, device=device)  # token, logp, logq, marks
        self._exponents = torch.ones(0, 0, dtype=torch.float64, device=device)
        self._codes = torch.zeros(0, dtype=torch.uint8, device=device)

    @property
    def jobs(self) -> list[Job]:
        return [row.job for row in self._rows]

    # ------------------------------------------------------------------------------------------------------- joining

    def join(self, jobs: Sequence[Job]) -> list[Done]:
        """Generate jobs become rows and draw their first token."""
        if self.num_rows + len(jobs) > self.max_rows:
            raise ValueError(f"{self.num_rows} rows run and {len(jobs)} want to join, more than {self.max_rows}")
        done: list[Done] = []
        for part in parts(jobs, [len(job.ids) for job in jobs], self.prefixes, self.language.vocab_size):
            done += self._join(part)
        return done

    def _join(self, part: list[Plan]) -> list[Done]:
        jobs = [plan.jobs[0] for plan in part] + [job for plan in part for job in plan.jobs[1:]]
        leader = [*range(len(part)), *(i for i, plan in enumerate(part) for _ in plan.jobs[1:])]
        first, end = self.num_rows, self.num_rows + len(jobs)
        lengths = np.array([len(plan.ids) for plan in part], dtype=np.int64)
        ready = part[0].is_ready
        self.exploring.listen(jobs)
        try:
            self.forward.reserve(end, int(lengths.max()), first)
            if ready:  # no pass of their own: they draw with the next step, beside the rows that run
                self._load(part)
                self._enter(jobs, lengths - 1)
                self._wholes[first:end, TOKEN] = torch.tensor([plan.ids[-1] for plan in part]).to(self.device)
            else:
                logits = self._extend(part, [plan.ids for plan in part], 1)[:, 0]
                for row, plan in enumerate(part, first):
                    if self.forward.reuses and plan.num_new > 1:
                        self.prefixes.put(plan.ids, self.forward.save(row, len(plan.ids)))
                pick = torch.tensor(leader, dtype=torch.int64, device=self.device)
                if end > first + len(part):
                    to = torch.arange(first + len(part), end, device=self.device)
                    self.forward.copy(to, pick[len(part) :] + first, int(lengths.max()))
                self._enter(jobs, lengths[leader])
                self._refill(np.arange(first, end))
                self._draw(slice(first, end), logits, pick)
        except Exception as error:
            self._kinds.subtract(_kind(row.ask) for row in self._rows[first:])
            self.exploring.lose(range(first, end), self._count)
            del self._rows[first:]
            return fail(jobs, error)
        self.num_rows = end
        return [] if ready else self._leave(range(first, end), ())

    def _load(self, part: list[Plan]) -> None:
        """What is at hand of contexts, into the rows behind those that run."""
        for row, plan in enumerate(part, self.num_rows):
            if plan.saved is not None:
                self.forward.load(row, plan.saved, plan.held)

    def _extend(self, part: list[Plan], ids: Sequence[tuple[int, ...]], keep: int) -> Tensor:
        """Computes contexts in the rows behind those that run: logits (N, keep, V)."""
        self._load(part)
        held = [plan.held for plan in part]
        new = [row[plan.held :] for row, plan in zip(ids, part, strict=True)]
        return self.forward.extend(self.num_rows, held, new, keep)

    def _enter(self, jobs: list[Job], lengths: Ints) -> None:
        first, end = self.num_rows, self.num_rows + len(jobs)
        asks = [job.ask for job in jobs if isinstance(job.ask, Generate)]
        self._grow(end)
        self._widen(asks)
        self.exploring.enter(first, asks)
        self._rows += [_Row(job, ask, Key(ask.seed).generator()) for job, ask in zip(jobs, asks, strict=True)]
        self._kinds.update(map(_kind, asks))
        self._held[first:end], self._count[first:end] = lengths, 0
        self._limit[first:end] = [ask.max_tokens for ask in asks]
        reals, wholes = [], []
        for ask in asks:
            temperature, top_k, top_p, min_p, _ = ask.sampling
            floor = ask.floor or Floor(0.0, -math.inf)
            power = 1 / temperature if falls(floor.alpha, temperature) else math.nan
            reals.append((temperature, top_p, min_p, *floor, 0.0, power))
            wholes.append((0, top_k, self._line(ask.stop), -1 if ask.forbid_first is None else ask.forbid_first))
            self._banning |= ask.forbid_first is not None
        self._reals[first:end] = torch.tensor(reals, dtype=torch.float64).to(self.device)
        self._wholes[first:end] = torch.tensor(wholes, dtype=torch.int64).to(self.device)
        for row, ask in enumerate(asks, first):
            if num_marks(ask):
                self._exponents[row, : len(ask.exponents)] = torch.tensor(ask.exponents, dtype=torch.float64)

    def _line(self, stop: tuple[str, ...]) -> int:
        line = self._lines.get(stop)
        if line is None:
            line = self._lines[stop] = len(self._table)
            self._table = torch.cat([self._table, self.language.completes(stop).to(self.device)[None]])
        return line

    def _grow(self, num_rows: int) -> None:
        old = len(self._held)
        if num_rows <= old:
            return
        more = min(self.max_rows, max(num_rows, 2 * old)) - old
        self._held, self._count, self._limit = (
            np.concatenate([rows, np.zeros(more, dtype=np.int64)]) for rows in (self._held, self._count, self._limit)
        )
        self._reals, self._wholes, self._uniforms, self._drawn, self._codes = (
            torch.cat([rows, rows.new_zeros(more, *rows.shape[1:])])
            for rows in (self._reals, self._wholes, self._uniforms, self._drawn, self._codes)
        )
        self._exponents = torch.cat([self._exponents, self._exponents.new_ones(more, self._exponents.shape[1])])

    def _widen(self, asks: Sequence[Generate]) -> None:
        """Room for what the tokens of `asks` are marked with."""
        wide = max(map(num_marks, asks))
        if (more := 3 + wide - self._drawn.shape[1]) > 0:
            self._drawn = F.pad(self._drawn, (0, 0, 0, more))
        if (more := wide - 1 - self._exponents.shape[1]) > 0:
            self._exponents = F.pad(self._exponents, (0, more), value=1.0)

    def _refill(self, rows: Ints) -> None:
        """The next block of uniforms: token t of a row is drawn with number t of its seed's stream."""
        block = np.zeros((len(rows), BLOCK))
        for line, row in enumerate(rows.tolist()):
            size = min(BLOCK, self._rows[row].ask.max_tokens - int(self._count[row]))
            block[line, :size] = self._rows[row].rng.random(size)
        self._uniforms[torch.from_numpy(rows).to(self.device)] = torch.from_numpy(block).to(self.device)

    # -------------------------------------------------------------------------------------------------------- running

    def step(self) -> list[Done]:
        """Every row draws its next token. Rows that end leave."""
        num_rows = self.num_rows
        held, count = self._held[:num_rows], self._count[:num_rows]
        due = np.flatnonzero(count % BLOCK == 0)
        if len(due):
            self._refill(due)
        self.forward.reserve(num_rows, int(held.max(initial=0)) + 1, num_rows)
        done: list[Done] = []
        lost: set[int] = set()
        chunk = max(1, num_rows) if self.exploring.num_rows else self.chunk
        for start in range(0, num_rows, chunk):
            part = slice(start, min(num_rows, start + chunk))
            try:
                logits = self.forward.decode(start, held[part], self._wholes[part, TOKEN])
                held[part] += 1
                self._draw(part, logits, None)
            except Exception as error:
                lost.update(range(start, part.stop))
                done += fail([row.job for row in self._rows[part]], error)
        self._banning = False  # every first token is drawn
        return done + self._leave(range(num_rows), lost)

    def _draw(self, part: slice, logits: Tensor, pick: Tensor | None) -> None:
        """Draws a token for each row of `part` and notes what came of it, without waiting for the device."""
        reals, wholes = self._reals[part], self._wholes[part]
        count = torch.from_numpy(self._count[part].copy()).to(self.device)
        uniforms = self._uniforms[part].gather(1, (count % BLOCK)[:, None])[:, 0]
        running = [kind for kind, num in self._kinds.items() if num > 0]
        wide = max(width for _, width in running)
        cuts = wholes[:, TOP_K], reals[:, TOP_P], reals[:, MIN_P]
        filters = Filters.of((kind for kind, _ in running), reals[:, TEMPERATURE], *cuts)
        exponents = self._exponents[part, : wide - 1] if wide else None
        banned = torch.where(count == 0, wholes[:, BANNED], -1) if self._banning else None
        drawn = self.exploring.draw(part, self._count, logits, filters, uniforms, pick, banned, exponents)
        # Of any token that the law keeps, logp / temperature - logq is its log Z: see types.Floor.
        most = reals[:, RUNNING] + reals[:, POWER] * drawn.logp - drawn.logq
        reals[:, RUNNING] += reals[:, ALPHA] * drawn.logp - drawn.logq
        wholes[:, TOKEN] = drawn.tokens
        longest = int(self._count[part].max()) + 1
        if longest > self._drawn.shape[2]:
            more = self._drawn.new_zeros(*self._drawn.shape[:2], max(32, longest // 2))
            self._drawn = torch.cat([self._drawn, more], dim=2)
        rows = torch.arange(part.start, part.stop, device=self.device)
        numbers = [drawn.tokens.double()[:, None], drawn.logp[:, None], drawn.logq[:, None], drawn.marks]
        self._drawn[rows, : 3 + wide, count] = torch.cat(numbers, dim=1)
        self._codes[part] = (
            self._ends[drawn.tokens] * EOS
            + (reals[:, RUNNING] < reals[:, VALUE]) * FLOOR
            + self._table[wholes[:, WATCHED], drawn.tokens] * WATCH
            + drawn.stuck * STUCK
            + torch.isnan(drawn.logp) * BROKEN
            + (most < reals[:, VALUE]) * DOOMED
        ).to(torch.uint8)
        self._count[part] += 1

    # -------------------------------------------------------------------------------------------------------- leaving

    def _leave(self, rows: range, lost: Collection[int]) -> list[Done]:
        """The completions of those of `rows` that have ended. They and the `lost` ones make room."""
        codes = self._codes[rows.start : rows.stop].cpu().numpy()  # the one place of a step that waits for the device
        full = self._count[rows.start : rows.stop] >= self._limit[rows.start : rows.stop]
        looked = [rows[i] for i in np.flatnonzero(full | (codes > 0)).tolist() if rows[i] not in lost]
        ended: list[_Ended] = []
        if looked:
            longest = int(self._count[looked].max())
            numbers = self._drawn[torch.tensor(looked, device=self.device), :, :longest].cpu().numpy()
            for row, line in zip(looked, numbers, strict=True):
                at, wide = row - rows.start, num_marks(self._rows[row].ask)
                ids, logp, logq, *marks = line[: 3 + wide, : self._count[row]]
                marked = np.stack(marks, axis=1).tolist() if wide else []
                drawn = Drawn(ids.astype(np.int64).tolist(), logp.tolist(), logq.tolist(), marked)
                end = self._end(row, int(codes[at]), drawn, bool(full[at]))
                if end is not None:
                    ended.append(end)
        done = self.exploring.end([end.row for end in ended], self._count, self._completions(ended))
        self.drop([*lost, *(end.row for end in ended)])
        return done

    def _end(self, row: int, code: int, drawn: Drawn, full: bool) -> _Ended | None:
        """How a row ends, if it does. In this order: engines/toy.py has the same."""
        ask = self._rows[row].ask
        shown = drawn.tokens[:-1] if code & EOS else drawn.tokens
        if code & BROKEN:
            return _Ended(row, drawn, shown, error=EngineError("the model gave a probability that is not a number"))
        if code & STUCK:
            text = f"nothing but the forbidden first token {ask.forbid_first} can be drawn"
            return _Ended(row, drawn, shown, error=BadRequest(text))
        if code & DOOMED:  # known before the last token was drawn, so it is not
            return _Ended(row, drawn.upto(len(drawn.tokens) - 1), drawn.tokens[:-1], finish="floor")
        if code & FLOOR:
            return _Ended(row, drawn, shown, finish="floor")
        cut = self.language.cut(ask.prefix, shown, ask.stop) if code & WATCH else -1
        if code & EOS or cut >= 0:
            return _Ended(row, drawn, shown, cut=cut)
        return _Ended(row, drawn, shown, finish="length") if full else None

    def _completions(self, ended: list[_Ended]) -> list[Done]:
        plain = [i for i, end in enumerate(ended) if not self._rows[end.row].ask.prefix]
        texts = dict(zip(plain, self.language.texts([ended[i].shown for i in plain]), strict=True))
        done = []
        for i, end in enumerate(ended):
            job, ask, _ = self._rows[end.row]
            if end.error is not None:
                done.append(Done(job.tag, failed(end.error)))
                continue
            text = texts[i] if i in texts else self.language.continued(ask.prefix, end.shown)
            gone = 0 if end.cut < 0 else len(text) - end.cut  # characters, from the stop string on
            if "whole" in ask.want and ask.prefix:
                text = self.language.texts([[*ask.prefix, *end.shown]])[0]
            text = text[: len(text) - gone]
            done.append(Done(job.tag, completion(ask, len(job.ids), end.drawn, text, end.finish)))
            # Who asked for the ids may continue from them, but not from what was given up.
            if "tokens" in ask.want and end.finish != "floor" and self.forward.reuses:
                ids = (*job.ids, *end.drawn.tokens[:-1])
                self.prefixes.put(ids, self.forward.save(end.row, len(ids)))
        return done

    def drop(self, gone: Collection[int]) -> None:
        """Rows leave, and the last ones take their places."""
        if not gone:
            return
        out = set(gone)
        left = self.num_rows - len(out)
        holes = sorted(row for row in out if row < left)
        movers = [row for row in range(left, self.num_rows) if row not in out]
        self.exploring.lose(out, self._count)
        for row in out:
            self._kinds[_kind(self._rows[row].ask)] -= 1
        if holes:
            to, source = (torch.tensor(rows, device=self.device) for rows in (holes, movers))
            self.forward.copy(to, source, int(self._held[movers].max()))
            for host in (self._held, self._count, self._limit):
                host[holes] = host[movers]
            self.exploring.move(holes, movers)
            for device in (self._reals, self._wholes, self._uniforms, self._drawn, self._exponents):
                device[to] = device[source]
            for hole, mover in zip(holes, movers, strict=True):
                self._rows[hole] = self._rows[mover]
        del self._rows[left:]
        self.num_rows = left
        self._kinds = +self._kinds

    # -------------------------------------------------------------------------------------------------------- scoring

    def score(self, jobs: Sequence[Job]) -> list[Done]:
        """Likelihood jobs: the log-probabilities of their completions, computed behind the rows that run."""
        done: list[Done] = []
        given = [job.ask.completion if isinstance(job.ask, Likelihood) else () for job in jobs]
        known = [len(job.ids) - len(ids) for job, ids in zip(jobs, given, strict=True)]
        for part in parts(jobs, known, self.prefixes, self.language.vocab_size):
            asked = [plan.jobs[0] for plan in part]
            try:
                done += self._score(part, asked)
            except Exception as error:
                done += fail(asked, error)
        return done

    def _score(self, part: list[Plan], jobs: list[Job]) -> list[Done]:
        ids = [job.ids[:-1] for job in jobs]  # what follows the last token is not wanted
        self.forward.reserve(self.num_rows + len(part), max(map(len, ids)), self.num_rows)
        asks = [job.ask for job in jobs if isinstance(job.ask, Likelihood)]
        logits = self._extend(part, ids, max(len(ask.completion) for ask in asks))
        texts = self.language.texts([[i for i in ask.completion if i not in self._stops] for ask in asks])
        done = []
        for job, ask, text, lines in zip(jobs, asks, texts, logits, strict=True):
            wanted = torch.tensor(ask.completion, device=self.device)[:, None]
            found = log_probs(lines[-len(wanted) :]).gather(1, wanted)[:, 0]
            logp = tuple(found.tolist())
            done.append(
                Done(
                    job.tag,
                    Completion(text, "stop", Usage(1, len(job.ids)), ask.completion, logp, logp, math.fsum(logp)),
                )
            )
        return done
