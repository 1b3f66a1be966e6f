from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
import torch
from compressor_simplify.activation_patterns import CLASSES, KNOWN, Activation, find_activations
from compressor_simplify.activation_replacement import ActivationName, ActivationReplacement
from compressor_simplify.tensor_shapes import tensor_shapes
from pydantic import ValidationError
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional

from compressor.dataset import Dataset, Sample
from compressor.errors import SelectionError
from compressor.graph_editing import copy_graph, layer_name, module_nodes, parameter_count
from compressor.onnx_export import export_onnx
from compressor.strategy import StageContext
from compressor.teacher_loading import Teacher, load_teacher
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_runs import stage_context
from compressor.testing.tiny_vocoder import as_onnx
from compressor.verification import check_export


class Snake(nn.Module):
    """As BigVGAN spells it (arXiv 2206.04658), with an amplitude of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.linspace(0.5, 1.5, channels)[None, :, None])
        self.beta = nn.Parameter(torch.linspace(0.8, 1.2, channels)[None, :, None])

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + (1.0 / (self.beta + 1e-9)) * torch.pow(torch.sin(x * self.alpha), 2)
        return made


class ShortSnake(Snake):
    """As descript-audio-codec spells it (arXiv 2306.06546)."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + (self.alpha + 1e-9).reciprocal() * torch.sin(self.alpha * x).pow(2)
        return made


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


SPELT: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "snake": ("Snake", lambda: Snake(4)),
    "short snake": ("Snake", lambda: ShortSnake(4)),
    "silu": ("SiLU", nn.SiLU),
    "gelu": ("GELU", nn.GELU),
    "gelu by tanh": ("GELU", lambda: nn.GELU(approximate="tanh")),
    "mish": ("Mish", nn.Mish),
    "elu": ("ELU", lambda: nn.ELU(0.7)),
    "celu": ("CELU", lambda: nn.CELU(0.7)),
    "selu": ("SELU", nn.SELU),
    "hardswish": ("Hardswish", nn.Hardswish),
    "softplus": ("Softplus", nn.Softplus),
    "softsign": ("Softsign", nn.Softsign),
    "sigmoid": ("Sigmoid", nn.Sigmoid),
    "tanh": ("Tanh", nn.Tanh),
}


def between_convolutions(*activations: nn.Module) -> nn.Sequential:
    """Return activations with a convolution before each and one at the end."""
    layers = [layer for activation in activations for layer in (nn.Conv1d(4, 4, 3, padding=1), activation)]
    model = nn.Sequential(*layers, nn.Conv1d(4, 4, 1))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            if parameter.dim() == 3 and parameter.shape[0] > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def loaded(model: nn.Module, folder: Path) -> GraphModule:
    """Return a model as it comes back from an ONNX file."""
    path = folder / "model.onnx"
    path.write_bytes(as_onnx(model, torch.zeros(1, 4, 24)))
    return load_teacher(path).graph


def found_in(graph: GraphModule) -> list[Activation]:
    return find_activations(graph, tensor_shapes(graph))


def test_every_activation_that_a_recipe_may_name_is_known() -> None:
    assert set(get_args(ActivationName)) == {*KNOWN, *CLASSES, "Snake"}
    assert {name for name, _ in SPELT.values()} == set(get_args(ActivationName))


@pytest.mark.parametrize("spelling", SPELT)
@pytest.mark.parametrize("from_file", [True, False])
def test_activations_are_found_however_they_are_spelt(spelling: str, from_file: bool, tmp_path: Path) -> None:
    name, module = SPELT[spelling]
    model = between_convolutions(module())
    graph = loaded(model, tmp_path) if from_file else traced(model, (1, 4, "time"))
    (activation,) = found_in(graph)
    assert activation.name == name
    assert isinstance(graph.get_submodule(str(activation.source.target)), nn.Conv1d)
    assert [isinstance(graph.get_submodule(str(user.target)), nn.Conv1d) for user in activation.output.users] == [True]


