"""Fourier transforms, windows and mel filters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compressor_onnx_ops.numeric import torch_type
from compressor_onnx_ops.operators import operator


@operator("DFT")
def discrete_fourier_transform(
    x: Tensor,
    length: Tensor | None = None,
    chosen: Tensor | None = None,
    /,
    *,
    axis: int | None = None,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    along = int(chosen) if chosen is not None else (1 if axis is None else axis)
    if chosen is None and axis is None and x.dim() > 2:
        # From opset 20 on the axis is an input, the last signal axis by default; before it was the first.
        along = 1
    along %= x.dim()
    count = x.shape[along] if length is None else int(length)
    if inverse and onesided:
        count = 2 * (x.shape[along] - 1) if length is None else count
        real: Tensor = torch.fft.irfft(torch.view_as_complex(x.contiguous()), count, along)
        return real.unsqueeze(-1)
    # In float64, as the reference does: what should be zero is then.
    wide = x.double().contiguous()
    values = torch.view_as_complex(wide) if x.shape[-1] == 2 else wide.squeeze(-1)
    made = torch.fft.ifft(values, count, along) if inverse else torch.fft.fft(values, count, along)
    made = made.narrow(along, 0, count // 2 + 1) if onesided else made
    return torch.view_as_real(made).to(x.dtype)


@operator("STFT")
def short_time_fourier_transform(
    signal: Tensor,
    step: Tensor,
    window: Tensor | None = None,
    length: Tensor | None = None,
    /,
    *,
    onesided: int = 1,
) -> Tensor:
    size = int(length) if length is not None else (window.shape[0] if window is not None else signal.shape[1])
    values = torch.view_as_complex(signal.contiguous()) if signal.shape[-1] == 2 else signal.reshape(signal.shape[:2])
    frames = values.unfold(1, size, int(step))
    if window is not None:
        frames = frames * window
    made = torch.fft.fft(frames, dim=-1)
    return torch.view_as_real(made[..., : size // 2 + 1] if onesided else made)


def _cosines(size: Tensor, weights: tuple[float, ...], dtype: int, periodic: int) -> Tensor:
    count = int(size)
    angle = 2 * math.pi * torch.arange(count, dtype=torch.float64) / (count if periodic else count - 1)
    made = sum((weight * torch.cos(at * angle) for at, weight in enumerate(weights)), torch.zeros(count))
    return made.to(size.device, torch_type(dtype))


@operator("HannWindow")
def hann_window(size: Tensor, /, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    return _cosines(size, (0.5, -0.5), output_datatype, periodic)


@operator("HammingWindow")
def hamming_window(size: Tensor, /, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    return _cosines(size, (25 / 46, -21 / 46), output_datatype, periodic)


@operator("BlackmanWindow")
def blackman_window(size: Tensor, /, *, output_datatype: int = 1, periodic: int = 1) -> Tensor:
    return _cosines(size, (0.42, -0.5, 0.08), output_datatype, periodic)


@operator("MelWeightMatrix")
def mel_weight_matrix(
    bins: Tensor, fft_size: Tensor, rate: Tensor, lowest: Tensor, highest: Tensor, /, *, output_datatype: int = 1
) -> Tensor:
    count, lines = int(bins), int(fft_size) // 2 + 1
    low, high = (2595 * math.log10(1 + float(edge) / 700) for edge in (lowest, highest))
    mels = low + torch.arange(count + 2, dtype=torch.float64) * ((high - low) / (count + 2))
    hertz = 700 * (10 ** (mels / 2595) - 1)
    edges = ((int(fft_size) + 1) * hertz / float(rate)).floor().to(torch.int64).tolist()
    made = torch.zeros(lines, count)
    for at in range(count):
        lower, centre, upper = edges[at : at + 3]
        if centre == lower:
            made[centre, at] = 1
        else:
            made[lower : centre + 1, at] = torch.arange(centre + 1 - lower) / (centre - lower)
        if upper > centre:
            made[centre:upper, at] = (upper - torch.arange(centre, upper)) / (upper - centre)
    return made.to(torch_type(output_datatype))
