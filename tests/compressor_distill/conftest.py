from __future__ import annotations

import pytest
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from torch.fx import GraphModule

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.strategy import StageOutcome
from compressor.teacher_loading import Teacher
from compressor.testing.tiny_runs import stage_context
from tests.compressor_distill.short_training import distillation


@pytest.fixture(scope="module")
def student(tiny_teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> GraphModule:
    """Return the teacher with separable convolutions, in the form that is trained."""
    context = stage_context(tiny_teacher, None, tmp_path_factory.mktemp("structural"))
    graph = copy_graph(tiny_teacher.graph)
    for strategy in (DepthwiseSeparableConv(rank=1), TransposedToStandardConv(), Conv1dToConv2d()):
        graph = strategy.apply(graph, context).student
    return graph


@pytest.fixture(scope="module")
def uninterrupted(
    student: GraphModule, tiny_teacher: Teacher, tiny_dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> StageOutcome:
    context = stage_context(tiny_teacher, tiny_dataset, tmp_path_factory.mktemp("uninterrupted"))
    return distillation().apply(copy_graph(student), context)
