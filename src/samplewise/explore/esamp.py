"""Exploratory Sampling (arXiv 2604.24927): explore by what the group's own states do not predict.

Each group has a learner that predicts the deep state hL from the shallow h1. Where it fails, the context is new to
the group, and the failure, through the language model's head, says which tokens lead there (guide.py). The learner
takes one step for each decoding step, on all live rows of the group, after their tokens are chosen; a prediction
always uses the weights from before. The step can be done beside the engine (aside.py). `warm_start`: the first step is
on the prompt.

Faithful by default; what deviates is a named option. `input_norm` (on) divides h1 by its root mean square, since h1 and
hL differ widely in scale; the published description has none. The same code carries the controls: `zero` predicts
zero, `frozen` never learns, `noise` turns the error into another direction of the same length.

What it is known not to do: rows with the same prefix in the same step get the same logits, so nothing keeps siblings
apart at the very place where they part; and in lockstep over few steps the learner learns next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import counters
from .aside import Aside, aside
from .base import Advice, Head, Layout, Rows, entropies
from .forks import Forks
from .guide import guided_law, heat_for
from .learn import Learned, learner, without
from .settings import Esamp

LOOKS = 16  # steps of a group from one look at its laws to the next
WATCHED = 2  # rows of a group that are looked at: a look costs some twenty passes over them
DECAY = 0.9  # of what R^2 remembers, a step
# Columns of a group's tally. SEEN to WARMED are rows, those of the prompt WARMED and nothing else. UPDATES are steps of
# the learner, CHOICES tokens drawn where there was a choice, MOVED what guidance did to their odds.
SEEN, GUIDED, TRAINED, DROPPED, WARMED, STEPS, UPDATES, CLIPPED = range(8)
FIRST, LAST, CHOICES, MOVED, LOOKED, SHIFT, KL, HEAT, BEFORE, AFTER = range(8, 18)


class EsampPolicy:
    """All groups of one `Esamp`."""

    def __init__(self, settings: Esamp, head: Head) -> None:
        self.settings, self.head = settings, head
        device, dim = head.weight.device, head.weight.shape[1]
        self.learner = aside(learner(settings, dim, device), settings.aside, device)
        self._apart = isinstance(self.learner, Aside)  # states are still read when an engine may write over them
        self.forks = Forks(settings.forking, device)
        self.seeds = np.zeros(0, dtype=np.uint64)
        self.tally = torch.zeros(0, AFTER + 1, dtype=torch.float64, device=device)
        self.recent = torch.zeros(0, 2, dtype=torch.float64, device=device)  # error and spread, for R^2
        self.mean = torch.zeros(0, dim, device=device)  # of the group's deep states
        self.broken = torch.zeros(0, dtype=torch.bool, device=device)  # its learner gave what is no number
        self.steps = np.zeros(0, dtype=np.int64)  # of each group, to know when to look
        self._last: tuple[Layout, Tensor, Tensor, Tensor, Tensor] | None = None
        self._laws: tuple[Tensor, Tensor, Tensor] | None = None  # rows, plain laws and guided ones

    def open(self, seed: int) -> None:
        self._note(self.learner.settle())
        self.learner.open(seed)
        self.forks.open()
        self.seeds, self.steps = np.append(self.seeds, np.uint64(seed)), np.append(self.steps, 0)
        self.tally, self.recent, self.mean, self.broken = (
            torch.cat([stack, stack.new_zeros(1, *stack.shape[1:])])
            for stack in (self.tally, self.recent, self.mean, self.broken)
        )

    def close(self, place: int) -> Mapping[str, float]:
        self._note(self.learner.settle())
        told = self._told(self.tally[place].tolist(), self.recent[place].tolist(), bool(self.broken[place]))
        self.learner.close(place)
        self.forks.close(place)
        self.seeds, self.steps = np.delete(self.seeds, place), np.delete(self.steps, place)
        self.tally, self.recent, self.mean, self.broken = (
            without(stack, place) for stack in (self.tally, self.recent, self.mean, self.broken)
        )
        self._last = self._laws = None
        return told

    def _told(self, tally: list[float], recent: list[float], broken: bool) -> Mapping[str, float]:
        def share(of: float, to: float) -> float:
            return of / to if to else float("nan")

        return {
            "seen": tally[SEEN],
            "guided": tally[GUIDED],
            "trained": tally[TRAINED],
            "dropped": tally[DROPPED],
            "warmed": tally[WARMED],
            "error_first": tally[FIRST] if tally[STEPS] else float("nan"),
            "error_last": tally[LAST] if tally[STEPS] else float("nan"),
            "r_squared": 1 - share(recent[0], recent[1]),
            "clipped": share(tally[CLIPPED], tally[UPDATES]),
            "choices": tally[CHOICES],
            "moved_nats": share(tally[MOVED], tally[CHOICES]),
            "shift": share(tally[SHIFT], tally[LOOKED]),
            "divergence_nats": share(tally[KL], tally[LOOKED]),
            "effective_temperature": share(tally[HEAT], tally[LOOKED]),
            "entropy_before": share(tally[BEFORE], tally[LOOKED]),
            "entropy_after": share(tally[AFTER], tally[LOOKED]),
            "broken": float(broken),
        }

    def warm(self, place: int, deep: Tensor, shallow: Tensor) -> None:
        """Learns from a group's prompt, as one step (Adam: one gradient step), before anything is drawn."""
        if self.settings.warm_start and self.learner.learns:
            self._note(self.learner.settle())
            layout = Layout(np.full(len(deep), place), np.arange(len(deep)), deep.device)
            x, y = self._inputs(shallow)[None], deep.float()[None]
            told = self.learner.learn(layout, x, y, self.learner.predict(layout.live, x))
            self._note([*told, *self.learner.settle()], WARMED)

    def _inputs(self, shallow: Tensor) -> Tensor:
        x = shallow.to(torch.float32, copy=self._apart and not self.settings.input_norm)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) if self.settings.input_norm else x

    def _note(self, told: Sequence[Learned], column: int = TRAINED) -> None:
        """What came of steps of learning, the sooner or the later."""
        for layout, clipped, end in told:
            live = torch.from_numpy(layout.live).to(self.tally.device)
            if end == "failed":
                self.broken[live] = True
                continue
            self.tally[live, DROPPED if end == "dropped" else column] += layout.counts
            if clipped is not None and column == TRAINED:
                self.tally[live, UPDATES] += 1
                self.tally[live, CLIPPED] += clipped

    # ------------------------------------------------------------------------------------------------------- a step

    def advise(self, rows: Rows) -> Advice | None:
        layout = rows.layout
        y = layout.pad(rows.deep.to(torch.float32, copy=self._apart))
        if rows.shallow is None and self.settings.shallow:
            raise ValueError("esamp needs the states after the first block, and got none")
        x = layout.pad(self._inputs(rows.shallow)) if rows.shallow is not None else y
        predicted = self.learner.predict(layout.live, x)
        error = y - predicted
        self._last = (layout, x, y, predicted, error)
        guided, pick = self._guided(rows)
        if guided is None or len(pick) == 0:
            return None
        aim = layout.flat(error)
        if self.settings.control == "noise":
            aim = self._turned(rows, aim)
        every = len(pick) == len(layout.group)
        logits, law, deep, aim, heat, beta = (
            part if every else part[pick]
            for part in (rows.logits, rows.law, rows.deep.float(), aim, rows.temperature, guided)
        )
        new = guided_law(self.head, logits, law, deep, deep - aim, heat, beta, self.settings.compensate, rows.filtered)
        self._laws = (pick, law, new)
        due = (self.steps % LOOKS == 0) | np.isin(self.steps, (2, 4, 8))
        if due[layout.live].any():
            self._look(layout, pick, law, new, due)
        return Advice(pick, law=new)

    def _guided(self, rows: Rows) -> tuple[Tensor | None, Tensor]:
        """The strength (N,) of each row, and the rows that have any: a strength of zero is plain, bit for bit."""
        layout, own = rows.layout, self.settings
        if own.beta == 0:
            return None, layout.rows[:0]
        beta = torch.full(layout.mask.shape, own.beta, dtype=torch.float64, device=layout.mask.device)
        live = torch.from_numpy(layout.live).to(beta.device)
        if own.compensate == "gate":
            beta *= self._r_squared(live).clamp(0.0, 1.0)[:, None]
        finite = torch.isfinite(self._last[4].sum((1, 2))) if self._last is not None else self.broken[live]
        self.broken[live] |= ~finite
        usable = layout.mask & ~self.broken[live][:, None] & (beta > 0)
        if own.forking < 1.0:
            usable &= self.forks.among(layout, entropies(rows.law.float()))
        if bool(usable.all()):
            pick = torch.arange(len(layout.group), device=beta.device)
        else:
            pick = layout.flat(usable).nonzero()[:, 0]
        self.tally[live, GUIDED] += usable.sum(1)
        return layout.flat(beta), pick

    def _r_squared(self, live: Tensor) -> Tensor:
        recent = self.recent[live]
        return torch.where(recent[:, 1] > 0, 1 - recent[:, 0] / recent[:, 1].clamp(min=1e-12), 0.0)

    def _turned(self, rows: Rows, error: Tensor) -> Tensor:
        """Errors of the same length in directions at random."""
        seeds = self.seeds[rows.layout.group][:, None]
        at = (rows.layout.sample[:, None], rows.position[:, None])
        noise = counters.normals(seeds, counters.NOISE, *at, np.arange(error.shape[1])[None])
        turned = torch.from_numpy(noise).to(error.device, torch.float32)
        length: Tensor = error.norm(dim=-1, keepdim=True) / turned.norm(dim=-1, keepdim=True)
        return turned * length

    def _look(self, layout: Layout, pick: Tensor, law: Tensor, new: Tensor, due: NDArray[np.bool_]) -> None:
        """Now and then, what guidance does to the laws of a group's first rows: for people."""
        rows = pick.cpu().numpy()
        group = layout.group[rows]
        order = np.lexsort((layout.sample[rows], group))
        rank = np.arange(len(order)) - np.searchsorted(group[order], group[order])
        few = order[(rank < WATCHED) & due[group[order]]]
        place, chosen = (torch.from_numpy(each).to(pick.device) for each in (group[few], few))
        law, new = law[chosen].double(), new[chosen]
        kept = torch.isfinite(law)
        moved = torch.where(kept, new - law, 0.0)
        shift = moved.abs().sum(-1) / kept.sum(-1)
        divergence = (new.exp() * moved).sum(-1)
        before, after = entropies(law), entropies(new)
        heat = heat_for(law, after, 0.05, 20.0)
        found = torch.stack([torch.ones_like(shift), shift, divergence, heat, before, after], dim=1)
        self.tally[:, LOOKED:].index_add_(0, place, found)

    def took(self, tokens: Tensor) -> None:
        if self._last is None:
            return
        (layout, x, y, predicted, error), self._last = self._last, None
        self.steps[layout.live] += 1
        if self._laws is not None:
            (pick, law, new), self._laws = self._laws, None
            drawn = tokens[pick][:, None]
            before = law.gather(1, drawn)[:, 0]
            moved = (new.gather(1, drawn)[:, 0] - before).abs()
            choice = (before < -1e-3).double()
            place = torch.from_numpy(layout.group).to(pick.device)[pick]
            self.tally[:, CHOICES : MOVED + 1].index_add_(0, place, torch.stack([choice, moved * choice], dim=1))
        live = torch.from_numpy(layout.live).to(y.device)
        wrong = layout.zeroed(error).square().sum((1, 2)).double()
        size = layout.zeroed(y).square().sum((1, 2)).double().clamp(min=1e-12)
        self.tally[live, SEEN] += layout.counts
        self.tally[live, FIRST] = torch.where(self.tally[live, STEPS] == 0, wrong / size, self.tally[live, FIRST])
        self.tally[live, LAST] = wrong / size
        self.tally[live, STEPS] += 1
        if self.settings.compensate == "gate":
            old = self.mean[live]
            spread = layout.zeroed(y - old[:, None]).square().sum((1, 2)).double()
            self.recent[live] = DECAY * self.recent[live] + torch.stack([wrong, spread], dim=1)
            self.mean[live] = old + (1 - DECAY) * (layout.zeroed(y).sum(1) / layout.counts[:, None].float() - old)
        self._note(self.learner.learn(layout, x, y, predicted))
