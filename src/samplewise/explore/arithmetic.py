"""Arithmetic sampling (Vilnis and others, 2023): draws spread evenly over the distribution of whole responses.

Draw i has a code c_i in the unit interval, read as an arithmetic decoder would: each token is the one whose interval
holds the code, and the code's position within that interval is the next code. Codes are van der Corput's sequence,
scrambled. Each is uniform, so every draw on its own has the plain distribution, and the first 2^n codes lie one in each
2^-n. The group size need not be known, and later waves continue where earlier ones ended. A double holds about 50 bits
of choices; a code that is used up is replaced by fresh bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from samplewise.core.numerics import Floats, Ints

from . import counters
from .base import Advice, Head, PolicyStep, TokenPolicy
from .settings import Arithmetic
from .softmax import Softmax

DIGITS = 40  # scrambled digits of a code; finer ones are drawn at once
USED_UP = -24.0  # log-probability of the choices read from a code, below which it has no meaningful digits


class ArithmeticPolicy(TokenPolicy):
    """Serve all groups. The state of a draw is its code, and the nats that were read from it."""

    def __init__(self, settings: Arithmetic, head: Head) -> None:
        self.seeds = np.zeros(0, dtype=np.uint64)
        self.codes: list[Tensor] = []  # (draws so far, 2) of each group: the code, nats read from it

    def open(self, seed: int) -> None:
        self.seeds = np.append(self.seeds, np.uint64(seed))
        self.codes.append(torch.zeros(0, 2, dtype=torch.float64))

    def close(self, index: int) -> Mapping[str, float]:
        self.seeds = np.delete(self.seeds, index)
        return {"samples": float(len(self.codes.pop(index)))}

    def _codes(self, index: int, upto: int, device: torch.device) -> Tensor:
        held = self.codes[index].to(device)
        if len(held) < upto:
            points = stratified_codes(int(self.seeds[index]), np.arange(len(held), upto))
            fresh = torch.from_numpy(np.stack([points, np.zeros_like(points)], axis=1)).to(device)
            held = torch.cat([held, fresh])
        self.codes[index] = held
        return held

    def advise(self, rows: PolicyStep) -> Advice | None:
        layout, log_probs = rows.layout, rows.log_probs
        held = []
        for row, index in enumerate(layout.live.tolist()):
            members = layout.host[row][layout.mask[row].cpu().numpy()]
            samples = torch.from_numpy(layout.sample[members]).to(log_probs.device)
            held.append(
                (
                    index,
                    members,
                    samples,
                    self._codes(index, int(layout.sample[members].max()) + 1, log_probs.device)[samples],
                )
            )
        states = torch.zeros(len(log_probs), 2, dtype=torch.float64, device=log_probs.device)
        for _, members, _, codes in held:
            states[torch.from_numpy(members).to(log_probs.device)] = codes
        fresh = counters.uniforms(self.seeds[layout.group], counters.REST, layout.sample, rows.position)
        code = torch.where(states[:, 1] < USED_UP, torch.from_numpy(fresh).to(log_probs.device), states[:, 0])
        used = torch.where(states[:, 1] < USED_UP, 0.0, states[:, 1])
        tokens, inside = decode_codes(log_probs, code)
        logq = log_probs.gather(1, tokens[:, None])[:, 0].double()
        states = torch.stack([inside, used + logq], dim=1)
        for index, members, samples, _ in held:
            self.codes[index][samples] = states[torch.from_numpy(members).to(log_probs.device)]
        return Advice(torch.arange(len(log_probs), device=log_probs.device), tokens=tokens, logq=logq)


def stratified_codes(seed: int, sample: Ints) -> Floats:
    """Return the codes (n,) of a group's draws: van der Corput's sequence with Owen scrambling.

    The binary digits of the draw's index are mirrored at the point, and each is flipped at random depending on the
    digits before it. So each code is uniform, the first 2^n of them lie one in each 2^-n, and below that they are
    independent. A mere shift would make draws agree in all later choices.
    """
    codes, before = np.zeros(len(sample)), np.zeros(len(sample), dtype=np.uint64)
    for level in range(DIGITS):
        digit = (sample.astype(np.uint64) >> np.uint64(level)) & np.uint64(1)
        flip = counters.random_bits(seed, counters.CODE, level, before) & np.uint64(1)
        codes += (digit ^ flip) * 0.5 ** (level + 1)
        before |= digit << np.uint64(level)
    return codes + counters.uniforms(seed, counters.CODE, DIGITS, before) * 0.5**DIGITS


def decode_codes(log_probs: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """Return the tokens (N,) whose intervals hold the codes (N,), and the codes' positions within them."""
    return Softmax(log_probs).draw(code)
