from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from compressor_prune.channel_groups import ChannelGroup, Place
from compressor_prune.channel_importance import ChannelImportancePruning
from compressor_prune.widths import Widths, above_threshold
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.fx import GraphModule

from compressor.graph_editing import copy_graph
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, traced
from tests.compressor_prune.random_graphs import context_for


def group(units: int, each: int = 1) -> ChannelGroup:
    makes = Place("layer", "makes", torch.arange(units * each).reshape(units, each), None, 0)
    return ChannelGroup("layer", units * each, (makes,))


@given(st.integers(2, 200), st.integers(1, 4), st.integers(1, 16), st.floats(0.01, 0.99), st.floats(0.0, 1.0))
def test_widths_are_multiples_and_leave_what_must_stay(
    units: int, each: int, round_to: int, max_ratio: float, share: float
) -> None:
    made = group(units, each)
    widths = Widths.of(made, round_to, max_ratio)
    chosen = widths.nearest(share * made.width)
    for width in (*widths.narrower, chosen):
        assert 0 < width <= made.width
        assert width == made.width or (width % round_to == 0 and width % each == 0)
        assert width >= made.width * (1 - max_ratio) - 1e-3
    allowed = [*widths.narrower, made.width]
    assert min(abs(width - share * made.width) for width in allowed) == pytest.approx(abs(chosen - share * made.width))


@given(st.integers(2, 200), st.integers(1, 8), st.floats(0.0, 0.9), st.integers(1, 6))
def test_steps_lead_down_to_the_final_width_in_equal_parts(units: int, round_to: int, ratio: float, steps: int) -> None:
    widths = Widths.of(group(units), round_to, 0.9)
    final = widths.nearest(units * (1 - ratio))
    way = [widths.on_the_way(final, step, steps) for step in range(1, steps + 1)]
    assert way[-1] == final
    assert way == sorted(way, reverse=True)
    for step, width in enumerate(way, 1):
        assert abs(width - (units + (final - units) * step / steps)) <= widths.step
        assert width in (*widths.narrower, units)


@given(st.lists(st.lists(st.floats(0.01, 10), min_size=1, max_size=20), min_size=1, max_size=5), st.floats(0.0, 0.99))
def test_one_threshold_over_all_groups_is_numpy_s_sort(scores: list[list[float]], ratio: float) -> None:
    groups = {group(len(values)): torch.tensor(values, dtype=torch.float64) for values in scores}
    found = above_threshold(groups, ratio)
    flat = np.concatenate([np.array(values) for values in scores])
    gone = int(ratio * len(flat) + 1e-9)
    assert sum(found.values()) == len(flat) - gone
    threshold = np.sort(flat)[gone - 1] if gone else -1.0
    for made, values in groups.items():
        assert int((values > threshold).sum()) <= found[made] <= int((values >= threshold).sum())


def two_layers(scale: float) -> GraphModule:
    """Return a model whose second hidden layer has a few strong channels and many weak ones."""
    model = chain(nn.Conv1d(2, 16, 3), nn.Tanh(), nn.Conv1d(16, 16, 1), nn.Tanh(), nn.Conv1d(16, 2, 3))
    with torch.no_grad():
        model.get_parameter("2.weight")[4:] *= scale
        model.get_parameter("4.weight")[:, 4:] *= scale
    return traced(model, (1, 2, "time"))


def channels(graph: GraphModule, layer: str) -> int:
    return int(graph.get_submodule(layer).out_channels)  # type: ignore[arg-type]


@pytest.mark.parametrize("importance", ["magnitude", "lamp", "reconstruction"])
def test_global_pruning_takes_more_where_channels_matter_less(importance: str) -> None:
    graph = two_layers(0.05)
    strategy = ChannelImportancePruning.model_validate(
        {"importance": importance, "pruning_ratio": 0.375, "round_to": 2, "global_pruning": True}
    )
    student = strategy.apply(copy_graph(graph), context_for(None)).student
    assert (channels(student, "0"), channels(student, "2")) == (16, 4)
    alike = strategy.model_copy(update={"global_pruning": False}).apply(copy_graph(graph), context_for(None)).student
    assert (channels(alike, "0"), channels(alike, "2")) == (10, 10)


@pytest.mark.parametrize(
    ("importance", "ratio"), [("lamp", 0.3), ("lamp", 0.6), ("magnitude", 0.3), ("magnitude", 0.6)]
)
def test_scores_are_compared_between_groups_as_the_option_says(importance: str, ratio: float) -> None:
    graph = two_layers(0.5)
    strategy = ChannelImportancePruning.model_validate(
        {"importance": importance, "pruning_ratio": ratio, "round_to": 1, "global_pruning": True}
    )
    student = strategy.apply(copy_graph(graph), context_for(None)).student
    scores = []
    for maker, reader in (("0", "2"), ("2", "4")):
        made, read = (graph.get_parameter(f"{layer}.weight").detach().double().numpy() for layer in (maker, reader))
        energy = np.square(made).sum((1, 2)) + np.square(read).sum((0, 2))
        if importance == "lamp":
            scores.append(np.array([one / energy[energy >= one].sum() for one in energy]))
        else:
            scores.append(energy / energy.mean())
    threshold = np.sort(np.concatenate(scores))[int(ratio * 32) - 1]
    assert [channels(student, layer) for layer in ("0", "2")] == [int((each > threshold).sum()) for each in scores]


def test_no_layer_loses_more_than_the_largest_ratio() -> None:
    strategy = ChannelImportancePruning(
        importance="magnitude", pruning_ratio=0.45, round_to=1, global_pruning=True, max_ratio=0.5
    )
    student = strategy.apply(two_layers(1e-4), context_for(None)).student
    assert channels(student, "2") == 8


def test_candidates_stop_at_the_largest_ratio() -> None:
    found = ChannelImportancePruning(round_to=2, max_ratio=0.5).candidates(two_layers(1.0), context_for(None))
    assert {int(candidate.setting) for candidate in found} == {8, 10, 12, 14}


@pytest.mark.parametrize("importance", ["reconstruction", "taylor", "activation", "fpgm"])
@pytest.mark.parametrize("options", [{}, {"global_pruning": True}, {"steps": 3}])
def test_a_rehearsal_without_data_comes_to_the_same_widths(
    importance: str, options: dict[str, object], tiny_teacher: Teacher, tiny_context: StageContext
) -> None:
    strategy = ChannelImportancePruning.model_validate(
        {"importance": importance, "pruning_ratio": 0.4, "round_to": 2, **options}
    )
    shapes = [
        {name: tuple(value.shape) for name, value in student.state_dict().items()}
        for student in (
            strategy.apply(copy_graph(tiny_teacher.graph), tiny_context).student,
            strategy.apply(copy_graph(tiny_teacher.graph), replace(tiny_context, data=None)).student,
        )
    ]
    assert shapes[0] == shapes[1]
