"""How far two signals are apart in their short-time Fourier transforms: magnitudes, complex values, phases.

Each distance takes signals (batch, samples) longer than half the largest window, is the mean over several resolutions,
is computed in float32 under autocast too, and has finite gradients at silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_FFT_SIZES = (512, 1024, 256)

_POWER_EPSILON = 1e-7
"""Upstream's floor of the squared magnitude: it keeps logarithm and gradient of silence finite."""


def multi_resolution_stft_distance(
    signal: Tensor,
    reference: Tensor,
    fft_sizes: Sequence[int],
    *,
    spectral_convergence: float = 1.0,
    log_magnitude: float = 1.0,
    linear_magnitude: float = 0.0,
) -> Tensor:
    """Return the distance of the magnitudes: three terms by their factors, Parallel WaveGAN's by default.

    Spectral convergence is the norm of the difference as a share of the reference's, the others are mean absolute
    differences (arXiv 1910.11480; the linear one: DDSP, arXiv 2001.04643).

    Raises:
        ValueError: signals of another shape, or too short.
    """
    import torch

    distances = []
    for spectra in _spectra(signal, reference, fft_sizes):
        found, expected = map(_magnitude, spectra)
        convergence: Tensor = torch.linalg.vector_norm(expected - found) / torch.linalg.vector_norm(expected)
        distance = spectral_convergence * convergence + log_magnitude * (expected.log() - found.log()).abs().mean()
        distances.append(distance + linear_magnitude * (expected - found).abs().mean())
    return torch.stack(distances).mean()


def complex_stft_distance(
    signal: Tensor, reference: Tensor, fft_sizes: Sequence[int], norm: Literal["l1", "l2"]
) -> Tensor:
    """Return the norm of the complex difference as a share of the reference's (arXiv 2009.12286; 1808.06719 for L2).

    A silent reference counts as loud as the floor of magnitudes, so that the share stays finite.

    Raises:
        ValueError: signals of another shape, or too short.
    """
    import torch

    order = {"l1": 1, "l2": 2}[norm]
    distances = [
        torch.linalg.vector_norm((found - expected).abs(), order)
        / torch.linalg.vector_norm(_magnitude(expected), order)
        for found, expected in _spectra(signal, reference, fft_sizes)
    ]
    return torch.stack(distances).mean()


def phase_distance(
    signal: Tensor,
    reference: Tensor,
    fft_sizes: Sequence[int],
    *,
    instantaneous_phase: float = 1.0,
    group_delay: float = 1.0,
    time_difference: float = 1.0,
) -> Tensor:
    """Return the distance of the phases in radians: three terms by their factors (Ai and Ling, arXiv 2211.15974).

    Each is a mean distance on the circle, 0 to π: of the phases, of their differences from one frequency to the next,
    and of those from one frame to the next.

    Raises:
        ValueError: signals of another shape, or too short.
    """
    import torch

    distances = []
    for found, expected in _spectra(signal, reference, fft_sizes):
        error = _phase(found) - _phase(expected)
        distances.append(
            instantaneous_phase * _on_the_circle(error).mean()
            + group_delay * _on_the_circle(error.diff(dim=1)).mean()
            + time_difference * _on_the_circle(error.diff(dim=2)).mean()
        )
    return torch.stack(distances).mean()


def _spectra(signal: Tensor, reference: Tensor, fft_sizes: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Return complex spectrograms (batch, bins, frames) of both, hopping a quarter of the Hann window, by its length.

    Raises:
        ValueError: signals of another shape, or too short to be reflected at their ends.
    """
    import torch

    shortest = max(fft_sizes) // 2 + 1
    for each in (signal, reference):
        if each.ndim != 2 or each.shape[-1] < shortest:
            raise ValueError(
                f"expected signals (batch, samples) of at least {shortest} samples, which is half the longest window; "
                f"found {tuple(each.shape)}"
            )
    for size in fft_sizes:
        window = torch.hann_window(size, device=signal.device)
        with torch.autocast(signal.device.type, enabled=False):
            found, expected = (
                torch.stft(each.float(), size, hop_length=size // 4, window=window, return_complex=True)
                for each in (signal, reference)
            )
        yield found, expected


def _power(spectrum: Tensor) -> Tensor:
    import torch

    return torch.view_as_real(spectrum).pow(2).sum(-1)


def _magnitude(spectrum: Tensor) -> Tensor:
    return (_power(spectrum) + _POWER_EPSILON).sqrt()


def _phase(spectrum: Tensor) -> Tensor:
    """Return phases in radians; silence has none, and takes neither part nor gradient."""
    import torch

    heard = _power(spectrum) > _POWER_EPSILON
    return torch.where(heard, spectrum, torch.ones_like(spectrum)).angle()


def _on_the_circle(angle: Tensor) -> Tensor:
    """Return how far round the circle an angle in radians leads, by the shorter way: 0 to π."""
    import torch

    return (angle - 2 * torch.pi * torch.round(angle / (2 * torch.pi))).abs()
