"""Students of the tiny vocoder, and what `readable-hifigan` makes of them."""

from __future__ import annotations

from collections.abc import Sequence

from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_hifigan import StudentConfig
from compressor_hifigan.readable_student import CONFIG, ReadableHiFiGAN
from torch.fx import GraphModule

from compressor.graph_editing import copy_graph, input_specs, output_specs, parameter_count
from compressor.strategy import StageContext, Strategy
from compressor.teacher_loading import Teacher
from compressor.verification import check_stage

EXACT = (TransposedToStandardConv(), Conv1dToConv2d())


def through(teacher: Teacher, strategies: Sequence[Strategy], context: StageContext) -> GraphModule:
    student = copy_graph(teacher.graph)
    for strategy in strategies:
        student = strategy.apply(student, context).student
    return student


def read(student: GraphModule, context: StageContext) -> tuple[StudentConfig, GraphModule]:
    """Return the configuration that the stage found and its graph, which is proven equal."""
    outcome = ReadableHiFiGAN().apply(copy_graph(student), context)
    assert CONFIG in outcome.findings[0].values, outcome.findings[0].message
    check_stage("readable-hifigan", student, outcome.student, input_specs(student))
    assert input_specs(outcome.student) == input_specs(student)
    assert output_specs(outcome.student) == output_specs(student)
    assert parameter_count(outcome.student) == parameter_count(student)
    return StudentConfig.model_validate(outcome.findings[0].values[CONFIG]), outcome.student
