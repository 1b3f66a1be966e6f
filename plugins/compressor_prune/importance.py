"""How much the units of a group matter, each by itself.

Torch-Pruning has such scores too, but not for transposed convolutions in groups, whose weights it indexes wrongly, and
its FPGM measures distances between squared weights. Where both apply, magnitude and LAMP agree with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor_prune.channel_groups import ChannelGroup, Place
from compressor_prune.channel_weights import unit_rows

WeightValues = Callable[[str, Tensor], Tensor]
"""From a weight's name and the weight to values of its shape."""


def magnitude(student: GraphModule, group: ChannelGroup) -> Tensor:
    """Return each unit's squared L2 norm over the weights of all layers of the group: (units,), float64."""
    return _total(student, group, lambda _, weight: weight.double().square())


def taylor(student: GraphModule, group: ChannelGroup, effects: Mapping[str, Tensor]) -> Tensor:
    """Return each unit's sum of `weight_effects` over the weights of all layers of the group: (units,), float64."""
    return _total(student, group, lambda name, _: effects[name].double())


def lamp(magnitudes: Tensor) -> Tensor:
    """Return each unit's magnitude as a share of its own and all larger ones (Lee et al., arXiv 2010.07611).

    Comparable between groups as it is: the largest of each group has the score one.
    """
    order = torch.argsort(magnitudes, descending=True, stable=True)
    scores = torch.empty_like(magnitudes)
    scores[order] = magnitudes[order] / magnitudes[order].cumsum(0).clamp_min(1e-300)
    return scores


def fpgm(student: GraphModule, group: ChannelGroup) -> Tensor:
    """Return each unit's distance to all others, summed, in the space of the filters that make the group's channels.

    The filter nearest to the geometric median is the one that others replace best (He et al., arXiv 1811.00250).
    """
    rows = [row for place, row in _rows(student, group, lambda _, weight: weight.double()) if place.role == "makes"]
    filters = torch.cat(rows, dim=1)
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def random(group: ChannelGroup, seed: int) -> Tensor:
    """Return random scores that depend on the seed, the group's name and its number of units only."""
    digest = hashlib.sha256(f"{seed} {group.layer} {group.units}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:6], "big"))
    return torch.rand(group.units, generator=generator, dtype=torch.float64)


def _total(student: GraphModule, group: ChannelGroup, values: WeightValues) -> Tensor:
    return torch.stack([rows.sum(1) for _, rows in _rows(student, group, values)]).sum(0)


def _rows(student: GraphModule, group: ChannelGroup, values: WeightValues) -> Iterator[tuple[Place, Tensor]]:
    """Yield values of each layer's weights by unit; slopes of activations and constants say nothing of importance."""
    modules = dict(student.named_modules())
    for place in group.places:
        module = modules.get(place.name)
        weight = getattr(module, "weight", None)
        if module is not None and isinstance(weight, Tensor) and not isinstance(module, nn.PReLU):
            yield place, unit_rows(module, place, values(f"{place.name}.weight", weight.detach()))
