"""Work that is the same batch after batch, launched at once where that is possible: a CUDA graph.

A training step is thousands of small kernels. For a student of HiFi-GAN and 8 segments of 30 frames an H100 computes
them in 8 ms, and launching them one by one takes 42: 24 steps a second one by one, 117 as one graph.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import torch

from compressor.progress import Reporter, SilentReporter
from compressor_distill.teacher_run import Batch

R = TypeVar("R")

ALIKE = 4
"""Batches of one kind that are worked on one by one before the next is captured: what is made at first use is there."""


class Captured(Generic[R]):
    """Works on batches; on a GPU, as soon as several in a row are of one shape, by replaying a captured graph.

    What the work returns when replayed are the tensors that it returned when it was captured, with new values: to be
    read before the next batch. Gradients have to stay where they are: set to zero between steps, not dropped.

    Args:
        work: reads nothing but the batch, and tensors that stay where they are.
        device: where it is done; on any other than a GPU it is just done.
        reporter: told where the work cannot be captured, such as a loss that looks at its own values.
    """

    def __init__(self, work: Callable[[Batch], R], device: torch.device, reporter: Reporter | None = None) -> None:
        self.work = work
        self.device = device
        self.reporter = reporter or SilentReporter()
        self.possible = device.type == "cuda"
        self.kind: Hashable = None
        self.alike = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(device) if self.possible else None  # type: ignore[no-untyped-call]
        self.given: Batch
        self.result: R

    def __call__(self, batch: Batch, constants: Hashable = None) -> R:
        """Work on a batch; `constants` are all numbers that the work depends on besides."""
        if not self.possible:
            return self.work(batch)
        kind = (constants, *((value.shape, value.stride(), value.dtype) for value in batch.tensors))
        if kind != self.kind:
            self.kind, self.alike, self.graph = kind, 0, None
        self.alike += 1
        if self.graph is None and self.alike > ALIKE:
            self._capture(batch)
        if self.graph is None:
            return self._one_by_one(batch)
        for own, new in zip(self.given.tensors, batch.tensors, strict=True):
            own.copy_(new)
        self.graph.replay()
        return self.result

    def _one_by_one(self, batch: Batch) -> R:
        """Work on the stream that is captured later: autograd keeps to the stream on which a weight was first used."""
        if self.stream is None:
            return self.work(batch)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            result = self.work(batch)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return result

    def _capture(self, batch: Batch) -> None:
        """Record the work on copies of a batch, into which later ones are written; nothing is computed yet."""
        self.given = batch.copied()
        graph = torch.cuda.CUDAGraph()
        try:
            torch.cuda.synchronize(self.device)
            with torch.cuda.graph(graph, stream=self.stream):
                self.result = self.work(self.given)
        except RuntimeError as error:
            self.possible = False
            reason = str(error).strip().splitlines()[0]
            self.reporter.say(f"steps are launched kernel by kernel, which is slower: no CUDA graph of them ({reason})")
            return
        self.graph = graph
