"""Taps: the states of a forward pass on the way to the logits, for exploring.

The deep state is what enters the head, so the head of it is the logits; the shallow state is what leaves the first
block. Both are of the last position of each row. Hooks are in place only while somebody listens, so plain draws cost
nothing more. The lean pass for small models has no modules to hook and keeps the shallow state itself.

The states of a prompt, at all of its positions, cost one more pass over the prompt: the model's plain pass, whatever
the engine uses, so they depend on nothing but the prompt.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from samplewise.core.errors import SetupError
from samplewise.explore.base import Head

from .exploring import States
from .forward import Cached, Forward
from .llama import Lean

PROBE = 4  # tokens that are run once to check the taps


class Taps:
    """Listen to a forward pass. `deep` and `shallow` (N, d) are of the last one."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._hooks: list[Any] = []
        self.deep = self._shallow = torch.zeros(0)

    @property
    def shallow(self) -> Tensor:
        return self._forward.shallow if isinstance(self._forward, Lean) else self._shallow

    def open(self) -> None:
        if self._hooks:
            return
        model = cast(Cached, self._forward).model
        self._hooks = [model.get_output_embeddings().register_forward_pre_hook(self._at_head)]
        if isinstance(self._forward, Lean):
            self._forward.tapped = True
        else:
            self._hooks.append(first_block(model).register_forward_hook(self._at_first))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self.deep = self._shallow = torch.zeros(0)
        if isinstance(self._forward, Lean):
            self._forward.tapped, self._forward.shallow = False, self.deep

    def prompt(self, ids: Sequence[int]) -> States:
        """Compute the states of a prompt in a pass of its own. The cache and the last taps stay as they are."""
        forward, tapped = cast(Cached, self._forward), (self.deep, self._shallow)
        model, states = forward.model, {}

        def at_head(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            states["deep"] = args[0][0]
            return args[0][:, -1:], *args[1:]  # logits of one position are enough: they are not read

        def at_first(module: Any, args: Any, output: Any) -> None:
            states["shallow"] = _states(output)[0]

        hooks = [
            model.get_output_embeddings().register_forward_pre_hook(at_head),
            first_block(model).register_forward_hook(at_first),
        ]
        try:
            model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()
            self.deep, self._shallow = tapped
        forward.num_forwarded += len(ids)
        return States(states["deep"], states["shallow"])

    def _at_head(self, module: Any, args: tuple[Tensor, ...]) -> None:
        self.deep = args[0][:, -1]

    def _at_first(self, module: Any, args: Any, output: Any) -> None:
        self._shallow = _states(output)[:, -1]


def _states(output: Any) -> Tensor:
    """Return what leaves a block (N, T, d): before transformers 5 it is the first of a tuple."""
    return output if isinstance(output, Tensor) else cast(Tensor, output[0])


def first_block(model: Any) -> Any:
    """Return the model's first block: of the module list as long as the config says, else of the longest list."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    wanted = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    return next((blocks for blocks in lists if len(blocks) == wanted), max(lists, key=len))[0]


def head_of(model: Any) -> Head:
    """Return the model's head, with what its config does to the logits. `Head.check` tests whether that is all."""
    linear, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if divided := getattr(config, "logits_scaling", None):
        scale = 1.0 / float(divided)
    bias = getattr(linear, "bias", None)
    cap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    return Head(linear.weight.detach(), None if bias is None else bias.detach(), scale, cap)


def can_explore(forward: Forward) -> bool:
    """Return whether this pass gives what exploring needs: tried once, on a few tokens."""
    if not isinstance(forward, Cached):
        return False
    taps, num = Taps(forward), forward.num_forwarded
    try:
        with torch.inference_mode(), warnings.catch_warnings(action="ignore"):  # a warning is no failure
            taps.open()
            forward.reserve(1, PROBE, 0)
            logits = forward.extend(0, [0], [list(range(PROBE))])[:, 0]
            head_of(forward.model).check(taps.deep, logits)
            return taps.shallow.shape == taps.deep.shape
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, SetupError):  # an unusual model
        return False
    finally:
        taps.close()
        forward.forget()
        forward.num_forwarded = num