@pytest.mark.parametrize(
    "function",
    [
        functional.silu,
        lambda x: x * torch.sigmoid(x),
        lambda x: torch.sigmoid(x) * x,
        lambda x: x / (1.0 + torch.exp(-x)),
        lambda x: x.sigmoid().mul(x),
    ],
)
def test_functions_and_methods_count_too(function: Callable[[Tensor], Tensor]) -> None:
    graph = traced(between_convolutions(Function(function)), (1, 4, "time"))
    assert [activation.name for activation in found_in(graph)] == ["SiLU"]


NOT_THOSE: list[Callable[[Tensor], Tensor]] = [
    lambda x: x + torch.sin(x),
    lambda x: torch.sin(x) ** 2,
    lambda x: x * torch.sin(x),
    lambda x: x + x * torch.sin(x) ** 2,
    lambda x: x * torch.sigmoid(2.0 * x),
    lambda x: x + x.flip(2).sigmoid() * 0.0 + x * x,
    lambda x: x[:, :2] * torch.exp(x[:, 2:]),
]


@pytest.mark.parametrize("number", range(len(NOT_THOSE)))
def test_what_only_looks_like_an_activation_is_none(number: int) -> None:
    graph = traced(Function(NOT_THOSE[number]), (1, 4, "time"))
    assert [activation.name for activation in found_in(graph) if activation.name != "Sigmoid"] == []


def test_a_part_of_an_activation_is_none(tiny_context: StageContext) -> None:
    graph = traced(between_convolutions(Function(lambda x: x * torch.tanh(functional.softplus(x)))), (1, 4, "time"))
    assert [activation.name for activation in found_in(graph)] == ["Mish"]
    context = stage_context(tiny_context.teacher, None, tiny_context.workdir)
    outcome = ActivationReplacement(replace=("Softplus", "Tanh")).apply(graph, context)
    assert outcome.findings[0].message == "the model has no Softplus or Tanh: nothing done"


@pytest.fixture
def context(tmp_path: Path, tiny_teacher: Teacher) -> StageContext:
    """Return a context whose samples are of four channels."""
    random = np.random.default_rng(0)
    samples = tuple(
        Sample(str(number), {"input_1": random.standard_normal((1, 4, 40)).astype(np.float32)}) for number in range(5)
    )
    return stage_context(tiny_teacher, Dataset(samples[:4], samples[4:], "noise"), tmp_path)


def read_and_made(graph: GraphModule, context: StageContext) -> tuple[Any, Any]:
    """Return what the first convolution puts out over the training samples, and Snake of it, by numpy."""
    assert context.data is not None
    conv, snake = graph.get_submodule("0"), SNAKE
    with torch.no_grad():
        read = torch.cat([conv(torch.from_numpy(sample.inputs["input_1"])) for sample in context.data.train]).numpy()
    alpha, beta = snake.alpha.detach().numpy(), snake.beta.detach().numpy()
    return read.astype(np.float64), read + np.sin(alpha * read) ** 2 / beta


SNAKE = Snake(4)


def test_the_slope_is_the_one_of_least_squares_and_the_drift_is_measured(context: StageContext) -> None:
    graph = traced(between_convolutions(SNAKE), (1, 4, "time"))
    read, made = read_and_made(graph, context)
    outcome = ActivationReplacement().apply(copy_graph(graph), context)
    (finding,) = outcome.findings
    slope = np.linalg.lstsq(read[read < 0][:, None], made[read < 0], rcond=None)[0][0]
    assert finding.values["slope"] == pytest.approx(slope, rel=1e-5)
    drift = np.square(np.where(read < 0, slope * read, read) - made).sum() / np.square(made).sum()
    assert finding.values["relative_error"] == pytest.approx(drift, rel=1e-5)
    assert finding.message == f"Snake is now leaky-relu of slope {slope:.3g}: {drift:.2%} of its energy is lost"
    ((_, rectifier),) = module_nodes(outcome.student, nn.LeakyReLU)
    assert isinstance(rectifier, nn.LeakyReLU)
    assert rectifier.negative_slope == finding.values["slope"]


