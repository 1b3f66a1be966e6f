"""Proof that channels can go: without them every layer reads what it reads with them silenced.

DepGraph takes every operation that it does not know for one that works channel by channel. So before any group is
pruned for good, some units of all groups are removed from a copy, and the same units are silenced where the student's
own layers read them. If the groups are right, both compute the same everywhere. Normalisation over several channels is
left out of both: it changes with its channels, and what is to be proven is only who reads whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.graph_editing import copy_graph, input_specs
from compressor.tensor_spec import random_inputs
from compressor.unfolding import channel_axis
from compressor_prune.channel_groups import ChannelGroup, LeftAlone
from compressor_prune.channel_removal import Drops, remove
from compressor_prune.channel_tracing import first_line

SIZES = (16, 21, 33)
"""Sizes of dynamic axes that the proof runs at: the first two of them that the student itself takes."""

TOLERANCE = 1e-3
"""Largest difference allowed, as a share of a tensor's largest magnitude: a wrong channel differs by much more."""

Inputs = tuple[Tensor, ...]


def prove(
    student: GraphModule, groups: Sequence[ChannelGroup]
) -> tuple[tuple[ChannelGroup, ...], tuple[LeftAlone, ...]]:
    """Return the groups of which units can be removed, all at once, and the others with the reason."""
    proof = _Proof(student, tuple(_inputs(student)))
    left: list[LeftAlone] = []
    sound = list(groups)
    while sound and (fault := proof.fault(sound)):
        suspects = proof.guilty([group for group in sound if fault.reader in group.readers])
        if not suspects:
            sound = proof.largest([], sound, left)
            break
        left += [each for group in suspects for each in LeftAlone.together(group, fault.reason)]
        sound = [group for group in sound if group not in suspects]
    return tuple(sound), tuple(left)


@dataclass(frozen=True)
class _Fault:
    reason: str
    reader: str = ""
    """The first layer that reads something else than it should, if it came that far."""


@dataclass(frozen=True, eq=False)
class _Proof:
    student: GraphModule
    inputs: Sequence[Inputs]

    def fault(self, groups: Sequence[ChannelGroup]) -> _Fault | None:
        """Remove some units of each group from a copy; returns what differs."""
        drops = {group: _some(group) for group in groups}
        narrow = copy_graph(self.student)
        try:
            remove(narrow, drops)
        except Exception as error:
            return _Fault(f"its layers cannot be narrowed ({first_line(error)})")
        silenced = _silenced(drops)
        axes = {layer: channel_axis(self.student.get_submodule(layer)) for layer in silenced}
        for values, wanted in islice(self._wanted(silenced), 2):
            found = _run(narrow, dict.fromkeys(silenced, ()), values)
            if fault := _compare(wanted.without(silenced, axes), found):
                return fault
        return None

    def _wanted(self, silenced: Mapping[str, Sequence[int]]) -> Iterator[tuple[Inputs, _Trace]]:
        """Yield inputs that the student takes, with what its layers read once some channels are silenced."""
        for values in self.inputs:
            wanted = _run(self.student, silenced, values)
            if not wanted.error:
                yield values, wanted

    def guilty(self, suspects: Sequence[ChannelGroup]) -> Sequence[ChannelGroup]:
        """Return those of several groups that fail by themselves, or all of them if none does."""
        if len(suspects) < 2:
            return suspects
        return [group for group in suspects if self.fault([group])] or suspects

    def largest(
        self, sure: list[ChannelGroup], more: Sequence[ChannelGroup], left: list[LeftAlone]
    ) -> list[ChannelGroup]:
        """Return `sure` and as many of `more` as go together with it; notes the others in `left`."""
        fault = self.fault([*sure, *more])
        if fault is None:
            return [*sure, *more]
        if len(more) == 1:
            left += LeftAlone.together(more[0], fault.reason)
            return sure
        half = len(more) // 2
        return self.largest(self.largest(sure, more[:half], left), more[half:], left)


