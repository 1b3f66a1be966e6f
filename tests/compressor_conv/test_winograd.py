from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from compressor_conv.time_axis import length_divisors
from compressor_conv.transposed import TransposedToStandardConv
from compressor_conv.two_dimensional import Conv1dToConv2d
from compressor_conv.winograd import TILE, WinogradConv, matrices, multiplications, why_not
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from compressor.graph_editing import output_nodes
from compressor.onnx_export import export_onnx
from compressor.strategy import StageContext
from compressor.tensor_spec import TensorSpec
from compressor.testing.small_graphs import chain, inputs_of, traced


def layer(taps: int, dilation: int = 1, padding: int = 0, *, bias: bool = True, width: int = 3) -> nn.Conv2d:
    return nn.Conv2d(width, 5, (1, taps), dilation=(1, dilation), padding=(0, padding), bias=bias)


@given(
    taps=st.integers(2, 17),
    dilation=st.sampled_from([1, 3, 5, 7]),
    padding=st.integers(0, 20),
    length=st.integers(1, 60),
    bias=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=150)
def test_it_is_the_plain_convolution(
    taps: int, dilation: int, padding: int, length: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    length = max(length, 1 + dilation * (taps - 1) - 2 * padding)
    conv = layer(taps, dilation, padding, bias=bias).double()
    signal = torch.randn(2, 3, 1, length, dtype=torch.float64)
    expected = conv(signal)
    torch.testing.assert_close(WinogradConv(conv)(signal), expected, rtol=0, atol=1e-11)
    if expected.shape[-1] % TILE == 0:
        whole = WinogradConv(conv, whole_tiles=True)(signal)
        torch.testing.assert_close(whole, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("taps", [2, 3, 4])
def test_the_matrices_filter_a_tile(taps: int) -> None:
    generator = np.random.default_rng(taps)
    kernel, signal = generator.normal(size=taps), generator.normal(size=TILE + taps - 1)
    outputs, of_taps, of_inputs = (matrix.numpy() for matrix in matrices(taps))
    found = outputs @ ((of_taps @ kernel) * (of_inputs @ signal))
    np.testing.assert_allclose(found, np.correlate(signal, kernel, "valid"), atol=1e-13)
    assert len(of_inputs) == TILE + taps - 1


def test_multiplications_are_those_that_the_layer_does() -> None:
    assert [multiplications(taps) for taps in (2, 3, 4, 7, 11)] == [1.25, 1.5, 1.75, 3.5, 5.25]


@pytest.mark.parametrize(("taps", "dilation"), [(3, 1), (7, 3), (11, 5), (16, 1)])
def test_rounding_is_less_than_six_times_that_of_the_plain_form(taps: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(128, 64, (1, taps), dilation=(1, dilation), padding=(0, dilation * (taps - 1) // 2))
    signal = torch.randn(1, 128, 1, 400)
    exact = conv.double()(signal.double())
    plain = (conv.float()(signal) - exact).square().mean()
    assert (WinogradConv(conv)(signal) - exact).square().mean() < 6**2 * plain


@pytest.mark.parametrize(
    ("conv", "reason"),
    [
        (nn.Conv1d(2, 2, 3), "height one"),
        (nn.Conv2d(2, 2, (3, 3)), "height one"),
        (nn.Conv2d(2, 2, (1, 1)), "two or more taps"),
        (nn.Conv2d(2, 2, (1, 3), stride=(1, 2)), "stride"),
        (nn.Conv2d(2, 2, (1, 3), groups=2), "groups"),
        (nn.Conv2d(2, 2, (1, 3), padding="same"), "padding"),
        (nn.Conv2d(2, 2, (1, 3), padding=(1, 1)), "padding"),
        (nn.Conv2d(2, 2, (1, 3), padding=(0, 1), padding_mode="reflect"), "padding"),
        (nn.Conv2d(2, 2, (1, 3), dilation=(1, 2)), "dilation, 2"),
    ],
)
def test_a_layer_that_it_cannot_be_is_refused_with_the_reason(conv: nn.Module, reason: str) -> None:
    assert reason in why_not(conv)
    with pytest.raises(ValueError, match=reason):
        WinogradConv(conv)  # type: ignore[arg-type]


def alone(module: nn.Module) -> fx.GraphModule:
    graph = fx.Graph()
    source = graph.placeholder("x")
    source.meta["tensor_spec"] = TensorSpec("x", (1, 3, 1, "time"))
    output = graph.output(graph.call_module("layer", (source,)))
    output.meta["tensor_specs"] = (TensorSpec("y", (1, "channels", 1, "out_time")),)
    return fx.GraphModule({"layer": module}, graph)


@pytest.mark.parametrize(("taps", "dilation"), [(3, 1), (7, 3), (11, 5)])
def test_the_file_works_at_every_length_and_holds_the_plain_weights(taps: int, dilation: int) -> None:
    torch.manual_seed(0)
    conv = layer(taps, dilation, padding=dilation * (taps - 1) // 2)
    conv.weight.data = torch.randn(5, 3, 1, taps)
    content = export_onnx(alone(WinogradConv(conv)))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for length in (1, 2, 7, 24, 41):
        signal = torch.randn(1, 3, 1, length)
        (found,) = session.run(None, {"x": signal.numpy()})
        np.testing.assert_allclose(found, conv(signal).detach().numpy(), atol=1e-4)


def test_large_filters_are_stored_as_they_are_and_not_as_the_points_make_them() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 128, (1, 11))
    module = WinogradConv(conv)
    assert module.weight is conv.weight
    assert module.bias is conv.bias
    weights = 4 * conv.weight.numel()
    assert weights < len(export_onnx(alone(module))) < weights + 20_000
    module(torch.randn(1, 3, 1, 20)).square().sum().backward()
    assert conv.weight.grad is not None
    assert float(conv.weight.grad.abs().min()) > 0


class Upsampled(nn.Module):
    """Two up-samplings, the second of which crops, and a residual unit."""

    def __init__(self, crop: int) -> None:
        super().__init__()
        self.first = nn.ConvTranspose1d(3, 4, 8, 4, 2)
        self.second = nn.ConvTranspose1d(4, 4, 4, 2, crop)
        self.unit = nn.Conv1d(4, 4, 5, padding=4, dilation=2)
        self.activation = nn.LeakyReLU()
        self.down = nn.Conv1d(4, 4, 3, stride=3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.second(self.activation(self.first(x)))
        x = x + self.unit(self.activation(x))
        return x, self.down(x)


@pytest.mark.parametrize(("crop", "divisor"), [(1, 8), (0, 2), (2, 2)])
def test_what_divides_a_length_divides_it_at_every_size(crop: int, divisor: int, tiny_context: StageContext) -> None:
    graph = traced(Upsampled(crop), (1, 3, "time"))
    for strategy in (TransposedToStandardConv(), Conv1dToConv2d()):
        graph = strategy.apply(graph, tiny_context).student
    divisors = [length_divisors(graph)[node] for node in output_nodes(graph)]
    # A convolution with a stride rounds: nothing is known behind it.
    assert divisors == [divisor, 1]
    for size in (5, 6, 7, 16):
        lengths = [made.shape[-1] for made in graph(*inputs_of(graph, size))]
        assert [length % divisor for length, divisor in zip(lengths, divisors, strict=True)] == [0, 0]


def test_a_fixed_length_divides_itself() -> None:
    graph = traced(chain(nn.Conv1d(3, 4, 5, padding=1), nn.LeakyReLU()), (1, 3, 26))
    assert [length_divisors(graph)[node] for node in output_nodes(graph)] == [24]
