"""Pictures of sound: how loud each frequency is over time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from scipy.signal import stft

from compressor.dataset import FloatArray
from compressor.errors import RunFolderError

WIDTH, HEIGHT = 480, 160
HEARD_DB, BRIGHTEST_DB = 60.0, 20.0
"""In pictures of differences: what is softer than this below the loudest point is left out, and what is brightest."""
DYNAMIC_RANGE_DB = 80.0
_WINDOW_SECONDS = 0.046
_LEVELS = 64
"""Steps of 1.25 dB: finer ones are not seen, and cost as many bytes again."""
_ANCHORS = (
    (0, 0, 4), (28, 16, 68), (79, 18, 123), (129, 37, 129), (181, 54, 122),
    (229, 80, 100), (251, 135, 97), (254, 194, 135), (252, 253, 191),
)  # fmt: skip
"""Equally spaced colours of `magma` (S. van der Walt and N. Smith, CC0), whose lightness rises evenly."""
_SOFTER_TO_LOUDER = ((120, 190, 255), (20, 70, 140), (0, 0, 0), (150, 75, 10), (255, 180, 90))
_Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def read_signal(path: Path) -> tuple[FloatArray, int]:
    """Return a sound file as mono samples (samples,) and its sample rate in Hz.

    Raises:
        RunFolderError: the file is missing or is no sound file.
    """
    try:
        samples, sample_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise RunFolderError(f"{path}: expected a sound file, but it cannot be read ({error})") from error
    return samples.mean(axis=1), int(sample_rate)


def spectrogram_png(signal: FloatArray, sample_rate: int, reference: FloatArray | None = None) -> bytes:
    """Return a PNG of the log-magnitude STFT of `signal` (samples,), frequency upwards from 0 to half the rate.

    The colours span 80 dB below the loudest point of `reference` (samples,), or of `signal` without one, so that
    pictures with the same reference compare. Samples that are not finite are drawn as silence.

    Raises:
        ValueError: `signal` is not of one dimension.
    """
    magnitudes = _magnitudes(signal, sample_rate)
    loudest = (magnitudes if reference is None else _magnitudes(reference, sample_rate)).max()
    shares = _shares_of_range(magnitudes, float(loudest))
    pixels = np.round(shares[::-1] * 255).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(pixels).resize((WIDTH, HEIGHT), Image.Resampling.BOX))
    return _png(np.round(smooth / 255 * (_LEVELS - 1)).astype(np.uint8), _palette())


def difference_png(signal: FloatArray, sample_rate: int, reference: FloatArray) -> bytes:
    """Return a PNG of where `signal` (samples,) is louder or softer than `reference`, on the axes of the spectrogram.

    Orange is louder, blue softer, by 20 dB at the brightest; black is equal, or 60 dB and more below the loudest point.

    Raises:
        ValueError: `signal` is not of one dimension.
    """
    length = min(signal.size, reference.size)
    own, wanted = _magnitudes(signal[:length], sample_rate), _magnitudes(reference[:length], sample_rate)
    floor = max(float(wanted.max()), 1e-12) * 10 ** (-HEARD_DB / 20)
    decibels = 20 * np.log10(np.maximum(own, floor) / np.maximum(wanted, floor))
    shares = np.clip(decibels / BRIGHTEST_DB, -1.0, 1.0)[::-1].astype(np.float32)
    smooth = np.asarray(Image.fromarray(shares).resize((WIDTH, HEIGHT), Image.Resampling.BOX))
    # An odd number of colours has one in the middle.
    middle = (_LEVELS - 2) // 2
    return _png(np.round((smooth + 1) * middle).astype(np.uint8), _interpolated(_SOFTER_TO_LOUDER, _LEVELS - 1))


def _magnitudes(signal: FloatArray, sample_rate: int) -> FloatArray:
    """Return STFT magnitudes (frequencies, frames), with about as many frames as the picture has columns."""
    if signal.ndim != 1:
        raise ValueError(f"expected a signal of shape (samples,), got {signal.shape}")
    window = 2 ** max(3, round(np.log2(_WINDOW_SECONDS * sample_rate)))
    hop = int(np.clip(signal.size // WIDTH, 1, window // 4))
    padded = np.pad(np.nan_to_num(signal, posinf=0.0, neginf=0.0), (0, max(0, window - signal.size)))
    _, _, spectrum = stft(padded, sample_rate, nperseg=window, noverlap=window - hop)
    magnitudes: FloatArray = np.abs(spectrum).astype(np.float32)
    return magnitudes


def _shares_of_range(magnitudes: FloatArray, loudest: float) -> FloatArray:
    """Return 1 at `loudest` and above, 0 at 80 dB under it and below, even in decibels between."""
    floor = loudest * 10 ** (-DYNAMIC_RANGE_DB / 20)
    if floor == 0.0:
        return np.zeros_like(magnitudes)
    decibels_over_floor = 20 * np.log10(np.maximum(magnitudes, floor) / floor)
    return np.clip(decibels_over_floor / DYNAMIC_RANGE_DB, 0.0, 1.0)


def _png(levels: _Pixels, palette: _Pixels) -> bytes:
    image = Image.fromarray(levels)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _palette() -> _Pixels:
    """Return the colours of the levels (levels, 3)."""
    return _interpolated(_ANCHORS, _LEVELS)


def _interpolated(colours: tuple[tuple[int, int, int], ...], levels: int) -> _Pixels:
    """Return so many colours (levels, 3), between anchors that are equally far from each other."""
    anchors = np.array(colours, dtype=np.float64)
    at = np.linspace(0, len(anchors) - 1, levels)
    channels = [np.interp(at, range(len(anchors)), anchors[:, channel]) for channel in range(3)]
    return np.round(np.stack(channels, axis=1)).astype(np.uint8)
