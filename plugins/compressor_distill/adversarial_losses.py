"""What discriminators and student are trained with against each other; in float32, whatever the judgements are in.

Each is a sum over sub-discriminators, as in HiFi-GAN (arXiv 2010.05646, section 2.4), of means over their maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from compressor_distill.discriminators import Judgement


def discriminator_loss(teacher: Sequence[Judgement], student: Sequence[Judgement]) -> Tensor:
    """Return how far scores are from 1 for the teacher's audio and from 0 for the student's (LSGAN, arXiv 1611.04076).

    The student's audio is to be judged detached, so that this trains discriminators alone.
    """
    pairs = zip(teacher, student, strict=True)
    return _total((1 - real.score.float()).square().mean() + fake.score.float().square().mean() for real, fake in pairs)


def generator_loss(student: Sequence[Judgement]) -> Tensor:
    """Return how far scores of the student's audio are from 1 (LSGAN, arXiv 1611.04076)."""
    return _total((1 - fake.score.float()).square().mean() for fake in student)


def feature_matching_loss(teacher: Sequence[Judgement], student: Sequence[Judgement]) -> Tensor:
    """Return the mean absolute difference of what the discriminators' layers make of both, summed over layers too.

    MelGAN's (arXiv 1910.06711); the teacher's side gets no gradient.
    """
    return _total(
        (found.float() - wanted.detach().float()).abs().mean()
        for real, fake in zip(teacher, student, strict=True)
        for wanted, found in zip(real.features, fake.features, strict=True)
    )


def _total(losses: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(losses)).sum()
