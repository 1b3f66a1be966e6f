"""The phases of a training and their options."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DiscriminatorName = Literal["multi-period", "multi-scale", "multi-resolution"]


class Phase(BaseModel):
    """One phase of training; the learning rate warms up first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=0, ge=0, description="optimiser steps; 0 skips the phase")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["cosine", "constant"] = Field(
        default="cosine", description="the learning rate after its warm-up: along a cosine to zero, or as it is"
    )
    feature_weight: float = Field(default=1.0, ge=0, description="factor of the losses between features")
    batch_size: int | None = Field(default=None, ge=1, description="segments per step; as in all phases if left out")
    segment: int | None = Field(default=None, ge=1, description="length of a segment; as in all phases if left out")


class AdversarialPhase(Phase):
    """Training against discriminators, after a spectral phase: theirs are the details that spectral losses blur.

    An ONNX teacher comes without discriminators, so they start from random weights, learn to tell the student from the
    *teacher* (GAN Compression, arXiv 2003.08936), and learn alone for a while first. Least-squares GAN
    (arXiv 1611.04076) with feature matching (arXiv 2010.05646). The losses of the recipe go on beside it.
    """

    learning_rate: float = Field(default=1e-4, gt=0, description="peak learning rate of AdamW")
    feature_weight: float = Field(default=0.0, ge=0, description="factor of the losses between features")
    discriminators: tuple[DiscriminatorName, ...] = Field(
        default=("multi-period", "multi-resolution"), min_length=1, description="which discriminators judge"
    )
    width: float = Field(default=0.25, gt=0, le=1, description="channels of the discriminators, as a share of theirs")
    discriminator_learning_rate: float = Field(default=2e-4, gt=0, description="peak learning rate of discriminators")
    discriminators_alone: int = Field(default=50, ge=0, description="first steps, in which only discriminators learn")
    adversarial_weight: float = Field(default=0.05, ge=0, description="factor of the student's adversarial loss")
    matching_weight: float = Field(default=0.1, ge=0, description="factor of the discriminators' feature matching")

    @model_validator(mode="after")
    def _student_learns(self) -> AdversarialPhase:
        if 0 < self.steps <= self.discriminators_alone:
            raise ValueError(
                f"the student would learn nothing: in the first {self.discriminators_alone} steps "
                f"(discriminators_alone) only discriminators do, and there are {self.steps}"
            )
        return self
