"""`check_loss`: what training relies on in every loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compressor.loss import Loss
from compressor.testing.failures import check, check_options

SIGNAL = (2, 1, 8192)
"""A batch of two signals long enough for usual analyses."""


def check_loss(loss: Loss, shape: tuple[int, ...] = SIGNAL) -> None:
    """Compute a loss and its gradient between signals that are near, equal, and silent.

    It must be a finite scalar, not below that of equal signals, and the same again; its gradient must be finite
    everywhere, where student and teacher are equal or silent too, and under autocast to bfloat16. The caller applies
    `weight`. With `any_width` it must compare other channel counts (axis 1).

    Args:
        loss: with the options to try.
        shape: of the tensors that it compares.

    Raises:
        CheckFailedError: says what does not hold, and what to do.
    """
    name = check_options(loss, Loss)
    teacher = _signal(shape, 0)
    near = teacher + 0.1 * _signal(shape, 1)
    equal, apart = _checked(loss, teacher, teacher, "equal signals"), _checked(loss, near, teacher, "near signals")
    check(
        apart > equal,
        f"{name}: equal signals have {equal:.6g}, others {apart:.6g}; a loss is least where they are equal",
    )
    repeated = float(loss.compute(near, teacher).detach())
    check(apart == repeated, f"{name}: computed again it is {repeated}, not {apart}; draw no random numbers")
    silence = torch.zeros(shape)
    for what, pair in (("a silent student", (silence, teacher)), ("silence", (silence, silence))):
        _checked(loss, *pair, what)
    with torch.autocast("cpu", torch.bfloat16):
        _checked(loss, near.bfloat16(), teacher, "a student in bfloat16 under autocast")
    heavier = loss.model_copy(update={"weight": 7.0})
    check(
        float(heavier.compute(near, teacher).detach()) == apart,
        f"{name}: compute applies `weight`; training does, so it would count twice",
    )
    if loss.any_width:
        narrow = _signal((shape[0], shape[1] + 1, *shape[2:]), 2)
        _checked(loss, narrow, teacher, "a student of another width, as any_width says,")


def _signal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _checked(loss: Loss, student: Tensor, teacher: Tensor, what: str) -> float:
    student = student.clone().requires_grad_(True)
    value = loss.compute(student, teacher)
    check(value.dim() == 0, f"{loss.name}: for {what} it has the shape {tuple(value.shape)}, expected a scalar")
    figure = float(value.detach())
    check(math.isfinite(figure), f"{loss.name}: for {what} it is {figure}; bound what is divided or logged")
    check(value.requires_grad, f"{loss.name}: for {what} it has no gradient; compute it with torch from the student")
    value.backward()  # type: ignore[no-untyped-call]
    gradient = student.grad
    check(gradient is not None, f"{loss.name}: for {what} its gradient does not reach the student")
    check(
        gradient is not None and bool(torch.isfinite(gradient).all()),
        f"{loss.name}: for {what} its gradient is not finite; roots and logarithms of zero do that: add or clamp",
    )
    return figure
