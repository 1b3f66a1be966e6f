"""Samples that turn out too short for a segment, and those that cannot be used: another takes their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from compressor_distill.teacher_signals import Keeping, TeacherSignals
from numpy.typing import NDArray
from torch.fx import GraphModule

from compressor.dataset import Dataset, Sample
from compressor.errors import DataError
from compressor.graph_editing import copy_graph
from compressor.lazy_samples import LazySamples
from compressor.progress import RecordingReporter, SilentReporter
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.tiny_vocoder import mel
from tests.compressor_distill.short_training import Interrupting, assert_equal_weights, distillation, weights_of

POINTS = ("div", "div_1")
WAYS = ("in-memory", "recorded", "on-the-fly")
FORESEEN = (52, 64, 60, 55)
MADE = (40, 64, 52, 44)
"""Of 50 steps and more, which a segment takes, the second and the third are."""


@dataclass
class Store:
    """Samples of which some come out shorter than was foreseen, or cannot be made."""

    made: Sequence[int] = MADE
    foreseen: Sequence[int] = FORESEEN
    unusable: set[int] = field(default_factory=set)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array(self.foreseen)

    def maker(self, index: int) -> Callable[[], Sample]:
        return partial(made, index, self.made[index], usable=index not in self.unusable)

    def key(self, index: int) -> str:
        return f"{index} {self.made[index]}"


def made(index: int, length: int, *, usable: bool) -> Sample:
    if not usable:
        raise DataError(f"{index} is silent")
    return Sample(f"sample {index}", {"mel": mel(length, index)})


def signals(
    teacher: Teacher, samples: LazySamples, segment: int, way: str, folder: Path = Path("nowhere")
) -> TeacherSignals:
    memory = 1.0 if way == "in-memory" else 0.0
    chosen = "recorded" if way == "in-memory" else way
    keeping = Keeping(teacher.sha256, chosen, memory, 1.0, folder)  # type: ignore[arg-type]
    found = TeacherSignals(teacher.graph, teacher.inputs, POINTS, torch.device("cpu"), samples, segment, keeping)
    found.begin(10, 4, features=True)
    return found


def sources(pieces: torch.Tensor, lengths: Sequence[int] = MADE) -> list[int]:
    """Return from which sample each piece of a batch was cut."""
    whole = [torch.from_numpy(mel(length, index)) for index, length in enumerate(lengths)]
    places = [[at for at, value in enumerate(whole) if holds(value[0], piece)] for piece in pieces]
    assert all(len(found) == 1 for found in places)
    return [found[0] for found in places]


def holds(whole: torch.Tensor, piece: torch.Tensor) -> bool:
    if whole.shape[1] < piece.shape[1]:
        return False
    windows = whole.unfold(1, piece.shape[1], 1).transpose(0, 1)
    return bool((windows == piece).flatten(1).all(1).any())


@pytest.mark.parametrize("way", WAYS)
def test_the_next_longer_sample_takes_the_place_of_one_too_short(
    way: str, tiny_teacher: Teacher, tmp_path: Path
) -> None:
    reporter = RecordingReporter(SilentReporter())
    samples = LazySamples(Store(), reporter)
    # Segments that all samples are long enough for; what is recorded of them does not serve for longer ones.
    all_used = sources(signals(tiny_teacher, samples, 10, way, tmp_path).batch((0, 0), 40).inputs[0])
    assert set(all_used) == {0, 1, 2, 3}
    assert reporter.lines == []
    first, second = (signals(tiny_teacher, samples, 50, way, tmp_path) for _ in range(2))
    cuts = [cut.sample for cut in first.inputs.cuts((0, 7), 40)]
    assert set(cuts) == {0, 1, 2, 3}
    batch = first.batch((0, 7), 40)
    # Foreseen at 52, 55, 60 and 64 steps: the third is the next longer one of the first and of the last.
    assert sources(batch.inputs[0]) == [{0: 2, 3: 2}.get(sample, sample) for sample in cuts]
    for step in (8, 6, 7):
        again = second.batch((0, step), 40)
    assert torch.equal(again.inputs[0], batch.inputs[0])
    tolerance = 2e-3 if way == "on-the-fly" else 0.0
    torch.testing.assert_close(again.output, batch.output, atol=tolerance, rtol=0)
    assert sorted(line.split(" ", 2)[2] for line in reporter.lines) == [
        "not trained on, another takes its place: sample 0: its 40 steps are fewer than one segment of 50 has",
        "not trained on, another takes its place: sample 3: its 44 steps are fewer than one segment of 50 has",
    ]


def test_where_none_is_long_enough_that_is_said(tiny_teacher: Teacher) -> None:
    samples = LazySamples(Store([40, 40], [64, 60]), SilentReporter())
    with pytest.raises(DataError, match="none of the 2 samples can be used; the last: sample 0: its 40 steps"):
        signals(tiny_teacher, samples, 50, "in-memory")


@pytest.mark.parametrize(("way", "stop"), [("in-memory", 2), ("recorded", 7), ("on-the-fly", 4)])
def test_a_training_with_short_samples_can_be_resumed(
    way: str, stop: int, student: GraphModule, tiny_context: StageContext, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    folders = {"teacher_signals": "recorded" if way == "in-memory" else way, "memory_gb": float(way == "in-memory")}

    def context(name: str, reporter: SilentReporter) -> StageContext:
        data = replace(tiny_dataset, train=LazySamples(Store(), SilentReporter()))
        return replace(tiny_context, data=data, workdir=tmp_path / name, reporter=reporter)

    def options(name: str) -> dict[str, object]:
        return {"segment": 50, "batch_size": 4, "cache_dir": tmp_path / f"cache {name}", **folders}

    whole = distillation(**options("a")).apply(copy_graph(student), context("a", SilentReporter()))
    with pytest.raises(KeyboardInterrupt):
        distillation(**options("b")).apply(copy_graph(student), context("b", Interrupting(stop)))
    reporter = Interrupting(999)
    resumed = distillation(**options("b")).apply(copy_graph(student), context("b", reporter))
    assert any(message.startswith("resuming") for message in reporter.said)
    assert_equal_weights(weights_of(resumed), weights_of(whole))


def test_what_was_recorded_of_a_stand_in_is_not_taken_for_another(tiny_teacher: Teacher, tmp_path: Path) -> None:
    """Once the second sample's signals were found under the first one's name when the first could be used again."""
    lengths = (52, 64)
    for unusable, used in (({0}, {1}), (set(), {0, 1})):
        samples = LazySamples(Store(lengths, lengths, unusable), SilentReporter())
        pieces = signals(tiny_teacher, samples, 10, "recorded", tmp_path).batch((0, 0), 16).inputs[0]
        assert set(sources(pieces, lengths)) == used


def test_what_was_recorded_of_samples_changed_otherwise_is_not_taken(tiny_teacher: Teacher, tmp_path: Path) -> None:
    """As by the part of a model before a region, when that was trained further."""
    samples = LazySamples(Store(), SilentReporter())

    def batch(factor: float) -> torch.Tensor:
        def change(sample: Sample) -> Sample:
            return replace(sample, inputs={"mel": sample.inputs["mel"] * np.float32(factor)})

        times = samples.changed(change, samples.lengths, f"times {factor}")
        return signals(tiny_teacher, times, 10, "recorded", tmp_path).batch((0, 0), 6).inputs[0]

    once = batch(1.0)
    assert torch.equal(batch(3.0), 3 * once)
    assert torch.equal(batch(1.0), once)
