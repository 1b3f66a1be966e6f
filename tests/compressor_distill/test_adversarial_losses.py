from __future__ import annotations

import numpy as np
import pytest
import torch
from compressor_distill.adversarial_losses import discriminator_loss, feature_matching_loss, generator_loss
from compressor_distill.discriminators import Judgement
from hypothesis import given
from hypothesis import strategies as st

SHAPES: list[list[tuple[int, ...]]] = [[(2, 3, 7), (2, 1, 4)], [(2, 5, 6, 2), (2, 4, 3, 2), (2, 1, 3, 2)]]
"""Of the layers of two sub-discriminators."""


def judgements(seed: int) -> list[Judgement]:
    generator = torch.Generator().manual_seed(seed)
    layers = [tuple(torch.randn(shape, generator=generator) for shape in shapes) for shapes in SHAPES]
    return [Judgement(features[-1], features) for features in layers]


def scored(value: float) -> list[Judgement]:
    return [Judgement(torch.full(shapes[-1], value), ()) for shapes in SHAPES]


@given(real=st.floats(-2.0, 2.0), fake=st.floats(-2.0, 2.0))
def test_scores_are_held_against_one_and_zero(real: float, fake: float) -> None:
    wanted = 2 * ((1 - real) ** 2 + fake**2)
    assert discriminator_loss(scored(real), scored(fake)).item() == pytest.approx(wanted, rel=1e-5, abs=1e-9)
    assert generator_loss(scored(fake)).item() == pytest.approx(2 * (1 - fake) ** 2, rel=1e-5, abs=1e-9)


def test_they_are_sums_of_means() -> None:
    real, fake = judgements(0), judgements(1)
    scores = [(one.score.numpy(), other.score.numpy()) for one, other in zip(real, fake, strict=True)]
    wanted = sum(np.square(1 - one).mean() + np.square(other).mean() for one, other in scores)
    assert discriminator_loss(real, fake).item() == pytest.approx(wanted, rel=1e-5)
    assert generator_loss(fake).item() == pytest.approx(
        sum(np.square(1 - other).mean() for _, other in scores), rel=1e-5
    )
    maps = [
        pair for one, other in zip(real, fake, strict=True) for pair in zip(one.features, other.features, strict=True)
    ]
    wanted = sum(np.abs(one.numpy() - other.numpy()).mean() for one, other in maps)
    assert feature_matching_loss(real, fake).item() == pytest.approx(wanted, rel=1e-5)
    assert feature_matching_loss(real, real).item() == 0.0


def test_matching_moves_the_student_s_side_alone() -> None:
    real, fake = (torch.randn(2, 1, 4).requires_grad_() for _ in range(2))
    feature_matching_loss([Judgement(real, (real,))], [Judgement(fake, (fake,))]).backward()  # type: ignore[no-untyped-call]
    assert real.grad is None
    assert fake.grad is not None
    assert fake.grad.abs().sum().item() == pytest.approx(1.0)


def test_they_are_float32_for_half_precision_judgements() -> None:
    half = [
        Judgement(each.score.bfloat16(), tuple(value.bfloat16() for value in each.features)) for each in judgements(0)
    ]
    for loss in (discriminator_loss(half, half), generator_loss(half), feature_matching_loss(half, judgements(0))):
        assert loss.dtype == torch.float32
    assert generator_loss(half).item() == pytest.approx(generator_loss(judgements(0)).item(), rel=0.02)


def test_judgements_must_pair() -> None:
    with pytest.raises(ValueError, match="zip"):
        discriminator_loss(judgements(0), judgements(1)[:1])
