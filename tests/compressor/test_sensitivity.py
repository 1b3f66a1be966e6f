"""How far errors reach, held against the exact answer where a model is linear, and against injected noise elsewhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from compressor.graph_editing import copy_graph, layer_name
from compressor.sensitivity import sensitivities
from compressor.teacher_loading import Teacher
from compressor.testing.small_graphs import chain, traced
from compressor.testing.tiny_vocoder import mel

Array = NDArray[np.float64]


@pytest.fixture
def many_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the estimate's own scatter small: three parts in a thousand for a thousand outputs."""
    monkeypatch.setattr("compressor.sensitivity.DRAWS", 200)


def without_bias(*layers: nn.Module) -> nn.Sequential:
    model = chain(*layers)
    for layer in model:
        assert getattr(layer, "bias", None) is None
    return model


@pytest.mark.usefixtures("many_draws")
@given(taps=st.integers(1, 4), width=st.integers(1, 3), stride=st.integers(1, 2), seed=st.integers(0, 99))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_before_a_convolution_it_is_the_energy_of_its_weights(taps: int, width: int, stride: int, seed: int) -> None:
    first, second = nn.Conv1d(2, width, 3, bias=False), nn.Conv1d(width, 3, taps, stride, bias=False)
    graph = traced(without_bias(first, second), (1, 2, "time"))
    value = torch.randn(1, 2, 200, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        inner = first(value)
        output = second(inner)
        # Every weight carries the error of one channel to as many outputs as there are.
        carried = second.weight.square().sum((0, 2)) * output.shape[-1]
        wanted = float((inner.square().mean((0, 2)) * carried).sum() / output.square().sum())
    found = sensitivities(graph, [(value,)])
    assert found == pytest.approx({"0": wanted, "1": 1.0}, rel=0.05)


@pytest.mark.usefixtures("many_draws")
def test_channels_of_a_linear_layer_are_its_last_axis() -> None:
    first, second = nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)
    graph = traced(without_bias(first, second), (1, "time", 3))
    with torch.no_grad():
        # One loud channel that is hardly read.
        first.weight[0] *= 100.0
        second.weight[:, 0] *= 1e-3
    for shape in ((1, 60, 3), (60, 3)):
        value = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            inner = first(value).flatten(0, -2)
            output = second(inner)
            carried = second.weight.square().sum(0) * len(output)
            wanted = float((inner.square().mean(0) * carried).sum() / output.square().sum())
        if value.dim() == 2:
            graph = traced(nn.Sequential(first, second), ("time", 3))
        assert sensitivities(graph, [(value,)]) == pytest.approx({"0": wanted, "1": 1.0}, rel=0.1)


def balanced_energy(values: Array, output: Array) -> float:
    """Return the energy of values (samples,), their spectrum divided by the output's own, smoothed over its bands."""
    magnitude = np.abs(np.fft.rfft(output))
    half = max(1, len(magnitude) // 64)
    smooth = np.array([magnitude[max(0, at - half) : at + half + 1].mean() for at in range(len(magnitude))])
    smooth = np.maximum(smooth, 1e-3 * smooth.max())
    return float(np.square(np.fft.irfft(np.fft.rfft(values) / smooth, n=len(values))).sum())


def plain_energy(values: Array, _: Array) -> float:
    return float(np.square(values).sum())


class Disturbed(Interpreter):
    """Runs a graph with noise at one place, in each channel at a share of the channel's energy."""

    def __init__(self, graph: GraphModule, place: str, share: float, seed: int) -> None:
        super().__init__(graph)
        self.place, self.share = place, share
        self.generator = torch.Generator().manual_seed(seed)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op not in ("call_module", "call_function") or layer_name(n) != self.place:
            return value
        noise = torch.randn(value.shape, generator=self.generator, dtype=value.dtype)
        return value + noise * (self.share * value.square().mean((0, 2), keepdim=True)).sqrt()


def run(interpreter: Interpreter, value: Tensor) -> Array:
    with torch.no_grad():
        return np.asarray(interpreter.run(value).reshape(-1).numpy())


@pytest.mark.parametrize(("frames", "energy"), [(40, plain_energy), (150, balanced_energy)])
@pytest.mark.parametrize("place", ["conv_pre/Conv", "ups/0/ConvTranspose", "resblocks/1/convs2/0/Conv", "div", "div_1"])
def test_it_is_the_error_that_small_noise_makes(
    frames: int, energy: Any, place: str, tiny_teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compressor.sensitivity.DRAWS", 16)
    value = torch.from_numpy(mel(frames, 3))
    found = sensitivities(copy_graph(tiny_teacher.graph), [(value,)])[place]
    graph, share = copy_graph(tiny_teacher.graph).double(), 1e-6
    output = run(Interpreter(graph), value.double())
    errors = [run(Disturbed(graph, place, share, seed), value.double()) - output for seed in range(40)]
    measured = np.mean([energy(error, output) for error in errors]) / energy(output, output) / share
    assert found == pytest.approx(float(measured), rel=0.15)


def test_every_layer_and_sum_has_its_own(tiny_teacher: Teacher) -> None:
    found = sensitivities(copy_graph(tiny_teacher.graph), [(torch.from_numpy(mel(20, 0)),)])
    named = {layer_name(node) for node in tiny_teacher.graph.graph.nodes if node.op == "call_module"}
    assert {name for name in named if "Conv" in name} <= set(found)
    assert all(value > 0 for value in found.values())


@pytest.mark.usefixtures("many_draws")
def test_it_is_the_mean_over_inputs() -> None:
    model = chain(nn.Conv1d(2, 3, 1, bias=False), nn.Tanh(), nn.Conv1d(3, 1, 1, bias=False))
    graph = traced(model, (1, 2, "time"))
    noise = torch.randn(1, 2, 300, generator=torch.Generator().manual_seed(0))
    # Where the tangent saturates, errors before it are lost.
    inputs = [0.1 * noise, 10.0 * noise]
    alone = [sensitivities(graph, [(value,)])["0"] for value in inputs]
    assert max(alone) > 1.3 * min(alone)
    assert sensitivities(graph, [(value,) for value in inputs])["0"] == pytest.approx(np.mean(alone), rel=0.05)


def test_a_seed_gives_the_same_and_leaves_no_gradients(tiny_teacher: Teacher) -> None:
    graph, inputs = copy_graph(tiny_teacher.graph), [(torch.from_numpy(mel(20, seed)),) for seed in (0, 1)]
    found = sensitivities(graph, inputs, seed=5)
    assert found == sensitivities(graph, inputs, seed=5)
    assert found != sensitivities(graph, inputs, seed=6)
    assert all(parameter.grad is None for parameter in graph.parameters())


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(2, 2, 1), nn.Conv1d(2, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)


def test_what_does_not_reach_the_first_output_is_harmless() -> None:
    found = sensitivities(traced(TwoOutputs(), (1, 2, "time")), [(torch.randn(1, 2, 30),)])
    assert found["second"] == 0.0
    assert found["first"] > 0.5
