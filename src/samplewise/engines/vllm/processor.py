"""The logits processor that vLLM loads: one class for both model runners, each of which checks its own base class.

vLLM also loads it where requests come in, to check their parameters, so importing it must cost little. It finds the
bridge of its worker by the identity of vLLM's configuration, which both are handed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from vllm.v1.sample.logits_processor import LogitsProcessor

from .guided import EXTRA_ARG, decode_draw

try:
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as SecondLogitsProcessor
except ImportError:  # before 0.31: only V1 takes processors

    class SecondLogitsProcessor:  # type: ignore[no-redef]
        """Stand in for the base class that this version of vLLM lacks."""


if TYPE_CHECKING:
    from .bridge import Row, WorkerBridge
    from .runner import RunnerStates

# By the id of vLLM's configuration: the worker's bridge, and what it reads of its runner.
bridges: dict[int, tuple[WorkerBridge, RunnerStates]] = {}


class GuidedProcessor(SecondLogitsProcessor, LogitsProcessor):  # type: ignore[misc]
    """Hand the rows of guided requests to the bridge. Others pay nothing for it."""

    def __init__(self, vllm_config: Any, *rest: Any) -> None:
        """`rest` is the state of the requests for V2, and the device and whether its memory is pinned for V1."""
        self._config = vllm_config
        self._requests = rest[0] if len(rest) == 1 else None
        self._rows: dict[int, Row] = {}  # by index in the batch (V1), or by slot (V2)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise ValueError for a guided request with a parameter that would change its distribution."""
        if decode_draw(sampling_params.extra_args) is None:
            return
        needed = {
            "n": 1,
            "temperature": 1.0,
            "top_p": 1.0,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "min_tokens": 0,
        }
        for name, value in needed.items():
            if (given := getattr(sampling_params, name, value)) != value:
                raise ValueError(f"a request with {EXTRA_ARG} is drawn by it: leave out {name}={given}")
        for name in ("logit_bias", "allowed_token_ids", "bad_words", "structured_outputs", "logits_processors"):
            if getattr(sampling_params, name, None):
                raise ValueError(f"a request with {EXTRA_ARG} is drawn by it: leave out {name}")
        if getattr(sampling_params, "top_k", 0) not in (0, -1):
            raise ValueError(f"a request with {EXTRA_ARG} is drawn by it: leave out top_k={sampling_params.top_k}")

    def is_argmax_invariant(self) -> bool:
        return False

    # ------------------------------------------------------------------------------------------------------------- V1

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        rows = self._rows
        for index in batch_update.removed:
            rows.pop(index, None)
        for index, params, _, _ in batch_update.added:
            self._join(index, params)
        for source, to, direction in batch_update.moved:
            moved, replaced = rows.pop(source, None), rows.pop(to, None)
            if moved is not None:
                rows[to] = moved
            if direction.name == "SWAP" and replaced is not None:
                rows[source] = replaced
        # A request that ends is seen by what takes its index; that of the last row by the size of the batch alone.
        for index in [index for index in rows if index >= batch_update.batch_size]:
            del rows[index]

    # ------------------------------------------------------------------------------------------------------------- V2

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        return self._join(req_idx, sampling_params)

    # ----------------------------------------------------------------------------------------------------------- both

    def _join(self, index: int, params: Any) -> bool:
        draw = decode_draw(params.extra_args)
        if draw is None or id(self._config) not in bridges:
            self._rows.pop(index, None)
            return False
        self._rows[index] = bridges[id(self._config)][0].join(draw)
        return True

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        if not self._rows:
            return logits
        bridge, states = bridges[id(self._config)]
        if ctx is None:
            is_drawn, num_tokens = states.layout()
            rows = [self._rows.get(index) for index in range(len(logits))]
        else:
            assert self._requests is not None
            num_tokens = ctx.seq_lens_upper_bound_np  # exact without speculative decoding
            is_drawn = num_tokens >= self._requests.prefill_len.np[ctx.idx_mapping_np]
            rows = [self._rows.get(slot) for slot in ctx.idx_mapping_np.tolist()]
        return bridge.draw(logits, rows, is_drawn, num_tokens.astype(np.int64))
