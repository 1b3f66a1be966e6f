from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from compressor_simplify.constants import fold_constants
from compressor_simplify.folding import Fold, _proof
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.nn import functional

from compressor.errors import VerificationError
from compressor.graph_editing import copy_graph, module_nodes, parameter_count
from compressor.onnx_export import export_onnx
from compressor.strategy import StageContext, StageOutcome
from compressor.teacher_loading import load_teacher
from compressor.testing.small_graphs import inputs_of, traced
from compressor.testing.tiny_vocoder import as_onnx
from compressor.verification import check_export

LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


def randomised(module: nn.Module, seed: int = 0) -> Any:
    """Return a module with random weights and statistics, for evaluation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                # Variances have to be positive.
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
    return module.eval()


class Computed(nn.Module):
    """A function of modules and parameters and an input, so that graphs have arithmetic of their own."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(part))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def fold(graph: GraphModule, context: StageContext) -> StageOutcome:
    """Fold a copy, and hold it against the graph itself."""
    outcome = Fold().apply(copy_graph(graph), context)
    values = inputs_of(graph, seed=3)
    with torch.no_grad():
        wanted, found = graph(*values), outcome.student(*values)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    return outcome


def operations(graph: GraphModule) -> list[str]:
    """Return what a graph does, in words."""

    def word(node: Node) -> str:
        if node.op == "call_module":
            return type(graph.get_submodule(str(node.target))).__name__
        return str(getattr(node.target, "__name__", node.op))

    return [word(node) for node in graph.graph.nodes if node.op not in ("placeholder", "output")]


@st.composite
def layers(draw: st.DrawFn, padded: bool = True) -> tuple[nn.Module, tuple[Any, ...]]:
    """Draw a layer of any kind from 4 to 6 channels, and the shape of what it reads."""
    kind: Any = draw(st.sampled_from(LAYERS))
    bias = draw(st.booleans())
    if kind is nn.Linear:
        return nn.Linear(4, 6, bias), (5, 4)
    axes = 2 if kind in (nn.Conv2d, nn.ConvTranspose2d) else 1
    options = {"stride": draw(st.integers(1, 2)), "groups": draw(st.sampled_from([1, 2])), "bias": bias}
    options |= {"padding": draw(st.integers(0, 1))} if padded else {}
    return kind(4, 6, draw(st.integers(2, 3)), **options), (1, 4, *(9,) * (axes - 1), "time")


def norm(shape: tuple[Any, ...], channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if len(shape) == 4 else nn.BatchNorm1d(channels)


QUICKLY = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(drawn=layers(), seed=st.integers(0, 99))
@QUICKLY
def test_normalisation_behind_a_layer(drawn: tuple[Any, Any], seed: int, tiny_context: StageContext) -> None:
    layer, shape = drawn
    graph = traced(randomised(nn.Sequential(layer, norm(shape, 6)), seed), shape)
    outcome = fold(graph, tiny_context)
    assert operations(outcome.student) == [type(layer).__name__]
    assert outcome.findings[0].message == "folded into 0"
    assert outcome.findings[-1].values["largest_difference"] < 1e-6
    # The normalisation's four vectors are gone; a bias may have come.
    assert parameter_count(outcome.student) == layer.weight.numel() + 6


@given(drawn=layers(padded=False), seed=st.integers(0, 99))
@QUICKLY
def test_normalisation_before_a_layer_that_does_not_pad(
    drawn: tuple[Any, Any], seed: int, tiny_context: StageContext
) -> None:
    layer, shape = drawn
    graph = traced(randomised(nn.Sequential(norm(shape, 4), layer), seed), shape)
    outcome = fold(graph, tiny_context)
    transposed = isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d)
    assert operations(outcome.student)[-1] == type(layer).__name__
    # At the ends a transposed convolution reads less: there a shift is no bias.
    assert len(operations(outcome.student)) == (2 if transposed else 1)


def test_padding_is_not_shifted(tiny_context: StageContext) -> None:
    graph = traced(randomised(nn.Sequential(nn.BatchNorm1d(4), nn.Conv1d(4, 6, 3, padding=1))), (1, 4, "time"))
    outcome = fold(graph, tiny_context)
    assert operations(outcome.student) == ["BatchNorm1d", "Conv1d"]
    assert [finding.message for finding in outcome.findings] == ["there is nothing to fold"]


def test_padding_is_scaled(tiny_context: StageContext) -> None:
    model = Computed(lambda m, x: m.conv(x * m.gain / 3), conv=nn.Conv1d(4, 6, 3, padding=1), gain=torch.rand(4, 1))
    outcome = fold(traced(randomised(model), (1, 4, "time")), tiny_context)
    assert operations(outcome.student) == ["Conv1d"]
    assert {finding.message for finding in outcome.findings[:2]} == {"folded into conv"}


