"""`distillation`: train the student on its teacher's features and outputs.

First block-wise: each block of the student sees the teacher's features and is to make the teacher's next ones, so that
all blocks learn at once and none waits for the one before. Then end to end, on the student's own features.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from compressor.errors import DataError
from compressor.loss import NamedLoss
from compressor.strategy import StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch.fx import GraphModule


class Phase(BaseModel):
    """One phase of training; the learning rate warms up, then falls along a cosine to zero."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=0, ge=0, description="optimiser steps; 0 skips the phase")
    learning_rate: float = Field(default=1e-3, gt=0, description="peak learning rate of AdamW")
    feature_weight: float = Field(default=1.0, ge=0, description="factor of the relative L1 between features")


class Distillation(Strategy):
    """Train the student to put out what its teacher puts out.

    ```yaml
    - distillation:
        losses: [mel-l1, multi-resolution-stft]
        block_wise: {steps: 800, learning_rate: 1.0e-3}
        end_to_end: {steps: 1600, learning_rate: 5.0e-4}
    ```
    """

    name: ClassVar[str] = "distillation"
    needs_data: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    losses: tuple[NamedLoss, ...] = Field(min_length=1, description="losses between the outputs, summed by weight")
    block_wise: Phase = Field(default=Phase(steps=800), description="each block on the teacher's features")
    end_to_end: Phase = Field(
        default=Phase(steps=1600, learning_rate=5e-4, feature_weight=0.0), description="on the student's own features"
    )
    batch_size: int = Field(default=8, ge=1, description="segments per step")
    segment: int = Field(default=30, ge=1, description="length of a segment along the inputs' dynamic axis")
    warmup_steps: int = Field(default=30, ge=0, description="steps in which the learning rate rises")
    betas: tuple[float, float] = Field(default=(0.8, 0.99), description="AdamW's running averages")
    weight_decay: float = Field(default=0.0, ge=0.0)
    gradient_clip: float = Field(default=5.0, gt=0.0, description="largest norm of a step's gradient")
    validate_every: int = Field(default=250, ge=1, description="steps between validations; the best is kept")
    checkpoint_seconds: float = Field(default=60.0, ge=0.0, description="least time between checkpoints")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="'auto' takes bf16 where the processor computes it"
    )
    max_minutes: float | None = Field(
        default=None, gt=0, description="shorten the schedule to this on a slow machine; null never does"
    )

    teacher_signals: Literal["auto", "recorded", "on-the-fly"] = Field(
        default="auto",
        description="whether the teacher runs once over whole samples or on each segment anew; 'auto': recorded where "
        "`memory_gb` holds it all, else whichever a measurement finds faster",
    )
    memory_gb: float = Field(default=2.0, ge=0.0, description="recorded signals that are held in memory at most")
    # Where recordings lie changes nothing of what is trained: no part of a training's identity.
    cache_gb: float = Field(
        default=4.0, ge=0.0, exclude=True, description="recorded signals that are kept on disk at most"
    )
    cache_dir: Path | None = Field(
        default=None, exclude=True, description="folder of recorded signals; null: in the user's cache folder"
    )

    @property
    def longest_minutes(self) -> float | None:
        return self.max_minutes

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor_distill.trainer import Trainer

        if context.data is None:
            raise DataError("distillation needs data: add 'data:' to the recipe")
        return Trainer(self, student, context, context.data).train()
