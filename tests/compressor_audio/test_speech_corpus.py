"""Recordings that are read as they are needed are those that are read at once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from compressor_audio.mel import MelOptions
from compressor_audio.speech_folder import SpeechFolder

from compressor.data_source import DataContext
from compressor.dataset import Dataset, FloatArray, Sample
from compressor.errors import DataError
from compressor.lazy_samples import LazySamples
from compressor.progress import RecordingReporter, SilentReporter
from compressor.tensor_spec import TensorSpec

SpeechLike = Callable[..., FloatArray]
MakeFolder = Callable[..., Path]


def lazily(source: SpeechFolder, context: DataContext) -> tuple[Dataset, LazySamples]:
    data = source.model_copy(update={"memory_mb": 0, "workers": 0}).load(context)
    assert isinstance(data.train, LazySamples)
    return data, data.train


def assert_same(found: Sample, wanted: Sample) -> None:
    assert found.name == wanted.name
    assert found.inputs.keys() == wanted.inputs.keys()
    for name, value in wanted.inputs.items():
        np.testing.assert_array_equal(found.inputs[name], value)
    np.testing.assert_array_equal(found.reference, wanted.reference)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_seconds": 0.7},
        {"pitches": (1.0, 1.25, 2.5)},
        {"mel": MelOptions(sample_rate=16000), "pitches": (0.8, 1.0)},
    ],
    ids=["plain", "cut", "pitches", "resampled"],
)
def test_the_samples_are_those_that_are_held_in_memory(
    options: dict[str, object], recordings: MakeFolder, context: DataContext
) -> None:
    source = SpeechFolder.model_validate({"path": recordings(4), "validation_files": 1, **options})
    held, (data, train) = source.load(context), lazily(source, context)
    assert isinstance(held.train, tuple)
    assert len(train) == len(held.train)
    for number, wanted in enumerate(held.train):
        assert_same(train[number], wanted)
        # Voices that are made higher are of a few frames more or less.
        assert abs(int(train.lengths[number]) - wanted.inputs["mel"].shape[-1]) <= (2 if "high" in wanted.name else 0)
    for found, wanted in zip(data.validation, held.validation, strict=True):
        assert_same(found, wanted)
    assert (data.findings, data.sample_rate) == (held.findings, held.sample_rate)
    assert data.description.replace(", read as they are needed", "").split("(")[0] == held.description.split("(")[0]


@pytest.mark.parametrize("random", [0.0, 3.0])
def test_pitch_and_shifts(random: float, recordings: MakeFolder, context: DataContext) -> None:
    f0 = TensorSpec("f0", (1, "frames"))
    sings = replace(context, inputs=(*context.inputs, f0))
    options = {"path": recordings(3), "validation_files": 1, "pitches": (1.0, 1.5)}
    source = SpeechFolder.model_validate({**options, "f0_shifts": (0.0, 5.0), "random_f0_shift": random})
    held, (_, train) = source.load(sings), lazily(source, sings)
    assert len(train) == len(held.train) == 8
    for number, wanted in enumerate(held.train):
        assert_same(train[number], wanted)
    # How far each is from its recording's own f0, in semitones.
    plain = SpeechFolder.model_validate(options).load(sings).train
    shifts = [
        12 * float(np.log2(np.median(shifted.inputs["f0"] / plain[number // 2].inputs["f0"])))
        for number, shifted in enumerate(held.train)
    ]
    departures = np.array(shifts) - [0.0, 5.0] * 4
    assert np.abs(departures).max() <= random + 1e-4
    assert len(set(departures.round(3))) == (8 if random else 1)
    assert source.load(sings).identity == held.identity


def test_what_is_of_no_use_is_found_on_the_way(
    recordings: MakeFolder, context: DataContext, speech_like: SpeechLike
) -> None:
    folder = recordings(4)
    (folder / "broken.wav").write_bytes(b"no audio")
    soundfile.write(folder / "00a.wav", speech_like(0.1), 22050)
    soundfile.write(folder / "00b.wav", np.full(30000, 0.0005), 22050)
    soundfile.write(folder / "00c.flac", *soundfile.read(folder / "03.wav", dtype="int16"))
    # The last one validates, if it is of use.
    soundfile.write(folder / "99.wav", np.full(30000, 0.0005), 22050)
    reporter = RecordingReporter(SilentReporter())
    data, train = lazily(SpeechFolder(path=folder, validation_files=1), replace(context, reporter=reporter))
    assert [sample.name for sample in data.validation] == ["03.wav"]
    assert [finding.rsplit("/", 1)[1].split(":")[0] for finding in data.findings] == ["broken.wav", "00a.wav", "99.wav"]
    assert len(train) == 5
    assert {sample.name for sample in train} == {"00.wav", "01.wav", "02.wav"}
    told = [line for line in reporter.lines if "another takes its place" in line]
    assert len(told) == 2
    assert "silent (peak below -60 dBFS)" in told[0]
    assert "00c.flac: validation holds the same recording" in told[1]


def test_another_folder_validates(recordings: MakeFolder, context: DataContext) -> None:
    train, validation = recordings(2, "train"), recordings(2, "validation", first_seed=7)
    shutil.copy(validation / "01.wav", train / "leak.wav")
    data, samples = lazily(SpeechFolder(path=train, validation_path=validation), context)
    assert [sample.name for sample in data.validation] == ["00.wav", "01.wav"]
    assert {sample.name for sample in samples} == {"00.wav", "01.wav"}


def test_many_findings_are_counted(recordings: MakeFolder, context: DataContext) -> None:
    folder = recordings(2)
    for number in range(8):
        (folder / f"broken{number}.wav").write_bytes(b"no audio")
    data, _ = lazily(SpeechFolder(path=folder, validation_files=1), context)
    assert len(data.findings) == 6
    assert data.findings[-1] == "and 3 more like these"


def test_identity_follows_the_content_and_what_is_made_of_it(recordings: MakeFolder, context: DataContext) -> None:
    first, same, other = (recordings(3, name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    os.utime(same / "00.wav", (1, 1))
    sources = [SpeechFolder(path=folder) for folder in (first, same, other)]
    sources += [SpeechFolder(path=first, max_seconds=0.9), SpeechFolder(path=first, pitches=(1.2,))]
    loaded = [lazily(source, context) for source in sources]
    identities = [data.identity for data, _ in loaded]
    assert identities[0] == identities[1]
    assert len(set(identities)) == 4
    keys = [train.key(0) for _, train in loaded]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def test_what_validates_now_is_not_found_by_what_it_was_trained_on_as(
    recordings: MakeFolder, context: DataContext
) -> None:
    """What was made of a recording while it trained lies under its key: no copy of it may validate beside that."""
    train, validation = recordings(3, "train"), recordings(2, "validation", first_seed=7)
    shutil.copy(train / "01.wav", validation / "copy.wav")
    _, before = lazily(SpeechFolder(path=train, validation_path=recordings(1, "others", first_seed=70)), context)
    _, after = lazily(SpeechFolder(path=train, validation_path=validation), context)
    asked = before.key(1)
    assert before[1].name == "01.wav"
    assert after.key(1) != asked
    assert after[1].name != "01.wav"


def test_too_few_are_refused(recordings: MakeFolder, context: DataContext) -> None:
    with pytest.raises(DataError, match="one usable recording"):
        lazily(SpeechFolder(path=recordings(1)), context)
