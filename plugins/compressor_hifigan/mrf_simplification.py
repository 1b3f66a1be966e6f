"""`mrf-simplification`: drop the residual units of HiFi-GAN's fusions that add least.

What a unit adds is measured on calibration data, as a share of the energy of its fusion's output. A branch that loses
all its units is its input; it still counts in the sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from compressor_hifigan.fusion import Fusion, ResidualUnit


class MrfSimplification(Strategy):
    """Drop residual units, the least contributing first.

    ```yaml
    - mrf-simplification: {drop_units: 4}
    ```
    """

    name: ClassVar[str] = "mrf-simplification"
    needs_data: ClassVar[bool] = True

    drop_units: int = Field(default=4, ge=0, description="residual units to drop, over all fusions of the model")
    keep_units: int = Field(default=1, ge=1, description="fewest units that a fusion keeps")
    calibration_samples: int = Field(default=4, ge=1, description="training samples that contributions are measured on")

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.graph_editing import clean
        from compressor_hifigan.fusion import find_fusions

        fusions = find_fusions(student)
        if not fusions:
            return StageOutcome(student, (Finding("the model has no multi-receptive-field fusion: nothing done"),))
        shares = self._contributions(student, fusions, context)
        dropped = self._choose(fusions, shares)
        # From the end: a unit's source is then still what the unit before it puts out, and may yet be dropped itself.
        for unit in reversed([unit for unit in shares if unit in dropped]):
            unit.output.replace_all_uses_with(unit.source)
        findings = tuple(
            Finding(
                f"{'dropped' if unit in dropped else 'kept'}: adds {share:.2%} of its fusion's energy",
                str(unit.convs[-1].target),
                {"contribution": share, "dropped": unit in dropped},
            )
            for unit, share in shares.items()
        )
        return StageOutcome(clean(student), findings)

    def _choose(self, fusions: list[Fusion], shares: dict[ResidualUnit, float]) -> set[ResidualUnit]:
        left = {unit: fusion for fusion in fusions for branch in fusion.branches for unit in branch}
        counts = {fusion: sum(map(len, fusion.branches)) for fusion in fusions}
        dropped: set[ResidualUnit] = set()
        for unit in sorted(shares, key=lambda unit: shares[unit]):
            if len(dropped) < self.drop_units and counts[left[unit]] > self.keep_units:
                dropped.add(unit)
                counts[left[unit]] -= 1
        return dropped

    def _contributions(
        self, student: GraphModule, fusions: list[Fusion], context: StageContext
    ) -> dict[ResidualUnit, float]:
        """Return what each unit adds, as a share of its fusion's output energy (the sum's scale counted in)."""
        units = {unit: fusion for fusion in fusions for branch in fusion.branches for unit in branch}
        watched = {unit.added for unit in units} | {fusion.output for fusion in fusions}
        energy = _energies(student, watched, context, self.calibration_samples)
        return {
            unit: energy[unit.added] / fusion.divisor**2 / max(energy[fusion.output], 1e-30)
            for unit, fusion in units.items()
        }


def _energies(student: GraphModule, watched: set[Node], context: StageContext, samples: int) -> dict[Node, float]:
    import torch
    from torch.fx import Interpreter

    from compressor.calibration import calibration_inputs
    from compressor.graph_editing import input_specs

    energy = dict.fromkeys(watched, 0.0)

    class Watching(Interpreter):
        def run_node(self, n: Node) -> object:
            value = super().run_node(n)
            if n in energy:
                energy[n] += float(value.square().sum(dtype=torch.float64))
            return value

    chosen = context.data.train[:samples] if context.data else ()
    for values in calibration_inputs(input_specs(student), chosen):
        with torch.no_grad():
            Watching(student).run(*values)
    return energy
