from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from compressor_conv.layer_shape import Shape
from compressor_conv.low_rank import low_rank
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.calibration import Reading
from compressor.unfolding import LinearLayer, matrix


@st.composite
def layers(draw: st.DrawFn) -> LinearLayer:
    """Draw a linear layer or a dense convolution of any kind with random weights."""
    kind: Any = draw(st.sampled_from([nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d]))
    before, after, stride, dilation = (draw(st.integers(1, most)) for most in (5, 5, 3, 2))
    bias = draw(st.booleans())
    if kind is nn.Linear:
        model = nn.Linear(before, after, bias)
    else:
        axes = 2 if kind in (nn.Conv2d, nn.ConvTranspose2d) else 1
        kernel = tuple(draw(st.lists(st.integers(1, 4), min_size=axes, max_size=axes)))
        padding = tuple(min(2, dilation * (size - 1)) for size in kernel)
        more = {} if kind in (nn.Conv1d, nn.Conv2d) else {"output_padding": draw(st.integers(0, stride - 1))}
        model = kind(before, after, kernel, stride, padding, dilation=dilation, bias=bias, **more)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def some_input(layer: LinearLayer, batch: int = 2) -> Tensor:
    """Return values for a layer whose channels differ in mean and depend on each other and on their neighbours."""
    generator = torch.Generator().manual_seed(1)
    width = Shape.of(layer).inputs
    axes = 0 if isinstance(layer, nn.Linear) else layer.weight.dim() - 2
    value = torch.randn(batch, width, *(9,) * axes, generator=generator)
    value = torch.einsum("bc...,dc->bd...", value, torch.randn(width, width, generator=generator))
    return value + torch.arange(width).reshape(-1, *(1,) * axes)


def put_out(modules: tuple[nn.Module, ...], value: Tensor) -> Tensor:
    with torch.no_grad():
        value = value.double()
        for module in modules:
            value = module.double()(value)
    return value


def numpy_energy(layer: LinearLayer, rank: int, root: NDArray[np.float64] | None = None) -> float:
    """Return the share of squared singular values of the weights, after `root`, that the best `rank` hold."""
    shape = Shape.of(layer)
    dense = matrix(layer)[0].detach().double().numpy()
    weighted = dense if root is None else root @ dense
    if shape.mixes_first:
        weighted = weighted.reshape(shape.inputs, -1)
    values = np.linalg.svd(weighted, compute_uv=False)
    return float((values[:rank] ** 2).sum() / (values**2).sum())


@given(layers())
def test_a_rank_of_the_wider_side_is_exact(layer: LinearLayer) -> None:
    value = some_input(layer, 5)
    wanted = put_out((layer,), value)
    factors, kept = low_rank(layer.float(), max(Shape.of(layer).channels))
    found = put_out(factors, value)
    assert found.shape == wanted.shape
    # The factors are held in float32.
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert kept == pytest.approx(1.0)


@given(layers(), st.integers(1, 4))
def test_without_data_what_is_kept_is_in_the_largest_singular_values(layer: LinearLayer, rank: int) -> None:
    assert low_rank(layer, rank)[1] == pytest.approx(numpy_energy(layer, rank), abs=1e-9)


@given(layers())
def test_more_rank_keeps_more(layer: LinearLayer) -> None:
    kept = [low_rank(layer, rank)[1] for rank in range(1, 1 + max(Shape.of(layer).channels))]
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(kept))


def reading_of(layer: LinearLayer, value: Tensor) -> Reading:
    """Return what a layer reads of a value, by the layer's own answer to unit weights: no unfolding is involved."""
    columns = []
    probe = _with_one_output(layer)
    for position in range(probe.weight.numel()):
        with torch.no_grad():
            probe.weight.zero_()
            probe.weight.view(-1)[position] = 1.0
        columns.append(put_out((probe,), value).flatten())
    rows = torch.stack(columns, 1)
    return Reading(rows.mean(0), (rows - rows.mean(0)).T @ (rows - rows.mean(0)) / len(rows))


def _with_one_output(layer: Any) -> Any:
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, 1, bias=False)
    return type(layer)(
        layer.in_channels,
        1,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        dilation=layer.dilation,
        bias=False,
        **({"output_padding": layer.output_padding} if layer.transposed else {}),
    )


def turned(layer: LinearLayer, reading: Reading) -> Reading:
    """Return a reading by weight as one by column of `matrix`, which has transposed kernels turned around."""
    if isinstance(layer, nn.Linear):
        return reading
    taps, width = layer.weight[0, 0].numel(), layer.in_channels
    order = torch.arange(width * taps).reshape(width, taps)
    order = (order.flip(1) if layer.transposed else order).flatten()
    return Reading(reading.mean[order], reading.covariance[order][:, order])


@given(layers(), st.integers(1, 3))
def test_what_is_kept_of_the_output_is_so_in_torch(layer: LinearLayer, rank: int) -> None:
    value = some_input(layer, 20)
    reading = turned(layer, reading_of(layer, value))
    wanted = put_out((layer,), value)
    factors, kept = low_rank(layer.float(), rank, reading)
    off = put_out(factors, value) - wanted
    channels = (0, *range(2, off.dim()))
    if layer.bias is not None:
        # The mean output is kept, so that all energies are about it.
        torch.testing.assert_close(off.mean(channels), torch.zeros(off.shape[1]).double(), atol=1e-3, rtol=0)
        wanted = wanted - wanted.mean(channels, keepdim=True)
    lost = float(off.square().sum() / wanted.square().sum().clamp_min(1e-30))
    assert 1 - kept == pytest.approx(lost, abs=1e-4)


def root_of(layer: LinearLayer, reading: Reading) -> NDArray[np.float64]:
    """Return what the weights are multiplied with so that their energy is the output's."""
    moment = reading.covariance.numpy()
    if layer.bias is None:
        moment = moment + np.outer(reading.mean, reading.mean)
    values, vectors = np.linalg.eigh(moment)
    return np.asarray(np.sqrt(np.maximum(values, 0))[:, None] * vectors.T)


@given(layers(), st.integers(1, 3))
def test_behind_the_kernel_nothing_keeps_more_of_the_output(layer: LinearLayer, rank: int) -> None:
    assume(not Shape.of(layer).mixes_first)
    reading = turned(layer, reading_of(layer, some_input(layer, 20)))
    wanted = numpy_energy(layer, rank, root_of(layer, reading))
    assert low_rank(layer, rank, reading)[1] == pytest.approx(wanted, abs=1e-8)


@given(layers(), st.integers(1, 3))
def test_before_the_kernel_no_kernel_keeps_more_of_the_output(layer: LinearLayer, rank: int) -> None:
    shape = Shape.of(layer)
    assume(shape.mixes_first)
    reading = turned(layer, reading_of(layer, some_input(layer, 20)))
    (mixing, _), kept = low_rank(layer, rank, reading)
    root, dense = root_of(layer, reading), matrix(layer)[0].detach().double().numpy()
    read = root @ np.kron(matrix(mixing)[0].detach().double().numpy(), np.eye(shape.taps))
    best = np.linalg.lstsq(read, root @ dense, rcond=None)[0]
    lost = np.square(root @ dense - read @ best).sum() / np.square(root @ dense).sum()
    # The equations are regularised a little.
    assert lost - 1e-6 <= 1 - kept <= lost + 2e-3
