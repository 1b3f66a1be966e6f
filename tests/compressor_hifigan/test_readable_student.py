from __future__ import annotations

from pathlib import Path

import pytest
import torch
from compressor_conv.depthwise_separable import DepthwiseSeparableConv
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_hifigan import HiFiGANStudent2D, ResBlockConfig
from compressor_hifigan.architecture import read_architecture
from compressor_hifigan.convolution_reading import NotHiFiGAN
from compressor_hifigan.mrf_simplification import MrfSimplification
from compressor_hifigan.readable_student import ReadableHiFiGAN
from compressor_prune.channel_importance import ChannelImportancePruning
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.dataset import Dataset
from compressor.graph_editing import clean, copy_graph, input_specs, module_nodes, replace_with_chain, replace_with_sum
from compressor.strategy import StageContext, Strategy
from compressor.teacher_loading import Teacher, load_teacher
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import ResBlock1, TinyVocoder, mel, tiny_vocoder, vocoder_onnx
from compressor.verification import check_stage
from tests.compressor_hifigan.read_students import EXACT, read, through

HALVED = ChannelImportancePruning(pruning_ratio=0.5, round_to=2)


def test_the_architecture_of_a_dense_vocoder(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    config = read_architecture(through(tiny_teacher, EXACT, tiny_context)).config
    assert (config.n_mels, config.initial_channels, config.hop_length) == (8, 16, 8)
    assert (config.conv_pre_kernel_size, config.conv_post_kernel_size) == (7, 7)
    assert config.leaky_relu_slope == pytest.approx(0.1)
    assert config.final_leaky_relu_slope == pytest.approx(0.01)
    assert [(stage.channels, stage.upsample_rate, stage.upsample_kernel_size) for stage in config.stages] == [
        (12, 4, 8),
        (8, 2, 4),
    ]
    blocks = (ResBlockConfig(kernel_size=3, dilations=(1, 3)), ResBlockConfig(kernel_size=7, dilations=(1, 3)))
    assert all(stage.resblocks == blocks and stage.rank == 0 for stage in config.stages)
    assert [stage.fusion_divisor for stage in config.stages] == [2.0, 2.0]


@pytest.mark.parametrize(
    "before",
    [
        [],
        [DepthwiseSeparableConv(rank=1)],
        [DepthwiseSeparableConv(rank=2)],
        [DepthwiseSeparableConv(rank=2, min_channels=12), DepthwiseSeparableConv(rank=1)],
        [MrfSimplification(drop_units=3)],
        [MrfSimplification(drop_units=6), DepthwiseSeparableConv()],
        [HALVED],
        [MrfSimplification(drop_units=2), DepthwiseSeparableConv(), HALVED],
    ],
    ids=lambda strategies: "+".join(strategy.name for strategy in strategies) or "dense",
)  # fmt: skip
@pytest.mark.parametrize("input_shape", ["teacher", "image"])
def test_the_module_equals_the_graph(
    before: list[Strategy], input_shape: str, tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    exact = (TransposedToStandardConv(), Conv1dToConv2d.model_validate({"input_shape": input_shape}))
    student = through(tiny_teacher, (*before, *exact), tiny_context)
    config, readable = read(student, tiny_context)
    model = HiFiGANStudent2D(config).eval()
    # The graph's weights have the module's own names.
    model.load_state_dict(readable.state_dict())
    value = torch.from_numpy(mel(20, 4))[:, None]
    with torch.no_grad():
        wanted = student(value if input_shape == "image" else value[:, 0])
        torch.testing.assert_close(model(value).reshape(-1), wanted.reshape(-1), atol=1e-5, rtol=1e-4)


def test_one_convolution_a_unit(tiny_teacher_2: Teacher, tiny_dataset: Dataset, tmp_path: Path) -> None:
    context = stage_context(tiny_teacher_2, tiny_dataset, tmp_path)
    config, _ = read(through(tiny_teacher_2, (DepthwiseSeparableConv(), *EXACT), context), context)
    assert {block.convs_per_unit for stage in config.stages for block in stage.resblocks} == {1}


def test_a_graph_read_once_is_read_again(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    config, readable = read(through(tiny_teacher, EXACT, tiny_context), tiny_context)
    assert ReadableHiFiGAN().apply(copy_graph(readable), tiny_context).findings[0].message.startswith("left as it is")
    assert config.stages


@pytest.mark.parametrize("upsampling", [((5, 11), (2, 4)), ((4, 8), (3, 7)), ((3, 3), (2, 2)), ((4, 12), (2, 8))])
def test_other_up_sampling_is_read_right_or_left(
    upsampling: tuple[tuple[int, int], ...], tmp_path: Path, tiny_dataset: Dataset
) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(vocoder_onnx(tiny_vocoder("1", upsampling)))
    teacher = load_teacher(path)
    context = stage_context(teacher, tiny_dataset, tmp_path)
    student = through(teacher, EXACT, context)
    outcome = ReadableHiFiGAN().apply(copy_graph(student), context)
    check_stage("readable-hifigan", student, outcome.student, input_specs(student))


class Relative(TinyVocoder):
    """A vocoder with one more convolution, or just quieter."""

    def __init__(self, convolved: bool) -> None:
        super().__init__(ResBlock1)
        self.last = nn.Conv1d(1, 1, 3, padding=1) if convolved else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x)) / 1.5  # type: ignore[no-any-return]


@pytest.mark.parametrize("convolved", [False, True])
def test_relatives_of_hifigan_are_left(convolved: bool, tmp_path: Path, tiny_dataset: Dataset) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(vocoder_onnx(Relative(convolved)))
    teacher = load_teacher(path)
    context = stage_context(teacher, tiny_dataset, tmp_path)
    student = through(teacher, EXACT, context)
    outcome = ReadableHiFiGAN().apply(copy_graph(student), context)
    assert outcome.findings[0].message.startswith("left as it is: HiFiGANStudent2D cannot say it (")
    check_stage("readable-hifigan", student, outcome.student, input_specs(student))


def test_the_graph_needs_its_exact_stages_first(tiny_teacher: Teacher) -> None:
    with pytest.raises(NotHiFiGAN, match="run transposed-to-standard-conv and conv1d-to-conv2d first"):
        read_architecture(tiny_teacher.graph)


class Lines(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (traced(chain(nn.Conv2d(2, 2, 1)), (1, 2, 1, "time")), "it has no multi-receptive-field fusion"),
        (traced(Lines(), (1, 2, "time"), (1, 2, "time")), "it has more than one input or output"),
    ],
    ids=["no fusion", "two inputs"],
)
def test_anything_else_is_left_and_told_why(graph: GraphModule, reason: str, tiny_context: StageContext) -> None:
    outcome = ReadableHiFiGAN().apply(graph, tiny_context)
    assert outcome.findings[0].message == f"left as it is: {reason}"
    assert outcome.student is graph


