from __future__ import annotations

import pytest
import torch
from compressor_distill.folded_convolution import FoldedConv2d, can_fold, training_form
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

CPU = torch.device("cpu")


def depthwise(channels: int, kernel: int, dilation: int, bias: bool = False) -> nn.Conv2d:
    padding = (0, dilation * (kernel - 1) // 2)
    return nn.Conv2d(
        channels, channels, (1, kernel), padding=padding, dilation=(1, dilation), groups=channels, bias=bias
    ).double()


@given(
    channels=st.integers(2, 5),
    kernel=st.integers(2, 9),
    dilation=st.integers(1, 6),
    length=st.integers(1, 40),
    height=st.integers(1, 2),
    bias=st.booleans(),
)
def test_folding_changes_nothing(
    channels: int, kernel: int, dilation: int, length: int, height: int, bias: bool
) -> None:
    conv = depthwise(channels, kernel, dilation, bias)
    assume(length + 2 * conv.padding[1] > dilation * (kernel - 1))  # type: ignore[operator]
    value = torch.randn(2, channels, height, length, dtype=torch.float64, requires_grad=True)
    wanted = conv(value)
    wanted_slopes = torch.autograd.grad(wanted.square().sum(), [value, conv.weight])
    with training_form(nn.Sequential(conv), CPU):
        found = conv(value)
        found_slopes = torch.autograd.grad(found.square().sum(), [value, conv.weight])
    torch.testing.assert_close(found, wanted)
    for slope, known in zip(found_slopes, wanted_slopes, strict=True):
        torch.testing.assert_close(slope, known)


def test_the_form_lasts_as_long_as_the_block() -> None:
    model = nn.Sequential(depthwise(4, 3, 2), nn.ReLU(), depthwise(4, 5, 3), nn.Conv2d(4, 2, 1).double())
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with training_form(model, CPU) as multiple:
        assert multiple == 6
        assert [type(layer) for layer in model] == [FoldedConv2d, nn.ReLU, FoldedConv2d, nn.Conv2d]
    assert [type(layer) for layer in model] == [nn.Conv2d, nn.ReLU, nn.Conv2d, nn.Conv2d]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_form_ends_with_an_error_too() -> None:
    model = nn.Sequential(depthwise(2, 3, 1))
    with pytest.raises(KeyboardInterrupt), training_form(model, CPU):
        raise KeyboardInterrupt
    assert type(model[0]) is nn.Conv2d


def test_a_model_without_depthwise_convolutions_takes_any_length() -> None:
    with training_form(nn.Sequential(nn.Conv2d(4, 4, (1, 3))), CPU) as multiple:
        assert multiple == 1


@pytest.mark.parametrize(
    ("module", "folds"),
    [
        (depthwise(4, 3, 2), True),
        (depthwise(4, 3, 1), True),
        (nn.Conv2d(4, 4, (1, 3), padding=(0, 1)), False),
        (nn.Conv2d(4, 8, (1, 3), padding=(0, 1), groups=4), False),
        (nn.Conv2d(4, 4, (1, 3), groups=4), False),
        (nn.Conv2d(4, 4, (3, 3), padding=1, groups=4), False),
        (nn.Conv2d(4, 4, (1, 3), stride=(1, 2), padding=(0, 1), groups=4), False),
        (nn.Conv2d(4, 4, (1, 3), padding="same", groups=4), False),
        (nn.Conv2d(4, 4, (1, 3), padding=(1, 1), groups=4), False),
        (nn.Conv2d(4, 4, (1, 4), padding=(0, 3), dilation=(1, 2), groups=4), False),
        (nn.Conv2d(1, 1, (1, 3), padding=(0, 1)), False),
        (nn.Conv1d(4, 4, 3, padding=1, groups=4), False),
    ],
)
def test_which_convolutions_fold(module: nn.Conv2d, folds: bool) -> None:
    assert can_fold(module) is folds
