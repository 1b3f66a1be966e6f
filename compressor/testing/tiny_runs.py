"""What a recipe needs to run on the tiny vocoder, and what a stage sees there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from torch import Tensor

from compressor.data_source import DataContext, DataSource
from compressor.dataset import Dataset, Sample
from compressor.hookspecs import hookimpl
from compressor.loss import Loss
from compressor.progress import SilentReporter
from compressor.strategy import StageContext, Strategy
from compressor.teacher_loading import Teacher, load_teacher
from compressor.testing.tiny_vocoder import RATE, dataset, tiny_vocoder, vocoder_onnx


@cache
def tiny_teacher() -> Teacher:
    """Return a tiny HiFi-GAN loaded from ONNX, the same one each time: work on copies of its graph."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny_vocoder.onnx"
        path.write_bytes(vocoder_onnx(tiny_vocoder()))
        return load_teacher(path)


def stage_context(teacher: Teacher, data: Dataset | None, workdir: Path, **changes: object) -> StageContext:
    """Return what a stage called `stage` sees in a run with seed 0."""
    facts: dict[str, object] = {
        "stage": "stage",
        "teacher": teacher,
        "choices": {},
        "data": data,
        "device": "cpu",
        "seed": 0,
        "workdir": workdir,
        "reporter": SilentReporter(),
        **changes,
    }
    return StageContext(**facts)  # type: ignore[arg-type]


class OutputL1(Loss):
    """Mean absolute difference."""

    name = "output-l1"

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).abs().mean()


class TinyMels(DataSource):
    """The tiny data set, with references from a vocoder in a file."""

    name = "tiny-mels"
    vocoder: Path
    train: int = 6
    validation: int = 2
    reference_offset: int = 0
    """Samples by which references are too long."""

    @property
    def output_rate(self) -> int:
        return RATE

    def load(self, context: DataContext) -> Dataset:
        data = dataset(self.vocoder.read_bytes(), self.train, self.validation)
        if not self.reference_offset:
            return data
        longer = tuple(
            Sample(each.name, each.inputs, np.pad(each.reference, (0, self.reference_offset)))
            for each in data.validation
            if each.reference is not None
        )
        return Dataset(data.train, longer, data.identity, sample_rate=data.sample_rate)


class TinyPlugin:
    """Offers what runs on the tiny vocoder need besides the installed plugins."""

    def __init__(self, *strategies: type[Strategy]) -> None:
        self.strategies = strategies

    @hookimpl
    def compressor_strategies(self) -> Sequence[type[Strategy]]:
        return self.strategies

    @hookimpl
    def compressor_data_sources(self) -> Sequence[type[DataSource]]:
        return [TinyMels]

    @hookimpl
    def compressor_losses(self) -> Sequence[type[Loss]]:
        return [OutputL1]
