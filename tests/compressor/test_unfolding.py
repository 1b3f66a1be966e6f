"""The law of unfolding: what the weights meet, times the weights, plus the bias, is what the layer puts out."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from compressor.unfolding import (
    LinearLayer,
    channel_axis,
    matrix,
    output_positions,
    rows_at,
    set_matrix,
    unfoldable,
    unfolded,
)

SMALL = st.integers(1, 3)
Case = tuple[LinearLayer, Tensor]


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    """Draw a convolution of one or two axes, plain or transposed, in float64, and an input for it."""
    two, transposed = draw(st.booleans()), draw(st.booleans())
    axes = 2 if two else 1

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=axes, max_size=axes)))

    kernel, stride, padding, dilation, length = sizes(1, 4), sizes(1, 3), sizes(0, 4), sizes(1, 3), sizes(1, 6)
    groups, bias = draw(SMALL), draw(st.booleans())
    widths = groups * draw(SMALL), groups * draw(SMALL)
    kind: Any
    if transposed:
        more = sizes(0, 2)
        assume(all(extra < max(step, reach) for extra, step, reach in zip(more, stride, dilation, strict=True)))
        kind = nn.ConvTranspose2d if two else nn.ConvTranspose1d
        conv = kind(*widths, kernel, stride, padding, more, groups, bias, dilation)
        made = [
            (size - 1) * step - 2 * side + reach * (taps - 1) + extra + 1
            for size, step, side, reach, taps, extra in zip(
                length, stride, padding, dilation, kernel, more, strict=True
            )
        ]
    else:
        kind = nn.Conv2d if two else nn.Conv1d
        conv = kind(*widths, kernel, stride, padding, dilation, groups, bias)
        made = [
            size + 2 * side - reach * (taps - 1)
            for size, side, reach, taps in zip(length, padding, dilation, kernel, strict=True)
        ]
    assume(min(made) > 0)
    return seeded(conv, (draw(st.integers(1, 2)), widths[0], *length), draw(st.integers(0, 999)))


@st.composite
def linears(draw: st.DrawFn) -> Case:
    """Draw a linear layer in float64, and rows, or batches of sequences or of images of rows, for it."""
    layer = nn.Linear(draw(SMALL), draw(SMALL), bias=draw(st.booleans()))
    leading = draw(st.lists(SMALL, min_size=1, max_size=3))
    return seeded(layer, (*leading, layer.in_features), draw(st.integers(0, 999)))


def seeded(layer: LinearLayer, shape: tuple[int, ...], seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)
    layer.double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer, torch.randn(shape, generator=generator, dtype=torch.float64)


def regressed(layer: LinearLayer, read: Tensor, positions: Tensor) -> Tensor:
    """Return rows times matrix plus bias, group by group."""
    rows, weights = unfolded(layer, read, positions), matrix(layer)
    by_group = rows.chunk(len(weights), 1)
    found = torch.cat([part @ weight for part, weight in zip(by_group, weights, strict=True)], 1)
    return found if layer.bias is None else found + layer.bias


@given(st.one_of(convolutions(), linears()), st.data())
@settings(max_examples=400)
def test_rows_times_matrix_are_the_output(case: Case, data: st.DataObject) -> None:
    layer, read = case
    with torch.no_grad():
        output = layer(read)
        size = output.numel() // (output.shape[0] * output.shape[channel_axis(layer)])
        positions = torch.tensor(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5)))
        wanted = rows_at(output, layer, positions)
        torch.testing.assert_close(regressed(layer, read, positions), wanted, atol=1e-12, rtol=1e-12)


def test_rows_are_batch_by_batch_and_position_by_position() -> None:
    image = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    found = rows_at(image, nn.Conv2d(1, 3, 1), torch.tensor([0, 7]))
    wanted = [image[batch, :, row, column].tolist() for batch in (0, 1) for row, column in ((0, 0), (1, 2))]
    assert found.tolist() == wanted
    sequence = torch.arange(2 * 4 * 3).reshape(2, 4, 3)
    found = rows_at(sequence, nn.Linear(1, 3), torch.tensor([3, 1]))
    assert found.tolist() == [sequence[batch, at].tolist() for batch in (0, 1) for at in (3, 1)]


@given(st.one_of(convolutions(), linears()), st.integers(0, 99))
def test_a_matrix_that_is_set_is_read_back(case: Case, seed: int) -> None:
    layer, _ = case
    before = layer.weight.detach().clone()
    set_matrix(layer, matrix(layer).detach().clone())
    assert torch.equal(layer.weight, before)
    other = torch.randn(matrix(layer).shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    set_matrix(layer, other)
    assert torch.equal(matrix(layer), other)
    assert layer.weight.shape == before.shape


@given(convolutions())
def test_columns_go_channel_by_channel_and_tap_by_tap(case: Case) -> None:
    layer, read = case
    assert isinstance(layer, _ConvNd)
    taps = prod(layer.kernel_size)
    assert unfolded(layer, read, torch.tensor([0])).shape == (len(read), layer.in_channels * taps)
    per_group = layer.in_channels // layer.groups * taps
    assert matrix(layer).shape == (layer.groups, per_group, layer.out_channels // layer.groups)
    silenced = read.clone()
    silenced[:, 0] = 0.0
    rows = unfolded(layer, silenced, torch.tensor([0]))
    assert not rows[:, :taps].any()
    assert torch.equal(rows[:, taps:], unfolded(layer, read, torch.tensor([0]))[:, taps:])


@given(st.integers(1, 40_000), st.integers(1, 3000))
def test_positions_are_evenly_spread_and_meet_every_phase(size: int, most: int) -> None:
    positions = output_positions(torch.empty(2, 3, size), nn.Conv1d(3, 3, 1), most).tolist()
    step = positions[1] if len(positions) > 1 else size
    assert positions == list(range(0, size, step))
    assert len(positions) >= min(size, most)
    # Fewer than seven times as many: up to there every step is a multiple of 2, 3 or 5.
    assert len(positions) < 7 * most + 1
    for phases in (2, 3, 4, 5, 8, 12):
        if len(positions) >= phases:
            assert {at % phases for at in positions} == set(range(phases))


def test_positions_are_those_of_all_axes_but_batch_and_channels() -> None:
    assert output_positions(torch.empty(2, 3, 4, 5), nn.Conv2d(1, 3, 1), 99).tolist() == list(range(20))
    assert output_positions(torch.empty(2, 4, 3), nn.Linear(1, 3), 99).tolist() == list(range(4))
    assert output_positions(torch.empty(6, 3), nn.Linear(1, 3), 99).tolist() == [0]


@pytest.mark.parametrize(
    ("module", "can"),
    [
        (nn.Linear(2, 2), True),
        (nn.Conv1d(2, 2, 3), True),
        (nn.ConvTranspose2d(2, 2, 3), True),
        (nn.Conv1d(2, 2, 3, padding="same"), False),
        (nn.Conv2d(2, 2, 3, padding_mode="reflect"), False),
        (nn.Conv3d(2, 2, 3), False),
        (nn.ReLU(), False),
        (None, False),
    ],
)
def test_which_layers_can_be_unfolded(module: nn.Module | None, can: bool) -> None:
    assert unfoldable(module) is can


def test_other_modules_are_refused() -> None:
    norm, read = nn.BatchNorm1d(3), torch.zeros(1, 3, 5)
    with pytest.raises(TypeError, match="BatchNorm1d is no linear layer"):
        unfolded(norm, read, torch.tensor([0]))
    with pytest.raises(TypeError, match="ReLU is no linear layer"):
        matrix(nn.ReLU())
    with pytest.raises(TypeError, match="BatchNorm1d is no linear layer"):
        set_matrix(norm, torch.zeros(1, 3, 3))
