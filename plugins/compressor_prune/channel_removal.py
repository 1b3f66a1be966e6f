"""Remove channels from layers, and say beforehand what that saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.conv import _ConvNd

from compressor_prune.channel_groups import ChannelGroup, Place
from compressor_prune.channel_tracing import is_depthwise

Drops = Mapping[ChannelGroup, Sequence[int]]
"""Units to remove from each group."""


def remove(student: GraphModule, drops: Drops) -> None:
    """Remove units of several groups from every layer that makes, carries or reads them, in place."""
    # A layer may read several groups side by side: once it has lost some channels, the others' numbers are not valid.
    losses: dict[tuple[str, Any], tuple[Place, set[int]]] = {}
    for group, units in drops.items():
        for place in group.places:
            _, lost = losses.setdefault((place.name, place.handler), (place, set()))
            lost.update(place.positions[list(units)].flatten().tolist())
    for place, lost in losses.values():
        _narrow(student, place, sorted(lost))


def _narrow(student: GraphModule, place: Place, lost: list[int]) -> None:
    path, _, leaf = place.name.rpartition(".")
    owner = student.get_submodule(path)
    target = getattr(owner, leaf)
    if isinstance(target, nn.Module):
        if isinstance(target, _ConvNd) and target.groups > 1 and not is_depthwise(target):
            _narrow_grouped(target, place.role == "makes", lost)
            return
        place.handler.__self__.pruning_dim = place.axis
        place.handler(target, lost)
        return
    kept = [index for index in range(target.shape[place.axis]) if index not in set(lost)]
    narrower = target.detach().index_select(place.axis, torch.tensor(kept))
    setattr(owner, leaf, nn.Parameter(narrower) if isinstance(target, nn.Parameter) else narrower)


def _narrow_grouped(conv: _ConvNd, outputs: bool, lost: list[int]) -> None:
    """Narrow a convolution in groups, which Torch-Pruning does for some only; each group loses as many channels."""
    size = conv.out_channels if outputs else conv.in_channels
    kept = torch.tensor([index for index in range(size) if index not in set(lost)])
    weight = conv.weight.detach()
    if outputs != conv.transposed:
        weight = weight[kept]
    else:
        # The second axis counts within a group, the first has the groups one after the other.
        within = kept.reshape(conv.groups, -1) % (size // conv.groups)
        blocks = weight.reshape(conv.groups, -1, *weight.shape[1:])
        weight = torch.cat([block[:, chosen] for block, chosen in zip(blocks, within, strict=True)])
    conv.weight = nn.Parameter(weight)
    if outputs:
        conv.out_channels = len(kept)
        conv.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach()[kept])
    else:
        conv.in_channels = len(kept)


@dataclass(frozen=True, eq=False)
class Costs:
    """What a group's layers cost at each width."""

    student: GraphModule
    positions: Mapping[str, int]
    """How many times each layer's weights are applied for the output that MACs are counted for."""

    def saving(self, group: ChannelGroup, units: int) -> dict[str, float]:
        """Return the parameters and MACs that go when only `units` units stay."""
        now, then = self._cost(group, group.units), self._cost(group, units)
        return {"parameters": float(now[0] - then[0]), "macs": float(now[1] - then[1])}

    def _cost(self, group: ChannelGroup, units: int) -> tuple[int, int]:
        gone = group.units - units
        made = {place.name: place.positions.shape[1] * gone for place in group.places if place.role == "makes"}
        read = {place.name: place.positions.shape[1] * gone for place in group.places if place.role == "reads"}
        parameters = macs = 0
        for name in made.keys() | read.keys():
            weight, bias = _weights(self.student.get_submodule(name), made.get(name, 0), read.get(name, 0))
            parameters += weight + bias
            macs += weight * self.positions.get(name, 0)
        for place in group.places:
            if place.role == "carries":
                several, one = self._carried(place, place.positions.shape[1] * gone)
                parameters += several
                macs += one * self.positions.get(place.name, 0)
        return parameters, macs

    def _carried(self, place: Place, gone: int) -> tuple[int, int]:
        """Return all weights of a layer that carries channels, and those that are multiplied (a depthwise layer's)."""
        path, _, leaf = place.name.rpartition(".")
        target = getattr(self.student.get_submodule(path), leaf)
        if isinstance(target, Tensor):
            return _narrowed(target, place.axis, gone), 0
        if is_depthwise(target):
            weight, bias = _narrowed(target.weight, 0, gone), target.bias
            return weight + (0 if bias is None else len(bias) - gone), weight
        if isinstance(target, nn.PReLU) and target.num_parameters == 1:
            return 0, 0
        axis = place.axis if isinstance(target, nn.LayerNorm) else 0
        tensors = [*target.parameters(recurse=False), *target.buffers(recurse=False)]
        return sum(_narrowed(tensor, axis, gone) for tensor in tensors if tensor.dim()), 0


def _narrowed(tensor: Tensor, axis: int, gone: int) -> int:
    """Return how many weights a tensor has after losing channels; a buffer of one value counts as none."""
    count = tensor.numel() // tensor.shape[axis] * (tensor.shape[axis] - gone)
    return count if isinstance(tensor, nn.Parameter) or count > 1 else 0


def _weights(module: nn.Module, made: int, read: int) -> tuple[int, int]:
    """Return weights and biases of a layer that lost channels it made and channels it read."""
    if isinstance(module, _ConvNd):
        outputs, inputs = module.out_channels - made, module.in_channels - read
        weight = outputs * inputs // module.groups * prod(module.kernel_size)
    elif isinstance(module, nn.Linear):
        outputs, inputs = module.out_features - made, module.in_features - read
        weight = outputs * inputs
    else:
        raise TypeError(f"{type(module).__name__} is no linear layer")
    return weight, 0 if module.bias is None else outputs
