"""From a student graph to an ONNX file with the teacher's input names, output names and dynamic axes."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import onnx
import torch

# Not `torch.onnx.symbolic_helper`: importing that puts another module in this one's place for onnx2torch too.
from torch.onnx import symbolic_helper
from torch.onnx.utils import register_custom_op_symbolic, unregister_custom_op_symbolic

from compressor.errors import ExportError
from compressor.graph_editing import copy_graph, input_specs, output_specs
from compressor.onnx_names import rename_border
from compressor.onnx_slimming import slimmed
from compressor.tensor_spec import TensorSpec

if TYPE_CHECKING:
    from torch.fx import GraphModule

EXPORT_SIZE = 24
"""Size of the dynamic axes while exporting; the file works at any size, which `check_export` tests."""

FOLDED_BYTES = 1024
"""Larger constants are computed when the file is loaded."""

INPUT, OUTPUT = "model_input_", "model_output_"
"""What the names of inputs and outputs start with while the exporter works."""

OPSETS = range(13, 21)
"""Operator sets that torch's exporter writes and in which a `Conv` means the same as today."""


def export_onnx(
    graph: GraphModule,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
    example: tuple[torch.Tensor, ...] = (),
    *,
    slim: bool = True,
) -> bytes:
    """Return the graph as ONNX, traced on `example`, on zeros if there is none.

    The tracing exporter is taken on purpose: it writes the same graph ten times faster than the newer one, and it
    runs after each stage.

    Raises:
        ExportError: torch cannot export the graph.
    """
    specs = _specs_by_safe_name(graph)
    buffer = io.BytesIO()
    version = min(max(opset, OPSETS.start), OPSETS.stop - 1)
    try:
        with warnings.catch_warnings(), torch.no_grad(), _plain_squeeze(version):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                copy_graph(graph).cpu().float().eval(),
                example or _example(input_specs(graph)),
                buffer,  # type: ignore[arg-type]  # the tracing exporter takes files too
                dynamo=False,
                opset_version=version,
                input_names=[name for name in specs if name.startswith(INPUT)],
                output_names=[name for name in specs if name.startswith(OUTPUT)],
                dynamic_axes={name: spec.dynamic_axes for name, spec in specs.items() if spec.dynamic_axes},
            )
    except Exception as error:
        raise ExportError(f"the student cannot be written as ONNX: {type(error).__name__}: {error}") from error
    return _finish(buffer.getvalue(), specs, opset, metadata or {}, slim=slim)


@contextmanager
def _plain_squeeze(opset: int) -> Iterator[None]:
    """Write `torch.squeeze` as the operator of that name inside the block.

    torch would leave an axis of another size as it is, so where it cannot see the size it writes an `If`, of whose
    branches only one is ever taken here.
    """

    def squeeze(graph: Any, value: Any, axis: Any = None) -> Any:
        # Axes are an input from operator set 13 on.
        sizes, number = value.type().sizes(), symbolic_helper._maybe_get_const(axis, "i")
        if sizes is not None and isinstance(number, int) and sizes[number] not in (None, 1):
            return value
        return graph.op("Squeeze", value) if axis is None else graph.op("Squeeze", value, _as_list(graph, axis))

    register_custom_op_symbolic("aten::squeeze", squeeze, opset)
    try:
        yield
    finally:
        unregister_custom_op_symbolic("aten::squeeze", opset)


def _as_list(graph: Any, axis: Any) -> Any:
    """Return one axis, or several, as a list of them."""
    return graph.op("Reshape", axis, graph.op("Constant", value_t=torch.tensor([-1])))


def _specs_by_safe_name(graph: GraphModule) -> dict[str, TensorSpec]:
    """Return inputs and outputs by names that torch's exporter takes: it refuses numbers, which many a file has."""
    named = {f"{INPUT}{at}": spec for at, spec in enumerate(input_specs(graph))}
    return named | {f"{OUTPUT}{at}": spec for at, spec in enumerate(output_specs(graph))}


def _example(specs: tuple[TensorSpec, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.zeros(spec.sized(EXPORT_SIZE), dtype=getattr(torch, spec.dtype)) for spec in specs)


def _finish(
    content: bytes, specs: Mapping[str, TensorSpec], opset: int, metadata: Mapping[str, str], *, slim: bool
) -> bytes:
    """Give inputs and outputs the declared names and shapes (the tracer forgets fixed ones), the file its metadata."""
    # The tracer spells out shape arithmetic that is constant; onnxslim folds it. What is computed from weights alone is
    # left to the engine that loads the file: it may be larger than they are.
    model = onnx.load_model_from_string(content)
    if slim:
        model = slimmed(model, size_threshold=FOLDED_BYTES)
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        for size in specs[value.name].shape:
            dimension = shape.dim.add()
            if isinstance(size, int):
                dimension.dim_value = size
            else:
                dimension.dim_param = size
    rename_border(model.graph, {safe: spec.name for safe, spec in specs.items()})
    _raise_opset(model, opset)
    model.producer_name = "onnx-student-compressor"
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _raise_opset(model: onnx.ModelProto, opset: int) -> None:
    """Declare the teacher's operator set: nodes that are written as they were may need it.

    From the newest that torch writes up to today's, definitions of what it writes differ only in the types they take.
    """
    for entry in model.opset_import:
        if not entry.domain:
            entry.version = max(entry.version, min(opset, onnx.defs.onnx_opset_version()))
    model.ir_version = max(model.ir_version, onnx.helper.find_min_ir_version_for(list(model.opset_import)))
