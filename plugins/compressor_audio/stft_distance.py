"""How far two signals are apart in their magnitude spectrograms (Parallel WaveGAN, arXiv 1910.11480)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_FFT_SIZES = (512, 1024, 256)

_POWER_EPSILON = 1e-7
"""Upstream's floor of the squared magnitude: it keeps logarithm and gradient of silence finite."""


def multi_resolution_stft_distance(signal: Tensor, reference: Tensor, fft_sizes: Sequence[int]) -> Tensor:
    """Return the mean over resolutions of spectral convergence plus log-magnitude L1; shapes (batch, samples)."""
    import torch

    with torch.autocast(signal.device.type, enabled=False):
        distances = [_distance(signal.float(), reference.float(), size) for size in fft_sizes]
    return torch.stack(distances).mean()


def _distance(signal: Tensor, reference: Tensor, fft_size: int) -> Tensor:
    import torch

    found, expected = _magnitude(signal, fft_size), _magnitude(reference, fft_size)
    convergence: Tensor = torch.linalg.vector_norm(expected - found) / torch.linalg.vector_norm(expected)
    return convergence + (expected.log() - found.log()).abs().mean()


def _magnitude(signal: Tensor, fft_size: int) -> Tensor:
    """Return magnitudes (batch, bins, frames), hopping a quarter of the Hann window."""
    import torch

    spectrum = torch.stft(
        signal,
        fft_size,
        hop_length=fft_size // 4,
        window=torch.hann_window(fft_size, device=signal.device),
        return_complex=True,
    )
    return torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1) + _POWER_EPSILON)
