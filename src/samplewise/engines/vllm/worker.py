"""The worker class that vLLM is told to use: its own for this platform, with a bridge.

Its methods are called by name through `collective_rpc`. A configuration in which guided draws cannot work leaves the
worker as it is, and `samplewise_describe` says why.
"""

from __future__ import annotations

from typing import Any

import vllm
from vllm.platforms import current_platform

from .bridge import WorkerBridge
from .processor import bridges
from .runner import RunnerStates, missing_names, read_head, show_first_block

if current_platform.is_cpu():
    from vllm.v1.worker.cpu_worker import CPUWorker as PlatformWorker
else:
    from vllm.v1.worker.gpu_worker import Worker as PlatformWorker


class BridgedWorker(PlatformWorker):  # type: ignore[misc]
    """vLLM's worker with a bridge in it."""

    samplewise_bridge: WorkerBridge | None = None
    samplewise_lacks = "the model is not loaded"  # why nothing can be guided, "" if it can
    samplewise_no_shallow = ""  # why the states after the first block cannot be read

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        runner, config = self.model_runner, self.vllm_config
        if missing := missing_names(runner):
            self.samplewise_lacks = f"vLLM {vllm.__version__} has no {missing}, which it needs"
            return
        self.samplewise_lacks = ""
        self.samplewise_no_shallow = show_first_block(runner)
        states = RunnerStates(runner)
        self.samplewise_bridge = WorkerBridge(self.device, states, lambda: read_head(runner))
        bridges[id(config)] = self.samplewise_bridge, states

    def samplewise_describe(self) -> dict[str, Any]:
        """Return what a client must know before it sends guided draws."""
        scheduler = self.vllm_config.scheduler_config
        return {
            "version": vllm.__version__,
            "runner": "V2" if hasattr(self.model_runner, "req_states") else "V1",
            "device": str(self.device),
            "dtype": str(self.vllm_config.model_config.dtype).removeprefix("torch."),
            "max_model_len": int(self.vllm_config.model_config.max_model_len),
            "max_num_seqs": int(scheduler.max_num_seqs),
            "async_scheduling": bool(getattr(scheduler, "async_scheduling", False)),
            "lacks": self.samplewise_lacks,
            "no_shallow": self.samplewise_no_shallow,
        }

    def samplewise_take(self, uids: list[str]) -> dict[str, Any]:
        """Return what was drawn for requests that have ended, by uid, and forget it."""
        if self.samplewise_bridge is None:
            return {}
        return {uid: record._asdict() for uid, record in self.samplewise_bridge.take(uids).items()}

    def samplewise_held(self, uids: list[str]) -> list[str]:
        """Return which of these requests were ended because their group was not whole."""
        return [] if self.samplewise_bridge is None else self.samplewise_bridge.held(uids)

    def samplewise_drop(self, uids: list[str]) -> None:
        """Forget requests that were given up."""
        if self.samplewise_bridge is not None:
            self.samplewise_bridge.drop(uids)

    def shutdown(self) -> None:
        bridges.pop(id(self.vllm_config), None)
        super().shutdown()
