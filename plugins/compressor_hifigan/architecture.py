"""Read a HiFi-GAN's architecture off its graph: widths, rates, branches, ranks, slopes."""

from __future__ import annotations

from math import isclose

from torch import nn
from torch.fx import GraphModule, Node

from compressor.graph_editing import module_nodes, module_of, output_nodes, placeholders
from compressor_hifigan.fusion import Fusion, ResidualUnit, find_fusions
from compressor_hifigan.student import ResBlockConfig, StageConfig, StudentConfig


class NotHiFiGAN(Exception):  # noqa: N818 - it says what the graph is, and nobody raises it to a user
    """The graph is no two-dimensional, polyphase HiFi-GAN; says where it differs."""


def read_config(graph: GraphModule) -> StudentConfig:
    """Return the configuration whose `HiFiGANStudent2D` has the graph's architecture.

    Raises:
        NotHiFiGAN: it has none.
    """
    if len(placeholders(graph)) != 1 or len(output_nodes(graph)) != 1:
        raise NotHiFiGAN("it has more than one input or output")
    if next(module_nodes(graph, nn.Conv1d, nn.ConvTranspose1d, nn.ConvTranspose2d), None):
        raise NotHiFiGAN("run transposed-to-standard-conv and conv1d-to-conv2d first")
    fusions = find_fusions(graph)
    convs = [(node, conv) for node, conv in module_nodes(graph, nn.Conv2d) if isinstance(conv, nn.Conv2d)]
    if not fusions:
        raise NotHiFiGAN("it has no multi-receptive-field fusion")
    pre, post = convs[0][1], convs[-1][1]
    slopes = _slopes(graph)
    return StudentConfig(
        n_mels=pre.in_channels,
        initial_channels=pre.out_channels,
        conv_pre_kernel_size=pre.kernel_size[1],
        conv_post_kernel_size=post.kernel_size[1],
        leaky_relu_slope=slopes[0],
        final_leaky_relu_slope=slopes[-1],
        stages=tuple(_stage(graph, fusion) for fusion in fusions),
    )


def _slopes(graph: GraphModule) -> list[float]:
    modules = [module for _, module in module_nodes(graph, nn.LeakyReLU)]
    numbers = [module.negative_slope for module in modules if isinstance(module, nn.LeakyReLU)]
    if len(numbers) < 2 or not all(isclose(slope, numbers[0]) for slope in numbers[:-1]):
        raise NotHiFiGAN("its activations are not LeakyReLU of one slope")
    return numbers


def _stage(graph: GraphModule, fusion: Fusion) -> StageConfig:
    interleave = module_of(graph, fusion.source)
    phases = fusion.source.all_input_nodes[0]
    conv = module_of(graph, phases)
    strides = getattr(interleave, "strides", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(strides, tuple):
        raise NotHiFiGAN(f"'{fusion.source.name}' does not up-sample by a polyphase convolution")
    rate = int(strides[-1])
    # The module crops what a padding of (kernel - rate) / 2 did; another padding, or a tap cut short, it cannot say.
    start = rate * (conv.kernel_size[1] - 1) // 2
    if getattr(interleave, "crops", ())[-1:] != ((start, rate * (conv.kernel_size[1] - 1) - start),):
        raise NotHiFiGAN(f"'{fusion.source.name}' up-samples with another padding than (kernel - rate) / 2")
    ranks = {_rank(graph, unit) for branch in fusion.branches for unit in branch}
    if len(ranks) != 1:
        raise NotHiFiGAN(f"the convolutions before '{fusion.output.name}' have different ranks")
    return StageConfig(
        channels=conv.out_channels // rate,
        upsample_rate=rate,
        upsample_kernel_size=conv.kernel_size[1] * rate,
        rank=ranks.pop(),
        resblocks=tuple(_resblock(graph, branch) for branch in fusion.branches),
        fusion_divisor=fusion.divisor,
    )


def _rank(graph: GraphModule, unit: ResidualUnit) -> int:
    """Return how many separable terms stand for each of a unit's convolutions; 0 where they are dense."""
    convs = [_conv(graph, node) for node in unit.convs]
    if convs[0].groups == 1:
        return 0
    pointwise_with_bias = sum(conv.groups == 1 and conv.bias is not None for conv in convs)
    return sum(conv.groups > 1 for conv in convs) // max(1, pointwise_with_bias)


def _resblock(graph: GraphModule, branch: tuple[ResidualUnit, ...]) -> ResBlockConfig:
    if not branch:
        return ResBlockConfig(kernel_size=3, dilations=())
    # The terms of a factorised convolution are alike: the first one stands for all.
    terms = max(1, _rank(graph, branch[0]))
    convs = [
        [conv for conv in (_conv(graph, node) for node in unit.convs) if conv.kernel_size[1] > 1][::terms]
        for unit in branch
    ]
    hidden = tuple(_conv(graph, unit.convs[-1]).in_channels for unit in branch)
    outside = _conv(graph, branch[-1].convs[-1]).out_channels
    return ResBlockConfig(
        kernel_size=convs[0][0].kernel_size[1],
        dilations=tuple(unit[0].dilation[1] for unit in convs),
        convs_per_unit=len(convs[0]),
        hidden_channels=() if set(hidden) == {outside} else hidden,
    )


def _conv(graph: GraphModule, node: Node) -> nn.Conv2d:
    module = module_of(graph, node)
    if not isinstance(module, nn.Conv2d):
        raise NotHiFiGAN(f"'{node.name}' is no two-dimensional convolution")
    return module
