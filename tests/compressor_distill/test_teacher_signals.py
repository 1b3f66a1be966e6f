from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from compressor_distill.feature_points import PointRunner
from compressor_distill.on_the_fly import TOLERANCE, OnTheFly
from compressor_distill.recorded_signals import RecordedOnDisk
from compressor_distill.teacher_run import Batch
from compressor_distill.teacher_signals import Keeping, Settled, TeacherSignals
from compressor_distill.training_inputs import TrainingInputs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from compressor.dataset import Dataset, Sample
from compressor.errors import DataError
from compressor.graph_editing import copy_graph
from compressor.lazy_samples import LazySamples
from compressor.progress import RecordingReporter, SilentReporter
from compressor.strategy import StageContext, StageOutcome
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import TensorSpec
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_vocoder import HOP, mel
from tests.compressor_distill.short_training import distillation

POINTS = ("div", "div_1")
RATES = {"div": 4, "div_1": 8}
CPU = torch.device("cpu")
WAYS = ("memory", "recorded", "on-the-fly")


def in_memory(teacher: Teacher, data: Dataset, segment: int) -> TeacherSignals:
    return TeacherSignals(teacher.graph, teacher.inputs, POINTS, CPU, data.train, segment, Keeping(teacher.sha256))


def by(way: str, teacher: Teacher, data: Dataset, segment: int, folder: Path) -> TeacherSignals:
    """Return signals that are come by in one way."""
    memory = 1.0 if way == "memory" else 0.0
    chosen = "recorded" if way == "memory" else way
    keeping = Keeping(teacher.sha256, chosen, memory, 1.0, folder)  # type: ignore[arg-type]
    signals = TeacherSignals(teacher.graph, teacher.inputs, POINTS, CPU, data.train, segment, keeping)
    signals.begin(100, 4, features=True)
    return signals


