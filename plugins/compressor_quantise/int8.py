"""`int8-quantisation`: weights and activations in 8 bits, but for layers that hurt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from compressor.errors import CompressorError, DataError
from compressor.strategy import FileOutcome, FileStrategy, Finding, StageContext

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor_quantise.quantising import Quantiser


class Int8Quantisation(FileStrategy):
    """Write the finished student in 8 bits, by onnxruntime's static quantisation, calibrated on the run's data.

    Where that moves the output by more than `max_drift`, each layer is quantised alone to see how far it moves the
    output, and those that move it most are left in float, as few of them as will do. Weights are quantised for each
    output channel. The file becomes smaller; whether it becomes faster depends on the processor and is measured like
    all else. The float student stays beside it as `student_float.onnx`.

    ```yaml
    - int8-quantisation: {max_drift: 0.1}
    ```
    """

    name: ClassVar[str] = "int8-quantisation"
    needs_data: ClassVar[bool] = True

    max_drift: float = Field(
        default=0.1,
        gt=0.0,
        description="largest root mean square by which the output moves, as a share of its own, on calibration data",
    )
    per_channel: bool = Field(default=True, description="a scale for each output channel of a weight, else one for all")
    operators: tuple[Literal["Conv", "Gemm", "MatMul"], ...] = Field(
        default=("Conv", "Gemm", "MatMul"), min_length=1, description="operators whose layers are quantised"
    )
    calibration: Literal["minmax", "entropy", "percentile"] = Field(
        default="minmax", description="how the range of activations is found"
    )
    calibration_samples: int = Field(default=4, ge=1, description="training samples that ranges and the drift are of")
    targets: tuple[str, ...] = Field(default=("*",), description="layers to quantise, by name pattern")
    ignore: tuple[str, ...] = Field(default=(), description="layers to leave in float, by name pattern")

    def check(self, content: bytes) -> None:
        """Refuse patterns that match nothing, and files that draw random numbers, which no two of them share."""
        from compressor.graph_editing import select
        from compressor_quantise.quantising import draws_random_numbers, quantisable

        if drawing := draws_random_numbers(content):
            raise CompressorError(
                f"int8-quantisation: the model draws random numbers ({drawing}), so that its output differs from run "
                "to run, and how far 8 bits move it cannot be measured. Leave the stage out."
            )
        if layers := quantisable(content, self.operators):
            select(layers, self.targets, self.ignore)

    def rewrite(self, content: bytes, student: GraphModule, context: StageContext) -> FileOutcome:
        from compressor.graph_editing import input_specs, select
        from compressor.measuring import file_inputs
        from compressor_quantise.quantising import Quantiser, quantisable

        if context.data is None:
            raise DataError("int8-quantisation needs data: add 'data:' to the recipe")
        samples = [context.data.train[at] for at in range(min(self.calibration_samples, len(context.data.train)))]
        layers = quantisable(content, self.operators)
        if not layers:
            return FileOutcome(content, (Finding(f"no layer of {', '.join(self.operators)} has constant weights"),))
        chosen = select(layers, self.targets, self.ignore)
        inputs = [file_inputs(input_specs(student), sample) for sample in samples]
        quantiser = Quantiser(content, inputs, self.operators, self.calibration, per_channel=self.per_channel)
        with context.reporter.task(context.stage, 1 + len(chosen) + len(chosen).bit_length()) as task:
            whole = quantiser.drift(chosen)
            task.advance()
            in_float = () if whole <= self.max_drift else _in_float(quantiser, chosen, self.max_drift, task.advance)
        in_bits = [layer for layer in chosen if layer not in in_float]
        now = quantiser.drift(in_bits)
        summary = Finding(
            f"{len(in_bits)} of {len(layers)} layers in 8 bits: the output moves by {now:.3g} of its own root mean "
            f"square, allowed {self.max_drift:g}; with all {len(chosen)} by {whole:.3g}",
            values={"layers": len(in_bits), "drift": now},
        )
        findings = (summary, *(_left_in_float(layer, quantiser.drift_alone(layer)) for layer in in_float))
        return FileOutcome(quantiser.file(in_bits), findings)


def _in_float(
    quantiser: Quantiser, layers: Sequence[str], allowed: float, advance: Callable[[], None]
) -> tuple[str, ...]:
    """Return the layers to leave in float, of all of which are too many in 8 bits: those that alone move most."""
    moved = {}
    for layer in layers:
        moved[layer] = quantiser.drift_alone(layer)
        advance()
    order = sorted(layers, key=lambda layer: -moved[layer])
    low, high = 1, len(order)
    while low < high:
        middle = (low + high) // 2
        advance()
        if quantiser.drift([layer for layer in layers if layer not in order[:middle]]) <= allowed:
            high = middle
        else:
            low = middle + 1
    return tuple(order[:high])


def _left_in_float(layer: str, drift: float) -> Finding:
    return Finding(f"left in float: it alone in 8 bits moves the output by {drift:.2e}", layer, {"drift": drift})
