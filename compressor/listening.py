"""Teacher, student and recording side by side as wav files, where the output is a signal of known sample rate."""

from __future__ import annotations

import io
import re

import numpy as np
import soundfile

from compressor.dataset import FloatArray
from compressor.measuring import MeasuredModel
from compressor.report import ListeningSample
from compressor.run_folder import RunFolder

COUNT = 3
SECONDS = 5.0


def listening_samples(
    folder: RunFolder, student: MeasuredModel, before_training: MeasuredModel | None
) -> tuple[ListeningSample, ...]:
    """Write the first seconds of some validation samples to `samples/`; empty where the output is no signal."""
    if student.data is None or student.sample_rate is None:
        return ()
    return tuple(
        _write_sample(folder, student, before_training, position)
        for position in range(min(COUNT, len(student.data.validation)))
    )


def _write_sample(
    folder: RunFolder, student: MeasuredModel, before_training: MeasuredModel | None, position: int
) -> ListeningSample:
    if student.data is None or student.sample_rate is None:
        raise ValueError("no signal to listen to")
    sample = student.data.validation[position]
    stem = f"samples/{position + 1}_{re.sub(r'[^A-Za-z0-9_-]+', '_', sample.name)}"
    rate = student.sample_rate
    signals: dict[str, FloatArray | None] = {
        "teacher": student.teacher_outputs[position],
        "student": student.outputs[position],
        "recording": sample.reference,
        "before_training": before_training.outputs[position] if before_training else None,
    }
    written = {
        role: _write(folder, f"{stem}_{role}.wav", signal, rate)
        for role, signal in signals.items()
        if signal is not None
    }
    return ListeningSample(
        name=sample.name,
        teacher=written["teacher"],
        student=written["student"],
        recording=written.get("recording"),
        before_training=written.get("before_training"),
    )


def _write(folder: RunFolder, name: str, signal: FloatArray, rate: int) -> str:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(signal[: int(SECONDS * rate)], -1, 1), rate, "PCM_16", format="WAV")
    folder.write(name, buffer.getvalue())
    return name
