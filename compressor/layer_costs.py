"""Where a model's parameters and multiply-accumulates lie, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

from compressor.calibration import PROBE_SIZE
from compressor.graph_editing import feed, input_specs, named_weights
from compressor.tensor_spec import random_inputs

if TYPE_CHECKING:
    from torch.fx import GraphModule


@dataclass(frozen=True)
class LayerCost:
    """One layer's share of a model."""

    layer: str
    kind: str
    parameters: int
    macs: int
    """For one input with every dynamic axis at `PROBE_SIZE`."""


def layer_costs(graph: GraphModule) -> tuple[LayerCost, ...]:
    """Return the layers with weights, in the order of the graph's modules; a shared weight counts where it is first."""
    parameters: dict[str, int] = {}
    for name, tensor in named_weights(graph).items():
        layer = name.rpartition(".")[0]
        parameters[layer] = parameters.get(layer, 0) + tensor.numel()
    macs = _macs(graph)
    modules = dict(graph.named_modules())
    return tuple(
        LayerCost(layer, type(modules[layer]).__name__, count, macs.get(layer, 0))
        for layer, count in parameters.items()
    )


def _macs(graph: GraphModule) -> dict[str, int]:
    arrays = random_inputs(input_specs(graph), PROBE_SIZE)
    inputs: Sequence[torch.Tensor] = [torch.from_numpy(array) for array in arrays.values()]
    counts: dict[str, int] = {}
    handles = []
    with FlopCounterMode(display=False) as counter:
        running = {"total": 0}
        for name, module in graph.named_modules():
            if next(module.parameters(recurse=False), None) is None:
                continue

            def before(*_: object) -> None:
                running["total"] = int(counter.get_total_flops())

            def after(*_: object, layer: str = name) -> None:
                counts[layer] = (int(counter.get_total_flops()) - running["total"]) // 2

            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        feed(graph, tuple(inputs))
    for handle in handles:
        handle.remove()
    return counts
