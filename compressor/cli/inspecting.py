"""`compress inspect`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from compressor.calibration import PROBE_SIZE
from compressor.console import print_table
from compressor.figures import in_words, share_in_words
from compressor.graph_editing import parameter_count
from compressor.layer_costs import layer_costs
from compressor.plugin_catalog import load_catalog
from compressor.teacher_loading import Teacher, load_teacher
from compressor.tensor_spec import TensorSpec


def show_teacher(source: str, *, as_json: bool) -> None:
    """Print the analysis of a teacher."""
    teacher = load_teacher(source, load_catalog().converters)
    if as_json:
        click.echo(json.dumps(_analysis(teacher), indent=2))
    else:
        _print(teacher)


def _analysis(teacher: Teacher) -> dict[str, object]:
    return {
        "source": teacher.source,
        "sha256": teacher.sha256,
        "bytes": teacher.stored.size,
        "opset": teacher.opset,
        "parameters": parameter_count(teacher.graph),
        "inputs": [asdict(spec) for spec in teacher.inputs],
        "outputs": [asdict(spec) for spec in teacher.outputs],
        "operators": dict(teacher.operators),
        "metadata": dict(teacher.metadata),
        "macs_at_size": PROBE_SIZE,
        "layers": [asdict(layer) for layer in layer_costs(teacher.graph)],
    }


def _print(teacher: Teacher) -> None:
    layers = layer_costs(teacher.graph)
    parameters, macs = sum(layer.parameters for layer in layers), sum(layer.macs for layer in layers)
    size = in_words(teacher.stored.size, "bytes")
    click.echo(f"{teacher.source}: opset {teacher.opset}, {size}, {parameters:,} parameters")
    click.echo(f"equal to onnxruntime: {teacher.parity}")
    for role, specs in (("input", teacher.inputs), ("output", teacher.outputs)):
        for spec in specs:
            click.echo(f"{role:7} {describe(spec)}")
    counted = sorted(teacher.operators.items(), key=lambda entry: -entry[1])
    click.echo("operators: " + ", ".join(f"{count} {name}" for name, count in counted))
    for key, value in teacher.metadata.items():
        click.echo(f"metadata: {key} = {value}")
    print_table(
        ["layer", "kind", "parameters", "", f"MACs at size {PROBE_SIZE}", ""],
        [
            [
                layer.layer,
                layer.kind,
                f"{layer.parameters:,}",
                share_in_words(layer.parameters, parameters),
                in_words(layer.macs),
                share_in_words(layer.macs, macs),
            ]
            for layer in layers
        ],
    )


def describe(spec: TensorSpec) -> str:
    """Return a spec as `mel: (1, 80, T_mel) float32`."""
    return f"{spec.name}: ({', '.join(map(str, spec.shape))}) {spec.dtype}"
