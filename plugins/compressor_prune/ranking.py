"""In which order the units of groups may go, what that costs, and how the layers that read them make up for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.dataset import Sample
from compressor_prune import importance
from compressor_prune.calibration import View, read_on, views, weight_effects
from compressor_prune.channel_groups import ChannelGroup
from compressor_prune.channel_weights import by_input, write_by_input
from compressor_prune.interpolation import ChannelOrder, channel_order, interpolation

Importance = Literal["reconstruction", "magnitude", "taylor", "activation", "fpgm", "lamp", "random"]

NEED_DATA: frozenset[Importance] = frozenset({"reconstruction", "taylor", "activation"})


@dataclass(frozen=True, eq=False)
class _Seen:
    """A group's views and what was measured for them."""

    views: Sequence[View]
    moments: Tensor | None
    """(views, units, units), where it takes them."""
    energies: Tensor
    """(views, units): how much of what its layer reads each unit is, weighted; all that the layers read is 1, of which
    each layer has the same part."""

    @property
    def weights(self) -> Tensor:
        """Return what makes energies of the moments' diagonals: (views, units)."""
        diagonals = self.energies if self.moments is None else self.moments.diagonal(dim1=1, dim2=2)
        return torch.where(diagonals > 0, self.energies / diagonals, 0.0)

    @property
    def shares(self) -> Tensor:
        """Return what part of all that the layers read each unit is: (units,)."""
        return self.energies.sum(0)


class Ranking:
    """What is known of the units of some groups of a student before any goes.

    Without samples, importances that need them are replaced by magnitude.
    """

    def __init__(
        self,
        student: GraphModule,
        groups: Sequence[ChannelGroup],
        kind: Importance,
        samples: Sequence[Sample],
        seed: int,
    ) -> None:
        self.student = student
        self.kind: Importance = kind if samples or kind not in NEED_DATA else "magnitude"
        self.seed = seed
        self._seen = _observed(student, groups, samples, products=self.kind == "reconstruction") if samples else {}
        self._effects = weight_effects(student, samples) if self.kind == "taylor" else {}

    def importance(self, group: ChannelGroup) -> Importance:
        """Return by what a group's units are ordered."""
        return "activation" if self.kind == "reconstruction" and not folds(self.student, group) else self.kind

    def order(self, group: ChannelGroup) -> ChannelOrder:
        """Return a group's units from the most to the least important, and what is lost with the first few only."""
        seen = self._seen.get(group)
        kind = self.importance(group)
        if kind == "reconstruction" and seen is not None and seen.moments is not None:
            found, part = channel_order(seen.moments, seen.weights), float(seen.shares.sum())
            return ChannelOrder(found.order, tuple(part * error for error in found.errors))
        shares = _share(importance.magnitude(self.student, group)) if seen is None else seen.shares
        scores = shares if kind == "activation" else self.scores(group)
        order = torch.argsort(scores, descending=True, stable=True)
        # Summed from the end, so that nothing is lost at full width.
        lost = shares[order].flip(0).cumsum(0).flip(0)
        return ChannelOrder(tuple(order.tolist()), (*lost.tolist(), 0.0))

    def scores(self, group: ChannelGroup) -> Tensor:
        """Return scores of units that need no samples, or gradients only: (units,), float64."""
        if self.kind == "random":
            return importance.random(group, self.seed)
        if self.kind == "fpgm":
            return importance.fpgm(self.student, group)
        if self.kind == "taylor":
            return importance.taylor(self.student, group, self._effects)
        magnitudes = importance.magnitude(self.student, group)
        return importance.lamp(magnitudes) if self.kind == "lamp" else magnitudes

    def fold(self, group: ChannelGroup, kept: list[int], dropped: list[int]) -> None:
        """Let the weights that read kept units make up for the dropped ones, where the importance foresees it."""
        seen = self._seen.get(group)
        if self.importance(group) != "reconstruction" or seen is None or seen.moments is None:
            return
        for view, moments in zip(seen.views, seen.moments, strict=True):
            module = self.student.get_submodule(view.layer)
            weights = by_input(module, module.weight.detach()).clone()  # type: ignore[operator]
            matrix = interpolation(moments, kept, dropped).to(weights.dtype)
            lost = weights[view.positions[dropped]]
            weights[view.positions[kept]] += torch.einsum("dk,deot->keot", matrix, lost)
            write_by_input(module, weights)


def folds(student: GraphModule, group: ChannelGroup) -> bool:
    """Say whether what is read of a channel stays the same when others go."""
    modules = dict(student.named_modules())
    return not any(isinstance(modules.get(place.name), nn.GroupNorm | nn.LayerNorm) for place in group.places)


def _observed(
    student: GraphModule, groups: Sequence[ChannelGroup], samples: Sequence[Sample], *, products: bool
) -> Mapping[ChannelGroup, _Seen]:
    seen = {group: views(student, group) for group in groups}
    readings = read_on(student, [view for each in seen.values() for view in each], samples, products=products)
    found = {}
    for group, looking in seen.items():
        layers = len({view.layer for view in looking})
        # A layer that reads silence loses nothing.
        energies = [readings.energies[view] / (readings.totals[view.layer] or 1.0) / layers for view in looking]
        moments = torch.stack([readings.moments[view] for view in looking]) if products else None
        found[group] = _Seen(looking, moments, torch.stack(energies))
    return found


def _share(values: Tensor) -> Tensor:
    return values / values.sum().clamp_min(1e-300)
