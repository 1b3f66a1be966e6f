"""Random small models of sequences, with all that may lie between two layers, and data for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from compressor_conv.transposed import TransposedToStandardConv
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.flop_counter import FlopCounterMode

from compressor.calibration import PROBE_SIZE
from compressor.dataset import Dataset
from compressor.graph_editing import input_specs
from compressor.progress import SilentReporter
from compressor.strategy import StageContext
from compressor.testing.small_graphs import inputs_of, samples_of, traced

INPUTS = 3
WIDTHS = (4, 6, 8, 12)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, channels, 3, padding=1)
        self.second = nn.Conv1d(channels, channels, 3, padding=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(torch.relu(x))
        made: Tensor = x + self.second(torch.sin(x))
        return made


class Beside(nn.Module):
    """Two branches side by side, or one beside what it reads."""

    def __init__(self, channels: int, made: int, both: bool) -> None:
        super().__init__()
        self.one = nn.Conv1d(channels, made, 3, padding=1)
        self.other = nn.Conv1d(channels, made, 1) if both else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.relu(self.one(x)), self.other(x)], 1)


class Gate(nn.Module):
    def __init__(self, channels: int, made: int, fixed: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 2 * made, 3, padding=1)
        self.made = made if fixed else None

    def forward(self, x: Tensor) -> Tensor:
        both = self.conv(x)
        one, other = both.chunk(2, 1) if self.made is None else both.split([self.made, self.made], 1)
        return torch.tanh(one) * torch.sigmoid(other)


class Snake(nn.Module):
    """The periodic activation of BigVGAN, with a constant or a weight for each channel."""

    slopes: Tensor

    def __init__(self, channels: int, trained: bool = False) -> None:
        super().__init__()
        slopes = torch.linspace(0.5, 1.5, channels).reshape(1, -1, 1)
        if trained:
            self.slopes = nn.Parameter(slopes)
        else:
            self.register_buffer("slopes", slopes)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(self.slopes * x).square()


class MeanScaled(nn.Module):
    """Divides each channel by the energy of all."""

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + x.square().mean(1, keepdim=True))


class Cropped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:]


Part = Callable[[st.DataObject, int], tuple[nn.Module, int]]
"""Draws a part that reads so many channels, and says how many it makes."""


def _conv(data: st.DataObject, channels: int) -> tuple[nn.Module, int]:
    made = data.draw(st.sampled_from(WIDTHS))
    groups = data.draw(
        st.sampled_from([count for count in (1, 1, 2, 4, channels) if not (channels % count or made % count)])
    )
    if data.draw(st.booleans()):
        return nn.ConvTranspose1d(channels, made, 4, 2, 1, groups=groups), made
    return nn.Conv1d(channels, made, 3, padding=1, groups=groups, bias=data.draw(st.booleans())), made


def _wide(data: st.DataObject, channels: int) -> tuple[nn.Module, int]:
    made = data.draw(st.sampled_from(WIDTHS))
    kind = data.draw(st.sampled_from(["both", "beside", "gate", "fixed gate"]))
    if "gate" in kind:
        return Gate(channels, made, kind == "fixed gate"), made
    return Beside(channels, made, kind == "both"), made + (made if kind == "both" else channels)


def _same(data: st.DataObject, channels: int) -> tuple[nn.Module, int]:
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.BatchNorm1d(channels),
        lambda: nn.InstanceNorm1d(channels, affine=True),
        lambda: nn.GroupNorm(2, channels),
        lambda: nn.PReLU(channels),
        nn.PReLU,
        nn.ReLU,
        lambda: Snake(channels),
        lambda: Snake(channels, trained=True),
        MeanScaled,
        Cropped,
        lambda: Residual(channels),
        lambda: nn.Conv1d(channels, channels, 3, padding=1, groups=channels),
    ]
    return data.draw(st.sampled_from(kinds))(), channels


PARTS: tuple[Part, ...] = (_conv, _conv, _wide, _same, _same)


@st.composite
def random_graphs(draw: st.DrawFn) -> GraphModule:
    """Draw a graph of a few parts; its input is (1, 3, time), its output (1, 2, more time) or, flattened, (1, 2)."""
    data = draw(st.data())
    channels = draw(st.sampled_from(WIDTHS))
    parts: list[nn.Module] = [nn.Conv1d(INPUTS, channels, 3, padding=1)]
    for part in draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=5)):
        module, channels = part(data, channels)
        parts.append(module)
    flat = draw(st.booleans())
    size = 12
    if flat:
        length = nn.Sequential(*parts).eval()(torch.zeros(1, INPUTS, size)).shape[-1]
        parts += [nn.Flatten(), nn.Linear(channels * length, 6), nn.ReLU(), nn.Linear(6, 2)]
    else:
        parts.append(nn.Conv1d(channels, 2, 3, padding=1))
    model = nn.Sequential(*parts)
    fill(model, draw(st.integers(0, 99)))
    graph = traced(model, (1, INPUTS, size if flat else "time"))
    polyphase = draw(st.integers(0, 3)) == 0
    return TransposedToStandardConv().apply(graph, context_for(None)).student if polyphase else graph


def fill(model: nn.Module, seed: int) -> None:
    """Give a model random weights of sensible size, and its batch normalisation random statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 1.0 / max(1, parameter[0].numel()) ** 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator) + (parameter.dim() == 1))
        for module in model.modules():
            if (
                isinstance(module, nn.BatchNorm1d)
                and module.running_mean is not None
                and module.running_var is not None
            ):
                module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))


def data_for(graph: GraphModule, count: int = 2, size: int = 40) -> Dataset:
    """Return random samples for a graph of one input."""
    samples = samples_of(graph, *(inputs_of(graph, size, seed)[0].numpy() for seed in range(count)))
    return Dataset(samples, samples, "random")


def context_for(data: Dataset | None, **changes: Any) -> StageContext:
    """Return a context without a teacher: pruning does not look at it."""
    empty = StageContext("stage", None, {}, data, "cpu", 0, Path("unused"), SilentReporter())  # type: ignore[arg-type]
    return replace(empty, **changes)


def macs(graph: GraphModule) -> int:
    """Return multiply-accumulates for one probe, as torch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        graph(*inputs_of(graph, PROBE_SIZE))
    return int(counter.get_total_flops()) // 2


def sizes(graph: GraphModule) -> tuple[int, ...]:
    """Return two lengths that a graph takes, or its only one."""
    return (17, 30) if any(spec.dynamic_axes for spec in input_specs(graph)) else (12,)
