from __future__ import annotations

import numpy as np
import pytest
import torch
from compressor_distill.losses import (
    AttentionTransfer,
    Gram,
    KlDivergence,
    MeanAbsolute,
    MeanSquare,
    PairwiseSimilarity,
    RelativeL1,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor

from compressor.loss import Loss
from compressor.plugin_catalog import load_catalog

LOSSES: list[Loss] = [
    MeanSquare(),
    MeanAbsolute(),
    RelativeL1(),
    KlDivergence(temperature=2.0),
    Gram(),
    AttentionTransfer(),
    PairwiseSimilarity(window=5),
]
each_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
ANY_WIDTH = [loss for loss in LOSSES if loss.any_width]
each_any_width = pytest.mark.parametrize("loss", ANY_WIDTH, ids=lambda loss: loss.name)


def features(seed: int, batch: int = 3, channels: int = 4, time: int = 12) -> Tensor:
    return torch.randn(batch, channels, time, generator=torch.Generator().manual_seed(seed))


def in_double(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.double().numpy())


@each_loss
def test_is_zero_for_equals_and_positive_otherwise(loss: Loss) -> None:
    assert loss.compute(features(0), features(0)).item() == 0.0
    assert loss.compute(features(0), features(1)).item() > 0.0
    assert loss.compute(features(0), features(1)).shape == ()


@each_loss
def test_the_order_of_a_batch_is_nothing_to_it(loss: Loss) -> None:
    order = torch.tensor([2, 0, 1])
    turned = loss.compute(features(0)[order], features(1)[order])
    assert turned.item() == pytest.approx(loss.compute(features(0), features(1)).item(), rel=1e-5)


@each_loss
def test_a_height_of_one_is_nothing_to_it(loss: Loss) -> None:
    flat = loss.compute(features(0), features(1))
    assert torch.equal(loss.compute(features(0)[:, :, None], features(1)), flat)
    assert torch.equal(loss.compute(features(0), features(1)[:, :, None]), flat)


@each_loss
def test_takes_vectors_and_images(loss: Loss) -> None:
    student, teacher = features(0), features(1)
    images = [each.reshape(3, 4, 2, 6) for each in (student, teacher)]
    assert torch.equal(loss.compute(*images), loss.compute(student, teacher))
    assert loss.compute(student[..., 0], teacher[..., 0]).isfinite()
    assert loss.compute(student[:, 0, 0], teacher[:, 0, 0]).isfinite()


@each_loss
def test_is_float32_under_autocast(loss: Loss) -> None:
    expected = loss.compute(features(0), features(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss.compute(features(0), features(1)), expected)
        rounded = loss.compute(features(0).bfloat16(), features(1))
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(expected.item(), rel=0.02)


@each_loss
@pytest.mark.parametrize("teacher", [features(1), torch.zeros(3, 4, 12)], ids=["heard", "silent"])
def test_gradients_are_bounded_where_the_student_is_silent(loss: Loss, teacher: Tensor) -> None:
    whole, sample, moment = torch.zeros(3, 4, 12), features(0), features(0)
    sample[1], moment[:, :, 3] = 0.0, 0.0
    for values in (whole, sample, moment):
        student = values.requires_grad_()
        (gradient,) = torch.autograd.grad(loss.compute(student, teacher), student)
        assert gradient.isfinite().all()
        if teacher.any():
            assert gradient.abs().max() < 1e4


@each_loss
def test_refuses_other_sizes(loss: Loss) -> None:
    with pytest.raises(ValueError, match=r"expected the teacher's shape \(3, 4, 12\).*; found \(3, 4, 11\)"):
        loss.compute(features(0, time=11), features(1))
    with pytest.raises(ValueError, match=r"found \(1, 4, 12\)"):
        loss.compute(features(0, batch=1), features(1))


def test_only_some_compare_different_widths() -> None:
    for loss in LOSSES:
        if loss.any_width:
            assert loss.compute(features(0, channels=2), features(1)).item() > 0.0
        else:
            with pytest.raises(ValueError, match=r"expected the teacher's shape \(3, 4, 12\); found \(3, 2, 12\)"):
                loss.compute(features(0, channels=2), features(1))


@each_any_width
def test_a_rotation_of_the_channels_is_no_difference(loss: Loss) -> None:
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(2)))
    assert loss.compute(torch.einsum("dc,bct->bdt", rotation, features(0)), features(0)).item() < 1e-5


@each_any_width
@settings(max_examples=20)
@given(gain=st.floats(0.01, 100.0))
def test_relations_are_the_same_at_any_gain(loss: Loss, gain: float) -> None:
    assert loss.compute(gain * features(0), features(0)).item() < 1e-5