ARITHMETIC: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a number": lambda m, x: m.layer(x) * 2.0,
    "a chain": lambda m, x: (m.layer(x) / m.each - 1.0) * m.one,
    "from a constant": lambda m, x: m.each - m.layer(x),
    "constant first": lambda m, x: m.each * m.layer(x) + m.one,
    "functions": lambda m, x: torch.sub(torch.mul(m.layer(x), m.each), 0.5),
    "methods": lambda m, x: m.layer(x).div(m.each).add(m.one),
    "on both sides": lambda m, x: m.layer(3.0 - x) - m.each,
}


@pytest.mark.parametrize("kind", ARITHMETIC)
@pytest.mark.parametrize("layer", [nn.Conv1d(4, 6, 3, bias=False), nn.Conv1d(4, 6, 2, stride=2, groups=2)])
def test_arithmetic_with_numbers_and_constants(kind: str, layer: nn.Module, tiny_context: StageContext) -> None:
    model = Computed(ARITHMETIC[kind], layer=layer, one=torch.tensor([1.7]), each=torch.rand(6, 1))
    assert operations(fold(traced(randomised(model), (1, 4, "time")), tiny_context).student) == ["Conv1d"]


def test_a_linear_layer_has_its_channels_last(tiny_context: StageContext) -> None:
    model = Computed(lambda m, x: m.layer(x) * m.each, layer=nn.Linear(4, 6), each=torch.rand(6))
    assert operations(fold(traced(randomised(model), (1, "time", 4)), tiny_context).student) == ["Linear"]


def read_twice(value: Tensor) -> Tensor:
    return value * 2.0 + torch.tanh(value)


NOT_FOLDED: dict[str, tuple[Callable[[Any, Tensor], Tensor], list[str]]] = {
    "a layer called twice": (lambda m, x: m.conv(x) * 2.0 + m.conv(x), ["Conv1d", "mul", "Conv1d", "add"]),
    "something between": (lambda m, x: torch.relu(m.conv(x)) * 2.0, ["Conv1d", "relu", "mul"]),
    "a value read twice": (lambda m, x: read_twice(m.conv(x)), ["Conv1d", "mul", "tanh", "add"]),
    "along time": (lambda m, x: m.conv(x) / m.c, ["Conv1d", "get_attr", "truediv"]),
    "a divisor": (lambda m, x: 1.0 / m.conv(x), ["Conv1d", "truediv"]),
    "a value made larger": (lambda m, x: m.conv(x[:, :1] * m.c[:, :1]), ["getitem", "get_attr", "mul", "Conv1d"]),
    "no constant": (lambda m, x: (lambda y: y - torch.mean(y))(m.conv(x)), ["Conv1d", "mean", "sub"]),
}


@pytest.mark.parametrize("kind", NOT_FOLDED)
def test_what_is_read_elsewhere_or_varies_otherwise_stays(kind: str, tiny_context: StageContext) -> None:
    function, wanted = NOT_FOLDED[kind]
    model = Computed(function, conv=nn.Conv1d(4, 4, 3, padding=1), c=torch.rand(4, 20))
    outcome = fold(traced(randomised(model), (1, 4, 20)), tiny_context)
    assert sorted(operations(outcome.student)) == sorted(wanted)


def test_shared_weights_stay_as_they_are(tiny_context: StageContext) -> None:
    first, second = nn.Conv1d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1)
    model = randomised(nn.Sequential(first, nn.BatchNorm1d(4), second))
    second.weight = first.weight
    outcome = fold(traced(model, (1, 4, "time")), tiny_context)
    assert operations(outcome.student) == ["Conv1d", "BatchNorm1d", "Conv1d"]


def test_what_does_nothing_is_left_out(tiny_context: StageContext) -> None:
    idle = {"a": nn.Identity(), "b": nn.Dropout()}
    model = Computed(lambda m, x: m.conv(torch.relu(m.b(m.a(x))) * 1.0 + 0.0), **idle, conv=nn.Conv1d(4, 4, 1))
    outcome = fold(traced(randomised(model), (1, 4, "time")), tiny_context)
    assert operations(outcome.student) == ["relu", "Conv1d"]
    assert [finding.message for finding in outcome.findings[:4]] == ["left out: it does nothing"] * 4


