"""What the same minutes of training make of each start: the recipe's, and what one would train without it.

    python -m benchmarks.distillation --recordings FOLDER
    python -m benchmarks.distillation --recordings FOLDER --minutes 15 --only "the recipe" --results results.jsonl

A line for each start and each number of minutes of training, all in one run on one machine, each in a process of its
own: the recipe's student; its architecture with random weights; Torch-Pruning's student; a narrow HiFi-GAN of the same
multiply-accumulates with random weights; and, without any training, onnxruntime's dynamic int8 of the teacher. A start
is made once and trained anew for each number of minutes. All train on the same recordings with the same losses, and are
judged by their audio against the teacher's on the last recordings, with 95 % intervals over utterances. What starts
from random weights learns at a higher rate, which suits it better. Finished lines are kept in `--results`, so that an
interrupted run goes on; `--fresh` forgets them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch.fx import GraphModule

from benchmarks.own_process import in_own_process
from benchmarks.structure import prepared, random_weights, recipe_without_training, torch_pruned
from compressor.console import print_table
from compressor.figures import in_words, with_interval
from compressor.measuring import MeasuredModel, measure
from compressor.onnx_export import export_onnx
from compressor.planning import Plan
from compressor.plugin_catalog import load_catalog
from compressor.portable_graph import PortableGraph
from compressor.progress import SilentReporter
from compressor.report import Measurement
from compressor.stage_running import Workbench
from compressor.timing import time_in_turn

JUDGED_BY = ("parameters", "macs", "speedup", "pesq-wb", "stoi", "mel-l1", "band-energy")
EVERLASTING = 10**6
"""Steps that no time allows: minutes end every training."""


@dataclass(frozen=True)
class Start:
    """What is trained, and at which peak learning rate: the recipe's own, or one that suits the start better."""

    make: Callable[[Plan, Workbench], GraphModule]
    learning_rate: float | None = None


def from_random(make: Callable[[Plan, Workbench], GraphModule], plan: Plan, bench: Workbench) -> GraphModule:
    """Return an architecture with random weights."""
    return random_weights(make(plan, bench), bench.seed)


def narrow(plan: Plan, bench: Workbench) -> GraphModule:
    """Return the teacher's architecture with fewer channels everywhere, as HiFi-GAN V2 is to V1; pruned weights."""
    macs = {name: limit for name, limit in bench.limits.items() if name == "macs"}
    return torch_pruned("magnitude")(plan, dataclasses.replace(bench, limits=macs))


STARTS: Mapping[str, Start] = {
    "the recipe": Start(recipe_without_training),
    "its architecture, random weights": Start(partial(from_random, recipe_without_training), 1e-3),
    "Torch-Pruning, magnitude": Start(torch_pruned("magnitude"), 1e-3),
    "narrow HiFi-GAN, random weights": Start(partial(from_random, narrow), 1e-3),
}
QUANTISED = "dynamic int8 of the teacher, untrained"


class Telling(SilentReporter):
    """Prints what a training says, its validations among it."""

    def say(self, message: str) -> None:
        """Print a message."""
        print(f"  {message}", flush=True)


