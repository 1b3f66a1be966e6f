"""Descriptions that lie beside a model, and that its student needs too: a Piper voice's, or a DiffSinger vocoder's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from compressor.package_files import resolve_package_path

PIPER_SUFFIX = ".json"
VOCODER_NAME = "vocoder.yaml"
MEL_OPTIONS = {
    "sample_rate": "sample_rate",
    "hop_size": "hop_length",
    "win_size": "win_length",
    "fft_size": "n_fft",
    "num_mel_bins": "n_mels",
    "mel_fmin": "fmin",
    "mel_fmax": "fmax",
    "mel_base": "log",
    "mel_scale": "mel_scale",
}
"""What `vocoder.yaml` says of the mel analysis, and the names that recipes have for it."""
_WORDS = ("mel_base", "mel_scale")
"""Words in recipes; a description may have a number or capitals."""
_MODEL_LINE = re.compile(rb"^(\s*model\s*:\s*)[^#\r\n]*?(\s*(?:#.*)?)$", re.MULTILINE)


def described_mel(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a `vocoder.yaml` says of the mel analysis, as recipes have it."""
    return {
        option: _word(description[name]) if name in _WORDS else description[name]
        for name, option in MEL_OPTIONS.items()
        if name in description
    }


def _word(value: Any) -> str:
    return str(int(value) if isinstance(value, float) and value.is_integer() else value).lower()


def student_sidecars(source: str, student: str) -> dict[str, bytes]:
    """Return the files to lie beside a student, by name: those beside its teacher, telling of the student's file.

    `MODEL.onnx.json` stays as it is under the student's name; in `vocoder.yaml` the `model` is the student's file.
    """
    path = resolve_package_path(source)
    found: dict[str, bytes] = {}
    voice = path.with_name(f"{path.name}{PIPER_SUFFIX}")
    if voice.is_file():
        found[f"{student}{PIPER_SUFFIX}"] = voice.read_bytes()
    vocoder = path.with_name(VOCODER_NAME)
    if vocoder.is_file():
        name = student.encode()
        found[VOCODER_NAME] = _MODEL_LINE.sub(lambda line: line[1] + name + line[2], vocoder.read_bytes())
    return found