class WeightNormalised(nn.Module):
    """A product whose matrix is a gain times a direction, as weight normalisation spells it."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.direction = nn.Parameter(torch.ones(1, 5)), nn.Parameter(torch.ones(4, 5))
        self.bias = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x @ (self.gain * (self.direction / self.direction.norm(dim=0, keepdim=True))) + self.bias
        return made


def test_weight_normalisation_becomes_a_plain_linear_layer(tiny_context: StageContext) -> None:
    model = randomised(WeightNormalised())
    outcome = fold(traced(model, (1, "time", 4)), tiny_context)
    ((node, layer),) = module_nodes(outcome.student, nn.Linear)
    assert operations(outcome.student) == ["Linear"]
    assert isinstance(layer, nn.Linear)
    gain, direction = (value.detach().numpy() for value in (model.gain, model.direction))
    wanted = gain * direction / np.linalg.norm(direction, axis=0)
    np.testing.assert_allclose(layer.weight.detach().numpy().T, wanted, rtol=1e-6)
    assert parameter_count(outcome.student) == 4 * 5 + 5
    assert [finding.message for finding in outcome.findings[:3]] == [
        "3 operations on constants computed",
        "now a linear layer from 4 to 5",
        f"folded into {node.target}",
    ]


def test_products_of_a_file_become_linear_layers(tmp_path: Any, tiny_context: StageContext) -> None:
    path = tmp_path / "linear.onnx"
    model = randomised(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)))
    path.write_bytes(as_onnx(model, torch.zeros(1, 24, 4), ("x", {1: "time"}), ("y", {1: "time"})))
    teacher = load_teacher(path)
    assert "OnnxMatMul" in operations(teacher.graph)
    outcome = fold(teacher.graph, tiny_context)
    assert operations(outcome.student) == ["Linear", "OnnxFunction", "Linear"]
    trained = sum(parameter.numel() for parameter in outcome.student.parameters())
    assert trained == sum(parameter.numel() for parameter in model.parameters()) == parameter_count(outcome.student)


def test_a_file_without_normalisation_runs_as_torch(tmp_path: Any, tiny_context: StageContext) -> None:
    # The product keeps the exporter from folding by itself.
    conv, norm = nn.Conv1d(4, 6, 3, padding=1), nn.BatchNorm1d(6)
    model = Computed(lambda m, x: m.norm(m.conv(x) * m.gain), conv=conv, norm=norm, gain=torch.rand(6, 1))
    path = tmp_path / "norm.onnx"
    path.write_bytes(as_onnx(randomised(model), torch.zeros(1, 4, 24)))
    teacher = load_teacher(path)
    assert "BatchNormalization" in teacher.operators
    outcome = fold(teacher.graph, tiny_context)
    content = export_onnx(outcome.student)
    assert [node.op_type for node in onnx.load_model_from_string(content).graph.node] == ["Conv"]
    check_export(content, outcome.student)


def test_constants_that_grow_or_are_random_stay() -> None:
    model = Computed(lambda m, x: torch.tanh(x) + m.c.expand(4, 20) * 2.0 + torch.rand_like(m.c), c=torch.rand(4, 1))
    graph = traced(model, (1, 4, 20))
    before = operations(graph)
    assert fold_constants(graph) == []
    assert operations(graph) == before


def test_a_second_time_there_is_nothing_left_to_do(tiny_context: StageContext) -> None:
    model = randomised(nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.Dropout(), nn.ReLU()))
    once = fold(traced(model, (1, 4, "time")), tiny_context).student
    twice = fold(once, tiny_context)
    assert [finding.message for finding in twice.findings] == ["there is nothing to fold"]


def test_a_vocoder_keeps_what_other_strategies_look_for(tiny_context: StageContext) -> None:
    outcome = fold(tiny_context.teacher.graph, tiny_context)
    assert [finding.message for finding in outcome.findings] == ["there is nothing to fold"]


def test_more_than_rounding_is_refused() -> None:
    before = traced(randomised(nn.Conv1d(4, 6, 3)), (1, 4, "time"))
    after = copy_graph(before)
    with torch.no_grad():
        next(after.parameters()).mul_(1.001)
    with pytest.raises(VerificationError, match=r"stage 'tidy' moved the output by .* allowed 1e-05"):
        _proof("tidy", before, after)


def test_functional_normalisation_of_onnx2torch(tiny_context: StageContext) -> None:
    """Statistics that the file shares come as tensors of the graph."""

    class OnnxBatchNorm(nn.Module):
        epsilon = 1e-3

        def forward(self, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
            return functional.batch_norm(x, mean, variance, weight, bias, eps=self.epsilon)

    OnnxBatchNorm.__module__ = "torch.nn.leaf"
    names = ("weight", "bias", "mean", "variance")
    model = Computed(
        lambda m, x: m.norm(m.conv(x), *(getattr(m, name) for name in names)),
        conv=nn.Conv1d(4, 6, 3),
        norm=OnnxBatchNorm(),
        **{name: torch.ones(6) for name in names},
    )
    assert operations(fold(traced(randomised(model), (1, 4, "time")), tiny_context).student) == ["Conv1d"]
