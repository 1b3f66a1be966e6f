"""What the teacher puts out, and computes on the way, for training samples; and random segments of it.

Where the signals of all samples fit into memory, the teacher runs once over each sample, when a segment of it is first
asked for. Where they do not, whole samples are recorded on disk, or the teacher runs on every segment anew: whichever
takes less time for what a phase of training asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from compressor.cache_folder import default_cache_dir
from compressor.dataset import Sample
from compressor.graph_editing import output_specs
from compressor.progress import Reporter, SilentReporter
from compressor.segments import can_be_cut
from compressor.segments import cut as cut_inputs
from compressor.tensor_spec import TensorSpec
from compressor_distill.recorded_signals import RecordedInMemory, RecordedOnDisk
from compressor_distill.signal_cache import SignalCache
from compressor_distill.signal_timing import Timing
from compressor_distill.teacher_run import Batch, Signals, TeacherRun, stacked
from compressor_distill.training_inputs import Cut, Seed, TrainingInputs

Settled = Literal["in-memory", "recorded", "on-the-fly"]


class Way(Protocol):
    """How signals are come by."""

    def lacks(self, cut: Cut, *, features: bool) -> bool:
        """Say whether a segment's sample itself is needed."""

    def pieces(self, cuts: Sequence[Cut], *, features: bool) -> list[Signals]:
        """Return the signals of segments."""


@dataclass(frozen=True)
class Keeping:
    """How signals are kept."""

    teacher: str
    """Hash that names the teacher, where recordings of several lie together."""
    way: Literal["auto", "recorded", "on-the-fly"] = "auto"
    memory_gb: float = 2.0
    cache_gb: float = 4.0
    folder: Path = field(default_factory=lambda: default_cache_dir() / "teacher-signals")


class TeacherSignals:
    """The teacher's tensors for all training samples, and batches of segments cut from them.

    Raises:
        DataError: no sample is long enough for a segment.
    """

    def __init__(
        self,
        teacher: GraphModule,
        specs: tuple[TensorSpec, ...],
        points: tuple[str, ...],
        device: torch.device,
        samples: Sequence[Sample],
        segment: int,
        keeping: Keeping,
        reporter: Reporter | None = None,
    ) -> None:
        self.keeping = keeping
        self.reporter = reporter or SilentReporter()
        self.segment = segment
        made = output_specs(teacher)[0]
        # Inputs have a time axis, and the output has it last.
        self.segmented = made.time_axis == len(made.shape) - 1 and can_be_cut(specs)
        self.run = TeacherRun(teacher, points, device)
        self.inputs = TrainingInputs(samples, specs, segment if self.segmented else None)
        self.memory = RecordedInMemory(self.run, self.inputs)
        cache = SignalCache(self.keeping.folder, self.keeping.cache_gb * 1e9)
        self.disk = RecordedOnDisk(self.run, self.inputs, cache, self.keeping.teacher)
        self.way: Way = self.memory
        self.features = True

    def begin(self, batches: int, count: int, *, features: bool, settled: Settled | None = None) -> Settled:
        """Settle how the signals of so many batches are come by, and say so where it is worth knowing.

        Without `features` batches have none, and none are recorded. What was `settled` before, or in another process,
        is kept to: a clock decided it, and the ways differ in the last digits.
        """
        self.features = features and bool(self.run.points)
        bytes_per_step = self._bytes_per_step()
        fits = bytes_per_step * float(self.inputs.sizes.sum()) <= self.keeping.memory_gb * 1e9
        if settled == "in-memory" or (settled is None and fits and self.keeping.way != "on-the-fly"):
            self.way = self.memory
            return "in-memory"
        self.memory.recorded.clear()
        asked = settled or self.keeping.way
        if asked == "recorded":
            self.way = self.disk
            self.reporter.say(f"the teacher's signals are recorded in {self.disk.cache.folder}")
            return "recorded"
        timing = Timing(self.disk, count, features=self.features)
        self.way = timing.on_the_fly
        message = f"the teacher runs on each segment, {timing.says_context}"
        if asked == "auto":
            recorded, on_the_fly = timing.seconds(batches * count, bytes_per_step)
            self.way = self.disk if recorded <= on_the_fly else timing.on_the_fly
            message = timing.says_choice(recorded, on_the_fly)
        self.reporter.say(message)
        return "recorded" if self.way is self.disk else "on-the-fly"

    def batch(self, seed: Seed, count: int, part: tuple[int, int] = (0, 1)) -> Batch:
        """Return random segments; the seed alone decides which, and long samples are taken more often.

        Of several processes that train together each gets a `part` (index, of) of the same `count` segments: those
        from `index` on, every `of`th. The next batch is expected to have the same seed but for its last number, one
        more: another loses time only.
        """
        cuts = self.inputs.planned(seed, count, part, lambda cut: self.way.lacks(cut, features=self.features))
        return stacked(self.way.pieces(cuts, features=self.features), self.run.device)

    @property
    def megabytes(self) -> float:
        """Memory taken by the signals recorded so far."""
        return sum(each.nbytes for each in self.memory.recorded.values()) / 1e6

    def samples_of_segment(self) -> int:
        """Return how many values the output has for one segment."""
        given, size = self._a_segment()
        return self.run.whole(given, size, features=False).output.numel()

    def _a_segment(self) -> tuple[tuple[Tensor, ...], int]:
        given = self.inputs[0]
        if self.inputs.segment is not None:
            given = cut_inputs(given, self.inputs.specs, 0, self.inputs.segment)
        return given, self.inputs.length(given)

    def _bytes_per_step(self) -> float:
        """Return what recording takes for each step of a sample, found on a segment."""
        given, size = self._a_segment()
        signals = self.run.whole(given, size, features=self.features)
        # Samples in memory are held anyway.
        own = sum(value.nbytes for value in given) if self.inputs.lazy is not None else 0
        return (signals.nbytes + own) / size
