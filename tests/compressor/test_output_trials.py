from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.calibration import calibration_inputs
from compressor.dataset import Dataset
from compressor.graph_editing import copy_graph, feed, input_specs, layer_name, module_nodes
from compressor.output_trials import output_errors
from compressor.sensitivity import Balance
from compressor.teacher_loading import Teacher

Inputs = list[tuple[Tensor, ...]]


@pytest.fixture
def inputs(tiny_teacher: Teacher, tiny_dataset: Dataset) -> Inputs:
    return list(calibration_inputs(tiny_teacher.inputs, tiny_dataset.train[:2]))


def error_of(changed: GraphModule, teacher: Teacher, inputs: Inputs) -> float:
    """Return the error of a changed model, computed from end to end."""
    found = 0.0
    for values in inputs:
        wanted = feed(teacher.graph, values)[0]
        balance = Balance(wanted)
        off = feed(changed, values)[0] - wanted
        found += float(balance.weighted(off).square().sum()) / balance.energy / len(inputs)
    return found


def test_a_trial_is_worth_what_the_changed_model_is(tiny_teacher: Teacher, inputs: Inputs) -> None:
    layers = [layer_name(node) for node, _ in module_nodes(tiny_teacher.graph, nn.Conv1d, nn.ConvTranspose1d)]
    changed: dict[str, GraphModule] = {}
    for layer in layers:
        changed[layer] = copy_graph(tiny_teacher.graph)
        with torch.no_grad():
            changed[layer].get_submodule(layer).weight.mul_(0.9)  # type: ignore[operator]
    trials: dict[str, Callable[..., Tensor]] = {
        layer: graph.get_submodule(layer).forward for layer, graph in changed.items()
    }
    found = output_errors(tiny_teacher.graph, trials, inputs)
    assert len(found) == len(layers) == 20
    for layer in layers:
        assert found[layer] == pytest.approx(error_of(changed[layer], tiny_teacher, inputs), rel=1e-3)
        assert found[layer] > 0


def test_what_changes_nothing_is_no_error(tiny_teacher: Teacher, inputs: Inputs) -> None:
    layer = "conv_pre/Conv"
    assert input_specs(tiny_teacher.graph)
    same = tiny_teacher.graph.get_submodule(layer).forward
    assert output_errors(tiny_teacher.graph, {layer: same}, inputs) == {layer: pytest.approx(0.0, abs=1e-10)}
