"""The frames in which metrics look at a signal, where nothing says which analysis its model was made for."""

from __future__ import annotations

from compressor.errors import MetricUnavailable
from compressor.signal_metric import Signal
from compressor_audio.mel import MelOptions

LOWEST_RATE = 8000
"""Hz; telephone speech."""


def frames_of(signal: Signal) -> MelOptions:
    """Return the analysis for a signal: frames of 43 to 64 ms, whose Hann windows begin a quarter of that apart.

    Raises:
        MetricUnavailable: a sample rate below that of speech, or no whole frame.
    """
    if signal.rate < LOWEST_RATE:
        raise MetricUnavailable(f"needs audio of {LOWEST_RATE} samples per second or more; this has {signal.rate}")
    analysis = MelOptions.for_rate(signal.rate)
    if len(signal.samples) < analysis.n_fft:
        raise MetricUnavailable(
            f"needs validation samples of at least {analysis.n_fft} output samples; one has {len(signal.samples)}"
        )
    return analysis
