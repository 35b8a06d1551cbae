"""Taps: what a forward pass has in its hands on the way to the logits, for those who explore.

The deep state is what enters the head, so the head of it is the logits; the shallow state is what leaves the first
block. Both of the last position of each row. Hooks hang only while somebody listens, so who does not explore pays
nothing; the lean pass for small models has no modules to hang a hook on and keeps the shallow state itself.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from samplewise.errors import SetupError
from samplewise.explore.base import Head

from .forward import Cached, Forward
from .llama import Lean

PROBE = 4  # tokens that are run once to see whether the taps hang where they should


class Taps:
    """Listens to a forward pass. `deep` and `shallow` (N, d) are of the last one."""

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

    def _at_head(self, module: Any, args: tuple[Tensor, ...]) -> None:
        self.deep = args[0][:, -1]

    def _at_first(self, module: Any, args: Any, output: Any) -> None:
        states = output if isinstance(output, Tensor) else output[0]  # a tuple before transformers 5
        self._shallow = states[:, -1]


def first_block(model: Any) -> Any:
    """The first of the model's blocks: of the list that has as many as the config says, else of the longest list."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    wanted = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    return next((blocks for blocks in lists if len(blocks) == wanted), max(lists, key=len))[0]


def head_of(model: Any) -> Head:
    """The model's head, with what its config says is done to the logits. `Head.check` tells whether that is all."""
    linear, config = model.get_output_embeddings(), model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0)
    if divided := getattr(config, "logits_scaling", None):
        scale = 1.0 / float(divided)
    bias = getattr(linear, "bias", None)
    cap = float(getattr(config, "final_logit_softcapping", None) or 0.0)
    return Head(linear.weight.detach(), None if bias is None else bias.detach(), scale, cap)


def can_explore(forward: Forward) -> bool:
    """Whether this pass gives what exploring needs: tried once, on a few tokens."""
    if not isinstance(forward, Cached):
        return False
    taps, num = Taps(forward), forward.num_forwarded
    try:
        with torch.inference_mode():
            taps.open()
            forward.reserve(1, PROBE, 0)
            logits = forward.extend(0, [0], [list(range(PROBE))])[:, 0]
            head_of(forward.model).check(taps.deep, logits)
            return taps.shallow.shape == taps.deep.shape
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, SetupError):  # a model of another make
        return False
    finally:
        taps.close()
        forward.forget()
        forward.num_forwarded = num
