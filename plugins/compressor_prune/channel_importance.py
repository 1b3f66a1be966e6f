"""`channel-importance-pruning`: remove the channels that matter least, as many as the budget asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from compressor.strategy import BudgetedStrategy, Candidate, Finding, StageContext, StageOutcome

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

    from compressor_prune.channel_groups import ChannelGroup, ChannelGroups
    from compressor_prune.interpolation import ChannelOrder


class ChannelImportancePruning(BudgetedStrategy):
    """Remove channels from groups of layers (DepGraph); widths follow from the budget, or from `pruning_ratio`.

    ```yaml
    - channel-importance-pruning: {importance: reconstruction, round_to: 8}
    ```
    """

    name: ClassVar[str] = "channel-importance-pruning"
    fixed_by: ClassVar[str] = "pruning_ratio"

    targets: tuple[str, ...] = Field(default=("*",), description="layers whose output channels may go, by pattern")
    ignore: tuple[str, ...] = Field(default=(), description="layers to leave, by name pattern")
    importance: Literal["reconstruction", "magnitude"] = Field(
        default="reconstruction",
        description="'reconstruction': what the next layer cannot get back from the kept channels, on calibration "
        "data; 'magnitude': the group's L2 norm",
    )
    pruning_ratio: float | None = Field(
        default=None, ge=0.0, lt=1.0, description="share of each group's channels to remove; the budget decides if null"
    )
    round_to: int = Field(default=8, ge=1, description="widths are multiples of this, never zero")
    calibration_samples: int = Field(default=4, ge=1, description="training samples that importance is measured on")

    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        survey = self._survey(student, context)
        return [candidate for group in survey.groups for candidate in self._widths(survey, group)]

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        survey = self._survey(student, context)
        findings = list(survey.notes)
        for group in survey.groups:
            width = self._width(group, context)
            if width >= group.width:
                findings.append(Finding(f"kept all {group.width} channels: {self._why_kept()}", group.layer))
            else:
                findings.append(self._prune(survey, group, width))
        student.recompile()
        return StageOutcome(student, tuple(findings))

    def _why_kept(self) -> str:
        return "the budget is met at less loss elsewhere" if self.pruning_ratio is None else "too narrow to round"

    def _width(self, group: ChannelGroup, context: StageContext) -> int:
        if self.pruning_ratio is None:
            return int(context.choices.get(group.layer, group.width))
        steps = max(1, round(group.width * (1 - self.pruning_ratio) / self.round_to))
        return min(group.width, steps * self.round_to)

    def _survey(self, student: GraphModule, context: StageContext) -> _Survey:
        from compressor.calibration import layer_positions
        from compressor.graph_editing import select
        from compressor_prune.calibration import second_moments
        from compressor_prune.channel_groups import ChannelGroups

        groups = ChannelGroups(student)
        names = [group.layer for group in groups.groups]
        chosen = set(select(names, self.targets, self.ignore)) if names else set()
        kept = [group for group in groups.groups if group.layer in chosen]
        readers = {group.sole_reader for group in kept if group.sole_reader}
        notes: list[Finding] = []
        moments: dict[str, Tensor] = {}
        if self.importance == "reconstruction" and context.data is None:
            notes.append(Finding("no data to calibrate on: importance falls back to magnitude"))
        elif self.importance == "reconstruction" and context.data is not None:
            moments = second_moments(student, readers, context.data.train[: self.calibration_samples])
        rate = context.data.sample_rate if context.data else None
        return _Survey(groups, kept, moments, layer_positions(student, rate), tuple(notes))

    def _widths(self, survey: _Survey, group: ChannelGroup) -> list[Candidate]:
        order = survey.order(group)
        now = survey.channels.cost(group, group.width, survey.positions)
        found = []
        for width in range(self.round_to, group.width, self.round_to):
            then = survey.channels.cost(group, width, survey.positions)
            saving = {metric: now[metric] - then[metric] for metric in now}
            found.append(
                Candidate(
                    group.layer,
                    width,
                    saving,
                    order.errors[width],
                    disturbs=tuple(sorted(group.readers)),
                    touches=survey.channels.layers(group),
                )
            )
        return found

    def _prune(self, survey: _Survey, group: ChannelGroup, width: int) -> Finding:
        order = survey.order(group)
        kept, dropped = sorted(order.order[:width]), sorted(order.order[width:])
        if group.sole_reader in survey.moments:
            survey.fold(group, kept, dropped)
        survey.channels.remove(group, dropped)
        error = order.errors[width]
        return Finding(
            f"{group.width} to {width} channels, {error:.2%} of what the next layer reads is lost",
            group.layer,
            {"width_before": group.width, "width": width, "predicted_error": error},
        )


@dataclass(frozen=True, eq=False)
class _Survey:
    """What is known of a student's channels before any is removed."""

    channels: ChannelGroups
    groups: list[ChannelGroup]
    moments: dict[str, Tensor]
    """Second moments of what a sole reader reads, by its name; empty without calibration."""
    positions: dict[str, int]
    notes: tuple[Finding, ...]

    def order(self, group: ChannelGroup) -> ChannelOrder:
        """Return the group's channels from most to least important."""
        import torch

        from compressor_prune.calibration import reading_weights
        from compressor_prune.interpolation import ChannelOrder, channel_order

        if group.sole_reader in self.moments:
            weights = reading_weights(self.channels.module(group.sole_reader))
            return channel_order(self.moments[group.sole_reader], weights.square().sum((1, 2)))
        scores = self.channels.magnitudes(group)
        order = torch.argsort(scores, descending=True, stable=True)
        lost = 1.0 - scores[order].cumsum(0)
        return ChannelOrder(tuple(order.tolist()), (1.0, *(max(0.0, float(value)) for value in lost)))

    def fold(self, group: ChannelGroup, kept: list[int], dropped: list[int]) -> None:
        """Let the reader's weights for kept channels make up for the dropped ones."""
        import torch

        from compressor_prune.calibration import reading_weights
        from compressor_prune.interpolation import interpolation

        reader = str(group.sole_reader)
        weights = reading_weights(self.channels.module(reader))
        matrix = interpolation(self.moments[reader], kept, dropped).to(weights.dtype)
        with torch.no_grad():
            weights[kept] += torch.einsum("dk,dot->kot", matrix, weights[dropped])
