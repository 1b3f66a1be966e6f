"""How fast distillation trains, beside a loop that one would write by hand; one run, one machine.

    python -m benchmarks.training_speed --recordings FOLDER

Five trainings of the same student with the same losses, batch and precision, each in a process of its own: this
project's; a minimal loop that knows the teacher's outputs beforehand; the same on the student as it is written, without
the form that trains fastest; and minimal loops that run the teacher each step, in either form. Steps per second are
those after a warm-up in which every recording has been heard. Peak memory is that of the whole process, data and all.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressor_distill.folded_convolution import training_form
from compressor_distill.processor import chosen_precision
from torch import Tensor
from torch.fx import GraphModule

from benchmarks.own_process import in_own_process, peak_gigabytes
from benchmarks.structure import prepared
from compressor.console import print_table
from compressor.graph_editing import copy_graph, feed, fitted_inputs, run_graph
from compressor.planning import PlannedStage
from compressor.plugin_catalog import load_catalog
from compressor.progress import SilentReporter, SilentTask
from compressor.stage_running import Workbench

STRUCTURE: tuple[tuple[str, dict[str, Any]], ...] = (
    ("depthwise-separable-conv", {"rank": 1, "calibration_samples": 0}),
    ("transposed-to-standard-conv", {}),
    ("conv1d-to-conv2d", {}),
)
"""A student as the recipes make them, but without data: speed depends on its form alone."""
OURS = "this project"
BATCH, SEGMENT, RATE = 8, 30, 5e-4


def student_of(bench: Workbench) -> GraphModule:
    """Return the student that all train."""
    catalog = load_catalog()
    student = bench.teacher.graph
    for name, options in STRUCTURE:
        stage = PlannedStage(name, catalog.strategies[name](**options), "")
        student = stage.strategy.apply(copy_graph(student), bench.context(stage, {})).student
    return student


def losses() -> list[Any]:
    """Return the losses that all train with."""
    return [load_catalog().losses[name]() for name in ("mel-l1", "multi-resolution-stft")]


class Stopwatch(SilentReporter):
    """Notes when each training step is done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def task(self, label: str, total: int, *, done: int = 0, at_most: float = math.inf) -> SilentTask:
        """Watch a phase of training."""
        times = self.times

        class Task(SilentTask):
            def advance(self, steps: int = 1, status: str = "") -> None:
                if label == "end-to-end":
                    times.append(time.perf_counter())

        return Task()


def ours(bench: Workbench, student: GraphModule, steps: int) -> list[float]:
    """Train with the project's own strategy; returns when each step was done."""
    options = {
        "losses": losses(), "block_wise": {"steps": 0}, "batch_size": BATCH, "segment": SEGMENT,
        "end_to_end": {"steps": steps, "learning_rate": RATE, "feature_weight": 0.0}, "validate_every": steps,
    }  # fmt: skip
    strategy: Any = load_catalog().strategies["distillation"].model_validate(options)
    watch = Stopwatch()
    # One short sample validates: validation is not what is timed.
    data = bench.data and dataclasses.replace(bench.data, validation=bench.data.validation[:1])
    stage = PlannedStage("distillation", strategy, "")
    timed = dataclasses.replace(bench, reporter=watch, workdir=Path(tempfile.mkdtemp()), data=data)
    strategy.apply(student, timed.context(stage, {}))
    return watch.times


