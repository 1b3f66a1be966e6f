"""Channels that only go together: which layers make them, carry them and read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import gcd, lcm
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.conv import _ConvNd

from compressor.graph_editing import module_of
from compressor_prune.channel_tracing import ChannelTracing, Lost, Visit, is_depthwise

LINEAR = (_ConvNd, nn.Linear)
NORMALISERS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm)

Role = Literal["makes", "reads", "carries"]


@dataclass(frozen=True, eq=False)
class Place:
    """A layer, parameter or buffer that loses something with each of a group's channels."""

    name: str
    role: Role
    positions: Tensor
    """(units, each): which of the layer's channels belong to each unit of the group."""
    handler: Any
    """Torch-Pruning's function that removes channels there."""
    axis: int


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Layers that share channels. A unit is the least that can go: one channel of each layer, or several."""

    layer: str
    """The layer that makes the channels, or the first of several; the group's name."""
    width: int
    """Channels of that layer."""
    places: tuple[Place, ...]

    @property
    def units(self) -> int:
        """How many units there are."""
        return len(self.places[0].positions)

    @property
    def unit_width(self) -> int:
        """How many channels of `layer` one unit has."""
        return self.width // self.units

    @property
    def makers(self) -> frozenset[str]:
        return self._with_role("makes")

    @property
    def readers(self) -> frozenset[str]:
        return self._with_role("reads")

    def _with_role(self, role: Role) -> frozenset[str]:
        return frozenset(place.name for place in self.places if place.role == role)

    def step(self, round_to: int) -> int:
        """Return by how many channels of `layer` widths differ if every maker's width is a multiple of `round_to`."""
        each = (place.positions.shape[1] for place in self.places if place.role == "makes")
        return lcm(*(round_to // gcd(round_to, count) for count in each)) * self.unit_width


@dataclass(frozen=True)
class LeftAlone:
    """A layer whose channels all stay, and why."""

    layer: str
    reason: str

    @classmethod
    def together(cls, group: ChannelGroup, reason: str) -> tuple[LeftAlone, ...]:
        """Return all layers that make a group's channels."""
        return tuple(cls(layer, reason) for layer in sorted(group.makers))


def find_groups(student: GraphModule) -> tuple[tuple[ChannelGroup, ...], tuple[LeftAlone, ...]]:
    """Return the groups whose channels Torch-Pruning can follow, and every other layer with the reason.

    Every parameter of the student requires gradients afterwards: tracing needs it.
    """
    layers: dict[str, nn.Module] = {
        name: module for name, module in student.named_modules() if isinstance(module, _ConvNd | nn.Linear)
    }
    try:
        return _Finder(student, layers).found()
    except Lost as reason:
        return (), tuple(LeftAlone(layer, str(reason)) for layer in layers)


class _Finder:
    def __init__(self, student: GraphModule, layers: dict[str, nn.Module]) -> None:
        self.layers = layers
        self.tracing = ChannelTracing(student)
        self.outputs = set(_output_layers(student, layers))
        self.used_twice = _used_twice(student)

    def found(self) -> tuple[tuple[ChannelGroup, ...], tuple[LeftAlone, ...]]:
        groups: list[ChannelGroup] = []
        left: dict[str, str] = {}
        done: set[str] = set()
        # Depthwise layers come last: nearly all belong to the group of a layer before them.
        for layer in sorted(self.layers, key=lambda name: is_depthwise(self.layers[name])):
            if layer in done:
                continue
            visits: list[Visit] = []
            try:
                visits, ties = self._follow(layer)
                groups.append(self._group(layer, visits, ties))
            except Lost as reason:
                makers = {visit.place for visit in visits if _role(visit) == "makes"}
                left.update(dict.fromkeys([layer, *sorted(makers - done)], str(reason)))
            done |= {layer} | {visit.place for visit in visits if visit.makes}
        return tuple(groups), tuple(LeftAlone(layer, reason) for layer, reason in left.items())

    def _follow(self, layer: str) -> tuple[list[Visit], list[tuple[int, int]]]:
        module = self.layers[layer]
        if not self.tracing.reaches(module):
            raise Lost("Torch-Pruning does not reach it from the model's output")
        return self.tracing.follow(module)

    def _group(self, layer: str, visits: Sequence[Visit], ties: Iterable[tuple[int, int]]) -> ChannelGroup:
        makers = [visit.place for visit in visits if _role(visit) == "makes"]
        self._refuse(makers, visits)
        width = len(visits[0].roots)
        unit_of = _units(width, [*ties, *(tie for visit in visits for tie in _ties_of_groups(visit))])
        if max(unit_of) == 0:
            raise Lost(f"all its {width} channels only go together")
        places = tuple(_place(visit, unit_of) for visit in visits)
        for place in places:
            module = self.layers.get(place.name)
            if place.role == "makes" and place.positions.numel() < _made(module):
                raise Lost(f"only some of the channels that {place.name} makes are shared with it")
        return ChannelGroup(makers[0] if len(makers) == 1 else layer, width, places)

    def _refuse(self, makers: Sequence[str], visits: Sequence[Visit]) -> None:
        named = {visit.place for visit in visits}
        for visit in visits:
            if visit.module is not None and not isinstance(visit.module, (*LINEAR, *NORMALISERS, nn.PReLU)):
                raise Lost(f"{visit.place} is of a kind that cannot be narrowed: {type(visit.module).__name__}")
        if self.outputs & {visit.place for visit in visits if visit.makes}:
            raise Lost("its channels are the model's output")
        if not makers:
            raise Lost("it filters the model's input channel by channel")
        if not any(_role(visit) == "reads" for visit in visits):
            raise Lost("no layer reads its channels")
        if shared := sorted(self.used_twice & named):
            raise Lost(f"the weights of {shared[0]} are used more than once")


def _role(visit: Visit) -> Role:
    if not isinstance(visit.module, _ConvNd | nn.Linear) or is_depthwise(visit.module):
        return "carries"
    return "makes" if visit.makes else "reads"


def _made(module: nn.Module | None) -> int:
    return int(module.out_channels) if isinstance(module, _ConvNd) else int(getattr(module, "out_features", 0))


def _ties_of_groups(visit: Visit) -> list[tuple[int, int]]:
    """Return channels that only go together because a layer works in groups, which must stay equally wide."""
    module = visit.module
    if isinstance(module, nn.GroupNorm):
        count, size = module.num_groups, module.num_channels
    elif isinstance(module, _ConvNd) and module.groups > 1 and not is_depthwise(module):
        count, size = module.groups, module.in_channels if _role(visit) == "reads" else module.out_channels
    else:
        return []
    if len(visit.roots) < size:
        raise Lost(f"{visit.place} works in groups, and reads other channels besides")
    return [(visit.roots[at], visit.roots[at % (size // count)]) for at in range(size)]


def _units(width: int, ties: Iterable[tuple[int, int]]) -> list[int]:
    """Number the sets of channels that ties hold together; returns each channel's number."""
    parent = list(range(width))

    def first(channel: int) -> int:
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    for one, other in ties:
        low, high = sorted((first(one), first(other)))
        parent[high] = low
    numbers = {channel: number for number, channel in enumerate(sorted({first(each) for each in range(width)}))}
    return [numbers[first(channel)] for channel in range(width)]


def _place(visit: Visit, unit_of: Sequence[int]) -> Place:
    positions: list[list[int]] = [[] for _ in range(max(unit_of) + 1)]
    for position, root in sorted(visit.roots.items()):
        positions[unit_of[root]].append(position)
    if len({len(each) for each in positions}) > 1 or not positions[0]:
        raise Lost(f"its channels reach {visit.place} unevenly")
    return Place(visit.place, _role(visit), torch.tensor(positions), visit.handler, visit.axis)


def _output_layers(student: GraphModule, layers: Iterable[str]) -> list[str]:
    """Return layers whose channels are the model's output: those must stay."""
    known = set(layers)
    protected: list[str] = []
    stack = [node for node in student.graph.nodes if node.op == "output"]
    seen = set(stack)
    while stack:
        for source in stack.pop().all_input_nodes:
            if module_of(student, source) is not None and str(source.target) in known:
                protected.append(str(source.target))
            elif source not in seen:
                seen.add(source)
                stack.append(source)
    return protected


def _used_twice(student: GraphModule) -> set[str]:
    """Return modules that are called more than once, or share a weight with another."""
    calls = Counter(str(node.target) for node in student.graph.nodes if node.op == "call_module")
    owners: dict[int, list[str]] = {}
    for name, module in student.named_modules(remove_duplicate=False):
        for weight in module.parameters(recurse=False):
            owners.setdefault(id(weight), []).append(name)
    shared = {name for names in owners.values() if len(names) > 1 for name in names}
    return shared | {name for name, count in calls.items() if count > 1}
