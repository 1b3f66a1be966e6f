from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from compressor_distill.feature_points import PointRunner
from compressor_distill.teacher_signals import TeacherSignals
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compressor.dataset import Dataset, Sample
from compressor.errors import DataError
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import TensorSpec
from tests.tiny_vocoder import HOP

POINTS = ("div", "div_1")
RATES = {"div": 4, "div_1": 8}


def recorded(teacher: Teacher, data: Dataset, segment: int) -> TeacherSignals:
    return TeacherSignals(teacher.graph, teacher.inputs, POINTS, torch.device("cpu"), data.train, segment)


@given(seed=st.integers(0, 10_000), segment=st.integers(1, 30), count=st.integers(1, 5))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_segments_are_the_teacher_s_own(
    seed: int, segment: int, count: int, tiny_teacher: Teacher, tiny_dataset: Dataset
) -> None:
    signals = recorded(tiny_teacher, tiny_dataset, segment)
    batch = signals.batch((seed,), count)
    assert batch.inputs[0].shape == (count, 8, segment)
    assert batch.output.shape == (count, 1, segment * HOP)
    runner = PointRunner(tiny_teacher.graph, POINTS)
    for position in range(count):
        sample, start = found_in(tiny_dataset, batch.inputs[0][position].numpy())
        with torch.no_grad():
            output = runner.forward((torch.from_numpy(sample.inputs["mel"]),))
        wanted = output[0, :, start * HOP : (start + segment) * HOP]
        torch.testing.assert_close(batch.output[position], wanted)
        for point, rate in RATES.items():
            part = runner.found[point][0, :, start * rate : (start + segment) * rate]
            # Kept in half precision.
            torch.testing.assert_close(batch.features[point][position, :, 0], part, atol=2e-3, rtol=2e-3)


def found_in(data: Dataset, piece: np.ndarray) -> tuple[Sample, int]:
    """Return the one sample and frame where a piece of mel was cut."""
    width = piece.shape[-1]
    places = [
        (sample, start)
        for sample in data.train
        for start in range(sample.inputs["mel"].shape[-1] - width + 1)
        if np.array_equal(sample.inputs["mel"][0, :, start : start + width], piece)
    ]
    assert len(places) == 1
    return places[0]


def test_features_are_channels_last(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    batch = recorded(tiny_teacher, tiny_dataset, 10).batch((0,), 3)
    assert {point: tuple(value.shape) for point, value in batch.features.items()} == {
        "div": (3, 12, 1, 40),
        "div_1": (3, 8, 1, 80),
    }
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in batch.features.values())
    assert all(value.dtype == torch.float32 for value in batch.features.values())


def test_the_same_generator_makes_the_same_batch(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    signals = recorded(tiny_teacher, tiny_dataset, 10)
    first, second = (signals.batch((0, 1, 5), 4) for _ in range(2))
    other = signals.batch((0, 1, 6), 4)
    assert torch.equal(first.output, second.output)
    assert not torch.equal(first.output, other.output)


def test_long_samples_are_taken_more_often(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    long = np.tile(tiny_dataset.train[0].inputs["mel"], 3)
    data = replace(tiny_dataset, train=(Sample("long", {"mel": long}), Sample("short", {"mel": 2 * long[..., :30]})))
    signals = recorded(tiny_teacher, data, 5)
    batch = signals.batch((0,), 600)
    loud = sum(float(piece.abs().max()) > float(np.abs(long).max()) for piece in batch.inputs[0])
    assert loud / 600 == pytest.approx(30 / 120, abs=0.06)


def test_samples_that_are_too_short_are_left_out(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    assert len(recorded(tiny_teacher, tiny_dataset, 31).inputs) == 4
    with pytest.raises(DataError, match="all 6 training samples are shorter than one segment of 45"):
        recorded(tiny_teacher, tiny_dataset, 45)


def test_inputs_of_fixed_size_are_not_cut(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    fixed = (TensorSpec("mel", (1, 8, 30)),)
    samples = [Sample(each.name, {"mel": each.inputs["mel"][..., :30]}) for each in tiny_dataset.train]
    signals = TeacherSignals(tiny_teacher.graph, fixed, POINTS, torch.device("cpu"), samples, 99)
    assert not signals.segmented
    batch = signals.batch((0,), 2)
    assert batch.inputs[0].shape == (2, 8, 30)
    assert batch.output.shape == (2, 1, 240)


@pytest.mark.parametrize(
    ("shape", "segmented"),
    [((1, 8, "t"), True), (("n", 8, "t"), True), ((1, "a", "t"), False), ((1, "a", 8), True), ((1, 8, 8), False)],
)
def test_what_can_be_cut(shape: tuple[int | str, ...], segmented: bool, tiny_teacher: Teacher) -> None:
    samples = [Sample("one", {"mel": np.zeros((1, 8, 8), np.float32)})]
    device = torch.device("cpu")
    signals = TeacherSignals(tiny_teacher.graph, (TensorSpec("mel", shape),), (), device, samples, 8)
    assert signals.segmented is segmented


def test_the_teacher_runs_only_over_what_is_asked_for(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    signals = recorded(tiny_teacher, tiny_dataset, 5)
    assert (len(signals.inputs), signals.megabytes) == (6, 0.0)
    signals.batch((0,), 1)
    assert len(signals.recorded) == 1


def test_how_much_memory_features_take(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    frames = sum(sample.inputs["mel"].shape[-1] for sample in tiny_dataset.train)
    signals = recorded(tiny_teacher, tiny_dataset, 5)
    signals.batch((0,), 200)
    assert signals.megabytes == pytest.approx(frames * 2 * (4 * 12 + 8 * 8) / 1e6)
