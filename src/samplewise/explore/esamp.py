"""Exploratory Sampling (arXiv 2604.24927): explore where the group's own states are hard to predict.

Each group has a learner that predicts the deep state hL from the shallow state h1. Where it fails, the context is new
to the group, and the error, through the language model's head, says which tokens lead there (guide.py). The learner
takes one step for each decoding step, on all live rows of the group, after their tokens are chosen; a prediction always
uses the weights from before. The step can run beside the engine (async_learner.py). With `warm_start` the first step is
on the prompt.

The defaults follow the paper; each deviation is a named option. `input_norm` (on) divides h1 by its root mean square,
since h1 and hL differ widely in scale; the published description has none. The same code runs the controls: `zero`
predicts zero, `frozen` never learns, `noise` turns the error into a random direction of the same length.

Known limits: rows with the same prefix in the same step get the same logits, so nothing separates draws at the very
token where they part; and in lockstep over few steps the learner learns almost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import counters
from .async_learner import AsyncLearner, maybe_async
from .base import Advice, Head, Layout, PolicyStep, TokenPolicy, entropies
from .controls.learners import Frozen, Zero
from .forks import ForkThreshold
from .guide import guided_log_probs, temperature_factor_for
from .learn import Adam, Learner, LearnOutcome, Ridge, without
from .settings import Esamp

LOOKS = 16  # steps of a group between two looks at its distributions
WATCHED = 2  # rows of a group that are looked at: a look costs about twenty passes over them
DECAY = 0.9  # of the running R^2, each step
# Columns of a group's tally, one buffer on the device so that a step adds to several at once. SEEN to WARMED count rows
# (WARMED those of the prompt only), UPDATES steps of the learner, CHOICES tokens drawn where there was a choice. MOVED
# sums |log q / p| of those tokens in nats.
SEEN, GUIDED, TRAINED, DROPPED, WARMED, STEPS, UPDATES, CLIPPED = range(8)
FIRST, LAST, CHOICES, MOVED, LOOKED, SHIFT, KL, TEMPERATURE_FACTOR, BEFORE, AFTER = range(8, 18)


def make_learner(settings: Esamp, dim: int, device: torch.device) -> Learner:
    """Make the learner that the settings name, for states of `dim` entries."""
    if settings.control == "zero":
        return Zero(dim)
    if settings.control == "frozen":
        return Frozen(settings, dim, device)
    return Ridge(settings, dim, device) if settings.learner == "ridge" else Adam(settings, dim, device)


class EsampPolicy(TokenPolicy):
    """Serve all groups of one `Esamp`."""

    def __init__(self, settings: Esamp, head: Head) -> None:
        self.settings, self.head = settings, head
        device, dim = head.weight.device, head.weight.shape[1]
        self.learner = maybe_async(make_learner(settings, dim, device), settings.aside, device)
        self._apart = isinstance(
            self.learner, AsyncLearner
        )  # then states are still read when the engine overwrites them
        self.forks = ForkThreshold(settings.forking, device)
        self.seeds = np.zeros(0, dtype=np.uint64)
        self.tally = torch.zeros(0, AFTER + 1, dtype=torch.float64, device=device)
        self.recent = torch.zeros(0, 2, dtype=torch.float64, device=device)  # error and spread, for R^2
        self.mean = torch.zeros(0, dim, device=device)  # of the group's deep states
        self.broken = torch.zeros(0, dtype=torch.bool, device=device)  # its learner gave nan
        self.steps = np.zeros(0, dtype=np.int64)  # steps of each group: they say when to look
        self._last: tuple[Layout, Tensor, Tensor, Tensor, Tensor] | None = None
        self._guidance: tuple[Tensor, Tensor, Tensor] | None = None  # rows, plain and guided log-probabilities

    def open(self, seed: int) -> None:
        self._note(self.learner.settle())
        self.learner.open(seed)
        self.forks.open()
        self.seeds, self.steps = np.append(self.seeds, np.uint64(seed)), np.append(self.steps, 0)
        self.tally, self.recent, self.mean, self.broken = (
            torch.cat([stack, stack.new_zeros(1, *stack.shape[1:])])
            for stack in (self.tally, self.recent, self.mean, self.broken)
        )

    def close(self, index: int) -> Mapping[str, float]:
        self._note(self.learner.settle())
        numbers = self._numbers(self.tally[index].tolist(), self.recent[index].tolist(), bool(self.broken[index]))
        self.learner.close(index)
        self.forks.close(index)
        self.seeds, self.steps = np.delete(self.seeds, index), np.delete(self.steps, index)
        self.tally, self.recent, self.mean, self.broken = (
            without(stack, index) for stack in (self.tally, self.recent, self.mean, self.broken)
        )
        self._last = self._guidance = None
        return numbers

    def _numbers(self, tally: list[float], recent: list[float], broken: bool) -> Mapping[str, float]:
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
            "effective_temperature": share(tally[TEMPERATURE_FACTOR], tally[LOOKED]),
            "entropy_before": share(tally[BEFORE], tally[LOOKED]),
            "entropy_after": share(tally[AFTER], tally[LOOKED]),
            "broken": float(broken),
        }

    def problem(self, numbers: Mapping[str, float]) -> str:
        if numbers["broken"]:
            return "the learner failed or gave what is no number; from there on the group's draws are plain"
        num_learned = numbers["trained"] + numbers["dropped"]
        if num_learned not in (0.0, numbers["seen"]):
            return f"the learner has {num_learned:.0f} of the {numbers['seen']:.0f} tokens of its group"
        if self.settings.beta and numbers["seen"]:
            if numbers["choices"] and not numbers["moved_nats"] > 0:
                return "exploration guided tokens and changed none of their probabilities"
            if not numbers["guided"] and self.settings.compensate != "gate":
                return "exploration was asked for and guided no token"
        return ""

    def warm(self, index: int, deep: Tensor, shallow: Tensor) -> None:
        """Learn from a group's prompt in one step (Adam: one gradient step), before anything is drawn."""
        if self.settings.warm_start and self.learner.learns:
            self._note(self.learner.settle())
            layout = Layout(np.full(len(deep), index), np.arange(len(deep)), deep.device)
            x, y = self._inputs(shallow)[None], deep.float()[None]
            outcomes = self.learner.learn(layout, x, y, self.learner.predict(layout.live, x))
            self._note([*outcomes, *self.learner.settle()], WARMED)

    def _inputs(self, shallow: Tensor) -> Tensor:
        x = shallow.to(torch.float32, copy=self._apart and not self.settings.input_norm)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) if self.settings.input_norm else x

    def _note(self, outcomes: Sequence[LearnOutcome], column: int = TRAINED) -> None:
        """Count the outcomes of steps of learning."""
        for layout, clipped, end in outcomes:
            live = torch.from_numpy(layout.live).to(self.tally.device)
            if end == "failed":
                self.broken[live] = True
                continue
            self.tally[live, DROPPED if end == "dropped" else column] += layout.counts
            if clipped is not None and column == TRAINED:
                self.tally[live, UPDATES] += 1
                self.tally[live, CLIPPED] += clipped

    # ------------------------------------------------------------------------------------------------------- a step

    def advise(self, rows: PolicyStep) -> Advice | None:
        layout = rows.layout
        y = layout.pad(rows.deep.to(torch.float32, copy=self._apart))
        if rows.shallow is None and self.settings.reads_shallow:
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
        logits, log_probs, deep, aim, temperature, beta = (
            part if every else part[pick]
            for part in (rows.logits, rows.log_probs, rows.deep.float(), aim, rows.temperature, guided)
        )
        new = guided_log_probs(
            self.head,
            logits,
            log_probs,
            deep,
            deep - aim,
            temperature,
            beta,
            self.settings.compensate,
            rows.filtered,
        )
        self._guidance = (pick, log_probs, new)
        due = (self.steps % LOOKS == 0) | np.isin(self.steps, (2, 4, 8))
        if due[layout.live].any():
            self._look(layout, pick, log_probs, new, due)
        return Advice(pick, log_probs=new)

    def _guided(self, rows: PolicyStep) -> tuple[Tensor | None, Tensor]:
        """Return the strength (N,) of each row, and the rows to guide; strength 0 draws plainly, bit for bit."""
        layout, settings = rows.layout, self.settings
        if settings.beta == 0:
            return None, layout.rows[:0]
        beta = torch.full(layout.mask.shape, settings.beta, dtype=torch.float64, device=layout.mask.device)
        live = torch.from_numpy(layout.live).to(beta.device)
        if settings.compensate == "gate":
            beta *= self._r_squared(live).clamp(0.0, 1.0)[:, None]
        finite = torch.isfinite(self._last[4].sum((1, 2))) if self._last is not None else self.broken[live]
        self.broken[live] |= ~finite
        usable = layout.mask & ~self.broken[live][:, None] & (beta > 0)
        if settings.forking < 1.0:
            usable &= self.forks.among(layout, entropies(rows.log_probs.float()))
        if bool(usable.all()):
            pick = torch.arange(len(layout.group), device=beta.device)
        else:
            pick = layout.flat(usable).nonzero()[:, 0]
        self.tally[live, GUIDED] += usable.sum(1)
        return layout.flat(beta), pick

    def _r_squared(self, live: Tensor) -> Tensor:
        recent = self.recent[live]
        return torch.where(recent[:, 1] > 0, 1 - recent[:, 0] / recent[:, 1].clamp(min=1e-12), 0.0)

    def _turned(self, rows: PolicyStep, error: Tensor) -> Tensor:
        """Return errors of the same length in random directions."""
        seeds = self.seeds[rows.layout.group][:, None]
        at = (rows.layout.sample[:, None], rows.position[:, None])
        noise = counters.normals(seeds, counters.NOISE, *at, np.arange(error.shape[1])[None])
        turned = torch.from_numpy(noise).to(error.device, torch.float32)
        length: Tensor = error.norm(dim=-1, keepdim=True) / turned.norm(dim=-1, keepdim=True)
        return turned * length

    def _look(self, layout: Layout, pick: Tensor, log_probs: Tensor, new: Tensor, due: NDArray[np.bool_]) -> None:
        """Measure now and then what guidance does to the distributions of a group's first rows, for reports."""
        rows = pick.cpu().numpy()
        group = layout.group[rows]
        order = np.lexsort((layout.sample[rows], group))
        rank = np.arange(len(order)) - np.searchsorted(group[order], group[order])
        few = order[(rank < WATCHED) & due[group[order]]]
        index, chosen = (torch.from_numpy(each).to(pick.device) for each in (group[few], few))
        log_probs, new = log_probs[chosen].double(), new[chosen].double()
        kept = torch.isfinite(log_probs)
        moved = torch.where(kept, new - log_probs, 0.0)
        shift = moved.abs().sum(-1) / kept.sum(-1)
        divergence = (new.exp() * moved).sum(-1)
        before, after = entropies(log_probs), entropies(new)
        temperature_factor = temperature_factor_for(log_probs, after, 0.05, 20.0)
        measures = torch.stack([torch.ones_like(shift), shift, divergence, temperature_factor, before, after], dim=1)
        self.tally[:, LOOKED:].index_add_(0, index, measures)

    def took(self, tokens: Tensor) -> None:
        if self._last is None:
            return
        (layout, x, y, predicted, error), self._last = self._last, None
        self.steps[layout.live] += 1
        if self._guidance is not None:
            (pick, log_probs, new), self._guidance = self._guidance, None
            drawn = tokens[pick][:, None]
            before = log_probs.gather(1, drawn)[:, 0].double()
            moved = (new.gather(1, drawn)[:, 0] - before).abs()
            choice = (before < -1e-3).double()
            index = torch.from_numpy(layout.group).to(pick.device)[pick]
            self.tally[:, CHOICES : MOVED + 1].index_add_(0, index, torch.stack([choice, moved * choice], dim=1))
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