def assert_equal(found: Batch, wanted: Batch, tolerance: float = 0.0) -> None:
    assert found.features.keys() == wanted.features.keys()
    pairs = [*zip(found.inputs, wanted.inputs, strict=True)]
    assert all(torch.equal(one, other) for one, other in pairs)
    for one, other in [
        (found.output, wanted.output),
        *((found.features[n], wanted.features[n]) for n in found.features),
    ]:
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@given(seed=st.integers(0, 10_000), segment=st.integers(1, 30), count=st.integers(1, 5), way=st.sampled_from(WAYS))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_segments_are_the_teacher_s_own(
    seed: int, segment: int, count: int, way: str, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    batch = by(way, tiny_teacher, tiny_dataset, segment, tmp_path).batch((seed,), count)
    assert batch.inputs[0].shape == (count, 8, segment)
    assert batch.output.shape == (count, 1, segment * HOP)
    runner = PointRunner(tiny_teacher.graph, POINTS)
    for position in range(count):
        sample, start = found_in(tiny_dataset, batch.inputs[0][position].numpy())
        with torch.no_grad():
            output = runner.forward((torch.from_numpy(sample.inputs["mel"]),))
        wanted = output[0, :, start * HOP : (start + segment) * HOP]
        torch.testing.assert_close(batch.output[position], wanted, atol=TOLERANCE, rtol=0)
        for point, rate in RATES.items():
            part = runner.found[point][0, :, start * rate : (start + segment) * rate]
            # Kept in half precision, or computed with a context after which less than that is left.
            atol = TOLERANCE * float(runner.found[point].abs().max())
            torch.testing.assert_close(batch.features[point][position, :, 0], part, atol=atol, rtol=2e-3)


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


@given(
    seed=st.tuples(st.integers(0, 99), st.integers(0, 1), st.integers(0, 10_000)),
    count=st.integers(1, 20),
    sizes=st.lists(st.integers(3, 60), min_size=1, max_size=9),
)
def test_the_seed_decides_which_segments(seed: tuple[int, int, int], count: int, sizes: list[int]) -> None:
    samples = [Sample(str(size), {"mel": np.zeros((1, 8, size), np.float32)}) for size in sizes]
    inputs = TrainingInputs(samples, (TensorSpec("mel", (1, 8, "t")),), 3)
    generator = np.random.default_rng(list(seed))
    # What decided before there were large corpora: a training that was begun then goes on.
    chosen = generator.choice(len(sizes), count, p=np.array(sizes, float) / np.sum(np.array(sizes, float)))
    starts = [int(generator.integers(0, sizes[index] - 3 + 1)) for index in chosen]
    assert inputs.cuts(seed, count) == [(int(index), start) for index, start in zip(chosen, starts, strict=True)]


@pytest.mark.parametrize("way", WAYS)
def test_batches_depend_on_their_seed_alone(
    way: str, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    wanted = [by(way, tiny_teacher, tiny_dataset, 10, tmp_path / "a").batch((0, 1, step), 4) for step in range(3)]
    assert not torch.equal(wanted[0].output, wanted[1].output)
    signals = by(way, tiny_teacher, tiny_dataset, 10, tmp_path / "b")
    for step in (2, 0, 1, 1, 0):
        assert_equal(signals.batch((0, 1, step), 4), wanted[step], 0.0 if way == "on-the-fly" else 2e-3)


@given(count=st.integers(1, 7), of=st.integers(1, 4), way=st.sampled_from(WAYS))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_make_up_the_batch(
    count: int, of: int, way: str, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    of = min(of, count)
    signals = by(way, tiny_teacher, tiny_dataset, 8, tmp_path)
    whole = signals.batch((3, count), count)
    for index in range(of):
        part = signals.batch((3, count), count, (index, of))
        torch.testing.assert_close(part.inputs[0], whole.inputs[0][index::of], rtol=0, atol=0)
        torch.testing.assert_close(part.output, whole.output[index::of], rtol=1e-4, atol=1e-5)
        for point in POINTS:
            torch.testing.assert_close(part.features[point], whole.features[point][index::of], rtol=2e-3, atol=2e-3)


@dataclass
class Store:
    """Samples that are made when they are asked for; `off` steps shorter than was said."""

    samples: tuple[Sample, ...]
    off: int = 0

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array([sample.inputs["mel"].shape[-1] + self.off for sample in self.samples])

    def maker(self, index: int) -> Callable[[], Sample]:
        return partial(_same, self.samples[index])

    def key(self, index: int) -> str:
        return self.samples[index].name


def _same(sample: Sample) -> Sample:
    return sample


@pytest.mark.parametrize(("workers", "way"), [(0, "memory"), (0, "recorded"), (0, "on-the-fly"), (1, "recorded")])
def test_samples_made_ahead_change_nothing(
    workers: int, way: str, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    lazy = replace(tiny_dataset, train=LazySamples(Store(tuple(tiny_dataset.train)), SilentReporter(), workers))
    held = by(way, tiny_teacher, tiny_dataset, 10, tmp_path / "held")
    signals = by(way, tiny_teacher, lazy, 10, tmp_path / "lazy")
    for step in (0, 1, 2, 7, 8, 0):
        assert_equal(signals.batch((0, 0, step), 3), held.batch((0, 0, step), 3))


@pytest.mark.parametrize("way", WAYS)
def test_samples_may_come_out_shorter_than_was_foreseen(
    way: str, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    long = Sample("long", {"mel": mel(40, 0)})
    data = replace(tiny_dataset, train=LazySamples(Store((long,), 4), SilentReporter()))
    signals = by(way, tiny_teacher, data, 10, tmp_path)
    batch = signals.batch((0,), 60)
    starts = {found_in(replace(data, train=(long,)), piece.numpy())[1] for piece in batch.inputs[0]}
    assert max(starts) == 30


@pytest.mark.parametrize("way", WAYS)
def test_without_features_there_are_none(
    way: str, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    signals = by(way, tiny_teacher, tiny_dataset, 10, tmp_path)
    signals.begin(10, 4, features=False)
    plain = signals.batch((1,), 4)
    assert plain.features == {}
    names = {path.name.split("-")[0] for path in tmp_path.glob("*.safetensors")}
    # Of samples that the measuring looked at, and of those of this phase, outputs alone.
    assert names == ({"output"} if way == "recorded" else set())
    signals.begin(10, 4, features=True)
    full = signals.batch((1,), 4)
    assert full.features.keys() == set(POINTS)
    torch.testing.assert_close(plain.output, full.output, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_features_are_channels_last(way: str, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path) -> None:
    batch = by(way, tiny_teacher, tiny_dataset, 10, tmp_path).batch((0,), 3)
    assert {point: tuple(value.shape) for point, value in batch.features.items()} == {
        "div": (3, 12, 1, 40),
        "div_1": (3, 8, 1, 80),
    }
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in batch.features.values())
    assert all(value.dtype == torch.float32 for value in batch.features.values())


def test_long_samples_are_taken_more_often(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    long = np.tile(tiny_dataset.train[0].inputs["mel"], 3)
    data = replace(tiny_dataset, train=(Sample("long", {"mel": long}), Sample("short", {"mel": 2 * long[..., :30]})))
    batch = in_memory(tiny_teacher, data, 5).batch((0,), 600)
    loud = sum(float(piece.abs().max()) > float(np.abs(long).max()) for piece in batch.inputs[0])
    assert loud / 600 == pytest.approx(30 / 120, abs=0.06)


def test_samples_that_are_too_short_are_left_out(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    assert len(in_memory(tiny_teacher, tiny_dataset, 31).inputs) == 4
    with pytest.raises(DataError, match="all 6 training samples are shorter than one segment of 45"):
        in_memory(tiny_teacher, tiny_dataset, 45)


@pytest.mark.parametrize("way", WAYS)
def test_inputs_of_fixed_size_are_not_cut(
    way: str, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    fixed = replace(tiny_teacher, inputs=(TensorSpec("mel", (1, 8, 30)),))
    samples = tuple(Sample(each.name, {"mel": each.inputs["mel"][..., :30]}) for each in tiny_dataset.train)
    signals = by(way, fixed, replace(tiny_dataset, train=samples), 99, tmp_path)
    assert not signals.segmented
    batch = signals.batch((0,), 2)
    assert batch.inputs[0].shape == (2, 8, 30)
    assert batch.output.shape == (2, 1, 240)
    assert batch.features["div"].shape == (2, 12, 1, 120)


@pytest.mark.parametrize(
    ("shape", "segmented"),
    [((1, 8, "t"), True), (("n", 8, "t"), True), ((1, "a", "t"), False), ((1, "a", 8), True), ((1, 8, 8), False)],
)
def test_what_can_be_cut(shape: tuple[int | str, ...], segmented: bool, tiny_teacher: Teacher) -> None:
    samples = [Sample("one", {"mel": np.zeros((1, 8, 8), np.float32)})]
    specs = (TensorSpec("mel", shape),)
    assert TeacherSignals(tiny_teacher.graph, specs, (), CPU, samples, 8, Keeping("")).segmented is segmented


def test_the_teacher_runs_only_over_what_is_asked_for(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    signals = in_memory(tiny_teacher, tiny_dataset, 5)
    assert (len(signals.inputs), signals.megabytes) == (6, 0.0)
    signals.batch((0,), 1)
    assert len(signals.memory.recorded) == 1


def test_how_much_memory_signals_take(tiny_teacher: Teacher, tiny_dataset: Dataset) -> None:
    frames = sum(sample.inputs["mel"].shape[-1] for sample in tiny_dataset.train)
    signals = in_memory(tiny_teacher, tiny_dataset, 5)
    signals.batch((0,), 200)
    assert signals.megabytes == pytest.approx(frames * (2 * (4 * 12 + 8 * 8) + 4 * HOP) / 1e6)


def begun(
    teacher: Teacher, data: Dataset, keeping: Keeping, batches: int = 100
) -> tuple[TeacherSignals, RecordingReporter]:
    reporter = RecordingReporter(SilentReporter())
    signals = TeacherSignals(teacher.graph, teacher.inputs, POINTS, CPU, data.train, 10, keeping, reporter)
    signals.begin(batches, 4, features=True)
    return signals, reporter


def test_memory_is_taken_where_it_holds_everything(
    tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    frames = sum(sample.inputs["mel"].shape[-1] for sample in tiny_dataset.train)
    needed = frames * (2 * (4 * 12 + 8 * 8) + 4 * HOP) / 1e9
    enough, reporter = begun(tiny_teacher, tiny_dataset, Keeping("", "auto", 1.01 * needed, 1.0, tmp_path))
    assert enough.way is enough.memory
    assert reporter.lines == []
    too_little, reporter = begun(tiny_teacher, tiny_dataset, Keeping("", "auto", 0.99 * needed, 1.0, tmp_path))
    assert too_little.way is not too_little.memory
    assert len(reporter.lines) == 1
    assert "in all" in reporter.lines[0]


@pytest.mark.parametrize("settled", ["in-memory", "recorded", "on-the-fly"])
@pytest.mark.parametrize("memory_gb", [0.0, 1.0])
def test_what_was_settled_is_kept_to(
    settled: Settled, memory_gb: float, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    signals, _ = begun(tiny_teacher, tiny_dataset, Keeping("", "auto", memory_gb, 1.0, tmp_path))
    assert signals.begin(100, 4, features=True, settled=settled) == settled
    ways = {"in-memory": signals.memory, "recorded": signals.disk}
    assert signals.way is ways.get(settled, signals.way)
    assert isinstance(signals.way, OnTheFly) == (settled == "on-the-fly")


def test_what_segments_do_not_tell_is_recorded(tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path) -> None:
    class Total(torch.nn.Module):
        """What it makes depends on all that was before, as a sine's phase does."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :1].cumsum(-1)

    graph = torch.fx.symbolic_trace(Total())
    nodes = list(graph.graph.nodes)
    nodes[0].meta["tensor_spec"] = tiny_teacher.inputs[0]
    nodes[-1].meta["tensor_specs"] = (TensorSpec("y", (1, 1, "t")),)
    data = replace(tiny_dataset, train=tuple(Sample(str(seed), {"mel": mel(400, seed)}) for seed in range(2)))
    reporter = RecordingReporter(SilentReporter())
    for way, kind in (("auto", RecordedOnDisk), ("on-the-fly", OnTheFly)):
        keeping = Keeping("", way, 0.0, 1.0, tmp_path)  # type: ignore[arg-type]
        signals = TeacherSignals(graph, tiny_teacher.inputs, (), CPU, data.train, 10, keeping, reporter)
        signals.begin(1, 1, features=True)
        assert isinstance(signals.way, kind)
    assert "on segments it does not compute what it computes on whole samples" in reporter.lines[0]
    assert "differs from what it makes of whole samples by up to" in reporter.lines[1]


@pytest.mark.parametrize("way", ["recorded", "on-the-fly"])
def test_trainings_come_to_the_same(
    way: str, student: GraphModule, tiny_context: StageContext, uninterrupted: StageOutcome, tmp_path: Path
) -> None:
    options = distillation(teacher_signals=way, memory_gb=0.0, cache_dir=tmp_path / "cache")
    outcome = options.apply(copy_graph(student), tiny_context)
    for found, wanted in zip(outcome.curve, uninterrupted.curve, strict=True):
        assert found.validation["output-l1"] == pytest.approx(wanted.validation["output-l1"], rel=0.02)
    # Nothing is recorded where nothing is to be.
    assert bool(list(tmp_path.glob("cache/*.safetensors"))) is (way == "recorded")
    # Where recordings lie is no part of what is trained.
    assert options.model_dump().keys() & {"cache_dir", "cache_gb"} == set()


@pytest.mark.parametrize("way", WAYS)
def test_features_of_images_keep_their_axes(way: str, tmp_path: Path) -> None:
    """Rows once counted as channels: a student with fewer channels could not be compared with its teacher."""
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    graph, points = traced(chain(*layers), (1, 3, 6, 5)), ("_0", "_2")
    specs = (TensorSpec("x", (1, 3, 6, 5)),)
    random = np.random.default_rng(0)
    samples = [Sample(str(at), {"x": random.standard_normal((1, 3, 6, 5)).astype(np.float32)}) for at in range(4)]
    keeping = Keeping("hash", "recorded" if way == "memory" else way, float(way == "memory"), 1.0, tmp_path)  # type: ignore[arg-type]
    signals = TeacherSignals(graph, specs, points, CPU, samples, 24, keeping)
    signals.begin(4, 2, features=True)
    batch = signals.batch((0, 0), 2)
    runner = PointRunner(graph, points)
    runner.forward(batch.inputs)
    for name, wanted in runner.found.items():
        found = batch.features[name]
        assert found.shape == (wanted.shape if wanted.dim() > 2 else (*wanted.shape, 1, 1))
        torch.testing.assert_close(found.reshape(wanted.shape), wanted, atol=1e-3, rtol=2e-3)
    assert batch.features["_0"].shape == (2, 8, 6, 5)
