"""What a vocoder takes: a mel spectrogram, and with some the pitch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.dataset import FloatArray
from compressor.errors import DataError
from compressor_audio.mel import MelOptions
from compressor_audio.pitch import track_pitch

if TYPE_CHECKING:
    from compressor.tensor_spec import TensorSpec

PITCH_NAMES = frozenset({"f0", "pitch"})


@dataclass(frozen=True)
class VocoderInputs:
    """Names of a vocoder's inputs, and how they lie."""

    mel: str
    bands_last: bool = False
    """Whether the mel is (batch, frames, n_mels), as DiffSinger's vocoders take it."""
    pitch: str = ""
    """Input of f0 in Hz (batch, frames); none if empty."""

    def filled(self, frames: FloatArray, pitch: FloatArray | None) -> dict[str, FloatArray]:
        """Return the inputs from a mel (1, n_mels, frames) and f0 in Hz (frames,)."""
        mel = np.ascontiguousarray(frames.swapaxes(1, 2)) if self.bands_last else frames
        return {self.mel: mel} if pitch is None else {self.mel: mel, self.pitch: pitch[None, : frames.shape[-1]]}

    def pitch_of(self, audio: FloatArray, mel: MelOptions) -> FloatArray | None:
        """Return f0 where the vocoder takes it, see `fundamental`."""
        return fundamental(audio, mel) if self.pitch else None


def vocoder_inputs(inputs: tuple[TensorSpec, ...], n_mels: int) -> VocoderInputs:
    """Return the names of a teacher's mel and, where it takes one, f0.

    Raises:
        DataError: the teacher takes something else, or something besides.
    """
    pitches = [spec.name for spec in inputs if spec.name in PITCH_NAMES and len(spec.shape) == 2]
    match [spec for spec in inputs if spec.name not in pitches]:
        case [spec] if len(spec.shape) == 3 and n_mels in spec.shape[1:] and spec.dtype.startswith("float"):
            return VocoderInputs(spec.name, spec.shape[1] != n_mels, pitches[0] if pitches else "")
    found = "; ".join(f"{spec.name}: ({', '.join(map(str, spec.shape))}) {spec.dtype}" for spec in inputs)
    raise DataError(
        f"the teacher's inputs are {found}; speech needs exactly one mel input (batch, {n_mels}, frames) or "
        f"(batch, frames, {n_mels}), and at most f0 (batch, frames) besides. "
        "If the teacher takes another number of mel bands, set it in the data's options: mel: {n_mels: …}"
    )


def fundamental(audio: FloatArray, mel: MelOptions) -> FloatArray:
    """Return f0 in Hz (frames,) of audio (samples,), at the frames of its mel; unvoiced gaps are bridged.

    Singing synthesisers bridge gaps too. Audio without any voice has f0 0 all along.
    """
    padded = np.pad(audio, mel.padding(mel.hop_length), mode="reflect")
    track = track_pitch(padded, mel.sample_rate, mel.n_fft, mel.hop_length)
    frames = np.arange(len(track.f0))
    if not track.voiced.any():
        return np.zeros(len(frames), np.float32)
    bridged: FloatArray = np.interp(frames, frames[track.voiced], track.f0[track.voiced]).astype(np.float32)
    return bridged
