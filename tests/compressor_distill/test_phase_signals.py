"""How long the segments of each phase are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compressor_distill.distillation import Distillation
from compressor_distill.folded_convolution import training_form
from compressor_distill.lesson import Lesson
from compressor_distill.phase_plan import planned_phases
from compressor_distill.phase_signals import PhaseSignals
from torch import nn

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.processes import Company
from compressor.progress import RecordingReporter, SilentReporter
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import HOP
from tests.compressor_distill.short_training import distillation

CPU = torch.device("cpu")
STEPS = tuple(2**power for power in range(10))


def phase_signals(
    options: Distillation, teacher: Teacher, data: Dataset, workdir: Path, multiple: int, company: Company
) -> tuple[PhaseSignals, RecordingReporter]:
    reporter = RecordingReporter(SilentReporter())
    lesson = Lesson.of(options, teacher.graph, stage_context(teacher, data, workdir, reporter=reporter), data)
    return PhaseSignals(lesson, teacher.graph, (), company, multiple), reporter


@pytest.mark.parametrize(
    ("multiple", "asked", "found"),
    [(1, 17, 17), (15, 30, 30), (15, 29, 15), (15, 15, 15), (15, 14, 14), (512, 30, 30), (512, 1, 1)],
)
def test_segments_are_multiples_and_never_longer_than_asked_for(
    multiple: int, asked: int, found: int, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    options = distillation(segment=asked)
    signals, _ = phase_signals(options, tiny_teacher, tiny_dataset, tmp_path, multiple, Company(CPU))
    assert signals.of(None).segment == found
    assert signals.of(asked).segment == found


@pytest.mark.parametrize("leads", [True, False])
def test_what_differs_from_what_was_asked_for_is_said_of_each_phase(
    leads: bool, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    options = distillation(segment=24, end_to_end={"steps": 6, "segment": 20})
    company = Company(CPU, 0 if leads else 1)
    signals, reporter = phase_signals(options, tiny_teacher, tiny_dataset, tmp_path, 8, company)
    first, second, *_ = planned_phases(options)
    assert [signals.begin(phase, 1, "in-memory").segment for phase in (first, second)] == [24, 16]
    told = [line.split(" ", 2)[2] for line in reporter.lines]
    assert told == (
        ["end-to-end: segments of 16 instead of 20: a multiple of 8, in which dilated convolutions train fastest"]
        if leads
        else []
    )


def test_a_student_of_many_dilations_trains_on_what_was_asked_for(tiny_context: StageContext) -> None:
    """As WaveNet's, whose dilations have 512 as their least common multiple: no sample here is as long as that."""
    dilated = [nn.Conv2d(8, 8, (1, 3), padding=(0, step), dilation=(1, step), groups=8) for step in STEPS]
    layers = (nn.Unflatten(1, (8, 1)), *dilated, nn.Flatten(1, 2), nn.ConvTranspose1d(8, 1, HOP, HOP))
    student = traced(chain(*layers), (1, 8, "frames"))
    with training_form(copy_graph(student), CPU) as multiple:
        assert multiple == 512
    options = distillation(segment=12, block_wise={"steps": 0}, end_to_end={"steps": 2})
    outcome = options.apply(copy_graph(student), tiny_context)
    assert "6 samples, segments of 12" in outcome.findings[0].message
    before, after = (graph.state_dict() for graph in (student, outcome.student))
    assert not all(torch.equal(before[name], after[name]) for name in before)