def test_differences_follow_their_formulas() -> None:
    student, teacher = in_double(features(0)), in_double(features(1))
    for loss, wanted in (
        (MeanSquare(), np.square(student - teacher).mean()),
        (MeanAbsolute(), np.abs(student - teacher).mean()),
        (RelativeL1(), np.abs(student - teacher).mean() / np.abs(teacher).mean()),
    ):
        assert loss.compute(features(0), features(1)).item() == pytest.approx(wanted, rel=1e-5)


@settings(max_examples=20)
@given(gain=st.floats(-3.0, 3.0), scale=st.floats(1e-3, 1e3))
def test_relative_l1_of_a_gain_is_what_is_missing_at_any_scale(gain: float, scale: float) -> None:
    found = RelativeL1().compute(gain * scale * features(0), scale * features(0)).item()
    assert found == pytest.approx(abs(1.0 - gain), rel=1e-4, abs=1e-6)


@settings(max_examples=20)
@given(temperature=st.floats(0.5, 20.0))
def test_kl_divergence_is_scipy_s(temperature: float) -> None:
    student, teacher = (softmax(in_double(features(seed)) / temperature, axis=1) for seed in (0, 1))
    wanted = temperature**2 * entropy(teacher, student, axis=1).mean()
    found = KlDivergence(temperature=temperature).compute(features(0), features(1)).item()
    assert found == pytest.approx(wanted, rel=1e-3)


def test_kl_divergence_at_high_temperature_is_half_the_variance_of_the_difference() -> None:
    """Section 2.1 of the paper, for logits whose means are not taken out."""
    wanted = 0.5 * in_double(features(0) - features(1)).var(axis=1).mean()
    assert KlDivergence(temperature=100.0).compute(features(0), features(1)).item() == pytest.approx(wanted, rel=0.05)


def test_gram_follows_the_paper() -> None:
    matrices = []
    for tensor in (features(0, channels=2), features(1)):
        flat = in_double(tensor).reshape(3, -1)
        product = flat @ flat.T
        matrices.append(product / np.linalg.norm(product, axis=1, keepdims=True))
    wanted = np.linalg.norm(matrices[1] - matrices[0], "fro") ** 2 / 3**2
    assert Gram().compute(features(0, channels=2), features(1)).item() == pytest.approx(wanted, rel=1e-4)


def test_attention_transfer_follows_the_paper() -> None:
    maps = []
    for tensor in (features(0, channels=2), features(1)):
        attention = np.square(in_double(tensor)).sum(axis=1)
        maps.append(attention / np.linalg.norm(attention, axis=1, keepdims=True))
    wanted = np.linalg.norm(maps[0] - maps[1], axis=1).mean()
    assert AttentionTransfer().compute(features(0, channels=2), features(1)).item() == pytest.approx(wanted, rel=1e-4)


def cosines(sample: NDArray[np.float64]) -> NDArray[np.float64]:
    units = sample / np.linalg.norm(sample, axis=0)
    return np.asarray(units.T @ units)


@pytest.mark.parametrize(("window", "starts"), [(12, [0]), (100, [0]), (5, [0, 4, 7]), (3, [0, 3, 6, 9])])
def test_pairwise_similarity_follows_the_paper_within_windows(window: int, starts: list[int]) -> None:
    student, teacher = in_double(features(0, channels=2)), in_double(features(1))
    stretches = [(sample, slice(start, start + window)) for sample in range(3) for start in starts]
    errors = [cosines(student[at, :, part]) - cosines(teacher[at, :, part]) for at, part in stretches]
    found = PairwiseSimilarity(window=window).compute(features(0, channels=2), features(1)).item()
    assert found == pytest.approx(np.square(errors).mean(), rel=1e-4)


@settings(max_examples=40)
@given(time=st.integers(2, 40), window=st.integers(2, 12))
def test_every_position_is_in_a_window(time: int, window: int) -> None:
    student, teacher = features(0, time=time).requires_grad_(), features(1, time=time)
    (gradient,) = torch.autograd.grad(PairwiseSimilarity(window=window).compute(student, teacher), student)
    assert (gradient.abs().amax(dim=(0, 1)) > 0).all()


def test_the_plugin_offers_them() -> None:
    offered = load_catalog().losses
    assert [offered[loss.name] for loss in LOSSES] == [type(loss) for loss in LOSSES]
    assert {name for name, loss in offered.items() if loss.any_width} == {loss.name for loss in ANY_WIDTH}
