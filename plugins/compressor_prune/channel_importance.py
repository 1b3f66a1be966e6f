"""`channel-importance-pruning`: remove the channels that matter least, as many as the budget asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from compressor.strategy import BudgetedStrategy, Candidate, Finding, StageContext, StageOutcome

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor.dataset import Sample
    from compressor_prune.channel_groups import ChannelGroup, LeftAlone
    from compressor_prune.channel_removal import Costs
    from compressor_prune.ranking import Ranking
    from compressor_prune.widths import Widths


class ChannelImportancePruning(BudgetedStrategy):
    """Remove channels from groups of layers (DepGraph); widths follow from the budget, or from `pruning_ratio`.

    ```yaml
    - channel-importance-pruning: {importance: reconstruction, round_to: 8}
    ```
    """

    name: ClassVar[str] = "channel-importance-pruning"
    fixed_by: ClassVar[str] = "pruning_ratio"

    targets: tuple[str, ...] = Field(
        default=("*",),
        description="layers whose output channels may go, by pattern, with all that share their channels",
    )
    ignore: tuple[str, ...] = Field(
        default=(), description="layers to leave, by name pattern, with all that share their channels"
    )
    importance: Literal["reconstruction", "magnitude", "taylor", "activation", "fpgm", "lamp", "random"] = Field(
        default="reconstruction",
        description="'reconstruction': what the next layers cannot get back from the kept channels, on calibration "
        "data, and their weights make up for the rest; 'magnitude': the L2 norm over all layers of a group; 'taylor': "
        "how much the output's energy hangs on the weights, by gradients; 'activation': weights times what they read; "
        "'fpgm': distance to the other filters; 'lamp': magnitude among all that are larger, for `global_pruning`; "
        "'random': by the seed",
    )
    pruning_ratio: float | None = Field(
        default=None, ge=0.0, lt=1.0, description="share of each group's channels to remove; the budget decides if null"
    )
    global_pruning: bool = Field(
        default=False,
        description="`pruning_ratio` is the share of all channels: those below one threshold go. Scores are relative "
        "to their group's mean (lamp's as they are), and the magnitude's where the importance needs data",
    )
    max_ratio: float = Field(default=0.9, gt=0.0, lt=1.0, description="largest share of a group's channels to remove")
    round_to: int = Field(default=8, ge=1, description="widths are multiples of this, never zero")
    steps: int = Field(
        default=1, ge=1, description="equal steps to the final widths; importance is measured anew before each"
    )
    calibration_samples: int = Field(default=4, ge=1, description="training samples that importance is measured on")

    @model_validator(mode="after")
    def _needs_a_ratio(self) -> ChannelImportancePruning:
        if self.global_pruning and self.pruning_ratio is None:
            raise ValueError("global_pruning needs a pruning_ratio: without one the budget decides each width")
        return self

    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        from compressor.calibration import layer_positions
        from compressor_prune.channel_removal import Costs

        groups, _ = self._groups(student)
        ranking = self._ranking(student, groups, context)
        rate = context.data.sample_rate if context.data else None
        costs = Costs(student, layer_positions(student, rate))
        return [candidate for group in groups for candidate in self._candidates(group, ranking, costs)]

    def _candidates(self, group: ChannelGroup, ranking: Ranking, costs: Costs) -> list[Candidate]:
        errors = ranking.order(group).errors
        return [
            Candidate(
                group.layer,
                width,
                costs.saving(group, width // group.unit_width),
                errors[width // group.unit_width],
                disturbs=tuple(sorted(group.readers)),
                touches=tuple(sorted({place.name for place in group.places})),
            )
            for width in self._widths(group).narrower
        ]

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        groups, left = self._groups(student)
        final = self._final_widths(student, groups, context)
        narrower = {group.layer: width for group, width in final.items() if width < group.width}
        findings = self._narrow(student, [group for group in groups if group.layer in narrower], narrower, context)
        findings += [
            Finding(f"kept all {group.width} channels: {self._why_kept(group)}", group.layer)
            for group in groups
            if group.layer not in narrower
        ]
        findings += [Finding(f"left alone: {each.reason}", each.layer) for each in left]
        student.recompile()
        narrowed = [group for group in groups if group.layer in narrower]
        return StageOutcome(student, (*self._notes(student, narrowed, context), *findings))

    def _notes(self, student: GraphModule, groups: Sequence[ChannelGroup], context: StageContext) -> list[Finding]:
        from compressor_prune.ranking import NEED_DATA, folds

        if context.data is None and self.importance in NEED_DATA:
            return [Finding("no data to calibrate on: importance falls back to magnitude")]
        return [
            Finding(
                "its importance falls back to activation: normalised together, channels cannot be made up for", layer
            )
            for layer in (group.layer for group in groups if not folds(student, group))
            if self.importance == "reconstruction"
        ]

    def _why_kept(self, group: ChannelGroup) -> str:
        if not self._widths(group).narrower:
            return f"too narrow for multiples of {self._widths(group).step} with at most {self.max_ratio:.0%} gone"
        if self.pruning_ratio is None:
            return "the budget is met at less loss elsewhere"
        return "its share of channels to remove rounds to none"

    def _widths(self, group: ChannelGroup) -> Widths:
        from compressor_prune.widths import Widths

        return Widths.of(group, self.round_to, self.max_ratio)

    def _final_widths(
        self, student: GraphModule, groups: Sequence[ChannelGroup], context: StageContext
    ) -> dict[ChannelGroup, int]:
        if self.pruning_ratio is None:
            return {group: int(context.choices.get(group.layer, group.width)) for group in groups}
        wanted = {group: group.width * (1.0 - self.pruning_ratio) for group in groups}
        if self.global_pruning:
            wanted = self._above_threshold(student, groups, context)
        return {group: self._widths(group).nearest(width) for group, width in wanted.items()}

    def _above_threshold(
        self, student: GraphModule, groups: Sequence[ChannelGroup], context: StageContext
    ) -> dict[ChannelGroup, float]:
        from compressor_prune.ranking import Ranking
        from compressor_prune.widths import above_threshold

        # Widths must not depend on data: a rehearsal, which has none, must come to the same.
        ranking = Ranking(student, groups, self.importance, (), context.seed)
        scores = {group: ranking.scores(group) for group in groups}
        if self.importance != "lamp":
            scores = {group: values / values.mean().clamp_min(1e-300) for group, values in scores.items()}
        return above_threshold(scores, self.pruning_ratio or 0.0)

    def _groups(self, student: GraphModule) -> tuple[list[ChannelGroup], list[LeftAlone]]:
        """Return the groups that may be pruned, and all other layers with the reason."""
        from compressor.graph_editing import select
        from compressor_prune.channel_groups import LeftAlone, find_groups
        from compressor_prune.channel_proof import prove

        found, left = find_groups(student)
        names = [name for group in found for name in sorted(group.makers)] + [each.layer for each in left]
        targeted = set(select(names, self.targets, ())) if names else set()
        ignored = targeted - set(select(names, ("*",), self.ignore)) if names else set()
        chosen = [group for group in found if group.makers & targeted and not group.makers & ignored]
        sound, unsound = prove(student, chosen)
        others = [group for group in found if group not in chosen]
        out = [each for group in others for each in LeftAlone.together(group, "`targets` or `ignore` leaves it out")]
        return list(sound), [*unsound, *left, *out]

    def _ranking(self, student: GraphModule, groups: Sequence[ChannelGroup], context: StageContext) -> Ranking:
        from compressor_prune.ranking import Ranking

        samples: Sequence[Sample] = context.data.train[: self.calibration_samples] if context.data else ()
        return Ranking(student, groups, self.importance, samples, context.seed)

    def _narrow(
        self,
        student: GraphModule,
        groups: Sequence[ChannelGroup],
        final: Mapping[str, int],
        context: StageContext,
    ) -> list[Finding]:
        """Bring groups to their final widths in equal steps."""
        from compressor_prune.channel_groups import find_groups

        widths = {group.layer: self._widths(group) for group in groups}
        makers = {group.layer: len(group.makers) for group in groups}
        kept = dict.fromkeys(final, 1.0)
        for step in range(1, self.steps + 1):
            if step > 1:
                groups = [group for group in find_groups(student)[0] if group.layer in final]
            going = {layer: widths[layer].on_the_way(final[layer], step, self.steps) for layer in final}
            for layer, error in self._one_step(student, groups, going, context).items():
                kept[layer] *= 1.0 - error
        return [_finding(layer, makers[layer], widths[layer].width, final[layer], 1.0 - kept[layer]) for layer in final]

    def _one_step(
        self, student: GraphModule, groups: Sequence[ChannelGroup], widths: Mapping[str, int], context: StageContext
    ) -> dict[str, float]:
        """Bring groups to widths; returns what share of what is read of each is lost."""
        from compressor_prune.channel_removal import remove

        groups = [group for group in groups if widths[group.layer] < group.width]
        ranking = self._ranking(student, groups, context)
        drops: dict[ChannelGroup, list[int]] = {}
        lost: dict[str, float] = {}
        orders = {group: ranking.order(group) for group in groups}
        for group, order in orders.items():
            count = widths[group.layer] // group.unit_width
            drops[group], lost[group.layer] = sorted(order.order[count:]), order.errors[count]
            ranking.fold(group, sorted(order.order[:count]), drops[group])
        remove(student, drops)
        return lost


def _finding(layer: str, makers: int, before: int, width: int, error: float) -> Finding:
    shared = f" (shared by {makers} layers)" if makers > 1 else ""
    return Finding(
        f"{before} to {width} channels{shared}, {error:.2%} of what the next layers read is lost",
        layer,
        {"width_before": before, "width": width, "predicted_error": error},
    )
