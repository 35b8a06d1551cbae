"""The running batch: rows join, draw one token each at every step, and leave. One thread calls it; it does no I/O.

Rows 0 ... n-1 run. A row that ends is replaced by the last one, so what runs is always the first n rows of every
buffer. Rows that wait for others of their group come after those that run, and have no part in a step. What a row draws
follows from its ask alone: its uniforms come from its own seed, one a position, whatever else runs. (Another batch
shape rounds the logits differently: see engine.py.)

Asks with the same context (prompt and prefix) that join together are computed once, in the first of their rows, and
copied. Contexts, and responses whose token ids were wanted, stay in `Prefixes`, where a later ask that begins with them
finds them. A row whose context is cached up to its last token has no pass of its own: it draws with the next step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from samplewise.core.errors import BadRequest, EngineError
from samplewise.core.keys import Key
from samplewise.core.numerics import Ints, ratio_cannot_rise
from samplewise.core.types import Completion, Finish, Generate, Likelihood, RejectionBound, Sampling, Usage
from samplewise.engines.base import failed
from samplewise.explore.softmax import Softmax

from .cache import Prefixes
from .columns import BLOCK, NUM_LOGGED, Columns, Reals, Wholes, as_positions
from .exploring import Exploring, meeting_point
from .forward import Cached, Forward
from .language import Language
from .prefill import PrefillGroup, prefill_batches
from .prepared import Done, PreparedAsk, RowDraw, Shown, failed_jobs, num_statistics, response
from .sample import Filters
from .taps import Taps, head_of


class _Code:
    """Bits that say what a draw did to its row. Plain numbers: tensors are multiplied by them at every step."""

    EOS = 1
    REJECTED = 2  # below its rejection bound
    WATCH = 4  # a stop string, or the cue at which a group meets, may be complete
    STUCK = 8  # nothing was left to draw
    BROKEN = 16  # the model's probability is nan
    DOOMED = 32  # was going to fall below its bound whatever was drawn


class _Row(NamedTuple):
    job: PreparedAsk
    ask: Generate
    rng: np.random.Generator
    first: list[tuple[str, float]]  # log-probs of the ask's `score_first`, once its first token is drawn


class _Ended(NamedTuple):
    row: int
    drawn: RowDraw
    shown: list[int]  # the tokens that have a text
    finish: Finish = "stop"
    stop: int = -1  # where in the text of `shown` a stop string begins; -1: nowhere
    error: EngineError | None = None


def _kind(ask: Generate) -> tuple[Sampling, int]:
    return ask.sampling, num_statistics(ask)


class Batch:
    """The rows that run, and what they share: the model's cache, saved prefixes, exploration."""

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
        self.exploring = Exploring(Taps(forward), lambda: head_of(cast(Cached, forward).model), max_rows)
        self.num_rows = 0
        self.columns = Columns(device)
        self._banning = False  # whether some row has a token that it may not draw first
        self._scoring = False  # whether some row has tokens to score at its first position
        self._rows: list[_Row] = []
        self._kinds: Counter[tuple[Sampling, int]] = Counter()  # (sampling, number of statistics) -> rows
        self._stops = frozenset(stops)
        self._ends = torch.zeros(language.vocab_size, dtype=torch.bool, device=device)  # (V,) end a response
        self._ends[[i for i in stops if i < language.vocab_size]] = True
        self._stop_sets: dict[tuple[str, ...], int] = {(): 0}  # stop strings -> their row of the table
        self._completes = torch.zeros(1, language.vocab_size, dtype=torch.bool, device=device)  # (stop sets, V)

    @property
    def jobs(self) -> list[PreparedAsk]:
        return [row.job for row in self._rows]

    @property
    def num_drawn(self) -> list[int]:
        """How many tokens each job's row has drawn."""
        return [int(num) for num in self.columns.num_drawn[: self.num_rows]]

    # ------------------------------------------------------------------------------------------------------- joining

    def join(self, jobs: Sequence[PreparedAsk]) -> list[Done]:
        """Turn Generate jobs into rows and draw their first tokens. Return what has already ended."""
        if self.num_rows + len(jobs) > self.max_rows:
            raise ValueError(f"{self.num_rows} rows run and {len(jobs)} want to join, more than {self.max_rows}")
        done: list[Done] = []
        for part in prefill_batches(jobs, [len(job.ids) for job in jobs], self.prefixes, self.language.vocab_size):
            done += self._join(part)
        return done

    def _join(self, part: list[PrefillGroup]) -> list[Done]:
        jobs = [group.jobs[0] for group in part] + [job for group in part for job in group.jobs[1:]]
        leader = [*range(len(part)), *(i for i, group in enumerate(part) for _ in group.jobs[1:])]
        first, end = self.num_rows, self.num_rows + len(jobs)
        lengths = np.array([len(group.ids) for group in part], dtype=np.int64)
        is_ready = part[0].is_ready
        self.exploring.listen(jobs)
        try:
            self.forward.reserve(end, int(lengths.max()), first)
            if is_ready:  # no pass of their own: they draw with the next step, beside the running rows
                self._load(part)
                self._enter(jobs, lengths - 1)
                last = torch.tensor([group.ids[-1] for group in part]).to(self.device)
                self.columns.wholes(slice(first, end)).token.copy_(last)
            else:
                logits = self._extend(part, [group.ids for group in part], 1)[:, 0]
                for row, group in enumerate(part, first):
                    if self.forward.reuses and group.num_new > 1:
                        self.prefixes.put(group.ids, self.forward.save(row, len(group.ids)))
                pick = torch.tensor(leader, dtype=torch.int64, device=self.device)
                if end > first + len(part):
                    to = torch.arange(first + len(part), end, device=self.device)
                    self.forward.copy(to, pick[len(part) :] + first, int(lengths.max()))
                self._enter(jobs, lengths[leader])
                self._refill(np.arange(first, end))
                self._draw(slice(first, end), logits, pick)
        except Exception as error:
            self._kinds.subtract(_kind(row.ask) for row in self._rows[first:])
            self.exploring.lose(range(first, end), self.columns.num_drawn)
            del self._rows[first:]
            return failed_jobs(jobs, error)
        self.num_rows = end
        return [] if is_ready else self._leave(range(first, end), ())

    def _load(self, part: list[PrefillGroup]) -> None:
        """Load the saved part of contexts into the rows after the running ones."""
        for row, group in enumerate(part, self.num_rows):
            if group.saved is not None:
                self.forward.load(row, group.saved, group.num_saved)

    def _extend(self, part: list[PrefillGroup], ids: Sequence[tuple[int, ...]], keep: int) -> Tensor:
        """Compute contexts in the rows after the running ones: logits (N, keep, V)."""
        self._load(part)
        num_saved = [group.num_saved for group in part]
        new = [row[group.num_saved :] for row, group in zip(ids, part, strict=True)]
        return self.forward.extend(self.num_rows, num_saved, new, keep)

    def _enter(self, jobs: list[PreparedAsk], lengths: Ints) -> None:
        first, end = self.num_rows, self.num_rows + len(jobs)
        asks = [job.ask for job in jobs if isinstance(job.ask, Generate)]
        columns = self.columns
        columns.grow(end, self.max_rows)
        columns.widen(max(map(num_statistics, asks)))
        self.exploring.enter(first, asks)
        self._rows += [_Row(job, ask, Key(ask.seed).generator(), []) for job, ask in zip(jobs, asks, strict=True)]
        self._scoring |= any(ask.score_first for ask in asks)
        self._kinds.update(map(_kind, asks))
        columns.num_cached[first:end], columns.num_drawn[first:end] = lengths, 0
        columns.limit[first:end] = [ask.max_tokens for ask in asks]
        reals, wholes = [], []
        for ask in asks:
            temperature, top_k, top_p, min_p, _ = ask.sampling
            alpha, bound = ask.reject_below or RejectionBound(0.0, -math.inf)
            power = 1 / temperature if ratio_cannot_rise(alpha, temperature) else math.nan
            reals.append(Reals(temperature, top_p, min_p, alpha, bound, 0.0, power))
            banned = -1 if ask.forbid_first is None else ask.forbid_first
            cue = meeting_point(ask).rstrip()
            wholes.append(Wholes(0, top_k, self._stop_set((*ask.stop, cue) if cue else ask.stop), banned))
            self._banning |= banned >= 0
        columns.write(first, reals, wholes)
        for row, ask in enumerate(asks, first):
            if num_statistics(ask):
                columns.exponents[row, : len(ask.exponents)] = torch.tensor(ask.exponents, dtype=torch.float64)

    def _stop_set(self, stop: tuple[str, ...]) -> int:
        """Return the row of the table that belongs to these stop strings, added where it is new."""
        index = self._stop_sets.get(stop)
        if index is None:
            index = self._stop_sets[stop] = len(self._completes)
            self._completes = torch.cat([self._completes, self.language.completes(stop).to(self.device)[None]])
        return index

    def _refill(self, rows: Ints) -> None:
        """Draw the next block of uniforms: token t of a row is drawn with number t of its seed's stream."""
        block = np.zeros((len(rows), BLOCK))
        for index, row in enumerate(rows.tolist()):
            size = min(BLOCK, self._rows[row].ask.max_tokens - int(self.columns.num_drawn[row]))
            block[index, :size] = self._rows[row].rng.random(size)
        self.columns.uniforms[torch.from_numpy(rows).to(self.device)] = torch.from_numpy(block).to(self.device)

    # -------------------------------------------------------------------------------------------------------- running

    def step(self) -> list[Done]:
        """Draw the next token of every row that waits for no other. Return the rows that ended; they have left."""
        num_rows, columns = self._arrange(), self.columns
        num_cached, num_drawn = columns.num_cached[:num_rows], columns.num_drawn[:num_rows]
        due = np.flatnonzero(num_drawn % BLOCK == 0)
        if len(due):
            self._refill(due)
        self.forward.reserve(self.num_rows, int(num_cached.max(initial=0)) + 1, self.num_rows)
        done: list[Done] = []
        lost: set[int] = set()
        chunk = max(1, num_rows) if self.exploring.num_rows else self.chunk
        for start in range(0, num_rows, chunk):
            part = slice(start, min(num_rows, start + chunk))
            try:
                logits = self.forward.decode(start, num_cached[part], columns.wholes(part).token)
                num_cached[part] += 1
                self._draw(part, logits, None)
            except Exception as error:
                lost.update(range(start, part.stop))
                done += failed_jobs([row.job for row in self._rows[part]], error)
        self._banning = self._scoring = False  # every first token is drawn
        return done + self._leave(range(num_rows), lost)

    def _arrange(self) -> int:
        """Let the groups go on that have met, and move rows that wait for others behind the rows that run. Return how
        many run."""
        columns, num = self.columns, self.num_rows
        if not self.exploring.meets:
            return num
        for row, most in self.exploring.meet(columns.limit[:num] - columns.num_drawn[:num]):
            columns.limit[row] = columns.num_drawn[row] + most  # so that they reach their limits together
        is_waiting = self.exploring.waiting(num)
        num_running = num - int(is_waiting.sum())
        ahead = np.flatnonzero(is_waiting[:num_running]).tolist()
        if ahead:
            behind = (num_running + np.flatnonzero(~is_waiting[num_running:])).tolist()
            holes, movers = [*ahead, *behind], [*behind, *ahead]
            to, source = (torch.tensor(rows, device=self.device) for rows in (holes, movers))
            self.forward.copy(to, source, int(columns.num_cached[movers].max()))
            columns.move(to, source, holes, movers)
            self.exploring.swap(ahead, behind)
            for one, other in zip(ahead, behind, strict=True):
                self._rows[one], self._rows[other] = self._rows[other], self._rows[one]
        return num_running

    def _draw(self, part: slice, logits: Tensor, pick: Tensor | None) -> None:
        """Draw a token for each row of `part` and log it, without waiting for the device."""
        columns = self.columns
        reals, wholes = columns.reals(part), columns.wholes(part)
        position = as_positions(columns.num_drawn[part], self.device)
        uniforms = columns.uniforms[part].gather(1, (position % BLOCK)[:, None])[:, 0]
        kinds = [kind for kind, num in self._kinds.items() if num > 0]
        width = max(num for _, num in kinds)
        filters = Filters.of((kind for kind, _ in kinds), reals.temperature, wholes.top_k, reals.top_p, reals.min_p)
        exponents = columns.exponents[part, : width - 1] if width else None
        banned = torch.where(position == 0, wholes.banned, -1) if self._banning else None
        drawn = self.exploring.draw(part, columns.num_drawn, logits, filters, uniforms, pick, banned, exponents)
        if self._scoring:
            self._score_first(part, logits, pick)
        # logp / temperature - logq is log Z, whichever kept token was drawn: see types.RejectionBound.
        most = reals.log_ratio + reals.power * drawn.logp - drawn.logq
        reals.log_ratio.add_(reals.alpha * drawn.logp - drawn.logq)
        wholes.token.copy_(drawn.tokens)
        rows = torch.arange(part.start, part.stop, device=self.device)
        columns.log_draws(rows, int(columns.num_drawn[part].max()) + 1, position, drawn)
        columns.codes[part] = (
            self._ends[drawn.tokens] * _Code.EOS
            + (reals.log_ratio < reals.bound) * _Code.REJECTED
            + self._completes[wholes.stop_set, drawn.tokens] * _Code.WATCH
            + drawn.stuck * _Code.STUCK
            + torch.isnan(drawn.logp) * _Code.BROKEN
            + (most < reals.bound) * _Code.DOOMED
        ).to(torch.uint8)
        columns.num_drawn[part] += 1

    def _score_first(self, part: slice, logits: Tensor, pick: Tensor | None) -> None:
        """Note the log-probabilities of the tokens that rows of `part` want scored where their first token is drawn."""
        for index, row in enumerate(self._rows[part]):
            if row.ask.score_first and self.columns.num_drawn[part.start + index] == 0:
                named = [(text, token) for text in row.ask.score_first for token in self.language.tokens_of(text)]
                if named:
                    line = Softmax(logits, torch.tensor([index], device=self.device) if pick is None else pick[[index]])
                    tokens = torch.tensor([[token for _, token in named]], device=self.device)
                    values = line.log_probs(tokens)[0].tolist()
                    row.first[:] = zip((text for text, _ in named), values, strict=True)

    # -------------------------------------------------------------------------------------------------------- leaving

    def _leave(self, rows: range, lost: Collection[int]) -> list[Done]:
        """Return the completions of those of `rows` that have ended. They and the `lost` ones make room."""
        columns, span = self.columns, slice(rows.start, rows.stop)
        codes = columns.codes[span].cpu().numpy()  # the only line of a step that waits for the device
        full = columns.num_drawn[span] >= columns.limit[span]
        checked = [rows[i] for i in np.flatnonzero(full | (codes > 0)).tolist() if rows[i] not in lost]
        ended: list[_Ended] = []
        if checked:
            longest = int(columns.num_drawn[checked].max())
            logs = columns.log[torch.tensor(checked, device=self.device), :, :longest].cpu().numpy()
            for row, log in zip(checked, logs, strict=True):
                width = num_statistics(self._rows[row].ask)
                ids, logp, logq, *statistics = log[: NUM_LOGGED + width, : columns.num_drawn[row]]
                by_token = np.stack(statistics, axis=1).tolist() if width else []
                first = tuple(self._rows[row].first)
                drawn = RowDraw(ids.astype(np.int64).tolist(), logp.tolist(), logq.tolist(), by_token, first)
                code = int(codes[row - rows.start])
                end = self._end(row, code, drawn, bool(full[row - rows.start]))
                if end is not None:
                    ended.append(end)
                elif code & _Code.WATCH and self.exploring.is_apart(row):
                    cue = meeting_point(self._rows[row].ask)
                    if self.language.ends_in(drawn.tokens, cue):
                        self.exploring.arrive(row, int(columns.limit[row] - columns.num_drawn[row]))
        done = self.exploring.end([end.row for end in ended], columns.num_drawn, self._completions(ended))
        self.drop([*lost, *(end.row for end in ended)])
        return done

    def _end(self, row: int, code: int, drawn: RowDraw, full: bool) -> _Ended | None:
        """Return how a row ends, if it does. engines/toy.py checks in the same order."""
        ask = self._rows[row].ask
        shown = drawn.tokens[:-1] if code & _Code.EOS else drawn.tokens
        if code & _Code.BROKEN:
            return _Ended(row, drawn, shown, error=EngineError("the model gave a probability that is not a number"))
        if code & _Code.STUCK:
            text = f"nothing but the forbidden first token {ask.forbid_first} can be drawn"
            return _Ended(row, drawn, shown, error=BadRequest(text))
        if code & _Code.DOOMED:  # known before the last token was drawn, so that token does not count
            return _Ended(row, drawn.upto(len(drawn.tokens) - 1), drawn.tokens[:-1], finish="rejected")
        if code & _Code.REJECTED:
            return _Ended(row, drawn, shown, finish="rejected")
        stop = self.language.find_stop(ask.prefix, shown, ask.stop) if code & _Code.WATCH else -1
        if code & _Code.EOS or stop >= 0:
            return _Ended(row, drawn, shown, stop=stop)
        return _Ended(row, drawn, shown, finish="length") if full else None

    def _completions(self, ended: list[_Ended]) -> list[Done]:
        without_prefix = [i for i, end in enumerate(ended) if not self._rows[end.row].ask.prefix]
        texts = dict(zip(without_prefix, self.language.texts([ended[i].shown for i in without_prefix]), strict=True))
        done = []
        for i, end in enumerate(ended):
            job, ask, *_ = self._rows[end.row]
            if end.error is not None:
                done.append(Done(job.tag, failed(end.error)))
                continue
            shown = Shown(end.shown, end.stop)
            done.append(Done(job.tag, response(job, end.drawn, shown, end.finish, self.language, texts.get(i))))
            # A caller that wants the ids may continue from them, but not from a rejected draft.
            if "tokens" in ask.want and end.finish != "rejected" and self.forward.reuses:
                ids = (*job.ids, *end.drawn.tokens[:-1])
                self.prefixes.put(ids, self.forward.save(end.row, len(ids)))
        return done

    def drop(self, gone: Collection[int]) -> None:
        """Remove rows, and move the last ones into the gaps."""
        if not gone:
            return
        out = set(gone)
        left = self.num_rows - len(out)
        holes = sorted(row for row in out if row < left)
        movers = [row for row in range(left, self.num_rows) if row not in out]
        self.exploring.lose(out, self.columns.num_drawn)
        for row in out:
            self._kinds[_kind(self._rows[row].ask)] -= 1
        if holes:
            to, source = (torch.tensor(rows, device=self.device) for rows in (holes, movers))
            self.forward.copy(to, source, int(self.columns.num_cached[movers].max()))
            self.columns.move(to, source, holes, movers)
            self.exploring.move(holes, movers)
            for hole, mover in zip(holes, movers, strict=True):
                self._rows[hole] = self._rows[mover]
        del self._rows[left:]
        self.num_rows = left
        self._kinds = +self._kinds

    # -------------------------------------------------------------------------------------------------------- scoring

    def score(self, jobs: Sequence[PreparedAsk]) -> list[Done]:
        """Score Likelihood jobs: the log-probabilities of their completions, computed after the running rows."""
        done: list[Done] = []
        completions = [job.ask.completion if isinstance(job.ask, Likelihood) else () for job in jobs]
        num_context = [len(job.ids) - len(ids) for job, ids in zip(jobs, completions, strict=True)]
        for part in prefill_batches(jobs, num_context, self.prefixes, self.language.vocab_size):
            scored = [group.jobs[0] for group in part]
            try:
                done += self._score(part, scored)
            except Exception as error:
                done += failed_jobs(scored, error)
        return done

    def _score(self, part: list[PrefillGroup], jobs: list[PreparedAsk]) -> list[Done]:
        ids = [job.ids[:-1] for job in jobs]  # nothing is wanted after the last token
        self.forward.reserve(self.num_rows + len(part), max(map(len, ids)), self.num_rows)
        asks = [job.ask for job in jobs if isinstance(job.ask, Likelihood)]
        logits = self._extend(part, ids, max(len(ask.completion) for ask in asks))
        texts = self.language.texts([[i for i in ask.completion if i not in self._stops] for ask in asks])
        done = []
        for job, ask, text, row_logits in zip(jobs, asks, texts, logits, strict=True):
            tokens = torch.tensor(ask.completion, device=self.device)[:, None]
            logp = tuple(Softmax(row_logits[-len(tokens) :]).log_probs(tokens)[:, 0].tolist())
            usage = Usage(1, len(job.ids))
            done.append(Done(job.tag, Completion(text, "stop", usage, ask.completion, logp, logp, math.fsum(logp))))
        return done
