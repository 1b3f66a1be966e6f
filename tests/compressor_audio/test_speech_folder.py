from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
from compressor_audio.mel import MelOptions, log_mel
from compressor_audio.speech_folder import SpeechFolder
from compressor_audio.voice_change import changed_voice
from pydantic import ValidationError

from compressor.data_source import DataContext
from compressor.dataset import FloatArray, Sample
from compressor.errors import DataError
from compressor.tensor_spec import TensorSpec

SpeechLike = Callable[..., FloatArray]
MakeFolder = Callable[..., Path]

LJ = Path(__file__).parents[3] / "shared" / "speech" / "lj"


def names(samples: Sequence[Sample]) -> list[str]:
    return [sample.name for sample in samples]


def test_the_last_files_validate(recordings: MakeFolder, context: DataContext) -> None:
    data = SpeechFolder(path=recordings(8)).load(context)
    assert names(data.train) == ["00.wav", "01.wav"]
    assert names(data.validation) == [f"{number:02d}.wav" for number in range(2, 8)]
    assert (data.sample_rate, data.findings) == (22050, ())
    assert data.description == "recordings of speech: 2 utterances (2 s) to train on, 6 utterances (6 s) to validate on"


def test_samples_hold_the_teachers_input(recordings: MakeFolder, context: DataContext) -> None:
    import torch

    (sample,) = SpeechFolder(path=recordings(2), validation_files=1).load(context).train
    audio, _ = soundfile.read(recordings(2, "again") / "00.wav", dtype="float32")
    np.testing.assert_array_equal(sample.inputs["mel"], log_mel(torch.from_numpy(audio)[None], MelOptions()).numpy())
    np.testing.assert_array_equal(sample.reference, audio[: 86 * 256])


def test_a_small_folder_keeps_half_to_train_on(recordings: MakeFolder, context: DataContext) -> None:
    data = SpeechFolder(path=recordings(5)).load(context)
    assert (len(data.train), len(data.validation)) == (3, 2)
    assert data.findings == ("validation_files is 6, and there are 5 recordings: only 2 of them validate",)


def test_another_folder_validates(recordings: MakeFolder, context: DataContext) -> None:
    train, validation = recordings(3, "train"), recordings(2, "validation", first_seed=7)
    soundfile.write(train / "leak.flac", *soundfile.read(validation / "01.wav"))
    data = SpeechFolder(path=train, validation_path=validation).load(context)
    assert names(data.train) == ["00.wav", "01.wav", "02.wav"]
    assert names(data.validation) == ["00.wav", "01.wav"]
    assert data.findings == ("not trained on leak.flac: validation holds the same recording",)
    with pytest.raises(DataError, match="every recording is also held for validation"):
        SpeechFolder(path=train, validation_path=train).load(context)


def test_skips_and_tells(recordings: MakeFolder, context: DataContext, speech_like: SpeechLike) -> None:
    folder = recordings(2)
    (folder / "broken.wav").write_bytes(b"no audio")
    (folder / "notes.txt").write_text("ignored")
    (folder / "deeper").mkdir()
    soundfile.write(folder / "deeper" / "more.ogg", speech_like(1.0), 22050)
    soundfile.write(folder / "short.flac", speech_like(0.1), 22050)
    soundfile.write(folder / "silent.wav", np.full(30000, 0.0005), 22050)
    data = SpeechFolder(path=folder, validation_files=1).load(context)
    assert names([*data.train, *data.validation]) == ["00.wav", "01.wav", "deeper/more.ogg"]
    assert [finding.rsplit("/", 1)[1].split(":")[0] for finding in data.findings] == [
        "broken.wav",
        "short.flac",
        "silent.wav",
    ]
    assert "0.10 s long; at least 0.5 s" in data.findings[1]
    assert "silent (peak below -60 dBFS)" in data.findings[2]


def test_an_unusable_folder_says_why(tmp_path: Path, recordings: MakeFolder, context: DataContext) -> None:
    for number in range(7):
        (tmp_path / f"{number}.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)no usable speech in 7 wav, flac or ogg files.*4\.wav.*and 2 more"):
        SpeechFolder(path=tmp_path).load(context)
    with pytest.raises(DataError, match="one usable recording"):
        SpeechFolder(path=recordings(1)).load(context)
    with pytest.raises(DataError, match="expected a folder"):
        SpeechFolder(path=tmp_path / "absent").load(context)


def test_pitches_multiply_training_only(recordings: MakeFolder, context: DataContext) -> None:
    folder = recordings(3)
    data = SpeechFolder(path=folder, validation_files=1, pitches=(1.0, 1.25)).load(context)
    assert names(data.train) == ["00.wav", "00.wav, 1.25 times as high", "01.wav", "01.wav, 1.25 times as high"]
    assert names(data.validation) == ["02.wav"]
    audio, _ = soundfile.read(folder / "01.wav", dtype="float32")
    higher = data.train[3]
    np.testing.assert_array_equal(higher.inputs["mel"], changed_voice(audio, 22050, MelOptions(), 1.25))
    # Nobody said it: the teacher will.
    assert higher.reference is None
    assert data.train[2].reference is not None


@pytest.mark.parametrize("pitches", [(0.4,), (3.1,), ()])
def test_refuses_pitches_of_nobody(pitches: tuple[float, ...], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="pitches"):
        SpeechFolder(path=tmp_path, pitches=pitches)


def test_the_highest_pitch_has_to_leave_enough_to_analyse(recordings: MakeFolder, context: DataContext) -> None:
    folder = recordings(2)
    with pytest.raises(ValidationError, match=r"n_fft \(0\.139 s, 3 times as fast\) <= min_seconds"):
        SpeechFolder(path=folder, pitches=(1.0, 3.0), min_seconds=0.1)
    cut = SpeechFolder(path=folder, validation_files=1, pitches=(3.0,), min_seconds=0.14, max_seconds=0.14)
    (sample,) = cut.load(context).train
    assert sample.inputs["mel"].shape == (1, 80, 12)
    assert np.isfinite(sample.inputs["mel"]).all()


def test_identity_follows_the_content(recordings: MakeFolder, context: DataContext) -> None:
    first, same, other = (recordings(2, name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    identities = [SpeechFolder(path=folder).load(context).identity for folder in (first, same, other)]
    assert identities[0] == identities[1] != identities[2]


def test_analyses_one_file(recordings: MakeFolder, context: DataContext, tmp_path: Path) -> None:
    folder = recordings(2)
    source = SpeechFolder(path=folder, validation_files=1)
    sample = source.analyse(folder / "00.wav", context.inputs)
    (expected,) = source.load(context).train
    np.testing.assert_array_equal(sample.inputs["mel"], expected.inputs["mel"])
    with pytest.raises(DataError, match="no such file"):
        source.analyse(tmp_path / "absent.wav", context.inputs)
    with pytest.raises(DataError, match="needs exactly one mel input"):
        source.analyse(folder / "00.wav", (TensorSpec("x", (1, 3, 224, 224)),))


def test_refuses_lengths_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="min_seconds 3, max_seconds 2"):
        SpeechFolder(path=tmp_path, min_seconds=3, max_seconds=2)


@pytest.mark.skipif(not LJ.is_dir(), reason=f"the folder {LJ.name} of LJ Speech utterances is absent")
def test_lj_speech_splits_26_to_6(context: DataContext) -> None:
    data = SpeechFolder(path=LJ).load(context)
    assert names(data.train) == [f"LJ001-{number:04d}.flac" for number in range(1, 27)]
    assert names(data.validation) == [f"LJ001-{number:04d}.flac" for number in range(27, 33)]
