"""What structure alone keeps of a voice, before any training, and what the same training then makes of each start.

    python -m benchmarks.structure --recordings FOLDER
    python -m benchmarks.structure --recordings FOLDER --train-seconds 240 --seeds 0 1

One line for each way to make the teacher smaller, all in one run on one machine, each in a process of its own, so that
its seconds and peak memory are its own: Torch-Pruning alone (uniform magnitude, global magnitude, Taylor), a singular
value decomposition alone, each strategy of the recipe alone under the recipe's budget, and the recipe's structural
stages. Judged by the student's audio against the teacher's on the last recordings. With `--train-seconds`, some of the
starts, and the recipe's architecture with random weights, are trained alike and judged again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from benchmarks.own_process import ProcessDiedError, in_own_process, peak_gigabytes
from benchmarks.torch_pruned import pruned_by
from compressor.cache_folder import default_cache_dir
from compressor.console import print_table
from compressor.errors import CompressorError
from compressor.figures import in_words
from compressor.graph_editing import copy_graph
from compressor.measuring import measure
from compressor.metric import Metric
from compressor.plan_loading import load_plan
from compressor.planning import Plan, PlannedStage
from compressor.plugin_catalog import load_catalog
from compressor.preparing import RunSettings, prepare
from compressor.progress import SilentReporter
from compressor.rehearsal import Rehearsal
from compressor.stage_line import StageLine
from compressor.stage_running import Workbench
from compressor.teacher_loading import load_teacher

JUDGED_BY = ("parameters", "macs", "latency", "speedup", "pesq-wb", "stoi", "mel-l1")
EXACT = ("transposed-to-standard-conv", "conv1d-to-conv2d")
WITH_TRAINING = (
    "the recipe",
    "the recipe's architecture, random weights",
    "SVD alone, rank 1",
    "Torch-Pruning, magnitude",
)

Start = Callable[[Plan, Workbench], GraphModule]


@dataclass(frozen=True)
class Line:
    """One way to make the teacher smaller."""

    label: str
    make: Start


@dataclass(frozen=True)
class Result:
    """What came of it, or why nothing did."""

    figures: dict[str, str]
    seconds: float = 0.0
    gigabytes: float = 0.0
    failure: str = ""


def recipe_without_training(plan: Plan, bench: Workbench) -> GraphModule:
    """Return the recipe's student before its training stage."""
    first = next(at for at, stage in enumerate(plan.stages) if stage.strategy.trains)
    return through(plan.stages[:first])(plan, bench)


def through(stages: Sequence[PlannedStage]) -> Start:
    """Return what makes a student by stages, the budget spent on them alone."""

    def make(plan: Plan, bench: Workbench) -> GraphModule:
        line = StageLine(replace(plan, stages=tuple(stages)), replace(bench, metrics=_costs(bench)), lambda _: None)
        line.run_to(len(stages), None)
        return line.student

    return make


def _costs(bench: Workbench) -> tuple[Metric, ...]:
    """Return the metrics that a budget needs: the structural part is timed without the others."""
    return tuple(metric for metric in bench.metrics if metric.name in {"parameters", "macs", *bench.limits})


def alone(strategy: str, **options: Any) -> Start:
    """Return what makes a student by one strategy, then the exact stages."""
    catalog = load_catalog()
    names = [(strategy, options), *((name, {}) for name in EXACT)]
    make = through([PlannedStage(name, catalog.strategies[name](**given), "") for name, given in names])
    # A strategy by itself is not asked for speed: most could not even meet the other limits then.
    return lambda plan, bench: make(plan, replace(bench, limits=_arithmetic(bench)))


def singular_values(plan: Plan, bench: Workbench) -> GraphModule:
    """Return what singular values alone make, without data: rank one, and the widest up-sampling as a product.

    By itself rank one is over the budget of parameters: the first transposed convolution has 15 % of the teacher's.
    """
    catalog = load_catalog()
    given: list[tuple[str, dict[str, Any]]] = [
        ("depthwise-separable-conv", {"rank": 1, "calibration_samples": 0}),
        ("low-rank-conv", {"rank": 96, "calibration_samples": 0, "targets": ("ups/0/*",)}),
        *((name, {}) for name in EXACT),
    ]
    stages = [PlannedStage(name, catalog.strategies[name](**options), "") for name, options in given]
    return through(stages)(plan, bench)


def _arithmetic(bench: Workbench) -> dict[str, float]:
    clocked = {metric.name for metric in bench.metrics if metric.clocked}
    return {name: limit for name, limit in bench.limits.items() if name not in clocked}


def torch_pruned(importance: str, *, global_pruning: bool = False) -> Start:
    """Return what prunes with Torch-Pruning alone, to the budget of parameters and MACs, then the exact stages."""

    def make(_: Plan, bench: Workbench) -> GraphModule:
        low, high, best = 0.0, 0.95, None
        while high - low > 0.005:
            ratio = (low + high) / 2
            student = pruned_by(bench, importance, ratio, global_pruning=global_pruning)
            costs = Rehearsal(replace(bench, limits=_arithmetic(bench)), (), student).costs_after({})
            if all(costs[name] <= limit for name, limit in _arithmetic(bench).items()):
                high, best = ratio, student
            else:
                low = ratio
        if best is None:
            raise CompressorError("no ratio of channels gets below the budget")
        catalog = load_catalog()
        for name in EXACT:
            stage = PlannedStage(name, catalog.strategies[name](), "")
            best = stage.strategy.apply(best, bench.context(stage, {})).student
        return best

    return make


def random_weights(student: GraphModule, seed: int) -> GraphModule:
    """Return the same architecture, initialised as torch does."""
    torch.manual_seed(seed)
    fresh = copy_graph(student)
    for module in fresh.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return fresh


