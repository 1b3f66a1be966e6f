"""`compress doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from compressor.cli.inspecting import describe
from compressor.console import print_table
from compressor.doctor import Diagnosis, examine
from compressor.figures import in_words
from compressor.plugin_catalog import load_catalog


def show_diagnosis(source: str, *, as_json: bool) -> int:
    """Print what a model is; returns the exit code, 0 where `compress run` would load it."""
    diagnosis = examine(source, load_catalog().converters)
    if as_json:
        click.echo(json.dumps(asdict(diagnosis), indent=2))
    else:
        _print(diagnosis)
    return 0 if diagnosis.loads else 1


def _print(found: Diagnosis) -> None:
    size = in_words(found.bytes, "bytes")
    made_by = f", by {found.producer}" if found.producer else ""
    click.echo(f"{found.source}: opset {found.opset}, {size}, {found.parameters:,} weights{made_by}")
    click.echo(f"loads: yes, equal to onnxruntime ({found.parity})" if found.loads else f"loads: NO. {found.problem}")
    for role, specs in (("input", found.inputs), ("output", found.outputs)):
        for spec in specs:
            click.echo(f"{role:7} {describe(spec)}")
    if found.vocoder is not None:
        facts = [found.vocoder.kind]
        facts += [f"hop {found.vocoder.hop_length}"] if found.vocoder.hop_length else []
        facts += [f"{found.vocoder.sample_rate} Hz"] if found.vocoder.sample_rate else []
        facts += [f"described by {found.vocoder.described_by}"] if found.vocoder.described_by else []
        click.echo(f"it is {', '.join(facts)}")
    click.echo(f"licence: {found.licence or 'not stated in the file; ask whoever made it'}")
    _print_names("random operators", found.random_operators, "teacher and student share each draw")
    _print_names("shared weights", found.shared_weights, "each is one parameter")
    _print_names("quantised", found.quantised_operators, "compress the float model rather than this one")
    missing = [[fact.operator, str(fact.count), fact.support, fact.first] for fact in found.operators]
    print_table(["operator", "nodes", "support", "first at"], missing)
    for remedy in dict.fromkeys(fact.remedy for fact in found.operators if fact.remedy):
        click.echo(f"what is missing: {remedy}")
    if found.regions:
        click.echo("")
        rows = [[part.input, part.output, f"{part.parameters:,}", str(part.nodes)] for part in found.regions]
        print_table(["region from", "to", "weights", "nodes"], rows)
    if found.recipe:
        click.echo(f"\na first recipe:\n\n{found.recipe}")


def _print_names(what: str, names: tuple[str, ...], remark: str) -> None:
    if names:
        shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        click.echo(f"{what}: {shown} ({remark})")
