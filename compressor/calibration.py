"""What a student's layers read on training samples, cut short where their length is free."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compressor.dataset import Sample
from compressor.graph_editing import feed, input_specs
from compressor.segments import cut
from compressor.tensor_spec import TensorSpec, random_inputs
from compressor.unfolding import channel_axis, matrix, output_positions, unfoldable, unfolded

if TYPE_CHECKING:
    from torch.fx import GraphModule

LONGEST = 256
"""Steps above which calibration inputs are cut: more of a sample says little more."""

POSITIONS = 2048
"""Output positions a layer and sample that are looked at, about: neighbouring ones say nearly the same."""

PROBE_SIZE = 32
"""Size of the dynamic axes of a probe whose rate is not known."""

Hook = Callable[[nn.Module, tuple[Tensor, ...], Any], None]


def calibration_inputs(
    specs: Sequence[TensorSpec], samples: Sequence[Sample], longest: int = LONGEST
) -> Iterator[tuple[Tensor, ...]]:
    """Yield the inputs of each sample in the model's order."""
    for sample in samples:
        yield cut([torch.from_numpy(sample.inputs[spec.name]) for spec in specs], specs, 0, longest)


def observe(student: GraphModule, hooks: Mapping[str, Hook], inputs: Iterable[tuple[Tensor, ...]]) -> None:
    """Run a student on inputs; each layer's hook gets the module, what it read, and its output."""
    handles = [student.get_submodule(layer).register_forward_hook(hook) for layer, hook in hooks.items()]
    try:
        for values in inputs:
            feed(student, values)
    finally:
        for handle in handles:
            handle.remove()


def layer_positions(student: GraphModule, sample_rate: int | None) -> dict[str, int]:
    """Return how often each layer's weights are applied, per second of output, or for one probe without a rate."""
    counts: dict[str, int] = {}

    def counter(layer: str) -> Hook:
        def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            values = inputs[0] if getattr(module, "transposed", False) else output
            counts[layer] = values.numel() // values.shape[channel_axis(module)]

        return count

    arrays = random_inputs(input_specs(student), PROBE_SIZE)
    probe = tuple(torch.from_numpy(array) for array in arrays.values())
    names = [name for name, module in student.named_modules() if isinstance(module, _ConvNd | nn.Linear)]
    observe(student, {name: counter(name) for name in names}, [probe])
    if sample_rate is None:
        return counts
    samples = feed(student, probe)[0].numel()
    return {layer: round(count * sample_rate / samples) for layer, count in counts.items()}


@dataclass(frozen=True)
class Reading:
    """What a layer's weights meet: mean and covariance over positions, by input channel and tap, in float64."""

    mean: Tensor
    """(in_channels * taps,)"""
    covariance: Tensor
    """(in_channels * taps, in_channels * taps)"""


def readings(student: GraphModule, layers: Iterable[str], samples: Sequence[Sample]) -> dict[str, Reading]:
    """Return what each layer reads; layers that cannot be written out as a matrix are left out.

    Memory does not grow with the number of samples.
    """
    seen: dict[str, _Sums] = {}

    def adder(layer: str) -> Hook:
        def add(module: nn.Module, read: tuple[Tensor, ...], output: Any) -> None:
            seen.setdefault(layer, _Sums()).add(
                unfolded(module, read[0].detach(), output_positions(output, module, POSITIONS))
            )

        return add

    hooks = {layer: adder(layer) for layer in layers if unfoldable(student.get_submodule(layer))}
    observe(student, hooks, calibration_inputs(input_specs(student), samples))
    return {layer: sums.reading for layer, sums in seen.items()}


def varying_share(module: nn.Module, reading: Reading) -> float:
    """Return how much of a linear layer's output energy varies; the rest is that of its channels' means.

    Errors that are predicted as shares of what varies become shares of the signal's energy by it.
    """
    varying = torch.zeros((), dtype=torch.float64)
    means = []
    for number, weights in enumerate(matrix(module).detach().double()):
        own = slice(number * len(weights), (number + 1) * len(weights))
        varying = varying + (weights * (reading.covariance[own, own] @ weights)).sum()
        means.append(reading.mean[own] @ weights)
    mean = torch.cat(means)
    if isinstance(module.bias, Tensor):
        mean = mean + module.bias.detach()
    return float(varying / (varying + mean.square().sum()).clamp_min(1e-300))


class _Sums:
    """Sums over rows; those of rows less the first sample's mean, so that float32 products lose nothing."""

    def __init__(self) -> None:
        self.rows = 0

    def add(self, rows: Tensor) -> None:
        if not self.rows:
            self.shift = rows.mean(0)
            self.first = torch.zeros(rows.shape[1], dtype=torch.float64)
            self.second = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64)
        off = rows - self.shift
        self.first += off.double().sum(0)
        self.second += off.T @ off
        self.rows += len(rows)

    @property
    def reading(self) -> Reading:
        mean = self.first / self.rows
        return Reading(self.shift.double() + mean, self.second / self.rows - torch.outer(mean, mean))
