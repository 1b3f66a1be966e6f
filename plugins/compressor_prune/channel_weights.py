"""A layer's weights, channel by channel: those that read a channel, and those that make it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compressor_prune.channel_groups import Place
from compressor_prune.channel_tracing import is_depthwise


def by_input(module: nn.Module, values: Tensor) -> Tensor:
    """Return values of a layer's weight by the channel that they read: (in, out / groups, taps)."""
    if isinstance(module, nn.Linear):
        return values.T.unsqueeze(2)
    if not isinstance(module, _ConvNd):
        raise TypeError(f"{type(module).__name__} reads no channels")
    return values.flatten(2) if module.transposed else _swapped(values.flatten(2), module.groups)


def by_output(module: nn.Module, values: Tensor) -> Tensor:
    """Return values of a layer's weight by the channel that they make: (out, in / groups, taps)."""
    if isinstance(module, nn.Linear):
        return values.unsqueeze(2)
    if not isinstance(module, _ConvNd):
        raise TypeError(f"{type(module).__name__} makes no channels")
    return _swapped(values.flatten(2), module.groups) if module.transposed else values.flatten(2)


def write_by_input(module: nn.Module, values: Tensor) -> None:
    """Set a layer's weight to values in the order of `by_input`."""
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"{type(module).__name__} has no weight")
    if isinstance(module, nn.Linear):
        values = values.squeeze(2).T
    elif isinstance(module, _ConvNd) and not module.transposed:
        values = _swapped(values, module.groups)
    with torch.no_grad():
        weight.copy_(values.reshape(weight.shape))


def unit_rows(module: nn.Module, place: Place, values: Tensor) -> Tensor:
    """Return values of a layer's weight by the units of a group: (units, everything else)."""
    if place.role == "reads":
        channels = by_input(module, values)
    elif place.role == "makes":
        channels = by_output(module, values)
    else:
        channels = values.flatten(1) if is_depthwise(module) else values.reshape(-1, 1)
    return channels[place.positions].flatten(1)


def _swapped(values: Tensor, groups: int) -> Tensor:
    """Swap the axes of a kernel in groups: (groups * a, b, taps) -> (groups * b, a, taps)."""
    grouped = values.reshape(groups, -1, *values.shape[1:])
    return grouped.transpose(1, 2).flatten(0, 1)