@pytest.mark.parametrize(("options", "slope"), [({"slope": 0.1}, 0.1), ({"activation": "relu"}, 0.0)])
def test_a_slope_by_recipe(options: dict[str, Any], slope: float, context: StageContext) -> None:
    graph = traced(between_convolutions(SNAKE), (1, 4, "time"))
    read, made = read_and_made(graph, context)
    outcome = ActivationReplacement(**options).apply(copy_graph(graph), context)
    drift = np.square(np.where(read < 0, slope * read, read) - made).sum() / np.square(made).sum()
    assert outcome.findings[0].values == {"slope": slope, "relative_error": pytest.approx(drift, rel=1e-5)}
    value = torch.randn(1, 4, 20)
    wanted = functional.leaky_relu(graph.get_submodule("0")(value), slope)
    torch.testing.assert_close(outcome.student(value), graph.get_submodule("2")(wanted))


def test_a_rectifier_without_a_slope_has_none() -> None:
    with pytest.raises(ValidationError, match="'slope' is for 'leaky-relu'"):
        ActivationReplacement(activation="relu", slope=0.1)


def test_no_other_activation_can_be_named() -> None:
    with pytest.raises(ValidationError, match="ELU"):
        ActivationReplacement.model_validate({"replace": ["Elu"]})


def test_from_a_file_to_a_file(tmp_path: Path, context: StageContext) -> None:
    graph = loaded(between_convolutions(Snake(4), nn.SiLU(), ShortSnake(4), nn.Tanh()), tmp_path)
    outcome = ActivationReplacement().apply(copy_graph(graph), stage_context(context.teacher, None, tmp_path))
    assert outcome.findings[0].message == "no data to calibrate on: slopes and drifts are of random inputs"
    assert [finding.message.split()[0] for finding in outcome.findings[1:]] == ["Snake", "SiLU", "Snake"]
    content = export_onnx(outcome.student)
    kinds = [node.op_type for node in onnx.load_model_from_string(content).graph.node]
    assert kinds == ["Conv", "LeakyRelu", "Conv", "LeakyRelu", "Conv", "LeakyRelu", "Conv", "Tanh", "Conv"]
    check_export(content, outcome.student)
    # The constants of the sines are no weights any more.
    assert parameter_count(outcome.student) == sum(
        conv.weight.numel() + 4 for _, conv in module_nodes(outcome.student, nn.Conv1d) if isinstance(conv, nn.Conv1d)
    )


def test_one_behind_the_other(context: StageContext) -> None:
    graph = traced(chain(nn.Conv1d(4, 4, 1), nn.SiLU(), nn.SiLU(), nn.Conv1d(4, 4, 1)), (1, 4, "time"))
    outcome = ActivationReplacement(slope=0.5).apply(copy_graph(graph), context)
    assert not list(module_nodes(outcome.student, nn.SiLU))
    value = torch.randn(1, 4, 20)
    wanted = functional.leaky_relu(graph.get_submodule("0")(value), 0.25)
    torch.testing.assert_close(outcome.student(value), graph.get_submodule("3")(wanted))


def test_targets_and_their_mistakes(context: StageContext) -> None:
    graph = traced(between_convolutions(nn.SiLU(), nn.SiLU(), nn.GELU()), (1, 4, "time"))
    assert [layer_name(activation.output) for activation in found_in(graph)] == ["1", "3", "5"]
    some = ActivationReplacement(targets=("1", "5"), ignore=("5",))
    assert [finding.layer for finding in some.apply(copy_graph(graph), context).findings] == ["1"]
    with pytest.raises(SelectionError, match="the pattern '9' matches no layer"):
        ActivationReplacement(targets=("9",)).apply(copy_graph(graph), context)


def test_a_vocoder_of_rectifiers_is_left_as_it_is(tiny_context: StageContext) -> None:
    outcome = ActivationReplacement().apply(copy_graph(tiny_context.teacher.graph), tiny_context)
    assert outcome.findings[0].message == "the model has no Snake or SiLU or GELU or Mish or ELU: nothing done"
    assert [activation.name for activation in found_in(tiny_context.teacher.graph)] == ["Tanh"]
