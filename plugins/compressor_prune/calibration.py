"""What layers read and how often they are applied, seen by running a student on samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.conv import _ConvNd

from compressor.calibration import Hook, calibration_inputs, observe
from compressor.dataset import Sample
from compressor.graph_editing import feed, input_specs
from compressor.measuring import PROBE_SIZE
from compressor.teacher_loading import random_inputs

POSITIONS = 4096
"""Positions a layer and sample that second moments are summed over, about."""


def reading_weights(module: nn.Module) -> Tensor:
    """Return a view of a layer's weights by input channel: (in, out, taps)."""
    if not isinstance(module, _ConvNd | nn.Linear):
        raise TypeError(f"{type(module).__name__} reads no channels")
    by_input = module.weight if getattr(module, "transposed", False) else module.weight.transpose(0, 1)
    return by_input.detach().flatten(2) if by_input.dim() > 2 else by_input.detach().unsqueeze(2)


def second_moments(student: GraphModule, layers: Iterable[str], samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Return E[x xᵀ] over positions of what each layer reads, (channels, channels) in float64.

    Memory does not grow with the number of samples.
    """
    sums: dict[str, Tensor] = {}

    def adder(layer: str) -> Hook:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
            axis = -1 if isinstance(module, nn.Linear) else 1
            rows = inputs[0].detach().movedim(axis, 0).flatten(1)
            # Neighbouring positions say nearly the same: some thousand a sample are enough, and 10 times as fast.
            rows = rows[:, :: max(1, rows.shape[1] // POSITIONS)].double()
            sums[layer] = sums.get(layer, torch.zeros(())) + rows @ rows.T

        return add

    observe(student, {layer: adder(layer) for layer in layers}, calibration_inputs(input_specs(student), samples))
    return sums


def layer_positions(student: GraphModule, sample_rate: int | None) -> dict[str, int]:
    """Return how often each layer's weights are applied, per second of output, or for one probe without a rate."""
    counts: dict[str, int] = {}

    def counter(layer: str) -> Hook:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            read = inputs[0] if getattr(module, "transposed", False) else output
            channel = read.dim() - 1 if isinstance(module, nn.Linear) else 1
            counts[layer] = read.numel() // read.shape[channel]

        return count

    arrays = random_inputs(input_specs(student), PROBE_SIZE)
    probe = tuple(torch.from_numpy(array) for array in arrays.values())
    names = [name for name, module in student.named_modules() if isinstance(module, _ConvNd | nn.Linear)]
    observe(student, {name: counter(name) for name in names}, [probe])
    if sample_rate is None:
        return counts
    samples = feed(student, probe)[0].numel()
    return {layer: round(count * sample_rate / samples) for layer, count in counts.items()}
