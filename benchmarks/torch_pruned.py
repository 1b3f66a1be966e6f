"""Torch-Pruning by itself, as one would use it on a vocoder."""

from __future__ import annotations

import torch
import torch_pruning
from torch import nn
from torch.fx import GraphModule

from compressor.graph_editing import copy_graph, input_specs
from compressor.stage_running import Workbench
from compressor.tensor_spec import random_inputs


def pruned_by(bench: Workbench, importance: str, ratio: float, *, global_pruning: bool) -> GraphModule:
    """Return the teacher without a share of its channels; importance is `magnitude` or `taylor`."""
    student = copy_graph(bench.teacher.graph)
    example = tuple(torch.from_numpy(array) for array in random_inputs(input_specs(student), 16).values())
    for parameter in student.parameters():
        parameter.requires_grad_(True)
    convs = [module for module in student.modules() if isinstance(module, nn.Conv1d)]
    taylor = importance == "taylor"
    pruner = torch_pruning.pruner.MetaPruner(
        student,
        example,
        importance=torch_pruning.importance.GroupTaylorImportance()
        if taylor
        else torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        global_pruning=global_pruning,
        max_pruning_ratio=0.9,
        round_to=8,
        ignored_layers=[convs[-1]],
        # Its mutable defaults leak from pruner to pruner.
        in_channel_groups={},
        out_channel_groups={},
    )
    if taylor:
        for sample in bench.data.train[:4] if bench.data else ():
            student(torch.from_numpy(sample.inputs["mel"])[..., :128]).square().mean().backward()
    pruner.step()
    return student
