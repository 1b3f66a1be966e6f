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

    Layers are left in float, those of the most noise first, until the output moves by no more than `max_drift`; how far
    it moves is measured. Weights are quantised for each output channel. The file becomes smaller; whether it becomes
    faster depends on the processor and is measured like all else. The float student stays beside it as
    `student_float.onnx`.

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
        from compressor_quantise.quantisation_noise import noise_by_layer
        from compressor_quantise.quantising import Quantiser, quantisable

        if context.data is None:
            raise DataError("int8-quantisation needs data: add 'data:' to the recipe")
        samples = [context.data.train[at] for at in range(min(self.calibration_samples, len(context.data.train)))]
        layers = quantisable(content, self.operators)
        if not layers:
            return FileOutcome(content, (Finding(f"no layer of {', '.join(self.operators)} has constant weights"),))
        chosen = select(layers, self.targets, self.ignore)
        inputs = [file_inputs(input_specs(student), sample) for sample in samples]
        noise = noise_by_layer(content, chosen, inputs)
        loudest = sorted(chosen, key=lambda layer: -noise[layer])
        quantiser = Quantiser(content, inputs, self.operators, self.calibration, per_channel=self.per_channel)
        with context.reporter.task(context.stage, len(chosen).bit_length() + 1) as task:
            kept = _fewest_in_float(quantiser, loudest, self.max_drift, task.advance)
        whole, now = quantiser.drift(loudest), quantiser.drift(loudest[kept:])
        summary = Finding(
            f"{len(chosen) - kept} of {len(layers)} layers in 8 bits: the output moves by {now:.3g} of its own root "
            f"mean square, allowed {self.max_drift:g}; with all {len(chosen)} by {whole:.3g}",
            values={"layers": len(chosen) - kept, "drift": now},
        )
        findings = (summary, *(_left_in_float(layer, noise[layer]) for layer in loudest[:kept]))
        return FileOutcome(quantiser.file(loudest[kept:]), findings)


def _fewest_in_float(quantiser: Quantiser, loudest: Sequence[str], allowed: float, advance: Callable[[], None]) -> int:
    """Return how many of the layers, those of the most noise, have to stay in float."""
    low, high = 0, len(loudest)
    while low < high:
        # First all of them: often that is good enough.
        middle = (low + high) // 2 if quantiser.tried else 0
        advance()
        if quantiser.drift(loudest[middle:]) <= allowed:
            high = middle
        else:
            low = middle + 1
    return high


def _left_in_float(layer: str, noise: float) -> Finding:
    return Finding(f"left in float: quantising it adds noise of {noise:.2e} of its signal", layer, {"noise": noise})
