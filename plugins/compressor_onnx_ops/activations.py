"""Activations and other functions element by element."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compressor_onnx_ops.operators import operator


@operator("ThresholdedRelu")
def thresholded_relu(x: Tensor, /, *, alpha: float = 1.0) -> Tensor:
    return torch.where(x > alpha, x, torch.zeros_like(x))


@operator("Shrink")
def shrink(x: Tensor, /, *, bias: float = 0.0, lambd: float = 0.5) -> Tensor:
    moved = torch.where(x < -lambd, x + bias, torch.where(x > lambd, x - bias, torch.zeros_like(x)))
    return moved.to(x.dtype)


@operator("Mish")
def mish(x: Tensor, /) -> Tensor:
    return functional.mish(x)


@operator("Swish")
def swish(x: Tensor, /, *, alpha: float = 1.0) -> Tensor:
    return x * torch.sigmoid(alpha * x)


@operator("Gelu")
def gelu(x: Tensor, /, *, approximate: str = "none") -> Tensor:
    return functional.gelu(x, approximate=approximate)


@operator("Hardmax")
def hardmax(x: Tensor, /, *, axis: int = -1) -> Tensor:
    first = torch.argmax(x, dim=axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, first, 1.0)


@operator("Acosh")
def acosh(x: Tensor, /) -> Tensor:
    return torch.acosh(x)


@operator("Asinh")
def asinh(x: Tensor, /) -> Tensor:
    return torch.asinh(x)


@operator("Atanh")
def atanh(x: Tensor, /) -> Tensor:
    return torch.atanh(x)


@operator("Cosh")
def cosh(x: Tensor, /) -> Tensor:
    return torch.cosh(x)


@operator("Sinh")
def sinh(x: Tensor, /) -> Tensor:
    return torch.sinh(x)


@operator("GroupNormalization")
def group_normalization(
    x: Tensor, scale: Tensor, bias: Tensor, /, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    if scale.shape[0] == num_groups != x.shape[1]:
        # Before opset 21 scale and bias are those of a group.
        scale, bias = (value.repeat_interleave(x.shape[1] // num_groups) for value in (scale, bias))
    return functional.group_norm(x, num_groups, scale, bias, epsilon)


@operator("RMSNormalization")
def rms_normalization(
    x: Tensor, scale: Tensor, /, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1
) -> Tensor:
    axes = list(range(axis % x.dim(), x.dim()))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    normed = wide * torch.rsqrt(wide.square().mean(axes, keepdim=True) + epsilon)
    return normed.to(x.dtype) * scale


@operator("MeanVarianceNormalization")
def mean_variance_normalization(x: Tensor, /, *, axes: tuple[int, ...] = (0, 2, 3)) -> Tensor:
    dims = list(axes)
    mean = x.mean(dims, keepdim=True)
    deviation = ((x * x).mean(dims, keepdim=True) - mean * mean).sqrt()
    return (x - mean) / (deviation + 1e-9)


@operator("LpNormalization")
def lp_normalization(x: Tensor, /, *, axis: int = -1, p: int = 2) -> Tensor:
    norm = x.norm(p=p, dim=axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


@operator("SwiGLU")
def swiglu(x: Tensor, gate: Tensor | None = None, /, *, alpha: float = 1.0, axis: int = -1) -> Tensor:
    gates, values = (x, gate) if gate is not None else x.chunk(2, axis)
    return gates * torch.sigmoid(alpha * gates) * values


@operator("Selu", fallback=True)
def selu(x: Tensor, /, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Tensor:
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(x))


@operator("Dropout", fallback=True)
def dropout(
    x: Tensor, share: Tensor | None = None, training: Tensor | None = None, /, *, ratio: float = 0.5, seed: int = 0
) -> tuple[Tensor, Tensor]:
    if training is not None and bool(training) and (share is None or bool(share)):
        raise NotImplementedError("a Dropout that stays in training mode")
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


@operator("LayerNormalization", fallback=True)
def layer_normalization(
    x: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    /,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
    stash_type: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    axes = list(range(axis % x.dim(), x.dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = torch.rsqrt(x.var(axes, unbiased=False, keepdim=True) + epsilon)
    made = (x - mean) * inverse * scale
    return (made if bias is None else made + bias), mean, inverse