def trained(
    plan: Plan, bench: Workbench, student: GraphModule, minutes: float, rate: float | None, precision: str
) -> GraphModule:
    """Return a student after the recipe's training, stretched or cut to so many minutes."""
    stage = next(stage for stage in plan.stages if stage.strategy.trains)
    whole: Any = stage.strategy
    total = whole.block_wise.steps + whole.end_to_end.steps
    phases = {}
    for name in ("block_wise", "end_to_end"):
        phase = getattr(whole, name)
        changes = {"steps": phase.steps * EVERLASTING // total, **({"learning_rate": rate} if rate else {})}
        phases[name] = phase.model_copy(update=changes)
    strategy = whole.model_copy(update={"max_minutes": minutes, "precision": precision, **phases})
    timed = dataclasses.replace(bench, workdir=Path(tempfile.mkdtemp()), reporter=Telling())
    context = timed.context(dataclasses.replace(stage, strategy=strategy), {})
    after: GraphModule = strategy.apply(student, context).student
    return after


def made(options: argparse.Namespace, label: str) -> PortableGraph:
    """Make one start."""
    plan, bench = prepared(options)
    begun = time.monotonic()
    student = STARTS[label].make(plan, dataclasses.replace(bench, seed=options.seed))
    print(f"{label}: made in {time.monotonic() - begun:.0f} s", flush=True)
    return PortableGraph(student)


def line(
    options: argparse.Namespace, label: str, start: PortableGraph, minutes: float, precision: str
) -> list[Measurement]:
    """Train and judge one student."""
    plan, bench = prepared(options)
    catalog = load_catalog()
    judges = [catalog.metrics[name]() for name in JUDGED_BY]
    bench = dataclasses.replace(bench, seed=options.seed)
    student = start.graph
    if minutes:
        student = trained(plan, bench, student, minutes, STARTS[label].learning_rate, precision)
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        (options.keep / f"{label}, {minutes:g} min.onnx").write_bytes(export_onnx(student, bench.teacher.opset))
    return list(measure(bench.measured(student), judges))


class QuantisedTeacher(MeasuredModel):
    """The teacher's file with 8-bit weights, run by onnxruntime."""

    @property
    def outputs(self) -> Any:
        session = onnxruntime.InferenceSession(self.file)
        samples = self.data.validation if self.data else ()
        return tuple(session.run(None, dict(sample.inputs))[0].reshape(-1) for sample in samples)

    @property
    def file(self) -> bytes:
        """Return the quantised file."""
        with tempfile.TemporaryDirectory() as folder:
            plain, small = Path(folder) / "teacher.onnx", Path(folder) / "int8.onnx"
            plain.write_bytes(self.teacher.content)
            quantize_dynamic(plain, small, weight_type=QuantType.QUInt8)
            return small.read_bytes()


def quantised(options: argparse.Namespace) -> list[Measurement]:
    """Judge the teacher as onnxruntime quantises it."""
    _, bench = prepared(options)
    catalog = load_catalog()
    model = QuantisedTeacher(bench.teacher.graph, bench.teacher, bench.data, bench.baseline)
    found = measure(model, [catalog.metrics[name]() for name in JUDGED_BY if name != "speedup"])
    own, teacher = time_in_turn([(model.file, model.probe), (bench.teacher.content, model.probe)], 1, 9)
    faster = sorted(b / a for a, b in zip(own, teacher, strict=True))[len(own) // 2]
    return [*found, Measurement(metric="speedup", value=faster, unit="x", better="higher")]


def in_figures(found: Mapping[str, Measurement]) -> list[str]:
    """Return a line's figures in words."""
    cells = []
    for name in JUDGED_BY:
        entry = found.get(name)
        if entry is None or entry.value is None:
            cells.append("")
        elif entry.low is None:
            cells.append(in_words(entry.value, entry.unit))
        else:
            cells.append(with_interval(entry.value, entry.low, entry.high, entry.unit))
    return cells


class Results:
    """Finished lines, kept as a file of JSON lines."""

    def __init__(self, path: Path, *, fresh: bool) -> None:
        self.path = path
        if fresh:
            path.unlink(missing_ok=True)
        known = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.lines: dict[str, list[Measurement]] = {
            entry["key"]: [Measurement(**each) for each in entry["measurements"]] for entry in map(json.loads, known)
        }

    def add(self, key: str, measurements: list[Measurement]) -> None:
        """Keep a line."""
        self.lines[key] = measurements
        entry = {"key": key, "measurements": [each.model_dump() for each in measurements]}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def named(options: argparse.Namespace, label: str, minutes: float, precision: str) -> str:
    """Return what a line is known by."""
    where = [] if options.device == "cpu" else [options.device]
    computed = [] if precision == "auto" else [precision]
    words = [label, f"{minutes:g} min", *where, *computed, f"seed {options.seed}{''.join(options.overrides)}"]
    return ", ".join(words)


def main() -> None:
    """Print a line as soon as it is known, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=Path("recipes/hifigan_joint_budget.yaml"))
    parser.add_argument("--teacher")
    parser.add_argument("--recordings", required=True)
    parser.add_argument("--budget", default="{parameters: 30%, macs: 30%}", help="in place of the recipe's")
    parser.add_argument("--minutes", type=float, nargs="*", default=[4.0, 15.0, 60.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[*STARTS, QUANTISED], help="labels of lines")
    parser.add_argument("--device", default="cpu", help="where students are trained")
    parser.add_argument("--precision", nargs="*", default=["auto"], help="fp32, bf16, fp16: each line in each")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="as of `compress run`")
    parser.add_argument("--results", type=Path, default=Path("runs/distillation.jsonl"))
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder for the students' files")
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)
    results = Results(options.results, fresh=options.fresh)
    starts = cache(partial(in_own_process, made, options))
    rows: list[list[str]] = []
    for minutes, label, precision in product(options.minutes, options.only, options.precision):
        untrained = label == QUANTISED
        key = named(options, label, 0 if untrained else minutes, precision)
        if key not in results.lines:
            work = (quantised, options) if untrained else (line, options, label, starts(label), minutes, precision)
            results.add(key, in_own_process(*work))
        found = {entry.metric: entry for entry in results.lines[key]}
        if not any(row[0] == key for row in rows):
            rows.append([key, *in_figures(found)])
            print(" | ".join(rows[-1]), flush=True)
    print_table(["", *JUDGED_BY], rows)


if __name__ == "__main__":
    main()
