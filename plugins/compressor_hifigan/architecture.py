"""Read a HiFi-GAN's architecture off its graph: widths, rates, branches, ranks, slopes, and which weights go where."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose
from statistics import mode

from torch import nn
from torch.fx import GraphModule

from compressor.graph_editing import module_nodes, output_nodes, placeholders
from compressor_hifigan.convolution_reading import Convolution, NotHiFiGAN, convolution_before
from compressor_hifigan.fusion import Fusion, ResidualUnit, find_fusions
from compressor_hifigan.student import ResBlockConfig, StageConfig, StudentConfig

Branches = list[list[list[Convolution]]]
"""The convolutions of each unit of each branch of a stage."""


@dataclass(frozen=True, eq=False)
class Architecture:
    """What a graph is as a `HiFiGANStudent2D`."""

    config: StudentConfig
    layers: tuple[nn.Conv2d, ...]
    """The graph's convolutions in the order in which the module runs its own."""


def read_architecture(graph: GraphModule) -> Architecture:
    """Return the configuration whose `HiFiGANStudent2D` has the graph's architecture, and its weights.

    Raises:
        NotHiFiGAN: it has none.
    """
    fusions = _fusions(graph)
    upsamplings = [convolution_before(graph, fusion.source) for fusion in fusions]
    fused = [[[_of_unit(graph, unit) for unit in branch] for branch in fusion.branches] for fusion in fusions]
    stages = list(zip(fusions, upsamplings, fused, strict=True))
    pre = convolution_before(graph, upsamplings[0].source)
    post = convolution_before(graph, output_nodes(graph)[0])
    if post.rank:
        raise NotHiFiGAN("its last convolution is factorised")
    slopes = _slopes(graph)
    config = StudentConfig(
        n_mels=pre.layers[0].in_channels,
        initial_channels=pre.out_channels,
        conv_pre_kernel_size=pre.kernel_size,
        conv_pre_rank=pre.rank,
        conv_post_kernel_size=post.kernel_size,
        leaky_relu_slope=slopes[0],
        final_leaky_relu_slope=slopes[-1],
        stages=tuple(_stage(*stage) for stage in stages),
    )
    inner = [[up, *(conv for branch in fused for unit in branch for conv in unit)] for _, up, fused in stages]
    ordered = [pre, *(conv for stage in inner for conv in stage), post]
    return Architecture(config, tuple(layer for conv in ordered for layer in conv.layers))


def _fusions(graph: GraphModule) -> list[Fusion]:
    if len(placeholders(graph)) != 1 or len(output_nodes(graph)) != 1:
        raise NotHiFiGAN("it has more than one input or output")
    if next(module_nodes(graph, nn.Conv1d, nn.ConvTranspose1d, nn.ConvTranspose2d), None):
        raise NotHiFiGAN("run transposed-to-standard-conv and conv1d-to-conv2d first")
    fusions = find_fusions(graph)
    if not fusions:
        raise NotHiFiGAN("it has no multi-receptive-field fusion")
    return fusions


def _slopes(graph: GraphModule) -> list[float]:
    modules = [module for _, module in module_nodes(graph, nn.LeakyReLU)]
    numbers = [module.negative_slope for module in modules if isinstance(module, nn.LeakyReLU)]
    if len(numbers) < 2 or not all(isclose(slope, numbers[0]) for slope in numbers[:-1]):
        raise NotHiFiGAN("its activations are not LeakyReLU of one slope")
    return numbers


def _of_unit(graph: GraphModule, unit: ResidualUnit) -> list[Convolution]:
    """Return a unit's convolutions as they run; each may be several of the graph's."""
    found: list[Convolution] = []
    left = set(unit.convs)
    end = unit.added
    while left:
        conv = convolution_before(graph, end)
        left -= set(conv.nodes)
        found.insert(0, conv)
        end = conv.source
    return found


def _stage(fusion: Fusion, up: Convolution, branches: Branches) -> StageConfig:
    if up.interleaving is None:
        raise NotHiFiGAN(f"'{fusion.source.name}' does not up-sample by a polyphase convolution")
    rate, crop = up.interleaving
    # The module crops what a padding of (kernel - rate) / 2 did; another padding, or a tap cut short, it cannot say.
    start = rate * (up.kernel_size - 1) // 2
    if crop != (start, rate * (up.kernel_size - 1) - start):
        raise NotHiFiGAN(f"'{fusion.source.name}' up-samples with another padding than (kernel - rate) / 2")
    channels = up.out_channels if up.rank else up.out_channels // rate
    ranks = [conv.rank for branch in branches for unit in branch for conv in unit]
    rank = mode(ranks) if ranks else 0
    return StageConfig(
        channels=channels,
        upsample_rate=rate,
        upsample_kernel_size=up.kernel_size * rate,
        upsample_rank=up.rank,
        rank=rank,
        resblocks=tuple(_resblock(branch, channels, rank) for branch in branches),
        fusion_divisor=fusion.divisor,
    )


def _resblock(branch: list[list[Convolution]], channels: int, rank: int) -> ResBlockConfig:
    """Say of a branch what the stage does not say already."""
    if not branch:
        return ResBlockConfig(kernel_size=3, dilations=())
    hidden = tuple(unit[-1].layers[0].in_channels for unit in branch)
    ranks = tuple(tuple(conv.rank for conv in unit) for unit in branch)
    return ResBlockConfig(
        kernel_size=branch[0][0].kernel_size,
        dilations=tuple(unit[0].dilation for unit in branch),
        convs_per_unit=len(branch[0]),
        hidden_channels=() if set(hidden) == {channels} else hidden,
        ranks=() if {each for unit in ranks for each in unit} == {rank} else ranks,
    )
