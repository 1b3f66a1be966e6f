"""A short training on the tiny vocoder, as one of several processes or alone: `shared_training.py TEACHER OUT STEPS`.

Prints nothing; the first process writes weights and curve to OUT. With `step N` or `saving N` after that it is killed,
by itself so that the moment is the same on every machine: after its Nth step, or in the middle of its Nth checkpoint.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from pathlib import Path
from unittest import mock

import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_distill import checkpoint
from compressor_distill.losses import MeanAbsolute
from compressor_prune.channel_importance import ChannelImportancePruning

from compressor import processes
from compressor.graph_editing import copy_graph
from compressor.progress import SilentReporter, SilentTask
from compressor.run_folder import write_atomically
from compressor.teacher_loading import load_teacher
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import dataset
from tests.compressor_distill.short_training import distillation


class Killed(SilentReporter):
    """Counts steps of training, or checkpoints, and ends the process as `kill -9` does when there are enough."""

    def __init__(self, counted: str, left: int) -> None:
        self.left = left
        if counted == "saving":

            def killed_then(path: Path, content: bytes) -> None:
                write_atomically(path, content)
                # It is there, and not yet in its place.
                self.count()

            mock.patch.object(checkpoint, "write_atomically", killed_then).start()
        self.steps = counted == "step"

    def count(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def task(self, label: str, total: int, *, done: int = 0, at_most: float = math.inf) -> SilentTask:
        reporter = self

        class Task(SilentTask):
            def advance(self, steps: int = 1, status: str = "") -> None:
                if reporter.steps and label in ("block-wise", "end-to-end", "adversarial"):
                    reporter.count()

        return Task()


def main(teacher_path: Path, out: Path, steps: int, *killed: str) -> int:
    teacher = load_teacher(teacher_path)
    reporter = Killed(killed[0], int(killed[1])) if killed else SilentReporter()
    context = stage_context(teacher, dataset(teacher_path.read_bytes()), out / "stage", reporter=reporter)
    student = copy_graph(teacher.graph)
    # Narrower at one point, which takes a projection.
    narrow = ChannelImportancePruning(pruning_ratio=0.5, round_to=2, targets=("resblocks/1/convs2/1/*",))
    for strategy in (narrow, DepthwiseSeparableConv(rank=1), TransposedToStandardConv(), Conv1dToConv2d()):
        student = strategy.apply(student, context).student
    phases = {
        "block_wise": {"steps": steps},
        "end_to_end": {"steps": steps, "feature_weight": 0.5},
        "adversarial": {
            "steps": steps, "segment": 24, "discriminators": ["multi-period"], "width": 0.0625,
            "discriminators_alone": 2,
        },
    }  # fmt: skip
    # A loss that is a mean over the batch is the mean of its parts': two processes then compute what one does.
    outcome = distillation(batch_size=4, features=[MeanAbsolute()], ema=0.5, **phases).apply(student, context)
    curve = [(point.phase, point.step, point.losses, point.validation) for point in outcome.curve]
    notes = [finding.message for finding in outcome.findings]
    torch.save({"weights": outcome.student.state_dict(), "curve": curve, "notes": notes}, out / "result.pt")
    return 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    processes.led_by_the_first("cpu", main, Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
