"""How much of an error at one place in a model reaches its output: all places from a few backward passes.

For an error δ at a tensor h, small and as loud in each channel as h is, the output moves by J δ, whose expected energy
is Σ σ² |J|². With random vectors v of the output's shape, Σ (Jᵀ v)² estimates |J|² (Hutchinson, 1990), and Jᵀ v is what
back-propagation computes, for every tensor at once. So the time grows with the size of the model, not with its square.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from compressor.graph_editing import fitted_inputs, layer_name, module_of
from compressor.unfolding import channel_axis

DRAWS = 4
"""Random vectors per input."""


def sensitivities(model: GraphModule, inputs: Iterable[tuple[Tensor, ...]], seed: int = 0) -> dict[str, float]:
    """Return, by layer or node name, the output's relative error energy per relative error energy at that place.

    Where the output is long, errors count in proportion to the output's own spectrum: an error in a quiet band is as
    bad as one in a loud band, as it is for a listener.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, float] = {}
    count = 0
    for values in inputs:
        for name, value in _one_input(model, values, generator).items():
            sums[name] = sums.get(name, 0.0) + value
        count += 1
    return {name: value / max(1, count) for name, value in sums.items()}


def _one_input(model: GraphModule, inputs: tuple[Tensor, ...], generator: torch.Generator) -> dict[str, float]:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    keeping = _Keeping(model)
    with torch.enable_grad():
        fitted = fitted_inputs(model, inputs)
        result = keeping.run(*(value.clone().requires_grad_(value.is_floating_point()) for value in fitted))
    output: Tensor = result[0] if isinstance(result, list | tuple) else result
    balance = Balance(output.detach())
    places = list(keeping.found)
    tensors = [keeping.found[place] for place in places]
    energy = dict.fromkeys(places, 0.0)
    for _ in range(DRAWS):
        noise = torch.randn(output.shape, generator=generator)
        gradients = torch.autograd.grad(output, tensors, balance.weighted(noise), retain_graph=True, allow_unused=True)
        for place, tensor, gradient in zip(places, tensors, gradients, strict=True):
            if gradient is not None:
                axis = channel_axis(module_of(model, place))
                loudness, reach = _by_channel(tensor, axis).mean(1), _by_channel(gradient, axis).sum(1)
                energy[place] += float((loudness * reach).sum()) / DRAWS
    return {layer_name(place): value / balance.energy for place, value in energy.items()}


def _by_channel(tensor: Tensor, axis: int) -> Tensor:
    """Return squares by channel: (channels, everything else)."""
    return tensor.detach().square().movedim(axis, 0).flatten(1)


class _Keeping(Interpreter):
    """Runs a graph and keeps every floating tensor on the way to the output."""

    def __init__(self, model: GraphModule) -> None:
        super().__init__(model)
        self.found: dict[Node, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        kept = isinstance(value, Tensor) and value.requires_grad and value.dim() > 1
        if kept and n.op in ("call_module", "call_function"):
            self.found[n] = value
        return value


class Balance:
    """Weighs an output's error by the inverse of the output's smoothed spectrum."""

    SHORTEST = 1024
    BANDS = 64
    FLOOR = 1e-3

    def __init__(self, output: Tensor) -> None:
        self.response: Tensor | None = None
        if output.shape[-1] >= self.SHORTEST:
            magnitude = torch.fft.rfft(output).abs().flatten(0, -2).mean(0)
            width = max(1, len(magnitude) // self.BANDS)
            smooth = torch.nn.functional.avg_pool1d(
                magnitude[None, None], 2 * width + 1, 1, width, count_include_pad=False
            )[0, 0]
            self.response = 1.0 / smooth.clamp_min(self.FLOOR * float(smooth.max()) + 1e-30)
        self.energy = float(self.weighted(output).square().sum().clamp_min(1e-30))

    def weighted(self, values: Tensor) -> Tensor:
        """Return values (…, length), filtered; the filter is its own transpose, so this serves for gradients too."""
        if self.response is None:
            return values
        filtered: Tensor = torch.fft.irfft(torch.fft.rfft(values) * self.response, n=values.shape[-1])
        return filtered
