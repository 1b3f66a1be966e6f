"""`check_metric`: what the core relies on in every metric."""

from __future__ import annotations

import math

import torch

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.measuring import MeasuredModel, applies, measure, measure_finished
from compressor.metric import Metric
from compressor.report import Measurement
from compressor.teacher_loading import Teacher
from compressor.testing.failures import check, check_options
from compressor.testing.tiny_runs import tiny_teacher
from compressor.testing.tiny_vocoder import dataset


def check_metric(metric: Metric, teacher: Teacher | None = None, data: Dataset | None = None) -> Measurement:
    """Measure a teacher, and what is left of it with noise on its weights; returns the latter's measurement.

    A metric must give numbers, the same ones again unless it is `clocked`; what compares outputs must find the teacher
    at least as near to itself as the damaged student, by its own `better`.

    Args:
        metric: with the options to try.
        teacher: a tiny HiFi-GAN if left out; its output counts as a signal of 800 samples a second.
        data: mels for the tiny HiFi-GAN if left out.

    Raises:
        CheckFailedError: says what does not hold, and what to do.
    """
    name = check_options(metric, Metric)
    teacher = teacher or tiny_teacher()
    data = data or dataset(teacher.content)
    check(applies(metric, data), f"{name}: it does not apply to this data; give check_metric some of known sample rate")
    baseline = MeasuredModel(teacher.graph, teacher, data)
    damaged = _damaged(teacher)
    of_teacher = _measured(metric, baseline)
    found, again = (_measured(metric, MeasuredModel(damaged, teacher, data, baseline)) for _ in range(2))
    for whose, entry in (("the teacher", of_teacher), ("a damaged student", found)):
        check(
            entry.value is None or math.isfinite(entry.value),
            f"{name}: of {whose} it is {entry.value}; raise MetricUnavailable where there is no number",
        )
        check(entry.value is not None or bool(entry.note), f"{name}: of {whose} there is no number and no reason")
    if found.value is None or of_teacher.value is None:
        return found
    check(
        metric.clocked or found.value == again.value,
        f"{name}: measured twice it is {found.value} and {again.value}; set clocked = True if it is time, else seed it",
    )
    if metric.needs_data:
        worse = found.value - of_teacher.value if metric.better == "lower" else of_teacher.value - found.value
        check(
            worse >= 0,
            f"{name}: {metric.better} is better, but the teacher by itself has {of_teacher.value:.6g} and a damaged "
            f"student {found.value:.6g}; is `better` right?",
        )
    return found


def _measured(metric: Metric, subject: MeasuredModel) -> Measurement:
    return (measure_finished if metric.finished_only else measure)(subject, [metric])[0]


def _damaged(teacher: Teacher) -> torch.fx.GraphModule:
    graph = copy_graph(teacher.graph)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in graph.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.add_(0.3 * parameter.abs().mean() * noise)
    return graph
