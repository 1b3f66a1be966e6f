"""What this package offers. The heavy libraries are imported where they are used, not here."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.data_source import DataSource
from compressor.hookspecs import hookimpl
from compressor.loss import Loss
from compressor.metric import Metric
from compressor_audio.losses import ComplexStft, MelL1, MultiResolutionStft, Phase, WaveformL1
from compressor_audio.metrics import MelDistance, MultiResolutionStftDistance
from compressor_audio.perceptual_metrics import PesqWideband, Stoi
from compressor_audio.piper_phonemes import PiperPhonemes
from compressor_audio.piper_speech import PiperSpeech
from compressor_audio.pitch_metrics import F0Error, PeriodicityError, VoicingF1
from compressor_audio.spectral_metrics import BandEnergy, LogSpectralDistance, MelCepstralDistortion
from compressor_audio.speech_folder import SpeechFolder


@hookimpl
def compressor_losses() -> Sequence[type[Loss]]:
    """Offer the losses on audio."""
    return [MelL1, MultiResolutionStft, ComplexStft, Phase, WaveformL1]


@hookimpl
def compressor_metrics() -> Sequence[type[Metric]]:
    """Offer the metrics on audio."""
    return [
        MelDistance,
        MultiResolutionStftDistance,
        MelCepstralDistortion,
        LogSpectralDistance,
        BandEnergy,
        PesqWideband,
        Stoi,
        F0Error,
        VoicingF1,
        PeriodicityError,
    ]


@hookimpl
def compressor_data_sources() -> Sequence[type[DataSource]]:
    """Offer the sources of speech."""
    return [SpeechFolder, PiperSpeech, PiperPhonemes]
