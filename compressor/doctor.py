"""What an ONNX file is, whether it can be a teacher, and what a first recipe for it would be."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import yaml

from compressor.control_flow import decided
from compressor.cut_points import RegionFact, regions
from compressor.errors import CompressorError
from compressor.first_recipe import F0_VOCODER, MEL_VOCODER, PIPER_VOICE, VocoderFact, first_recipe
from compressor.hookspecs import Converters
from compressor.onnx_conversion import Support, newest_opset, support_of
from compressor.package_files import resolve_package_path
from compressor.shared_draws import RANDOM_OPERATORS
from compressor.sidecars import PIPER_SUFFIX, VOCODER_NAME, described_mel
from compressor.stored_model import StoredModel, onnx_session, parse_model, read_stored
from compressor.teacher_loading import load_teacher, model_specs
from compressor.tensor_spec import TensorSpec, random_inputs

QUANTISED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")
HOP_SIZES = (32, 48)
"""Sizes at which a model's output length tells its samples per frame."""


@dataclass(frozen=True)
class OperatorFact:
    """An operator of the model: how often, since where, and what becomes of it."""

    operator: str
    count: int
    first: str
    support: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that `compress doctor` tells."""

    source: str
    bytes: int
    opset: int
    producer: str
    parameters: int
    """Values of all weights, a shared one once."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: tuple[OperatorFact, ...]
    random_operators: tuple[str, ...]
    shared_weights: tuple[str, ...]
    quantised_operators: tuple[str, ...]
    vocoder: VocoderFact | None
    regions: tuple[RegionFact, ...]
    licence: str
    loads: bool
    parity: str
    """How near torch comes to onnxruntime."""
    problem: str
    """Why `compress run` would not load it; empty where it would."""
    recipe: str
    """A first recipe, in YAML."""


def examine(source: str, converters: Converters) -> Diagnosis:
    """Return what is to be known of a file.

    Raises:
        TeacherError: no such file, or not an ONNX model.
    """
    stored = read_stored(source)
    model = parse_model(source, stored)
    inputs, outputs = model_specs(model.graph, initial=True), model_specs(model.graph, initial=False)
    parity, problem = _loaded(source, converters)
    vocoder = _vocoder(source, stored, inputs, outputs)
    parts = regions(model)
    return Diagnosis(
        source=source,
        bytes=stored.size,
        opset=newest_opset(model),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        parameters=sum(_size(tensor) for tensor in model.graph.initializer),
        inputs=inputs,
        outputs=outputs,
        operators=_operators(model, converters),
        random_operators=tuple(
            node.name or node.op_type for node in model.graph.node if node.op_type in RANDOM_OPERATORS
        ),
        shared_weights=_shared(model.graph),
        quantised_operators=tuple(
            node.name or node.op_type
            for node in model.graph.node
            if node.op_type in QUANTISED or node.op_type.startswith("QLinear")
        ),
        vocoder=vocoder,
        regions=parts,
        licence=_licence(model),
        loads=not problem,
        parity=parity,
        problem=problem,
        recipe=first_recipe(source, vocoder, parts, inputs, _tensors(model.graph), loads=not problem),
    )


def _loaded(source: str, converters: Converters) -> tuple[str, str]:
    """Return how near torch comes to onnxruntime, and nothing; or nothing, and why the file does not load."""
    try:
        return str(load_teacher(source, converters).parity), ""
    except CompressorError as error:
        return "", str(error)


def _tensors(graph: onnx.GraphProto) -> frozenset[str]:
    return frozenset(name for node in graph.node for name in (*node.input, *node.output))


def _size(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _operators(model: onnx.ModelProto, converters: Converters) -> tuple[OperatorFact, ...]:
    counts: Counter[tuple[str, str]] = Counter((node.domain, node.op_type) for node in model.graph.node)
    first = {(node.domain, node.op_type): node for node in reversed(model.graph.node)}
    remedies = {
        Support.MISSING: "export the model without it, compress a region without it (teacher: {onnx, region}), or "
        "install a plugin that converts it (hook compressor_onnx_converters)",
        Support.WRITTEN_OUT: "",
        Support.CONVERTED: "",
    }
    facts = []
    undecided = {node.op_type for node in decided(model).graph.node}
    for key, count in counts.most_common():
        support = support_of(first[key], model, converters)
        if key in (("", "If"), ("", "Loop")) and key[1] not in undecided:
            support = Support.WRITTEN_OUT
        name = f"{key[0]}.{key[1]}" if key[0] else key[1]
        facts.append(OperatorFact(name, count, first[key].name or first[key].output[0], support, remedies[support]))
    return tuple(sorted(facts, key=lambda fact: fact.support != Support.MISSING))


def _shared(graph: onnx.GraphProto) -> tuple[str, ...]:
    uses = Counter(name for node in graph.node for name in node.input)
    return tuple(tensor.name for tensor in graph.initializer if uses[tensor.name] > 1 and _size(tensor) > 1)


def _licence(model: onnx.ModelProto) -> str:
    stated = {entry.key.lower(): entry.value for entry in model.metadata_props}
    return stated.get("license") or stated.get("licence") or ""


def _vocoder(
    source: str, stored: StoredModel, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> VocoderFact | None:
    """Return what the files beside a model and its own output lengths say of it as a vocoder."""
    described, facts = _beside(source)
    if "phoneme_id_map" in facts:
        rate = facts.get("audio", {}).get("sample_rate")
        return VocoderFact(PIPER_VOICE, None, rate, described)
    hop = _hop(stored, inputs)
    takes_mel = any(len(spec.shape) == 3 and spec.dtype == "float32" for spec in inputs)
    if hop is None or not takes_mel or len(outputs) != 1:
        return None
    kind = F0_VOCODER if any(spec.name == "f0" for spec in inputs) else MEL_VOCODER
    told = {"hop_length": hop, **_bands(inputs), **described_mel(facts)}
    return VocoderFact(kind, hop, facts.get("sample_rate"), described, told)


def _bands(inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """Return how many mel bands a vocoder takes, where one fixed axis of its input says so."""
    fixed = [size for spec in inputs if len(spec.shape) == 3 for size in spec.shape[1:] if isinstance(size, int)]
    return {"n_mels": fixed[0]} if len(fixed) == 1 else {}


def _beside(source: str) -> tuple[str, Mapping[str, Any]]:
    """Return the name and content of a description beside a model: a Piper voice's, or `vocoder.yaml`."""
    path = resolve_package_path(source)
    for beside in (path.with_name(f"{path.name}{PIPER_SUFFIX}"), path.with_name(VOCODER_NAME)):
        try:
            text = beside.read_text(encoding="utf-8")
            found = json.loads(text) if beside.suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError):
            continue
        if isinstance(found, dict):
            return beside.name, found
    return "", {}


def _hop(stored: StoredModel, inputs: Sequence[TensorSpec]) -> int | None:
    """Return samples of output for each step of the inputs' dynamic axes, where there are several."""
    if not all(spec.dtype == "float32" for spec in inputs):
        return None
    try:
        session = onnx_session(stored)
        lengths = [session.run(None, random_inputs(tuple(inputs), size))[0].shape[-1] for size in HOP_SIZES]
    except Exception:  # What cannot be run tells nothing; that it cannot is told elsewhere.
        return None
    hop = (lengths[1] - lengths[0]) / (HOP_SIZES[1] - HOP_SIZES[0])
    return int(hop) if hop.is_integer() and hop > 1 else None
