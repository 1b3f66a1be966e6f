"""Random numbers inside a graph, from streams that teacher and student share."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from compressor_onnx_ops.numeric import torch_type
from compressor_onnx_ops.operators import operator


@operator("RandomNormalLike")
def random_normal_like(
    x: Tensor, /, *, generator: Generator, dtype: int | None = None, mean: float = 0.0, scale: float = 1.0
) -> Tensor:
    drawn = mean + scale * torch.randn(x.shape, generator=generator)
    return drawn.to(x.device, _type(x, dtype))


@operator("RandomNormal")
def random_normal(
    *, generator: Generator, shape: list[int], dtype: int = 1, mean: float = 0.0, scale: float = 1.0
) -> Tensor:
    return (mean + scale * torch.randn(shape, generator=generator)).to(torch_type(dtype))


@operator("RandomUniformLike")
def random_uniform_like(
    x: Tensor, /, *, generator: Generator, dtype: int | None = None, low: float = 0.0, high: float = 1.0
) -> Tensor:
    drawn = low + (high - low) * torch.rand(x.shape, generator=generator)
    return drawn.to(x.device, _type(x, dtype))


@operator("RandomUniform")
def random_uniform(
    *, generator: Generator, shape: list[int], dtype: int = 1, low: float = 0.0, high: float = 1.0
) -> Tensor:
    return (low + (high - low) * torch.rand(shape, generator=generator)).to(torch_type(dtype))


@operator("Bernoulli")
def bernoulli(x: Tensor, /, *, generator: Generator, dtype: int | None = None) -> Tensor:
    return (torch.rand(x.shape, generator=generator).to(x.device) < x).to(_type(x, dtype))


@operator("Multinomial")
def multinomial(x: Tensor, /, *, generator: Generator, dtype: int = 6, sample_size: int = 1) -> Tensor:
    drawn = torch.multinomial(x.cpu().exp(), sample_size, replacement=True, generator=generator)
    return drawn.to(x.device, torch_type(dtype))


def _type(x: Tensor, number: int | None) -> torch.dtype:
    return x.dtype if number is None else torch_type(number)
