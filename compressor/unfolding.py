"""What a convolution or linear layer multiplies its weights with, as rows of a matrix: the layer as a regression."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

LinearLayer = _ConvNd | nn.Linear
"""A layer whose output is its weights times what it reads; `unfolded` says what that is."""


def unfoldable(module: nn.Module | None) -> bool:
    """Say whether a module is a linear layer whose reading `unfolded` can write out."""
    if isinstance(module, nn.Linear):
        return True
    plain = isinstance(module, _ConvNd) and module.padding_mode == "zeros" and module.weight.dim() in (3, 4)
    return plain and not isinstance(module.padding, str)  # type: ignore[union-attr]


def output_positions(output: Tensor, module: nn.Module, most: int) -> Tensor:
    """Return about `most` positions, evenly spread, of a layer's output (batch, channels, *size), flat over `size`.

    The step is odd and no multiple of small numbers that strides and dilations are made of, so that all phases of an
    up-sampling are met.
    """
    size = output.numel() // (output.shape[0] * output.shape[channel_axis(module)])
    step = max(1, size // most)
    while step > 1 and any(step % prime == 0 for prime in (2, 3, 5)):
        step -= 1
    return torch.arange(0, size, step)


def channel_axis(module: nn.Module | None) -> int:
    """Return the axis of channels in what a layer, or a function, reads and puts out."""
    return -1 if isinstance(module, nn.Linear) else 1


def rows_at(tensor: Tensor, module: nn.Module, positions: Tensor) -> Tensor:
    """Return a layer's output, or a tensor of its shape, at positions: (batch * positions, channels)."""
    by_channel = tensor.movedim(channel_axis(module), 1)
    by_channel = by_channel.reshape(*by_channel.shape[:2], -1)
    return by_channel[..., positions].movedim(1, 2).flatten(0, 1)


def unfolded(module: nn.Module, read: Tensor, positions: Tensor) -> Tensor:
    """Return what the weights meet at output positions: (batch * positions, in_channels * taps).

    Times `matrix(module)` of one group, plus the bias, it is the layer's output there.
    """
    if isinstance(module, nn.Linear):
        return rows_at(read, module, positions)
    if not isinstance(module, _ConvNd):
        raise TypeError(f"{type(module).__name__} is no linear layer")
    image = read.unsqueeze(2) if read.dim() == 3 else read
    kernel, stride, dilation = (_two(values, 1) for values in (module.kernel_size, module.stride, module.dilation))
    above, left = _two(module.padding, 0)
    below, right = above, left
    if module.transposed:
        # Zeros between the values make it a plain convolution, with the kernel turned around.
        image = _stuffed(image, stride)
        above, left = (
            reach * (taps - 1) - start for reach, taps, start in zip(dilation, kernel, (above, left), strict=True)
        )
        below, right = (side + more for side, more in zip((above, left), _two(module.output_padding, 0), strict=True))
        stride = (1, 1)
    image = functional.pad(image, (left, right, above, below))
    size = [
        (length - reach * (taps - 1) - 1) // step + 1
        for length, taps, step, reach in zip(image.shape[2:], kernel, stride, dilation, strict=True)
    ]
    rows = (positions // size[1])[:, None] * stride[0] + torch.arange(kernel[0]) * dilation[0]
    columns = (positions % size[1])[:, None] * stride[1] + torch.arange(kernel[1]) * dilation[1]
    met = image[:, :, rows[:, :, None], columns[:, None, :]]
    return met.movedim(1, 2).flatten(2).flatten(0, 1)


def matrix(module: nn.Module) -> Tensor:
    """Return a layer's weights in the order of `unfolded`: (groups, in / groups * taps, out / groups)."""
    if isinstance(module, nn.Linear):
        return module.weight.T[None]
    if not isinstance(module, _ConvNd):
        raise TypeError(f"{type(module).__name__} is no linear layer")
    weight = module.weight
    if not module.transposed:
        return weight.reshape(module.groups, module.out_channels // module.groups, -1).transpose(1, 2)
    inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
    turned = weight.flip(tuple(range(2, weight.dim()))).reshape(module.groups, inputs, outputs, -1)
    # (groups, in, out, taps) -> (groups, in * taps, out)
    return turned.transpose(2, 3).flatten(1, 2)


def set_matrix(module: nn.Module, values: Tensor) -> None:
    """Write weights given in the order of `matrix` back into a layer."""
    if isinstance(module, nn.Linear):
        weight = values[0].T
    elif isinstance(module, _ConvNd) and not module.transposed:
        weight = values.transpose(1, 2).reshape(module.weight.shape)
    elif isinstance(module, _ConvNd):
        inputs = module.in_channels // module.groups
        taps = module.weight[0, 0].numel()
        by_tap = values.reshape(module.groups, inputs, taps, -1).transpose(2, 3).flatten(0, 1)
        weight = by_tap.reshape(module.weight.shape).flip(tuple(range(2, module.weight.dim())))
    else:
        raise TypeError(f"{type(module).__name__} is no linear layer")
    with torch.no_grad():
        module.weight.copy_(weight)


def _two(values: Iterable[int | str], neutral: int) -> tuple[int, int]:
    """Return a convolution's numbers by axis as those of two axes: (height, width)."""
    numbers = tuple(int(value) for value in values)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else (neutral, numbers[0])


def _stuffed(image: Tensor, stride: tuple[int, int]) -> Tensor:
    """Return an image with `stride - 1` zeros between its values, along both axes."""
    height, width = ((size - 1) * step + 1 for size, step in zip(image.shape[2:], stride, strict=True))
    stuffed = image.new_zeros(*image.shape[:2], height, width)
    stuffed[:, :, :: stride[0], :: stride[1]] = image
    return stuffed
