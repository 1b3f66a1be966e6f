"""Which channels belong together, as Torch-Pruning's dependency graph sees it (DepGraph, arXiv 2301.12900).

DepGraph says which layer hands its channels to which, and how their numbers change on the way (concatenation,
splitting, flattening). Its own groups forget which channels only go together where one layer has both, as in a gate
`tanh(a) * sigmoid(b)` of the two halves of an output. So groups are read off the graph here: each channel is followed
under its own name, and two that meet are tied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch_pruning
from torch import nn
from torch.fx import GraphModule
from torch.nn.modules.conv import _ConvNd
from torch_pruning.ops import OPTYPE, module2type

from compressor.graph_editing import input_specs
from compressor.tensor_spec import random_inputs

TRACE_SIZE = 33
"""Size of dynamic axes while tracing: odd, so that it is hardly ever taken for a number of channels."""


class Lost(Exception):  # noqa: N818  -- a finding in the end, not an error
    """Channels that cannot be followed, and where they were lost."""


class Numbered(NamedTuple):
    """A channel's number in one layer, and in the layer that its group is named after; Torch-Pruning's field names."""

    idx: int
    root_idx: int


@dataclass(frozen=True, eq=False)
class Visit:
    """A layer or tensor that a group's channels come through."""

    place: str
    """Name of the module, parameter or buffer."""
    module: nn.Module | None
    """None for a tensor."""
    handler: Any
    """Torch-Pruning's function that removes channels there."""
    makes: bool
    reads: bool
    axis: int
    roots: Mapping[int, int]
    """For each channel's number there, the number of one channel of the root that it carries."""


class ChannelTracing:
    """A student's dependency graph.

    Raises:
        Lost: Torch-Pruning cannot trace the student.
    """

    def __init__(self, student: GraphModule) -> None:
        try:
            self.graph, self.names = _traced(student)
        except Exception as error:
            raise Lost(f"Torch-Pruning cannot trace the model ({first_line(error)})") from error
        _mend_mappings(self.graph)
        # No operation sees more channels than some layer has; where numbers are mapped wrongly, they can grow for ever.
        nodes = self.graph.module2node.values()
        self.most = max((self._size(node, reads) for node in nodes for reads in (False, True)), default=0)

    def reaches(self, module: nn.Module) -> bool:
        """Say whether the graph has the module."""
        return module in self.graph.module2node

    def follow(self, module: nn.Module) -> tuple[list[Visit], list[tuple[int, int]]]:
        """Follow the output channels of a module to all places that lose something with them.

        Returns the places, the module itself first, and pairs of channels that meet.

        Raises:
            Lost: the graph hands on channels that a layer does not have.
        """
        pruner = self.graph.get_pruner_of_module(module)
        ties: list[tuple[int, int]] = []
        found: dict[tuple[Any, Any], dict[int, int]] = {}
        start = [Numbered(channel, channel) for channel in range(pruner.get_out_channels(module))]
        waiting: list[tuple[Any, Any, Sequence[Any]]] = [
            (self.graph.module2node[module], pruner.prune_out_channels, start)
        ]
        while waiting:
            node, handler, channels = waiting.pop()
            known = found.setdefault((node, handler), {})
            ties += [
                (known[each.idx], each.root_idx)
                for each in channels
                if known.get(each.idx, each.root_idx) != each.root_idx
            ]
            fresh = [each for each in channels if each.idx not in known]
            known.update((each.idx, each.root_idx) for each in fresh)
            if fresh:
                self._refuse_strange(node, handler, max(each.idx for each in fresh))
                waiting += [(dep.target, dep.handler, mapped) for dep, mapped in _onwards(node, handler, fresh)]
        return [visit for key, roots in found.items() for visit in self._visit(*key, roots)], ties

    def _refuse_strange(self, node: Any, handler: Any, highest: int) -> None:
        size = self._size(node, not self._makes(handler))
        if highest >= (size or self.most):
            place = self.names.get(node.module, "an operation")
            raise Lost(f"Torch-Pruning loses its channels on the way to {place}: something there reorders them")

    def _size(self, node: Any, reads: bool) -> int:
        """Return how many channels a layer has; 0 for operations, which have none of their own."""
        if node.type == OPTYPE.OUTPUT:
            return 0
        return int((self.graph.get_in_channels if reads else self.graph.get_out_channels)(node) or 0)

    def _makes(self, handler: Any) -> bool:
        return bool(self.graph.is_out_channel_pruning_fn(handler))

    def _visit(self, node: Any, handler: Any, roots: Mapping[int, int]) -> Iterator[Visit]:
        if node.module in self.names:
            module = node.module if isinstance(node.module, nn.Module) else None
            reads = bool(self.graph.is_in_channel_pruning_fn(handler))
            yield Visit(self.names[node.module], module, handler, self._makes(handler), reads, node.pruning_dim, roots)


