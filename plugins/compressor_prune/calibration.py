"""What layers read of a group's channels, and what each weight does to the output, seen on samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.calibration import Hook, calibration_inputs, observe
from compressor.dataset import Sample
from compressor.graph_editing import fitted_inputs, input_specs, run_graph
from compressor.unfolding import channel_axis
from compressor_prune.channel_groups import ChannelGroup, Place
from compressor_prune.channel_weights import by_input

POSITIONS = 4096
"""Positions a layer and sample that moments are summed over, about."""

GRADIENT_LENGTH = 64
"""Size of a dynamic last axis that samples are cut to for gradients: every tensor on the way is kept."""


@dataclass(frozen=True, eq=False)
class View:
    """How one layer sees a group's units: all that it reads, or what one group of its own reads."""

    layer: str
    positions: Tensor
    """(units, each): which channels that the layer reads belong to each unit."""


@dataclass(frozen=True, eq=False)
class Readings:
    """What layers read on samples, summed over positions, in float64."""

    energies: dict[View, Tensor]
    """Energy of each unit as weighted by what reads it, x² times the weights' squared norm: (units,)."""
    totals: dict[str, float]
    """By layer: the weighted energy of all that it reads, seen by a view or not."""
    moments: dict[View, Tensor]
    """x xᵀ of what each view sees: (units, units); none without `products`."""


def views(student: GraphModule, group: ChannelGroup) -> tuple[View, ...]:
    """Return the views of all layers that read a group's channels."""
    return tuple(view for place in group.places if place.role == "reads" for view in _views(student, place))


def _views(student: GraphModule, place: Place) -> Iterator[View]:
    groups = int(getattr(student.get_submodule(place.name), "groups", 1))
    # What one group of a convolution reads cannot make up for what another one loses.
    for positions in place.positions.chunk(groups, dim=1):
        yield View(place.name, positions)


def _squared_norms(module: nn.Module) -> Tensor:
    """Return the squared norm of the weights that read each channel, in float64."""
    return by_input(module, module.weight.detach()).double().square().sum((1, 2))  # type: ignore[operator]


def read_on(
    student: GraphModule, seen: Sequence[View], samples: Sequence[Sample], *, products: bool = True
) -> Readings:
    """Run a student on samples and sum what views see; `moments` only with `products`.

    Memory does not grow with the number of samples.
    """
    readings = Readings({}, {}, {})

    def adder(layer: str) -> Hook:
        looking = [view for view in seen if view.layer == layer]
        norms = _squared_norms(student.get_submodule(layer))

        def add(module: nn.Module, inputs: tuple[Tensor, ...], _: Any) -> None:
            channels = inputs[0].detach().movedim(channel_axis(module), 0).flatten(1)
            # Neighbouring positions say nearly the same: some thousand a sample are enough, and 10 times as fast.
            channels = channels[:, :: max(1, channels.shape[1] // POSITIONS)].double()
            energy = norms * channels.square().sum(1)
            readings.totals[layer] = readings.totals.get(layer, 0.0) + float(energy.sum())
            for view in looking:
                _add(readings.energies, view, energy[view.positions].sum(1))
                if products:
                    rows = channels[view.positions].flatten(1)
                    _add(readings.moments, view, rows @ rows.T)

        return add

    layers = {view.layer for view in seen}
    observe(student, {layer: adder(layer) for layer in layers}, calibration_inputs(input_specs(student), samples))
    return readings


def _add(sums: dict[View, Tensor], view: View, value: Tensor) -> None:
    sums[view] = sums[view] + value if view in sums else value


def weight_effects(student: GraphModule, samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Return, by parameter, how much the output's energy hangs on each weight, to first order.

    That is |w ∂S/∂w|, averaged over samples, where S is half the mean square of the model's outputs: about how much S
    changes when the weight becomes zero (Molchanov et al., CVPR 2019).
    """
    parameters = {name: parameter.requires_grad_(True) for name, parameter in student.named_parameters()}
    effects = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for values in calibration_inputs(input_specs(student), samples, GRADIENT_LENGTH):
        with torch.enable_grad():
            outputs = run_graph(student, fitted_inputs(student, values))
            energy = torch.stack([output.square().mean() / 2 for output in outputs if output.is_floating_point()]).sum()
            gradients = torch.autograd.grad(energy, list(parameters.values()), allow_unused=True)
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            if gradient is not None:
                effects[name] += (parameter.detach() * gradient).abs() / len(samples)
    return effects
