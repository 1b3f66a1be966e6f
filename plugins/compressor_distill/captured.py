"""Work that is the same batch after batch, launched at once where that is possible: a CUDA graph.

A training step is thousands of small kernels. For a student of HiFi-GAN and 8 segments of 30 frames an H100 computes
them in 8 ms, and launching them one by one takes 42.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from compressor.progress import Reporter
from compressor_distill.teacher_run import Batch

R = TypeVar("R")

ALIKE = 4
"""Steps of one kind that are worked on one by one before the next is captured: what is made at first use is there."""


@dataclass(frozen=True)
class Constants:
    """All numbers that the work on a batch depends on: a graph is good for one set of them."""

    parts: int = 1
    """In how many batches a step is computed."""
    weights: tuple[float, ...] = ()
    """Of losses."""


@dataclass(frozen=True)
class _Recording(Generic[R]):
    """A graph, what it reads, and what it writes."""

    graph: torch.cuda.CUDAGraph
    given: Batch
    result: R

    def replayed(self, batch: Batch) -> R:
        """Do the work on another batch."""
        for own, new in zip(self.given.tensors, batch.tensors, strict=True):
            own.copy_(new)
        self.graph.replay()
        return self.result


class Captured(Generic[R]):
    """Works on batches; on a GPU, as soon as several steps in a row are alike, by replaying a captured graph.

    What the work returns when replayed are the tensors that it returned when it was captured, with new values: to be
    read before the next batch. Gradients have to stay where they are: set to zero between steps, not dropped. A graph
    keeps the memory of the work for itself until it is dropped.

    Args:
        work: reads nothing but its arguments, and tensors that stay where they are.
        device: where it is done; on any other than a GPU it is just done.
        reporter: told where the work cannot be captured, such as a loss that looks at its own values.
        wanted: whether it is to be captured at all.
    """

    def __init__(
        self, work: Callable[[Batch, Constants], R], device: torch.device, reporter: Reporter, *, wanted: bool = True
    ) -> None:
        self.work = work
        self.device = device
        self.reporter = reporter
        self.possible = wanted and device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.possible else None  # type: ignore[no-untyped-call]
        self.drop()

    def drop(self) -> None:
        """Give back what a graph holds; what comes is worked on one by one again."""
        self.kind: Hashable = None
        self.alike = 0
        self.recording: _Recording[R] | None = None

    def __call__(self, batch: Batch, constants: Constants) -> R:
        """Work on a batch."""
        if not self.possible:
            return self.work(batch, constants)
        kind = (constants, *((value.shape, value.stride(), value.dtype) for value in batch.tensors))
        if kind != self.kind:
            self.drop()
            self.kind = kind
        self.alike += 1
        if self.recording is None and self.alike > ALIKE * constants.parts:
            self.recording = self._recorded(batch, constants)
        if self.recording is None:
            return self._one_by_one(batch, constants)
        return self.recording.replayed(batch)

    def _one_by_one(self, batch: Batch, constants: Constants) -> R:
        """Work on the stream that is captured later: autograd keeps to the stream on which a weight was first used."""
        here = torch.cuda.current_stream(self.device)
        own = self.stream or here
        own.wait_stream(here)
        with torch.cuda.stream(own):
            result = self.work(batch, constants)
        here.wait_stream(own)
        return result

    def _recorded(self, batch: Batch, constants: Constants) -> _Recording[R] | None:
        """Capture the work on copies of a batch, into which later ones are written; nothing is computed yet."""
        given, graph = batch.copied(), torch.cuda.CUDAGraph()
        here = torch.cuda.current_stream(self.device)
        torch.cuda.synchronize(self.device)
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                result = self.work(given, constants)
        except RuntimeError as error:
            # What failed comes first; that the capture could not end either, which leaves its stream chosen, follows.
            torch.cuda.set_stream(here)
            self.possible = False
            reason = str(error.__context__ or error).strip().splitlines()[0]
            self.reporter.say(f"steps are launched kernel by kernel, which is slower: no CUDA graph of them ({reason})")
            return None
        return _Recording(graph, given, result)