def _onwards(node: Any, handler: Any, channels: Sequence[Any]) -> Iterator[tuple[Any, Sequence[Any]]]:
    for dependency in node.dependencies:
        if dependency.is_triggered_by(handler):
            mapped = channels
            for mapping in dependency.index_mapping:
                mapped = mapped if mapping is None else mapping(mapped)
            if mapped:
                yield dependency, mapped


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, shortened."""
    return ((str(error).strip().splitlines() or [type(error).__name__])[0])[:160]


class _Graph(torch_pruning.DependencyGraph):  # type: ignore[misc]
    def get_pruner_of_module(self, module: nn.Module) -> Any:
        # It takes every convolution with as many groups as outputs for a depthwise one, also if it reads more channels.
        if isinstance(module, _ConvNd):
            return self.REGISTERED_PRUNERS[OPTYPE.DEPTHWISE_CONV if is_depthwise(module) else OPTYPE.CONV]
        return super().get_pruner_of_module(module)


def is_depthwise(module: nn.Module | None) -> bool:
    """Say whether a layer filters each channel by itself."""
    return isinstance(module, _ConvNd) and module.groups == module.in_channels == module.out_channels > 1


def _traced(student: GraphModule) -> tuple[Any, dict[Any, str]]:
    example = tuple(torch.from_numpy(array) for array in random_inputs(input_specs(student), TRACE_SIZE).values())
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    # It traces through grad_fn, and its mutable defaults leak between calls: pass fresh ones.
    with torch.enable_grad(), _constants_as_parameters(student):
        graph = _Graph().build_dependency(student, example_inputs=example, ignored_params=[], verbose=False)
        names: dict[Any, str] = {module: name for name, module in student.named_modules() if name}
        names.update((parameter, name) for name, parameter in student.named_parameters())
    return graph, names


@contextmanager
def _constants_as_parameters(student: GraphModule) -> Iterator[None]:
    """Let constants of a value per channel, such as the slopes of Snake, be parameters: only those are traced."""
    constants = [
        (owner, name, buffer, name not in owner._non_persistent_buffers_set)
        for owner in student.modules()
        if module2type(owner) == OPTYPE.ELEMENTWISE
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.is_floating_point() and buffer.numel() > 1
    ]
    for owner, name, buffer, _ in constants:
        delattr(owner, name)
        owner.register_parameter(name, nn.Parameter(buffer))
    try:
        yield
    finally:
        for owner, name, buffer, persistent in constants:
            delattr(owner, name)
            owner.register_buffer(name, buffer, persistent)


def _mend_mappings(graph: Any) -> None:
    """Take back the new numbers that Torch-Pruning gives channels where a tensor is cut along another axis."""
    for node in graph.module2node.values():
        if node.type in (OPTYPE.SLICE, OPTYPE.SPLIT) and not _cuts_channels(graph, node):
            for neighbour in (node, *node.inputs, *node.outputs):
                for dependency in neighbour.dependencies:
                    if node in (neighbour, dependency.target):
                        dependency.index_mapping = [None, None]


def _cuts_channels(graph: Any, node: Any) -> bool:
    sizes = getattr(node.grad_fn, "_saved_self_sym_sizes", None)
    axis = getattr(node.grad_fn, "_saved_dim", None)
    if sizes is None or axis is None:
        return True
    # Negative axes are saved as unsigned numbers.
    axis = axis - 2**64 if axis >= 2**63 else axis
    channels = torch_pruning.dependency.shape_infer.infer_out_channels_recursively(graph, node.inputs[0], [0])
    return bool(sizes[axis] == channels) and axis % len(sizes) in (1, len(sizes) - 1)
