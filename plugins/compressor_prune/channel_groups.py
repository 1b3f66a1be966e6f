"""Channels that go together, found by Torch-Pruning's dependency graph (DepGraph, arXiv 2301.12900)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.conv import _ConvNd

from compressor.graph_editing import input_specs, module_of
from compressor.teacher_loading import random_inputs

TRACE_SIZE = 16


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Layers that share channels: what makes them and what reads them."""

    layer: str
    """The layer that makes the channels, or the first of several; the group's name."""
    width: int
    makers: frozenset[str]
    readers: frozenset[str]
    pruned: Any
    """Torch-Pruning's group with every channel in it."""

    @property
    def sole_reader(self) -> str | None:
        """The one layer that mixes the channels again, where there is exactly one and one maker."""
        return next(iter(self.readers)) if len(self.readers) == 1 and len(self.makers) == 1 else None


class ChannelGroups:
    """The channel groups of a student; removing channels changes the student's modules in place."""

    def __init__(self, student: GraphModule) -> None:
        self.student = student
        self.names: dict[nn.Module, str] = {
            module: name for name, module in student.named_modules() if isinstance(module, _ConvNd | nn.Linear)
        }
        example = tuple(torch.from_numpy(array) for array in random_inputs(input_specs(student), TRACE_SIZE).values())
        for parameter in student.parameters():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            # It traces through grad_fn, and its mutable defaults leak between calls: pass fresh ones.
            self.dependencies = torch_pruning.DependencyGraph().build_dependency(
                student, example_inputs=example, ignored_params=[], verbose=False
            )
        self.groups = tuple(self._find())

    def _find(self) -> list[ChannelGroup]:
        outputs = self._output_layers()
        groups = []
        for pruned in self.dependencies.get_all_groups(ignored_layers=outputs):
            makers, readers = self._roles(pruned)
            root = pruned[0].dep.target.module
            if makers and readers and root in self.names:
                layer = next(iter(makers)) if len(makers) == 1 else self.names[root]
                groups.append(ChannelGroup(layer, len(pruned[0].idxs), makers, readers, pruned))
        return groups

    def _roles(self, pruned: Any) -> tuple[frozenset[str], frozenset[str]]:
        makers: set[str] = set()
        readers: set[str] = set()
        for dependency, _ in pruned:
            module = dependency.target.module
            if module not in self.names or _is_depthwise(module):
                continue
            makes = self.dependencies.is_out_channel_pruning_fn(dependency.handler)
            (makers if makes else readers).add(self.names[module])
        return frozenset(makers), frozenset(readers)

    def _output_layers(self) -> list[nn.Module]:
        """Layers whose channels are the model's output: those must stay."""
        protected: list[nn.Module] = []
        stack = [node for node in self.student.graph.nodes if node.op == "output"]
        seen = set(stack)
        while stack:
            for source in stack.pop().all_input_nodes:
                module = module_of(self.student, source)
                if module is not None and module in self.names:
                    protected.append(module)
                elif source not in seen:
                    seen.add(source)
                    stack.append(source)
        return protected

    def module(self, layer: str) -> nn.Module:
        """Return the module of a layer."""
        return self.student.get_submodule(layer)

    def remove(self, group: ChannelGroup, dropped: list[int]) -> None:
        """Remove channels of a group from every layer that makes or reads them."""
        root = group.pruned[0].dep
        fresh = self.dependencies.get_pruning_group(root.target.module, root.handler, sorted(dropped))
        fresh.prune()

    def magnitudes(self, group: ChannelGroup) -> Tensor:
        """Return Torch-Pruning's group L2 magnitude for each channel, normalised to a sum of one."""
        scores: Tensor = torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer=None)(group.pruned)
        return scores.double() / scores.double().sum().clamp_min(1e-300)

    def layers(self, group: ChannelGroup) -> tuple[str, ...]:
        """Return every layer with weights that removing channels of a group changes."""
        modules = (dependency.target.module for dependency, _ in group.pruned)
        return tuple(sorted({self.names[module] for module in modules if module in self.names}))

    def cost(self, group: ChannelGroup, width: int, positions: dict[str, int]) -> dict[str, float]:
        """Return parameters and MACs of the group's layers when it has `width` channels.

        `positions` holds, by layer, how many times its weights are applied for the output that MACs are counted for.
        """
        makes: set[nn.Module] = set()
        reads: set[nn.Module] = set()
        for dependency, _ in group.pruned:
            module = dependency.target.module
            if module in self.names:
                is_maker = self.dependencies.is_out_channel_pruning_fn(dependency.handler)
                (makes if is_maker else reads).add(module)
        share = width / group.width
        parameters = macs = 0.0
        for module in makes | reads:
            both = module in makes and module in reads and not _is_depthwise(module)
            weight = prod(module.weight.shape) * share * (share if both else 1.0)  # type: ignore[arg-type]
            bias = module.bias.numel() if isinstance(module.bias, Tensor) else 0
            parameters += weight + bias * (share if module in makes else 1.0)
            macs += weight * positions.get(self.names[module], 0)
        return {"parameters": parameters, "macs": macs}


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and module.groups == module.in_channels and module.groups > 1