def by_hand(
    bench: Workbench, student: GraphModule, steps: int, *, teacher_each_step: bool = False, plain: bool = False
) -> list[float]:
    """Train with the least that does it; returns when each step was done."""
    compared, times = losses(), []
    optimiser = torch.optim.AdamW(student.parameters(), lr=RATE, betas=(0.8, 0.99), weight_decay=0.0)
    bf16 = chosen_precision("auto", torch.device(bench.device)) == "bf16"
    device = torch.device(bench.device)
    student.to(device).train()
    bench.teacher.graph.to(device)
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    with nullcontext() if plain else training_form(student, device):
        for mel, wanted in batches(bench, steps, teacher_each_step=teacher_each_step):
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                output = run_graph(student, fitted_inputs(student, (mel,)))
            found = output[0].float().reshape(wanted.shape)
            optimiser.zero_grad(set_to_none=True)
            torch.stack([loss.compute(found, wanted) for loss in compared]).sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(student.parameters(), 5.0)
            optimiser.step()
            wait_for(device)
            times.append(time.perf_counter())
    return times


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches(bench: Workbench, steps: int, *, teacher_each_step: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield segments (batch, bands, frames) and what the teacher makes of them (batch, 1, samples)."""
    samples = bench.data.train if bench.data else ()
    name = bench.teacher.inputs[0].name
    mels = [torch.from_numpy(sample.inputs[name]).to(bench.device) for sample in samples]
    audio = [] if teacher_each_step else [feed(bench.teacher.graph, (mel,))[0] for mel in mels]
    random = np.random.default_rng(0)
    for _ in range(steps):
        chosen = [int(random.integers(len(mels))) for _ in range(BATCH)]
        starts = [int(random.integers(mels[at].shape[-1] - SEGMENT)) for at in chosen]
        mel = torch.cat([mels[at][..., start : start + SEGMENT] for at, start in zip(chosen, starts, strict=True)])
        if teacher_each_step:
            yield mel, feed(bench.teacher.graph, (mel,))[0]
            continue
        hop = audio[0].shape[-1] // mels[0].shape[-1]
        pairs = zip(chosen, starts, strict=True)
        yield mel, torch.cat([audio[at][..., start * hop : (start + SEGMENT) * hop] for at, start in pairs])


def measured(options: argparse.Namespace, label: str) -> tuple[float, float]:
    """Return steps per second and the peak memory in GB of one training."""
    _, bench = prepared(options)
    student = student_of(bench)
    trainings: dict[str, Callable[[], list[float]]] = {
        OURS: lambda: ours(bench, student, options.steps),
        "minimal loop, teacher's outputs known": lambda: by_hand(bench, student, options.steps),
        "the same, student as written": lambda: by_hand(bench, student, options.steps, plain=True),
        "minimal loop, teacher each step": lambda: by_hand(bench, student, options.steps, teacher_each_step=True),
        "the same, student as written, teacher each step": lambda: by_hand(
            bench, student, options.steps, teacher_each_step=True, plain=True
        ),
    }
    times = trainings[label]()[options.warm_up :]
    return (len(times) - 1) / (times[-1] - times[0]), peak_gigabytes()


LABELS = (
    OURS,
    "minimal loop, teacher's outputs known",
    "the same, student as written",
    "minimal loop, teacher each step",
    "the same, student as written, teacher each step",
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/hifigan_student.yaml"))
    parser.add_argument("--teacher")
    parser.add_argument("--recordings", required=True)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=list(LABELS), help="labels of trainings")
    parser.add_argument("--warm-up", type=int, default=25)
    options = parser.parse_args()
    options.budget = None
    found = {label: in_own_process(measured, options, label) for label in options.only}
    rate, memory = found.get(LABELS[1], found[options.only[0]])
    rows = [
        [label, f"{own:.2f}", f"{own / rate:.2f}", f"{gigabytes:.1f} GB", f"{gigabytes / memory:.2f}"]
        for label, (own, gigabytes) in found.items()
    ]
    print_table(["", "steps/s", "of the minimal loop's", "peak memory", "of the minimal loop's"], rows)
    if found.keys() >= {OURS, *LABELS[3:]}:
        ratios = [f"{found[OURS][0] / found[label][0]:.2f}" for label in LABELS[3:]]
        print(f"against a loop that runs the teacher each step: {ratios[0]} times; student as written: {ratios[1]}")


if __name__ == "__main__":
    main()
