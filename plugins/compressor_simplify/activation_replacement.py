"""`activation-replacement`: costly activations as (leaky) rectifiers, which every engine is fast at."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule, Node

    from compressor_simplify.activation_patterns import Activation
    from compressor_simplify.rectifier_fit import RectifierFit

ActivationName = Literal[
    "CELU", "ELU", "GELU", "Hardswish", "Mish", "SELU", "SiLU", "Sigmoid", "Snake", "Softplus", "Softsign", "Tanh"
]


class ActivationReplacement(Strategy):
    """Replace activations by rectifiers; a finding says how far each moves from what it was.

    Snake (arXiv 2006.08195), which vocoders use, needs a sine for each value; many NPUs have none. Activations are
    found by what they compute, also where the file spells them out in arithmetic. The slope below zero is the one of
    least squares over what the activation reads on calibration data, unless `slope` says otherwise. Train afterwards.

    ```yaml
    - activation-replacement: {replace: [Snake], activation: leaky-relu}
    ```
    """

    name: ClassVar[str] = "activation-replacement"

    targets: tuple[str, ...] = Field(default=("*",), description="activations to replace, by name pattern")
    ignore: tuple[str, ...] = Field(default=(), description="activations to leave, by name pattern")
    replace: tuple[ActivationName, ...] = Field(
        default=("Snake", "SiLU", "GELU", "Mish", "ELU"), min_length=1, description="kinds of activations to replace"
    )
    activation: Literal["leaky-relu", "relu"] = Field(default="leaky-relu", description="what takes their place")
    slope: float | None = Field(
        default=None, ge=0.0, lt=1.0, description="of 'leaky-relu' below zero; fitted to each activation if null"
    )
    calibration_samples: int = Field(default=4, ge=1, description="training samples that the fit and the drift are of")

    @model_validator(mode="after")
    def _only_leaky_ones_have_a_slope(self) -> Self:
        if self.activation == "relu" and self.slope is not None:
            raise ValueError("'slope' is for 'leaky-relu': leave it out, or set 'activation: leaky-relu'")
        return self

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.graph_editing import clean
        from compressor_simplify.constants import drop_unread
        from compressor_simplify.rectifier_fit import rectifier_fits

        chosen = self._chosen(student)
        if not chosen:
            return StageOutcome(student, (Finding(f"the model has no {' or '.join(self.replace)}: nothing done"),))
        fits = rectifier_fits(student, chosen, self._inputs(student, context))
        findings = [] if context.data else [Finding("no data to calibrate on: slopes and drifts are of random inputs")]
        replaced: dict[Node, Node] = {}
        for activation, fit in zip(chosen, fits, strict=True):
            findings.append(self._replace(student, activation, fit, replaced))
        drop_unread(clean(student))
        return StageOutcome(student, tuple(findings))

    def _chosen(self, student: GraphModule) -> list[Activation]:
        from compressor.graph_editing import layer_name, select
        from compressor_simplify.activation_patterns import find_activations
        from compressor_simplify.tensor_shapes import tensor_shapes

        found = [each for each in find_activations(student, tensor_shapes(student)) if each.name in self.replace]
        names = [layer_name(each.output) for each in found]
        chosen = set(select(names, self.targets, self.ignore)) if names else set()
        return [each for each, name in zip(found, names, strict=True) if name in chosen]

    def _inputs(self, student: GraphModule, context: StageContext) -> list[tuple[Tensor, ...]]:
        from compressor.calibration import calibration_inputs
        from compressor.graph_editing import fitted_inputs, input_specs
        from compressor_simplify.tensor_shapes import probe

        if context.data is None:
            return [probe(student)]
        samples = context.data.train[: self.calibration_samples]
        return [fitted_inputs(student, values) for values in calibration_inputs(input_specs(student), samples)]

    def _replace(
        self, student: GraphModule, activation: Activation, fit: RectifierFit, replaced: dict[Node, Node]
    ) -> Finding:
        from torch import nn

        from compressor.graph_editing import layer_name

        slope = 0.0 if self.activation == "relu" else fit.best_slope if self.slope is None else self.slope
        rectifier = nn.ReLU() if self.activation == "relu" else nn.LeakyReLU(slope)
        layer = layer_name(activation.output)
        name = f"{layer}_{self.activation.replace('-', '_')}"
        student.add_submodule(name, rectifier)
        # What it read may have been an activation that is replaced already.
        source = replaced.get(activation.source, activation.source)
        with student.graph.inserting_after(activation.output):
            node = student.graph.call_module(name, (source,))
        activation.output.replace_all_uses_with(node)
        replaced[activation.output] = node
        drift = fit.relative_error(slope)
        return Finding(
            f"{activation.name} is now {self.activation} of slope {slope:.3g}: {drift:.2%} of its energy is lost",
            layer,
            {"slope": slope, "relative_error": drift},
        )
