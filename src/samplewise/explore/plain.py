"""Policies without exploration: other shapes of the plain law, and arithmetic sampling. What exploring must beat.

`Reshape`: `heat` times the temperature; `sigmas` keeps logits within so many standard deviations of the highest
(top-n-sigma); `entropy` keeps the likeliest tokens as long as the law that they make has at most that share of the
whole law's entropy (top-H). Each sample is independent of the others.

`Arithmetic`: sample i has a code c_i, a point of the unit interval, which is read as an arithmetic decoder would: each
token is the one whose interval holds the code, and the code goes on as its place within. Codes are van der Corput's
sequence, scrambled: each is uniform, so every sample keeps its plain law, and the first 2^n of them lie one in each
2^-n. No group size is needed, and waves go on where the last one ended. A double holds some 50 bits of choices; a
code that is used up is replaced by fresh bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from samplewise.numerics import Floats

from . import counters
from .base import Advice, Ints, Rows, entropies
from .settings import Reshape

DIGITS = 40  # of a code, by level; finer ones are drawn at once
USED_UP = -24.0  # nats of a code's choices, after which it has no digits left that mean anything


class ReshapePolicy:
    """Groups of one `Reshape`. There is no state but how many rows were seen."""

    def __init__(self, settings: Reshape) -> None:
        self.settings = settings
        self.seen: list[int] = []

    def open(self, seed: int) -> None:
        self.seen.append(0)

    def close(self, place: int) -> Mapping[str, float]:
        return {"seen": float(self.seen.pop(place))}

    def warm(self, place: int, deep: Tensor, shallow: Tensor) -> None:
        return None

    def took(self, tokens: Tensor) -> None:
        return None

    def advise(self, rows: Rows) -> Advice | None:
        for place, count in zip(rows.layout.live, rows.layout.counts.tolist(), strict=True):
            self.seen[place] += int(count)
        own = self.settings
        if own == Reshape():
            return None
        law, logits = rows.law, rows.logits.double()
        if own.sigmas:
            low = logits.amax(-1, keepdim=True) - own.sigmas * logits.std(-1, keepdim=True, correction=0)
            law = law.masked_fill(logits < low, -math.inf)
        if own.entropy:
            law = law.masked_fill(~likeliest(law, own.entropy), -math.inf)
        if own.heat != 1.0:
            law = law / own.heat
        return Advice(torch.arange(len(law), device=law.device), law=torch.log_softmax(law, dim=-1))


def likeliest(law: Tensor, share: float) -> Tensor:
    """True for the likeliest tokens (N, V), as many as keep the entropy of their law at `share` of the whole one's."""
    ordered, order = law.sort(dim=-1, descending=True, stable=True)
    mass = ordered.exp()
    upto = mass.cumsum(-1)
    entropy = upto.log() + torch.special.entr(mass).cumsum(-1) / upto  # of the first k tokens alone
    keep = (entropy <= share * entropies(law)[:, None]).cumprod(-1).bool()
    keep[:, 0] = True
    return torch.zeros_like(keep).scatter_(1, order, keep)


class ArithmeticPolicy:
    """Groups of arithmetic samples. A sample's state is its code and what is left of it."""

    def __init__(self) -> None:
        self.seeds = np.zeros(0, dtype=np.uint64)
        self.codes: list[Tensor] = []  # (samples so far, 2) of each group: the code, nats read from it

    def open(self, seed: int) -> None:
        self.seeds = np.append(self.seeds, np.uint64(seed))
        self.codes.append(torch.zeros(0, 2, dtype=torch.float64))

    def close(self, place: int) -> Mapping[str, float]:
        self.seeds = np.delete(self.seeds, place)
        return {"samples": float(len(self.codes.pop(place)))}

    def warm(self, place: int, deep: Tensor, shallow: Tensor) -> None:
        return None

    def took(self, tokens: Tensor) -> None:
        return None

    def _codes(self, place: int, upto: int, device: torch.device) -> Tensor:
        held = self.codes[place].to(device)
        if len(held) < upto:
            points = codes(int(self.seeds[place]), np.arange(len(held), upto))
            fresh = torch.from_numpy(np.stack([points, np.zeros_like(points)], axis=1)).to(device)
            held = torch.cat([held, fresh])
        self.codes[place] = held
        return held

    def advise(self, rows: Rows) -> Advice | None:
        layout, law = rows.layout, rows.law.double()
        held = []
        for line, place in enumerate(layout.live.tolist()):
            own = layout.host[line][layout.mask[line].cpu().numpy()]
            index = torch.from_numpy(layout.sample[own]).to(law.device)
            held.append((place, own, index, self._codes(place, int(layout.sample[own].max()) + 1, law.device)[index]))
        states = torch.zeros(len(law), 2, dtype=torch.float64, device=law.device)
        for _, own, _, codes in held:
            states[torch.from_numpy(own).to(law.device)] = codes
        fresh = counters.uniforms(self.seeds[layout.group], counters.REST, layout.sample, rows.position)
        code = torch.where(states[:, 1] < USED_UP, torch.from_numpy(fresh).to(law.device), states[:, 0])
        used = torch.where(states[:, 1] < USED_UP, 0.0, states[:, 1])
        tokens, inside = read(law, code)
        logq = law.gather(1, tokens[:, None])[:, 0]
        states = torch.stack([inside, used + logq], dim=1)
        for place, own, index, _ in held:
            self.codes[place][index] = states[torch.from_numpy(own).to(law.device)]
        return Advice(torch.arange(len(law), device=law.device), tokens=tokens, logq=logq)


def codes(seed: int, sample: Ints) -> Floats:
    """The codes (n,) of a group's samples: van der Corput's sequence, scrambled as Owen does.

    The digits of the sample's number, mirrored at the point, each flipped at random by the digits before it. So each
    code is uniform, the first 2^n of them lie one in each 2^-n, and below that they have nothing to do with each other;
    with a mere shift, samples would agree in all later choices.
    """
    found, before = np.zeros(len(sample)), np.zeros(len(sample), dtype=np.uint64)
    for level in range(DIGITS):
        digit = (sample.astype(np.uint64) >> np.uint64(level)) & np.uint64(1)
        flip = counters.words(seed, counters.CODE, level, before) & np.uint64(1)
        found += (digit ^ flip) * 0.5 ** (level + 1)
        before |= digit << np.uint64(level)
    return found + counters.uniforms(seed, counters.CODE, DIGITS, before) * 0.5**DIGITS


def read(law: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens (N,) whose intervals hold the codes (N,), and the codes' places within them."""
    mass = law.exp()
    upto = mass.cumsum(-1)
    goal = torch.minimum(code[:, None] * upto[:, -1:], torch.nextafter(upto[:, -1:], torch.zeros_like(upto[:, -1:])))
    tokens = torch.searchsorted(upto, goal, right=True).clamp_(max=law.shape[-1] - 1)
    size = mass.gather(1, tokens)
    inside = (goal - (upto.gather(1, tokens) - size)) / size
    return tokens[:, 0], inside[:, 0].clamp(0.0, 1.0 - 2.0**-53)
