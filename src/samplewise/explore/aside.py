"""Learning aside: the step of a learner runs beside the engine, which computes its next logits meanwhile.

`wait`: the next prediction waits for it, so every number is that of learning in place, bit for bit. `drop`: a
prediction waits for nothing and reads the weights of the last step that is done, whole ones always; where a step still
runs when the next is due, the next is left out and counted. What is drawn then hangs on how quick the machine is.

On a CPU the work is done by one thread, which is there from the first step until the last group closes and computes
with one thread of torch, whatever the engine has: two pools on the same cores stand in each other's way. On CUDA it is
put on a stream of its own; two events order it behind the prediction it learns from and before the one that reads it,
and the host waits for neither.

What fails beside is said at the next prediction, and marks the groups that it was to learn from.

Measured, 8 groups of 16 rows, the bundled model, Adam. By processor time, one thread of torch: the engine's own thread
has 18.6 ms a step instead of 30.6, and 10.5 of learning lie behind a forward pass of 13.6, so at most 1.6 times the
tokens a second, given a core that is free. By the clock on two cores with four other processes on them, none
free, five rounds of `wait` gave .98 to 1.18 times the tokens (median 1.02, 95 % intervals from .83 to 1.34), and two
with two threads of torch 1.32 and 1.36 (1.20 to 1.57, 1.05 to 1.75). `drop` left out 2 to 11 % of the rows and gave
.90 and 1.03, with two threads 1.43 (.81 to 1.30, .84 to 1.19, 1.34 to 1.57). So it is off by default, and for whoever
has a core to spare. On CUDA it is neither measured nor tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .base import Ints, Layout
from .learn import Change, Learned, Learner, Stepwise

Work = Callable[[], Change]


def aside(learner: Learner, when: str, device: torch.device) -> Learner:
    """The learner itself, or, where there is something to do aside, one that does it there."""
    if when == "no" or not isinstance(learner, Stepwise):
        return learner
    return Aside(learner, Stream(device) if device.type == "cuda" else Thread(), drop=when == "drop")


class Running(Protocol):
    def done(self) -> bool: ...

    def result(self) -> Change:
        """Waits; raises what the work raised."""
        ...


class Place(Protocol):
    """Where work is done, one piece at a time."""

    def start(self, work: Work) -> Running: ...

    def stop(self) -> None:
        """There is no more work for now. Nothing runs when it is called."""
        ...


class Thread:
    """One thread, made for the first piece of work."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def start(self, work: Work) -> Future[Change]:
        if self._pool is None:
            own = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(1, "samplewise-aside", _one_thread)
            self._pool.submit(int).result()
            torch.set_num_threads(own)  # what the new thread said of itself also stood for threads to come
        return self._pool.submit(_in_mode, torch.is_inference_mode_enabled(), work)

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None


def _one_thread() -> None:
    torch.get_num_threads()  # torch asks for the default once a thread: now, and not after the next line
    torch.set_num_threads(1)


def _in_mode(inference: bool, work: Work) -> Change:
    """Work in the mode of who asked for it: tensors made in inference mode can be written to in it alone."""
    with torch.inference_mode(inference):
        return work()


class _Queued(NamedTuple):
    """Work on a stream. It keeps its inputs until somebody has waited for it, so their memory is not given away."""

    work: Work
    change: Change
    event: Any
    device: torch.device

    def done(self) -> bool:
        return bool(self.event.query())

    def result(self) -> Change:
        torch.cuda.current_stream(self.device).wait_event(self.event)
        return self.change


class Stream:
    """A stream beside the engine's.

    What the work allocates is of its own stream's memory, and is given back by the host after the engine's stream has
    waited for the work (`result`); it is taken again by later work alone, which begins behind all that the engine's
    stream was given before. So no memory is in two hands.
    """

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def start(self, work: Work) -> _Queued:
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        try:
            with torch.cuda.stream(self._stream):
                change = work()
        except BaseException:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)  # for what of it was queued
            raise
        return _Queued(work, change, self._stream.record_event(), self._device)

    def stop(self) -> None:
        return None


class Aside:
    """A learner whose steps are done in another place."""

    learns = True

    def __init__(self, learner: Stepwise, place: Place, *, drop: bool) -> None:
        self.learner, self.drop = learner, drop
        self._place, self._num_groups = place, 0
        self._running: tuple[Layout, Running] | None = None
        self._told: list[Learned] = []
        self._failure: Exception | None = None

    def open(self, seed: int) -> None:
        self._wait()
        self.learner.open(seed)
        self._num_groups += 1

    def close(self, place: int) -> None:
        self._wait()
        self.learner.close(place)
        self._num_groups -= 1
        if not self._num_groups:
            self._place.stop()

    def predict(self, live: Ints, x: Tensor) -> Tensor:
        self._look()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return self.learner.predict(live, x)

    def learn(self, layout: Layout, x: Tensor, y: Tensor, predicted: Tensor) -> Sequence[Learned]:
        self._look()
        if self._running is None:
            work = self.learner.step(layout, x, y, predicted, apart=self.drop)
            self._running = layout, self._place.start(work)
        else:
            self._told.append(Learned(layout, end="dropped"))
        return self._news()

    def settle(self) -> Sequence[Learned]:
        self._wait()
        return self._news()

    def _news(self) -> Sequence[Learned]:
        told, self._told = self._told, []
        return told

    def _look(self) -> None:
        """Takes in what is done, and waits for it where that is wanted."""
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
            self._told.append(Learned(layout, end="failed"))
        else:
            self.learner.publish(change)
            self._told.append(Learned(layout, change.clipped))
