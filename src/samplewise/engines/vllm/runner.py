"""What the bridge reads of vLLM's model runners, V1 and V2. Everything here is an internal of vLLM: this is the file to
look at when a new version breaks.

Both runners split a step into `execute_model` and `sample_tokens`, and keep what the first has computed for the second
in `execute_model_state`. `RunnerStates` wraps `sample_tokens` of one runner, by an attribute of the instance: no class
is patched. Checked by reading vLLM 0.12 to 0.32; docs/engines.md says which of them were run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from samplewise.core.errors import SetupError
from samplewise.core.numerics import Ints
from samplewise.explore.base import Flags, Head

FIRST_BLOCK = 1  # vLLM's name of the state that leaves the first block: the sum of its branch and its residual


class StepLayout(NamedTuple):
    """Which of the rows of a step are drawn, and how many tokens each sequence has so far."""

    is_drawn: Flags  # (N,) False where a prompt is still being computed
    num_tokens: Ints  # (N,)


class RunnerStates:
    """The states of the step that a runner samples, one for each row of logits. Nothing is copied until it is read."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.is_v2 = hasattr(runner, "req_states")
        self._state: Any = None
        inner: Callable[..., Any] = runner.sample_tokens

        def sample_tokens(*args: Any, **kwargs: Any) -> Any:
            self._state = runner.execute_model_state
            try:
                return inner(*args, **kwargs)
            finally:
                self._state = None

        runner.sample_tokens = sample_tokens

    @property
    def state(self) -> Any:
        if self._state is None:
            raise SetupError("this version of vLLM samples without a state of its step; only plain draws work with it")
        return self._state

    @property
    def deep(self) -> Tensor:
        if self.is_v2:
            states: Tensor = self.state.hidden_states[self.state.input_batch.logits_indices]
            return states
        deep: Tensor = self.state.sample_hidden_states
        return deep

    @property
    def shallow(self) -> Tensor:
        if not self.state.aux_hidden_states:
            raise SetupError("this model gives no states after its first block: esamp needs them, css and lss do not")
        first = self.state.aux_hidden_states[0]
        if self.is_v2:
            states: Tensor = first[self.state.input_batch.logits_indices]
            return states
        num = self.runner.input_batch.num_reqs
        ends = self.runner.query_start_loc.np[1 : num + 1].astype(np.int64) - 1
        last: Tensor = first[torch.from_numpy(ends).to(first.device)]
        return last

    def layout(self) -> StepLayout:
        """Return the layout of a step of V1. V2 hands it to its logits processors."""
        runner, batch = self.runner, self.runner.input_batch
        scheduled = self.state.scheduler_output.num_scheduled_tokens
        new = np.array([scheduled[request] for request in batch.req_ids], dtype=np.int64)
        num = len(new)
        is_drawn = ~runner.discard_request_mask.np[:num].copy()
        return StepLayout(is_drawn, batch.num_computed_tokens_cpu[:num].astype(np.int64) + new)


def missing_names(runner: Any) -> str:
    """Return which internals that guided draws need this runner lacks, "" for none."""
    needed = ["sample_tokens", "execute_model_state"]
    needed += [] if hasattr(runner, "req_states") else ["discard_request_mask", "input_batch", "query_start_loc"]
    return ", ".join(name for name in needed if not hasattr(runner, name))


def show_first_block(runner: Any) -> str:
    """Let the model give the states after its first block with every step. Return why it cannot, "" if it does.

    This is how EAGLE-3 reads a model: a model output, which compilation and graph capture carry along.
    """
    model = runner.get_model()
    if not hasattr(runner, "use_aux_hidden_state_outputs"):
        return "this version of vLLM has no auxiliary hidden states"
    if not hasattr(model, "set_aux_hidden_state_layers"):
        return f"{type(model).__name__} gives no auxiliary hidden states"
    try:
        model.set_aux_hidden_state_layers((FIRST_BLOCK,))
    except Exception as error:  # models of all kinds
        return f"{type(model).__name__} gives no auxiliary hidden states: {error}"
    runner.use_aux_hidden_state_outputs = True
    return ""


def _owners(model: Any) -> Iterator[Any]:
    yield model
    for name in ("get_language_model", "language_model"):
        inner = getattr(model, name, None)
        if inner is not None:
            yield inner() if name.startswith("get") else inner


def read_head(runner: Any) -> Head:
    """Return the model's head. `Head.check` tests at the first step whether it is all of it. Raises SetupError."""
    owner = next((owner for owner in _owners(runner.get_model()) if hasattr(owner, "lm_head")), None)
    weight = getattr(getattr(owner, "lm_head", None), "weight", None)
    if owner is None or weight is None or not weight.is_floating_point():
        raise SetupError("cannot explore with this model: its head has no plain weights")
    vocab = int(runner.model_config.get_vocab_size())
    bias = getattr(owner.lm_head, "bias", None)
    processor = getattr(owner, "logits_processor", None)
    scale = float(getattr(processor, "scale", None) or 1.0)
    cap = float(getattr(processor, "soft_cap", None) or 0.0)
    return Head(weight.detach()[:vocab], None if bias is None else bias.detach()[:vocab], scale, cap)