@dataclass(frozen=True, eq=False)
class _Trace:
    reads: Mapping[str, Tensor]
    """What each layer that reads channels was handed, in the order in which they ran."""
    outputs: Sequence[Tensor]
    error: str = ""

    def without(self, lost: Mapping[str, Sequence[int]], axes: Mapping[str, int]) -> _Trace:
        """Return the trace with some of the channels that each layer reads taken away."""

        def kept(layer: str, read: Tensor) -> Tensor:
            stay = sorted(set(range(read.shape[axes[layer]])) - set(lost[layer]))
            return read.index_select(axes[layer], torch.tensor(stay))

        return replace(self, reads={layer: kept(layer, read) for layer, read in self.reads.items()})


def _some(group: ChannelGroup) -> list[int]:
    """Return about half of the units, without any regularity that a wrong numbering might share."""
    order = torch.randperm(group.units, generator=torch.Generator().manual_seed(group.units))
    return sorted(order[: max(1, group.units // 2)].tolist())


def _silenced(drops: Drops) -> dict[str, Sequence[int]]:
    silenced: dict[str, list[int]] = {}
    for group, units in drops.items():
        for place in group.places:
            if place.role == "reads":
                silenced.setdefault(place.name, []).extend(place.positions[list(units)].flatten().tolist())
    return dict(silenced)


def _inputs(student: GraphModule) -> Iterator[Inputs]:
    specs = input_specs(student)
    for size in SIZES if any(spec.dynamic_axes for spec in specs) else SIZES[:1]:
        yield tuple(torch.from_numpy(array) for array in random_inputs(specs, size).values())


def _run(student: GraphModule, silenced: Mapping[str, Sequence[int]], values: Inputs) -> _Trace:
    reads: dict[str, Tensor] = {}

    def silence(layer: str) -> Callable[..., Inputs]:
        def hook(module: nn.Module, read: Inputs) -> Inputs:
            value = read[0].clone()
            if silenced[layer]:
                value.index_fill_(channel_axis(module), torch.tensor(silenced[layer]), 0.0)
            reads[layer] = value
            return (value,)

        return hook

    handles = [student.get_submodule(layer).register_forward_pre_hook(silence(layer)) for layer in silenced]
    try:
        # Models that draw random numbers draw the same ones each time.
        with torch.no_grad(), torch.random.fork_rng(devices=[]), _without_statistics(student):
            torch.manual_seed(0)
            # Not by calling it: a graph module prints what fails to the terminal.
            outputs = student.forward(*values)
        return _Trace(reads, outputs if isinstance(outputs, list | tuple) else (outputs,))
    except Exception as error:
        return _Trace(reads, (), f"the model does not run without some of its channels ({first_line(error)})")
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _without_statistics(student: GraphModule) -> Iterator[None]:
    def scale(module: Any, read: Inputs, _: Tensor) -> Tensor:
        value = read[0]
        if module.weight is None:
            return value
        shape = [-1] + [1] * (value.dim() - 2) if isinstance(module, nn.GroupNorm) else module.weight.shape
        scaled: Tensor = value * module.weight.reshape(shape)
        return scaled

    handles = [
        module.register_forward_hook(scale)
        for module in student.modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _compare(wanted: _Trace, found: _Trace) -> _Fault | None:
    for layer, read in found.reads.items():
        if layer not in wanted.reads or not _same(wanted.reads[layer], read):
            return _Fault(f"removing channels changes what {layer} reads of the others", layer)
    if found.error:
        return _Fault(found.error)
    if all(_same(one, other) for one, other in zip(wanted.outputs, found.outputs, strict=True)):
        return None
    return _Fault("removing its channels changes the output otherwise than silencing them does")


def _same(wanted: Tensor, found: Tensor) -> bool:
    if wanted.shape != found.shape:
        return False
    if not wanted.is_floating_point():
        return torch.equal(wanted, found)
    scale = float(wanted.nan_to_num().abs().max()) if wanted.numel() else 0.0
    return torch.allclose(found, wanted, rtol=0.0, atol=TOLERANCE * scale + 1e-12, equal_nan=True)
