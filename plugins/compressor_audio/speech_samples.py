"""From recordings to samples: reading audio, analysing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from compressor.dataset import FloatArray, Sample
from compressor.errors import DataError
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.vocoder_inputs import VocoderInputs

SILENCE_PEAK = 1e-3
"""-60 dBFS: a recording whose peak is lower is taken for silence."""


def read_recording(path: Path, sample_rate: int, max_seconds: float) -> FloatArray:
    """Return the first `max_seconds` of a file as mono samples (samples,) at `sample_rate`.

    Raises:
        DataError: no such file, not audio, or samples that are no numbers.
    """
    import soundfile

    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        with soundfile.SoundFile(path) as file:
            rate = int(file.samplerate)
            channels = file.read(round(max_seconds * rate), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path}: cannot be read as audio: {error.error_string}") from error
    audio: FloatArray = channels.mean(axis=1)
    if not np.isfinite(audio).all():
        raise DataError(f"{path}: holds samples that are not finite numbers")
    return at_rate(audio, rate, sample_rate)


def check_audible(name: str, audio: FloatArray, sample_rate: int, min_seconds: float) -> None:
    """Refuse audio that is too short or silent.

    Raises:
        DataError: shorter than `min_seconds`, or peak below -60 dBFS.
    """
    seconds = len(audio) / sample_rate
    if seconds < min_seconds:
        raise DataError(f"{name}: {seconds:.2f} s long; at least {min_seconds:g} s are needed")
    if np.abs(audio).max() < SILENCE_PEAK:
        raise DataError(f"{name}: silent (peak below -60 dBFS)")


def speech_sample(name: str, audio: FloatArray, given: VocoderInputs, mel: MelOptions) -> Sample:
    """Return a sample for a vocoder, whose reference is frames * hop_length samples of the audio (samples,)."""
    import torch

    with torch.no_grad():
        frames = log_mel(torch.from_numpy(audio)[None], mel).numpy()
    reference = audio[: frames.shape[-1] * mel.hop_length]
    return Sample(name=name, inputs=given.filled(frames, given.pitch_of(audio, mel)), reference=reference)


def at_rate(audio: FloatArray, rate: float, new_rate: float) -> FloatArray:
    """Return audio (samples,) of `rate` at `new_rate`."""
    import soxr

    return audio if rate == new_rate else np.asarray(soxr.resample(audio, rate, new_rate), np.float32)


def content_hash(*parts: Iterable[Sample]) -> str:
    """Return the sha256 over the samples of all parts: names, shapes and values, in order."""
    digest = hashlib.sha256()
    for number, part in enumerate(parts):
        for sample in part:
            digest.update(f"{number} {sample.name}".encode())
            for name, array in (*sample.inputs.items(), ("reference", sample.reference)):
                digest.update(f"{name} {None if array is None else array.shape}".encode())
                digest.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
