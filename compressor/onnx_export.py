"""From a student graph to an ONNX file with the teacher's input names, output names and dynamic axes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import onnx
import torch

from compressor.errors import ExportError
from compressor.graph_editing import copy_graph, input_specs, output_specs
from compressor.onnx_slimming import slimmed
from compressor.tensor_spec import TensorSpec

if TYPE_CHECKING:
    from torch.fx import GraphModule

EXPORT_SIZE = 24
"""Size of the dynamic axes while exporting; the file works at any size, which `check_export` tests."""

FOLDED_BYTES = 1024
"""Larger constants are computed when the file is loaded."""

OPSETS = range(13, 21)
"""Opsets that torch's exporter writes and in which a `Conv` means the same as today."""


def export_onnx(
    graph: GraphModule,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
    example: tuple[torch.Tensor, ...] = (),
) -> bytes:
    """Return the graph as ONNX, traced on `example`, on zeros if there is none.

    The tracing exporter is taken on purpose: it writes the same graph ten times faster than the newer one, and it
    runs after each stage.

    Raises:
        ExportError: torch cannot export the graph.
    """
    specs = (*input_specs(graph), *output_specs(graph))
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                copy_graph(graph).cpu().float().eval(),
                example or _example(input_specs(graph)),
                buffer,  # type: ignore[arg-type]  # the tracing exporter takes files too
                dynamo=False,
                opset_version=min(max(opset, OPSETS.start), OPSETS.stop - 1),
                input_names=[spec.name for spec in input_specs(graph)],
                output_names=[spec.name for spec in output_specs(graph)],
                dynamic_axes={spec.name: spec.dynamic_axes for spec in specs if spec.dynamic_axes},
            )
    except Exception as error:
        raise ExportError(f"the student cannot be written as ONNX: {type(error).__name__}: {error}") from error
    return _finish(buffer.getvalue(), specs, metadata or {})


def _example(specs: tuple[TensorSpec, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.zeros(spec.sized(EXPORT_SIZE), dtype=getattr(torch, spec.dtype)) for spec in specs)


def _finish(content: bytes, specs: tuple[TensorSpec, ...], metadata: Mapping[str, str]) -> bytes:
    """Give inputs and outputs the declared shapes (the tracer forgets fixed ones) and the file its metadata."""
    # The tracer spells out shape arithmetic that is constant; onnxslim folds it. What is computed from weights alone is
    # left to the engine that loads the file: it may be larger than they are.
    model = slimmed(onnx.load_model_from_string(content), size_threshold=FOLDED_BYTES)
    declared = {spec.name: spec for spec in specs}
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in declared[value.name].shape:
            dimension = shape.dim.add()
            if isinstance(size, int):
                dimension.dim_value = size
            else:
                dimension.dim_param = size
    model.producer_name = "onnx-student-compressor"
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
