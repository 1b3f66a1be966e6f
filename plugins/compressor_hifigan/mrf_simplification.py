"""`mrf-simplification`: drop the residual units of HiFi-GAN's fusions that add least.

What a unit adds is measured on calibration data: to its fusion's output, which is what is told, and to its own branch,
which is what the units behind it read and what counts against a budget. A branch that loses all its units is its
input; it still counts in the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compressor.strategy import BudgetedStrategy, Candidate, Finding, StageContext, StageOutcome

if TYPE_CHECKING:
    from torch.fx import GraphModule, Node

    from compressor.dataset import Dataset
    from compressor_hifigan.fusion import Fusion, ResidualUnit


DROPPED = "dropped"


class MrfSimplification(BudgetedStrategy):
    """Drop residual units: the least contributing ones, as many as `drop_units` says, or those that the budget picks.

    ```yaml
    - mrf-simplification: {drop_units: 4}
    ```
    """

    name: ClassVar[str] = "mrf-simplification"
    needs_data: ClassVar[bool] = True
    fixed_by: ClassVar[str] = "drop_units"

    drop_units: int | None = Field(
        default=None, ge=0, description="residual units to drop, over all fusions; the budget decides if null"
    )
    keep_units: int = Field(default=1, ge=1, description="fewest units that a fusion keeps")
    calibration_samples: int = Field(default=4, ge=1, description="training samples that contributions are measured on")

    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        from compressor.calibration import layer_positions
        from compressor_hifigan.fusion import find_fusions

        fusions = find_fusions(student)
        shares = self._contributions(student, fusions, context)
        positions = layer_positions(student, context.data.sample_rate if context.data else None)
        return [
            _dropping(student, unit, shares[unit].to_branch, positions)
            for fusion in fusions
            for unit in self._weakest(fusion, shares)
        ]

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.graph_editing import clean
        from compressor_hifigan.fusion import find_fusions

        fusions = find_fusions(student)
        if not fusions:
            return StageOutcome(student, (Finding("the model has no multi-receptive-field fusion: nothing done"),))
        shares = self._contributions(student, fusions, context)
        dropped = self._choose(fusions, shares) if self.fixed else _named(fusions, context)
        units = [unit for fusion in fusions for branch in fusion.branches for unit in branch]
        # From the end: a unit's source is then still what the unit before it puts out, and may yet be dropped itself.
        for unit in reversed([unit for unit in units if unit in dropped]):
            unit.output.replace_all_uses_with(unit.source)
        findings = tuple(
            Finding(
                f"{'dropped' if unit in dropped else 'kept'}: adds {share.to_fusion:.2%} of its fusion's energy",
                unit.name,
                {"contribution": share.to_fusion, "error": share.to_branch, "dropped": unit in dropped},
            )
            for unit, share in shares.items()
        )
        return StageOutcome(clean(student), findings)

    def _choose(self, fusions: list[Fusion], shares: Shares) -> set[ResidualUnit]:
        weakest = [unit for fusion in fusions for unit in self._weakest(fusion, shares)]
        return set(sorted(weakest, key=lambda unit: shares[unit].to_fusion)[: self.drop_units])

    def _weakest(self, fusion: Fusion, shares: Shares) -> list[ResidualUnit]:
        """Return the units that a fusion can spare, the least contributing first."""
        units = sorted((unit for branch in fusion.branches for unit in branch), key=lambda unit: shares[unit].to_fusion)
        return units[: max(0, len(units) - self.keep_units)]

    def _contributions(self, student: GraphModule, fusions: list[Fusion], context: StageContext) -> Shares:
        """Return what each unit adds; empty without data, in a rehearsal."""
        if context.data is None:
            return {}
        units = {unit: fusion for fusion in fusions for branch in fusion.branches for unit in branch}
        watched = {node for unit, fusion in units.items() for node in (unit.added, unit.output, fusion.output)}
        energy = _energies(student, watched, context.data, self.calibration_samples)
        return {
            unit: Contribution(
                to_fusion=energy[unit.added] / fusion.divisor**2 / max(energy[fusion.output], 1e-30),
                to_branch=energy[unit.added] / max(energy[unit.output], 1e-30),
            )
            for unit, fusion in units.items()
        }


@dataclass(frozen=True)
class Contribution:
    """What a unit adds, as a share of energy."""

    to_fusion: float
    """Of its fusion's output, the sum's scale counted in."""
    to_branch: float
    """Of what it puts out itself."""


Shares = dict["ResidualUnit", Contribution]


def _named(fusions: list[Fusion], context: StageContext) -> set[ResidualUnit]:
    return {
        unit
        for fusion in fusions
        for branch in fusion.branches
        for unit in branch
        if context.choices.get(unit.name) == DROPPED
    }


def _dropping(student: GraphModule, unit: ResidualUnit, share: float, positions: dict[str, int]) -> Candidate:
    layers = tuple(str(node.target) for node in unit.convs)
    weights = {layer: student.get_submodule(layer) for layer in layers}
    sizes = {layer: sum(value.numel() for value in module.parameters()) for layer, module in weights.items()}
    macs = sum(int(module.weight.numel()) * positions[layer] for layer, module in weights.items())  # type: ignore[operator, misc]
    return Candidate(
        layer=unit.name,
        setting=DROPPED,
        saving={"parameters": float(sum(sizes.values())), "macs": float(macs)},
        error=share,
        disturbs=(unit.output.name,),
        replacement=lambda *read: read[unit.output.all_input_nodes.index(unit.source)],
        touches=layers,
    )


def _energies(student: GraphModule, watched: set[Node], data: Dataset, samples: int) -> dict[Node, float]:
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

    for values in calibration_inputs(input_specs(student), data.train[:samples]):
        with torch.no_grad():
            Watching(student).run(*values)
    return energy
