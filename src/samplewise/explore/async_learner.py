"""Learning beside the engine: a step of the learner runs while the engine computes its next logits.

`wait`: the next prediction waits for the step, so every number is that of learning in line, bit for bit. `drop`: a
prediction never waits and reads the weights of the last finished step, always whole ones; while a step still runs, the
next one is skipped and counted. What is drawn then depends on the speed of the machine.

On a CPU one thread does the work. It lives from the first step until the last group closes and computes with one torch
thread, whatever the engine has: two thread pools on the same cores slow each other down. On CUDA the work is put on its
own stream; two events order it after the prediction it learns from and before the one that reads it, and the host waits
for neither.

A failure of the work is raised at the next prediction, and marks the groups that the work was to learn from.

Measured, 8 groups of 16 rows, the bundled model, Adam. By processor time, one torch thread: the engine's own thread has
18.6 ms a step instead of 30.6, and 10.5 of learning lie behind a forward pass of 13.6. So at most 1.6 times the tokens
a second, given a free core. By the clock on two cores shared with four other processes, five rounds of `wait` gave .98
to 1.18 times the tokens (median 1.02, 95 % intervals from .83 to 1.34), and two with two torch threads 1.32 and 1.36
(1.20 to 1.57, 1.05 to 1.75). `drop` skipped 2 to 11 % of the rows and gave .90 and 1.03, with two threads 1.43 (.81 to
1.30, .84 to 1.19, 1.34 to 1.57). So it is off by default, and for machines with a core to spare. On CUDA it is neither
measured nor tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from samplewise.core.numerics import Ints

from .base import Layout
from .learn import Change, Learner, LearnOutcome, Stepwise

Work = Callable[[], Change]


def maybe_async(learner: Learner, mode: str, device: torch.device) -> Learner:
    """Return the learner, or in mode "wait" or "drop" one that learns beside the engine, if it learns at all."""
    if mode == "no" or not isinstance(learner, Stepwise):
        return learner
    return AsyncLearner(learner, StreamRunner(device) if device.type == "cuda" else ThreadRunner(), drop=mode == "drop")


class PendingStep(Protocol):
    """A step of learning that was started."""

    def done(self) -> bool: ...

    def result(self) -> Change:
        """Wait, and return the change. Raises what the work raised."""
        ...


class StepRunner(Protocol):
    """Runs work beside the engine, one piece at a time."""

    def start(self, work: Work) -> PendingStep: ...

    def stop(self) -> None:
        """End: there is no more work for now. Nothing runs when it is called."""
        ...


class ThreadRunner:
    """Run work in one thread, started for the first piece."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def start(self, work: Work) -> Future[Change]:
        if self._pool is None:
            num_threads = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(1, "samplewise-aside", _one_thread)
            self._pool.submit(int).result()
            torch.set_num_threads(num_threads)  # the new thread had set it for later threads too
        return self._pool.submit(_in_mode, torch.is_inference_mode_enabled(), work)

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _one_thread() -> None:
    torch.get_num_threads()  # torch reads the default once a thread: now, not after the next line
    torch.set_num_threads(1)


def _in_mode(inference: bool, work: Work) -> Change:
    """Run work in the caller's mode: tensors made in inference mode can only be written to in inference mode."""
    with torch.inference_mode(inference):
        return work()


class _Queued(NamedTuple):
    """Work on a stream. It keeps its inputs until the caller has waited, so their memory is not reused."""

    work: Work
    change: Change
    event: Any
    device: torch.device

    def done(self) -> bool:
        return bool(self.event.query())

    def result(self) -> Change:
        torch.cuda.current_stream(self.device).wait_event(self.event)
        return self.change


class StreamRunner:
    """Run work on a CUDA stream beside the engine's.

    What the work allocates belongs to its own stream's memory. The host frees it after the engine's stream has waited
    for the work (`result`), and only later work reuses it, which begins after all that the engine's stream was given
    before. So no memory is used twice.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, work: Work) -> _Queued:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(self._stream):
                change = work()
        except BaseException:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)  # for the part that was queued
            raise
        return _Queued(work, change, self._stream.record_event(), self._device)

    def stop(self) -> None:
        return None


class AsyncLearner:
    """A learner whose steps run beside the engine."""

    learns = True

    def __init__(self, learner: Stepwise, runner: StepRunner, *, drop: bool) -> None:
        self.learner, self.drop = learner, drop
        self._runner, self._num_groups = runner, 0
        self._running: tuple[Layout, PendingStep] | None = None
        self._outcomes: list[LearnOutcome] = []
        self._failure: Exception | None = None

    def open(self, seed: int) -> None:
        self._wait()
        self.learner.open(seed)
        self._num_groups += 1

    def close(self, index: int) -> None:
        self._wait()
        self.learner.close(index)
        self._num_groups -= 1
        if not self._num_groups:
            self._runner.stop()

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        self._collect()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return self.learner.predict(live, x)

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[LearnOutcome]:
        self._collect()
        if self._running is None:
            work = self.learner.step(layout, x, y, predicted, apart=self.drop)
            self._running = layout, self._runner.start(work)
        else:
            self._outcomes.append(LearnOutcome(layout, end="dropped"))
        return self._take_outcomes()

    def settle(self) -> Sequence[LearnOutcome]:
        self._wait()
        return self._take_outcomes()

    def _take_outcomes(self) -> Sequence[LearnOutcome]:
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def _collect(self) -> None:
        """Take in a finished step, and wait for an unfinished one unless it may be dropped."""
        if self._running is not None and (not self.drop or self._running[1].done()):
            self._wait()

    def _wait(self) -> None:
        if self._running is None:
            return
        (layout, running), self._running = self._running, None
        try:
            change = running.result()
        except Exception as error:
            self._failure = error
            self._outcomes.append(LearnOutcome(layout, end="failed"))
        else:
            self.learner.publish(change)
            self._outcomes.append(LearnOutcome(layout, change.clipped))
