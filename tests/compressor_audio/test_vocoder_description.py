"""A vocoder's own description of the mel that it takes is held against the recipe's."""

from __future__ import annotations

from pathlib import Path

import pytest
from compressor_audio.mel import MelOptions
from compressor_audio.vocoder_description import check_described

from compressor.errors import DataError

SUNG = MelOptions(
    sample_rate=44100, n_fft=2048, win_length=2048, hop_length=512, n_mels=128, fmin=40, fmax=16000, log="10"
)
DESCRIPTION = """
name: nsf_hifigan
model: nsf_hifigan.onnx
sample_rate: 44100
hop_size: 512
win_size: 2048
fft_size: 2048
num_mel_bins: 128
mel_fmin: 40
mel_fmax: 16000.0
mel_base: {base}
mel_scale: slaney
"""


def described(folder: Path, text: str) -> str:
    (folder / "vocoder.yaml").write_text(text, encoding="utf-8")
    return str(folder / "nsf_hifigan.onnx")


@pytest.mark.parametrize("base", ["10", "'10'"])
def test_one_that_agrees(base: str, tmp_path: Path) -> None:
    check_described(described(tmp_path, DESCRIPTION.format(base=base)), SUNG)


def test_every_difference_is_told_with_what_to_set(tmp_path: Path) -> None:
    teacher = described(tmp_path, DESCRIPTION.format(base="e").replace("hop_size: 512", "hop_size: 441"))
    with pytest.raises(DataError) as refused:
        check_described(teacher, SUNG)
    assert "hop_size is 441, `mel` has hop_length: 512" in str(refused.value)
    assert "mel_base is e, `mel` has log: 10" in str(refused.value)
    assert """--set 'data.mel.hop_length=441' --set 'data.mel.log="e"'""" in str(refused.value)


@pytest.mark.parametrize("text", ["", "- a list", "hop_size: [", "model: x.onnx"])
def test_one_that_says_nothing_of_the_mel(text: str, tmp_path: Path) -> None:
    check_described(described(tmp_path, text), SUNG)
    check_described(str(tmp_path / "elsewhere" / "x.onnx"), SUNG)
    check_described("package://no_such_package/x.onnx", SUNG)