class Reordered(TinyVocoder):
    """A vocoder that computes its branches in one order and sums them in the other."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_pre(x)
        for stage, up in enumerate(self.ups):
            x = up(nn.functional.leaky_relu(x, 0.1))
            first, second = (self.resblocks[2 * stage + branch](x) for branch in (0, 1))
            x = (second + first) * 0.5
        return torch.tanh(self.conv_post(nn.functional.leaky_relu(x)))


def test_weights_follow_the_sum_whatever_runs_first(tmp_path: Path, tiny_dataset: Dataset) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(vocoder_onnx(Reordered(ResBlock1)))
    teacher = load_teacher(path)
    context = stage_context(teacher, tiny_dataset, tmp_path)
    config, _ = read(through(teacher, (DepthwiseSeparableConv(rank=1), *EXACT), context), context)
    assert {tuple(block.kernel_size for block in stage.resblocks) for stage in config.stages} == {(7, 3)}


def test_phases_of_a_factorised_convolution_are_left(tiny_dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "teacher.onnx"
    path.write_bytes(vocoder_onnx(tiny_vocoder("1", ((4, 16), (2, 4)))))
    teacher = load_teacher(path)
    context = stage_context(teacher, tiny_dataset, tmp_path)
    for rank in (1, 2):
        strategies = (TransposedToStandardConv(), DepthwiseSeparableConv(rank=rank), Conv1dToConv2d())
        outcome = ReadableHiFiGAN().apply(through(teacher, strategies, context), context)
        assert outcome.findings[0].message.startswith(
            "left as it is: 'ups_0_conv_transpose_interleave' interleaves a factorised convolution; transposed ones "
            "are to be factorised before transposed-to-standard-conv"
        )


def test_two_convolutions_in_place_of_one_are_left(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = through(tiny_teacher, EXACT, tiny_context)
    node = next(node for node in student.graph.nodes if node.target == "resblocks/1/convs1/0/Conv")
    narrow = {"_down": nn.Conv2d(12, 2, 1, bias=False), "_up": nn.Conv2d(2, 12, (1, 7), padding=(0, 3))}
    replace_with_chain(student, node, narrow)
    outcome = ReadableHiFiGAN().apply(clean(student), tiny_context)
    assert outcome.findings[0].message == (
        "left as it is: 'resblocks_1_convs1_0_conv_up' reads 'resblocks_1_convs1_0_conv_down' with no activation "
        "between, and is not separable"
    )


def test_a_sum_of_dense_convolutions_is_left(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = through(tiny_teacher, EXACT, tiny_context)
    node = next(node for node in student.graph.nodes if node.target == "resblocks/1/convs1/0/Conv")
    wide, narrow = (nn.Conv2d(12, 12, (1, kernel), padding=(0, kernel // 2)) for kernel in (7, 1))
    replace_with_sum(student, node, [{"_wide": wide}, {"_narrow": narrow}])
    (message,) = [found.message for found in ReadableHiFiGAN().apply(clean(student), tiny_context).findings]
    assert message.startswith("left as it is: 'add")
    assert message.endswith("' is a sum, and not that of a factorised convolution's terms")


def test_a_factorised_last_convolution_is_left(tiny_teacher: Teacher, tiny_context: StageContext) -> None:
    student = through(tiny_teacher, EXACT, tiny_context)
    ((node, _),) = [found for found in module_nodes(student, nn.Conv2d) if found[1].out_channels == 1]
    depthwise = nn.Conv2d(8, 8, (1, 7), padding=(0, 3), groups=8, bias=False)
    replace_with_chain(student, node, {"_depthwise": depthwise, "_pointwise": nn.Conv2d(8, 1, 1)})
    outcome = ReadableHiFiGAN().apply(clean(student), tiny_context)
    assert outcome.findings[0].message == "left as it is: its last convolution is factorised"
