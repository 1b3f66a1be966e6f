"""What TensorBoard gets, read back from its files."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from compressor_distill.training_log import TrainingLog
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from torch.fx import GraphModule

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.spectrogram import spectrogram_png
from compressor.strategy import StageContext
from tests.compressor_distill.short_training import Interrupting, distillation

RATE = 800


def written(folder: Path) -> Any:
    """Return all that was written: unlike TensorBoard, which takes a sample."""
    events = EventAccumulator(str(folder), dict.fromkeys(("scalars", "images", "audio"), 0))
    events.Reload()
    return events


def scalars(events: Any, tag: str) -> dict[int, float]:
    return {event.step: event.value for event in events.Scalars(tag)}


def sound(seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(seed))


def test_figures_stand_at_the_steps_of_all_phases(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, RATE) as log:
        log.validated("start", 0, 0.0, {"mel-l1": 1.0})
        for phase, steps in (("block-wise", (10, 20, 25)), ("end-to-end", (10, 15)), ("adversarial", (7,))):
            for step in steps:
                log.add({"total": float(step)})
                log.add({"total": step + 2.0})
                log.validated(phase, step, 1.0, {"mel-l1": 1 / step})
    events = written(tmp_path)
    assert sorted(events.Tags()["scalars"]) == ["training/total", "validation/mel-l1"]
    known = {0: 1.0, 10: 1 / 10, 20: 1 / 20, 25: 1 / 25, 35: 1 / 10, 40: 1 / 15, 47: 1 / 7}
    assert scalars(events, "validation/mel-l1") == pytest.approx(known)
    assert scalars(events, "training/total") == {10: 11.0, 20: 21.0, 25: 26.0, 35: 11.0, 40: 16.0, 47: 8.0}


def test_what_is_heard_can_be_heard_and_seen(tmp_path: Path) -> None:
    student, better, teacher = map(sound, range(3))
    with TrainingLog(tmp_path, RATE) as log:
        log.hear((student, teacher))
        log.validated("start", 0, 0.0, {})
        log.hear((better, teacher))
        log.validated("end-to-end", 30, 1.0, {})
        log.hear(None)
        log.validated("end-to-end", 40, 1.0, {})
    events = written(tmp_path)
    assert sorted(events.Tags()["audio"]) == ["sound/student", "sound/teacher"]
    assert sorted(events.Tags()["images"]) == ["spectrogram/student", "spectrogram/teacher"]
    for name, signals in (("student", {0: student, 30: better}), ("teacher", {0: teacher})):
        assert {event.step for event in events.Audio(f"sound/{name}")} == signals.keys()
        for event in events.Audio(f"sound/{name}"):
            found, rate = soundfile.read(io.BytesIO(event.encoded_audio_string))
            assert rate == RATE
            np.testing.assert_allclose(found, signals[event.step].numpy(), atol=2 / 2**15)
        assert {event.step for event in events.Images(f"spectrogram/{name}")} == signals.keys()
        for event in events.Images(f"spectrogram/{name}"):
            wanted = spectrogram_png(signals[event.step].numpy(), RATE, teacher.numpy())
            np.testing.assert_array_equal(pixels(event.encoded_image_string), pixels(wanted))


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def test_what_is_no_signal_is_not_heard(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, None) as log:
        log.hear((sound(0), sound(1)))
        log.validated("start", 0, 0.0, {"mse": 1.0})
    tags = written(tmp_path).Tags()
    assert (tags["audio"], tags["images"], tags["scalars"]) == ([], [], ["validation/mse"])


def test_a_log_goes_on_where_a_checkpoint_was_made(tmp_path: Path) -> None:
    with TrainingLog(tmp_path, None) as log:
        log.validated("start", 0, 0.0, {"mse": 3.0})
        log.validated("block-wise", 20, 1.0, {"mse": 2.0})
        log.validated("end-to-end", 10, 1.0, {"mse": 1.0})
        log.add({"total": 4.0})
        curve, state = [point.model_dump() for point in log.curve], log.state()
    with TrainingLog(tmp_path / "resumed", None) as log:
        log.restore(curve, state)
        log.validated("end-to-end", 20, 1.0, {"mse": 0.5})
    events = written(tmp_path / "resumed")
    assert scalars(events, "validation/mse") == {40: 0.5}
    assert scalars(events, "training/total") == {40: 4.0}


def test_a_training_tells_tensorboard_all(
    student: GraphModule, tiny_context: StageContext, tiny_dataset: Dataset
) -> None:
    outcome = distillation().apply(copy_graph(student), tiny_context)
    events = written(tiny_context.workdir / "tensorboard")
    # Six steps in each of two phases, validated after every other.
    validated = scalars(events, "validation/output-l1")
    assert list(validated) == [0, 2, 4, 6, 8, 10, 12]
    assert list(validated.values()) == pytest.approx([point.validation["output-l1"] for point in outcome.curve])
    trained = {name for point in outcome.curve for name in point.losses}
    tags = {"validation/output-l1", *(f"training/{name}" for name in trained)}
    assert set(events.Tags()["scalars"]) == tags
    assert [event.step for event in events.Images("spectrogram/student")] == list(validated)
    heard = events.Audio("sound/student")
    assert [event.step for event in heard] == list(validated)
    reference = tiny_dataset.validation[0].reference
    assert reference is not None
    assert {soundfile.read(io.BytesIO(event.encoded_audio_string))[0].shape for event in heard} == {reference.shape}
    assert [event.step for event in events.Audio("sound/teacher")] == [0]


def test_a_resumed_training_counts_on(student: GraphModule, tiny_context: StageContext) -> None:
    with pytest.raises(KeyboardInterrupt):
        distillation().apply(copy_graph(student), replace(tiny_context, reporter=Interrupting(9)))
    distillation().apply(copy_graph(student), tiny_context)
    events = written(tiny_context.workdir / "tensorboard")
    assert sorted(scalars(events, "validation/output-l1")) == [0, 2, 4, 6, 8, 10, 12]
