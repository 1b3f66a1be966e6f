"""Losses for outputs and features of any kind; all of them computed in float32, under autocast too.

Tensors are (batch, channels, positions…). Axes of one between channels and time count for nothing: a two-dimensional
student has (batch, channels, 1, time) where its teacher has (batch, channels, time).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compressor.loss import Loss

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-8
"""What means and norms are at least where they divide."""


class MeanSquare(Loss):
    """Mean squared difference."""

    name: ClassVar[str] = "mse"

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over all values.

        Raises:
            ValueError: the shapes differ.
        """
        found, wanted = _aligned(student, teacher)
        return (found - wanted).square().mean()


class MeanAbsolute(Loss):
    """Mean absolute difference."""

    name: ClassVar[str] = "l1"

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean over all values.

        Raises:
            ValueError: the shapes differ.
        """
        found, wanted = _aligned(student, teacher)
        return (found - wanted).abs().mean()


class RelativeL1(Loss):
    """Mean absolute difference as a share of the teacher's mean absolute value: layers of any scale compare."""

    name: ClassVar[str] = "relative-l1"

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the share over all values: 0 for equal ones, 1 for a student of zeros.

        Raises:
            ValueError: the shapes differ.
        """
        found, wanted = _aligned(student, teacher)
        return (found - wanted).abs().mean() / wanted.abs().mean().clamp_min(_LEAST)


class KlDivergence(Loss):
    """Divergence of the softened class probabilities from the teacher's (Hinton et al., arXiv 1503.02531).

    Outputs are logits, before any softmax, with the classes on axis 1.
    """

    name: ClassVar[str] = "kl-divergence"

    temperature: float = Field(
        default=4.0, gt=0.0, allow_inf_nan=False, description="what logits are divided by; higher: softer"
    )

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return KL(teacher || student) in nats times the squared temperature, the mean over batch and positions.

        The square keeps gradients of one size whatever the temperature (section 2 of the paper).

        Raises:
            ValueError: the shapes differ.
        """
        found, wanted = ((each / self.temperature).log_softmax(1) for each in _aligned(student, teacher))
        return self.temperature**2 * (wanted.exp() * (wanted - found)).sum(1).mean()


class Gram(Loss):
    """Similarity-preserving: how alike the samples of a batch are to each other (Tung and Mori, arXiv 1907.09682).

    Says nothing where a batch has one sample.
    """

    name: ClassVar[str] = "gram"
    any_width: ClassVar[bool] = True

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared difference of the matrices of similarity (batch, batch), each row of norm one.

        Raises:
            ValueError: batches or positions differ.
        """
        found, wanted = map(_similarities, _aligned(student, teacher, any_width=True))
        return (found - wanted).square().mean()


class AttentionTransfer(Loss):
    """Where features are strong, by the sum of their squares over channels (Zagoruyko et al., arXiv 1612.03928)."""

    name: ClassVar[str] = "attention-transfer"
    any_width: ClassVar[bool] = True

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the distance of the maps of attention (positions), each of norm one; the mean over the batch.

        Raises:
            ValueError: batches or positions differ.
        """
        import torch

        found, wanted = map(_attention, _aligned(student, teacher, any_width=True))
        distances: Tensor = torch.linalg.vector_norm(found - wanted, dim=1)
        return distances.mean()


class PairwiseSimilarity(Loss):
    """How alike positions near each other are (pair-wise distillation, Liu et al., arXiv 1903.04197)."""

    name: ClassVar[str] = "pairwise-similarity"
    any_width: ClassVar[bool] = True

    window: int = Field(
        default=64, ge=2, description="positions that are compared with each other; one such window follows the other"
    )

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared difference of the cosine similarities between all positions of each window.

        Raises:
            ValueError: batches or positions differ.
        """
        found, wanted = (_cosines(each, self.window) for each in _aligned(student, teacher, any_width=True))
        return (found - wanted).square().mean()


def _aligned(student: Tensor, teacher: Tensor, *, any_width: bool = False) -> tuple[Tensor, Tensor]:
    """Return both in float32 as (batch, channels, positions).

    Raises:
        ValueError: the sizes differ, where channels may with `any_width`: broadcasting would compare what does not
            belong together.
    """
    found, wanted = (
        each.reshape(len(each), each.shape[1] if each.dim() > 1 else 1, -1).float() for each in (student, teacher)
    )
    if any(found.shape[axis] != wanted.shape[axis] for axis in ((0, 2) if any_width else (0, 1, 2))):
        raise ValueError(
            f"expected the teacher's shape {tuple(teacher.shape)}{', whatever the channels' if any_width else ''}; "
            f"found {tuple(student.shape)}"
        )
    return found, wanted


def _units(vectors: Tensor, dim: int) -> Tensor:
    """Return vectors along `dim` at length one.

    Those shorter than a thousandth of the longest stay shorter: where they point is noise, and a silent sample among
    loud ones would otherwise get a gradient without bounds.
    """
    import torch

    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / lengths.maximum((lengths.detach().max() / 1000).clamp_min(_LEAST))


def _similarities(features: Tensor) -> Tensor:
    """Return the products of all pairs of samples (batch, batch), each row of length one."""
    import torch

    flat = features.flatten(1)
    with torch.autocast(flat.device.type, enabled=False):
        return _units(flat @ flat.T, dim=1)


def _attention(features: Tensor) -> Tensor:
    """Return the sum of squares over channels (batch, positions), each sample's of length one."""
    return _units(features.square().sum(1), dim=1)


def _cosines(features: Tensor, window: int) -> Tensor:
    """Return the cosine similarities (batch, windows, size, size) within windows of (batch, channels, positions).

    Windows have one size; where positions do not divide into them they overlap.
    """
    import torch

    positions = features.shape[-1]
    size = min(window, positions)
    count, device = math.ceil(positions / size), features.device
    starts = torch.linspace(0, positions - size, count, dtype=torch.float64, device=device).round().long()
    taken = starts[:, None] + torch.arange(size, device=device)
    vectors = _units(features, dim=1)[..., taken].permute(0, 2, 3, 1)
    with torch.autocast(vectors.device.type, enabled=False):
        return vectors @ vectors.mT
