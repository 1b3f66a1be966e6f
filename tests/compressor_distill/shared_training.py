"""A short training on the tiny vocoder, as one of several processes or alone: `shared_training.py TEACHER OUT`.

Prints nothing; the first process writes weights and curve to OUT.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_distill.losses import MeanAbsolute
from compressor_prune.channel_importance import ChannelImportancePruning

from compressor import processes
from compressor.graph_editing import copy_graph
from compressor.teacher_loading import load_teacher
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import dataset
from tests.compressor_distill.short_training import distillation


def main(teacher_path: Path, out: Path, steps: int) -> int:
    teacher = load_teacher(teacher_path)
    context = stage_context(teacher, dataset(teacher_path.read_bytes()), out / "stage")
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
    processes.led_by_the_first("cpu", main, Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
