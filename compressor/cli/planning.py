"""`compress plan`: a dry run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click
from pydantic import BaseModel

from compressor.console import ConsoleReporter, print_table
from compressor.figures import in_words, share_in_words
from compressor.gates import judge_gates
from compressor.layer_costs import LayerCost, layer_costs
from compressor.plan_loading import load_plan
from compressor.plugin_catalog import load_catalog
from compressor.preparing import RunSettings, prepare
from compressor.progress import SilentReporter
from compressor.rehearsal import budgeted
from compressor.report import AllocationRecord, Measurement, StageRecord
from compressor.stage_line import StageLine
from compressor.stage_running import Workbench
from compressor.teacher_loading import load_teacher


def show_plan(
    recipe: Path, teacher: str | None, data: str | None, overrides: Sequence[str], *, quiet: bool, as_json: bool
) -> None:
    """Carry out the structural stages in memory and print what each does and costs."""
    catalog = load_catalog()
    planned = load_plan(recipe, teacher=teacher, data=data, overrides=overrides, catalog=catalog)
    structural = replace(planned, stages=tuple(stage for stage in planned.graph_stages if not stage.strategy.trains))
    skipped = {stage.label: "it trains" for stage in planned.graph_stages if stage.strategy.trains}
    skipped |= {stage.label: "it works on the finished student's file" for stage in planned.file_stages}
    with tempfile.TemporaryDirectory() as nowhere:
        settings = RunSettings(out=Path(nowhere) / "run", name=recipe.stem)
        bench, measured = prepare(
            structural,
            load_teacher(planned.recipe.teacher.onnx, planned.converters, planned.recipe.teacher.region),
            settings,
            SilentReporter() if quiet else ConsoleReporter(),
        )
        line = StageLine(structural, bench, lambda _: None)
        line.run_to(next((at for at, stage in enumerate(structural.stages) if budgeted(stage)), 0), None)
        unspent = layer_costs(line.student)
        line.run_to(len(structural.stages), None)
    if as_json:
        click.echo(json.dumps(_as_data(line, bench, measured, skipped), indent=2))
        return
    _print_layers("teacher", layer_costs(bench.teacher.graph))
    _print_allocation(line.allocation, line.records, bench, unspent)
    _print_findings(line.records)
    _print_layers("student", layer_costs(line.student))
    _print_stages(measured, line.records)
    for metric, limit in bench.limits.items():
        click.echo(f"budget: {metric} at most {in_words(limit)} ({planned.limits[metric].text})")
    for gate in judge_gates(planned.recipe.gates, planned.metrics, ()):
        click.echo(f"gate: {gate.metric} {gate.bound} {in_words(gate.threshold, gate.unit)}, of the finished student")
    for label, reason in skipped.items():
        click.echo(f"not done here, because {reason}: {label}")


def _as_data(
    line: StageLine, bench: Workbench, teacher: Sequence[Measurement], skipped: Mapping[str, str]
) -> dict[str, object]:
    """Return the plan for programs; records have the form that they have in `report.json`."""
    return {
        "teacher": {
            "measurements": _dumped(teacher),
            "layers": [asdict(each) for each in layer_costs(bench.teacher.graph)],
        },
        "stages": _dumped(line.records),
        "allocation": _dumped(line.allocation),
        "student": {"layers": [asdict(each) for each in layer_costs(line.student)]},
        "budget": dict(bench.limits),
        "not_done": dict(skipped),
    }


def _dumped(records: Sequence[BaseModel]) -> list[dict[str, object]]:
    return [record.model_dump(mode="json") for record in records]


def _print_layers(whose: str, layers: Sequence[LayerCost]) -> None:
    parameters, macs = sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
    rows = [
        [
            layer.layer,
            f"{layer.parameters:,}",
            share_in_words(layer.parameters, parameters),
            share_in_words(layer.macs, macs),
        ]
        for layer in layers
    ]
    click.echo()
    print_table([f"{whose}'s layer", "parameters", "share", "of the MACs"], rows)


def _print_allocation(
    allocation: Sequence[AllocationRecord],
    records: Sequence[StageRecord],
    bench: Workbench,
    unspent: Sequence[LayerCost],
) -> None:
    """Print what the budget is spent on; errors are shares of the energy of what the layers put out.

    `unspent` are the student's layers before it is spent.
    """
    if not allocation:
        return
    reached = {
        (record.stage, finding.layer): finding.values["error"]
        for record in records
        for finding in record.findings
        if "error" in finding.values
    }
    metrics = list(dict.fromkeys(metric for entry in allocation for metric in entry.saving))
    before = {cost.layer: cost.parameters for cost in unspent}
    rows = [
        [
            entry.stage,
            entry.layer,
            str(entry.setting),
            *_parameters(entry, before, bench.limits.get("parameters")),
            *(in_words(entry.saving.get(metric, 0.0)) for metric in metrics),
            f"{entry.error:.2%}",
            f"{reached[entry.stage, entry.layer]:.2%}" if (entry.stage, entry.layer) in reached else "",
            f"{entry.output_error:.3%}",
        ]
        for entry in sorted(allocation, key=lambda entry: -entry.output_error)
    ]
    click.echo()
    saved = [f"{metric} saved" for metric in metrics]
    headers = ["stage", "layer", "setting", "parameters", "of the budget", *saved]
    print_table([*headers, "error, predicted", "reached", "at the output"], rows)


def _parameters(entry: AllocationRecord, before: Mapping[str, int], limit: float | None) -> tuple[str, str]:
    """Return what the changed layers had and have, and what share of the budget they take then.

    Both are empty where stages in between made other layers of them.
    """
    layers = entry.layers or (entry.layer,)
    if not any(layer in before for layer in layers):
        return "", ""
    now = sum(before.get(layer, 0) for layer in layers)
    then = now - entry.saving.get("parameters", 0.0)
    return f"{in_words(now)} → {in_words(then)}", share_in_words(then, limit) if limit else ""


def _print_findings(records: Sequence[StageRecord]) -> None:
    for record in records:
        click.echo(f"\n{record.stage} {record.proof}")
        for finding in record.findings:
            click.echo(f"  {finding.layer + ': ' if finding.layer else ''}{finding.message}")


def _print_stages(teacher: Sequence[Measurement], records: Sequence[StageRecord]) -> None:
    headers = ["after", *(entry.metric for entry in teacher)]
    rows = [["teacher", *_figures(teacher)], *([record.stage, *_figures(record.measurements)] for record in records)]
    click.echo()
    print_table(headers, rows)


def _figures(measurements: Sequence[Measurement]) -> list[str]:
    return ["" if entry.value is None else in_words(entry.value, entry.unit) for entry in measurements]
