from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_hifigan import ResBlockConfig, StageConfig, StudentConfig
from compressor_hifigan.mrf_simplification import DROPPED, MrfSimplification
from compressor_prune.channel_importance import ChannelImportancePruning
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.fx import GraphModule

from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph
from compressor.onnx_export import export_onnx
from compressor.strategy import StageContext, Strategy
from compressor.teacher_loading import Teacher
from compressor.testing.tiny_runs import stage_context
from compressor.verification import check_export
from tests.compressor_hifigan.read_students import read


@dataclass(frozen=True)
class Choices:
    """What a joint budget may choose of the tiny vocoder, and how the recipe lets it be done."""

    dropped: frozenset[str] = frozenset()
    """Units, by their last convolution."""
    widths: Mapping[str, int] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    ends: bool = False
    """Transposed convolutions and the first one may be factorised too."""
    flat_first: bool = False
    """Convolutions become two-dimensional before they are factorised."""

    @property
    def stages(self) -> list[tuple[Strategy, Mapping[str, int | str]]]:
        """The stages of the recipe, each with what was chosen for it."""
        separable = DepthwiseSeparableConv(transposed=self.ends, keep_ends=not self.ends, calibration_samples=1)
        transposed, flat = TransposedToStandardConv(), Conv1dToConv2d()
        return [
            (MrfSimplification(calibration_samples=1), dict.fromkeys(self.dropped, DROPPED)),
            (ChannelImportancePruning(round_to=1, calibration_samples=1), self.widths),
            *([(flat, {})] if self.flat_first else []),
            (separable, self.ranks),
            (transposed, {}),
            *([] if self.flat_first else [(flat, {})]),
        ]


def unit_convs(block: int, unit: int, kind: int) -> list[str]:
    """Return a unit's convolutions in a vocoder of `ResBlock1` or `ResBlock2`."""
    stems = ("convs1", "convs2") if kind == 1 else ("convs",)
    return [f"resblocks/{block}/{stem}/{unit}/Conv" for stem in stems]


def choices_of(kind: int) -> st.SearchStrategy[Choices]:
    layers = [conv for block in range(4) for unit in (0, 1) for conv in unit_convs(block, unit, kind)]
    layers += ["conv_pre/Conv", "ups/0/ConvTranspose", "ups/1/ConvTranspose"]
    units = [unit_convs(block, unit, kind)[-1] for block in range(4) for unit in (0, 1)]
    return st.builds(
        Choices,
        dropped=st.frozensets(st.sampled_from(units)),
        widths=st.dictionaries(st.sampled_from(layers), st.integers(1, 16)),
        ranks=st.fixed_dictionaries({layer: st.integers(0, 3) for layer in layers}),
        ends=st.booleans(),
        flat_first=st.booleans(),
    )


def made(teacher: Teacher, choices: Choices, data: Dataset) -> tuple[GraphModule, dict[str, int]]:
    """Return the student that a recipe makes with some choices, and the ranks of its factorised layers."""
    student = copy_graph(teacher.graph)
    ranks: dict[str, int] = {}
    for strategy, chosen in choices.stages:
        outcome = strategy.apply(student, stage_context(teacher, data, Path("unused"), choices=chosen))
        student = outcome.student
        ranks |= {found.layer: found.values["rank"] for found in outcome.findings if "rank" in found.values}
    return student, ranks


def spelled_out(stage: StageConfig) -> list[list[list[int]]]:
    """Return the rank of each convolution of a stage's units, by branch."""
    return [
        [list(unit) for unit in block.ranks or [(stage.rank,) * block.convs_per_unit] * len(block.dilations)]
        for block in stage.resblocks
    ]


@pytest.mark.parametrize("kind", [1, 2])
@given(data=st.data())
@settings(max_examples=20)
def test_every_student_of_a_joint_budget_is_said(
    kind: int, data: st.DataObject, tiny_teacher: Teacher, tiny_teacher_2: Teacher, tiny_dataset: Dataset
) -> None:
    choices = data.draw(choices_of(kind))
    teacher = tiny_teacher if kind == 1 else tiny_teacher_2
    student, ranks = made(teacher, choices, tiny_dataset)
    config, _ = read(student, stage_context(teacher, tiny_dataset, Path("unused")))
    for number, stage in enumerate(config.stages):
        assert stage.upsample_rank == ranks.get(f"ups/{number}/ConvTranspose", 0)
        kept = [
            [convs for unit in (0, 1) if (convs := unit_convs(block, unit, kind))[-1] not in choices.dropped]
            for block in (2 * number, 2 * number + 1)
        ]
        assert spelled_out(stage) == [[[ranks.get(conv, 0) for conv in unit] for unit in branch] for branch in kept]
    assert config.conv_pre_rank == ranks.get("conv_pre/Conv", 0)


MIXED = Choices(
    dropped=frozenset({"resblocks/0/convs2/0/Conv", "resblocks/2/convs2/0/Conv", "resblocks/2/convs2/1/Conv"}),
    widths={"resblocks/1/convs1/0/Conv": 6, "resblocks/3/convs1/1/Conv": 4},
    ranks={
        "conv_pre/Conv": 2,
        "ups/0/ConvTranspose": 2,
        "resblocks/1/convs1/0/Conv": 1,
        "resblocks/1/convs2/0/Conv": 2,
        "resblocks/1/convs2/1/Conv": 1,
        "resblocks/3/convs1/0/Conv": 1,
        "resblocks/3/convs2/0/Conv": 1,
        "resblocks/3/convs2/1/Conv": 1,
        "resblocks/3/convs1/1/Conv": 1,
    },
    ends=True,
)


def test_a_mixed_student_in_few_words(tiny_teacher: Teacher, tiny_dataset: Dataset, tiny_context: StageContext) -> None:
    student, _ = made(tiny_teacher, MIXED, tiny_dataset)
    config, readable = read(student, tiny_context)
    first = (
        ResBlockConfig(kernel_size=3, dilations=(3,)),
        ResBlockConfig(kernel_size=7, dilations=(1, 3), hidden_channels=(6, 12), ranks=((1, 2), (0, 1))),
    )
    second = (
        ResBlockConfig(kernel_size=3, dilations=()),
        ResBlockConfig(kernel_size=7, dilations=(1, 3), hidden_channels=(8, 4)),
    )
    assert config.conv_pre_rank == 2
    assert [(stage.channels, stage.upsample_rank, stage.rank) for stage in config.stages] == [(12, 2, 0), (8, 0, 1)]
    assert [stage.resblocks for stage in config.stages] == [first, second]
    assert StudentConfig.model_validate_json(config.model_dump_json()) == config
    assert check_export(export_onnx(readable), readable)