def lines(plan: Plan) -> list[Line]:
    """Return all lines of the table."""
    names = dict.fromkeys(stage.strategy.name for stage in plan.stages)
    return [
        Line("the teacher, exact stages only", through([_plain(name) for name in EXACT])),
        Line("Torch-Pruning, magnitude", torch_pruned("magnitude")),
        Line("Torch-Pruning, magnitude, global", torch_pruned("magnitude", global_pruning=True)),
        Line("Torch-Pruning, Taylor", torch_pruned("taylor")),
        Line("SVD alone, rank 1", singular_values),
        Line("fitted alone, rank 1", alone("depthwise-separable-conv", rank=1)),
        *(
            Line(f"{name} alone", alone(name))
            for name in (
                "mrf-simplification",
                "channel-importance-pruning",
                "depthwise-separable-conv",
                "low-rank-conv",
            )
            if name in load_catalog().strategies
        ),
        *(
            [Line("the recipe without its refit", without("least-squares-reconstruction"))]
            if "least-squares-reconstruction" in names
            else []
        ),
        Line("the recipe", recipe_without_training),
    ]


def _plain(name: str) -> PlannedStage:
    return PlannedStage(name, load_catalog().strategies[name](), "")


def without(strategy: str) -> Start:
    """Return what makes the recipe's student without one strategy."""

    def make(plan: Plan, bench: Workbench) -> GraphModule:
        kept = tuple(stage for stage in plan.stages if stage.strategy.name != strategy)
        return recipe_without_training(replace(plan, stages=kept), bench)

    return make


def prepared(options: argparse.Namespace) -> tuple[Plan, Workbench]:
    """Return the plan and a bench with teacher and data."""
    overrides = [*getattr(options, "overrides", ()), *([f"budget={options.budget}"] if options.budget else [])]
    plan = load_plan(options.recipe, teacher=options.teacher, data=options.recordings, overrides=overrides)
    catalog = load_catalog()
    plan = replace(plan, metrics=tuple(catalog.metrics[name]() for name in JUDGED_BY))
    teacher = load_teacher(plan.recipe.teacher.onnx, plan.converters, plan.recipe.teacher.region)
    device = getattr(options, "device", "cpu")
    settings = RunSettings(Path(tempfile.mkdtemp()) / "run", device=device, cache_dir=default_cache_dir())
    return plan, prepare(plan, teacher, settings, SilentReporter())[0]


def judged(bench: Workbench, student: GraphModule) -> dict[str, str]:
    """Return every figure of a student in words."""
    measured = measure(bench.measured(student), bench.metrics)
    return {entry.metric: "" if entry.value is None else in_words(entry.value, entry.unit) for entry in measured}


def trained(plan: Plan, bench: Workbench, student: GraphModule, seconds: float, seed: int) -> GraphModule:
    """Return a student after the recipe's training, cut to a time."""
    stage = next(stage for stage in plan.stages if stage.strategy.trains)
    strategy = stage.strategy.model_copy(update={"max_minutes": seconds / 60})
    timed = replace(bench, seed=seed, workdir=Path(tempfile.mkdtemp()))
    return strategy.apply(copy_graph(student), timed.context(replace(stage, strategy=strategy), {})).student


def one_line(options: argparse.Namespace, label: str) -> list[tuple[str, Result]]:
    """Make, judge and perhaps train one student."""
    plan, bench = prepared(options)
    architecture = label == WITH_TRAINING[1]
    line = next(line for line in lines(plan) if line.label == ("the recipe" if architecture else label))
    begun = time.monotonic()
    try:
        student = line.make(plan, bench)
    except CompressorError as error:
        return [(label, Result({}, failure=str(error).splitlines()[0]))]
    seconds, memory = time.monotonic() - begun, peak_gigabytes()
    results = [] if architecture else [(label, Result(judged(bench, student), seconds, memory))]
    for seed in options.seeds if options.train_seconds and label in WITH_TRAINING else ():
        start = random_weights(student, seed) if architecture else student
        after = trained(plan, bench, start, options.train_seconds, seed)
        results.append((f"{label}, trained {options.train_seconds:g} s, seed {seed}", Result(judged(bench, after))))
    return results


def results_of(options: argparse.Namespace, label: str) -> list[tuple[str, Result]]:
    """Return one line's results."""
    try:
        found: list[tuple[str, Result]] = in_own_process(one_line, options, label)
    except ProcessDiedError as reason:
        found = [(label, Result({}, failure=f"the process died: {reason}"))]
    return found


def main() -> None:
    """Print a line as soon as it is known, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/hifigan_joint_budget.yaml"))
    parser.add_argument("--teacher")
    parser.add_argument("--recordings", required=True)
    parser.add_argument("--budget", help="in place of the recipe's")
    parser.add_argument("--train-seconds", type=float, default=0.0)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--only", nargs="*", help="labels of lines")
    options = parser.parse_args()
    labels = [line.label for line in lines(prepared(options)[0])]
    if options.train_seconds:
        labels.append(WITH_TRAINING[1])
    rows = []
    for label in options.only or labels:
        for name, result in results_of(options, label):
            figures = [result.figures.get(metric, "") for metric in JUDGED_BY]
            spent = [f"{result.seconds:.0f} s", f"{result.gigabytes:.1f} GB"] if result.seconds else ["", ""]
            rows.append([name, *(figures if result.figures else [result.failure, *figures[1:]]), *spent])
            print(" | ".join(rows[-1]), flush=True)
    print_table(["", *JUDGED_BY, "structure", "peak memory"], rows)


if __name__ == "__main__":
    main()
