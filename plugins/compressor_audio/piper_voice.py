"""Speaking phonemes through a Piper voice: a VITS in ONNX with a JSON file beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compressor.dataset import FloatArray
from compressor.errors import DataError

_PAD, _START, _END = "_", "^", "$"


class Scales(NamedTuple):
    """A voice's three knobs: spread of the sound, slowness, spread of the durations."""

    noise_scale: float
    length_scale: float
    noise_w: float


@dataclass(frozen=True)
class PiperVoice:
    """A single-speaker voice: its file, samples per second, and ids by phoneme."""

    path: Path
    sample_rate: int
    phoneme_ids: Mapping[str, Sequence[int]]

    @classmethod
    def read(cls, path: Path) -> PiperVoice:
        """Return the voice of an ONNX file and the `.onnx.json` beside it.

        Raises:
            DataError: a file is missing or is no Piper voice's, or the voice has several speakers.
        """
        config_path = path.with_name(f"{path.name}.json")
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
            voice = cls(path, int(config["audio"]["sample_rate"]), config["phoneme_id_map"])
            speakers = int(config["num_speakers"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{config_path}: not a Piper voice's configuration ({error!r})") from error
        if speakers != 1 or not path.is_file():
            raise DataError(f"{path}: expected a Piper voice of one speaker; found {_found(path, speakers)}")
        return voice

    @property
    def content_hash(self) -> str:
        """sha256 of the ONNX file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def ids(self, phonemes: str) -> list[int]:
        """Return the voice's ids of IPA phonemes by Piper's rule: start, each phoneme and a pad after it, end.

        Raises:
            DataError: phonemes that the voice was not trained on.
        """
        unknown = sorted(set(phonemes) - self.phoneme_ids.keys())
        if unknown:
            raise DataError(
                f"{self.path}: the voice does not know the phonemes {' '.join(unknown)}; expected an English one"
            )
        padded = [
            identifier for phoneme in (_START, *phonemes) for identifier in (*self.phoneme_ids[phoneme], *self._pad)
        ]
        return [*padded, *self.phoneme_ids[_END]]

    @property
    def _pad(self) -> Sequence[int]:
        return self.phoneme_ids[_PAD]

    def speak(self, sentences: Sequence[str], scales: Scales, seed: int) -> Iterator[FloatArray]:
        """Yield audio (samples,) for each sentence of phonemes; the same list and seed give the same audio.

        The noise is drawn inside the graph, by a generator that moves on from sentence to sentence.

        Raises:
            DataError: onnxruntime cannot load the voice, or a phoneme is unknown.
        """
        session = self._session(seed)
        for sentence in sentences:
            ids = np.array([self.ids(sentence)], dtype=np.int64)
            feeds = {
                "input": ids,
                "input_lengths": np.array([ids.shape[1]], dtype=np.int64),
                "scales": np.array(scales, dtype=np.float32),
            }
            yield session.run(None, feeds)[0].reshape(-1)

    def _session(self, seed: int) -> Any:
        import onnxruntime

        # Kernels seed their generators from this process-wide value when the session is made.
        onnxruntime.set_seed(seed)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DataError(f"{self.path}: onnxruntime cannot load the voice: {error}") from error


def _found(path: Path, speakers: int) -> str:
    return f"{speakers} speakers" if path.is_file() else "no such file"
