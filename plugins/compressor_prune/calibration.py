"""How the channels that layers read go together, seen by running a student on samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.conv import _ConvNd

from compressor.calibration import Hook, calibration_inputs, observe
from compressor.dataset import Sample
from compressor.graph_editing import input_specs

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
