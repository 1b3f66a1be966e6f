"""`distillation`: train the student on its teacher's features and outputs.

First block-wise: each block of the student sees the teacher's features and is to make the teacher's next ones, so that
all blocks learn at once and none waits for the one before. Then end to end, on the student's own features. Last, where
it is asked for, against discriminators.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from compressor import processes
from compressor.errors import DataError, StageError
from compressor.loss import NamedLoss
from compressor.strategy import StageContext, StageOutcome, Strategy
from compressor_distill.losses import RelativeL1
from compressor_distill.phases import AdversarialPhase, Phase

if TYPE_CHECKING:
    from torch.fx import GraphModule


class Distillation(Strategy):
    """Train the student to put out what its teacher puts out.

    ```yaml
    - distillation:
        losses: [mel-l1, multi-resolution-stft]
        block_wise: {steps: 800, learning_rate: 1.0e-3}
        end_to_end: {steps: 1600, learning_rate: 5.0e-4}
    ```

    Started by `torchrun` or `accelerate launch`, all processes train one student, each on its share of every batch.
    """

    name: ClassVar[str] = "distillation"
    needs_data: ClassVar[bool] = True
    trains: ClassVar[bool] = True

    losses: tuple[NamedLoss, ...] = Field(min_length=1, description="losses between the outputs, summed by weight")
    block_wise: Phase = Field(default=Phase(steps=800), description="each block on the teacher's features")
    end_to_end: Phase = Field(
        default=Phase(steps=1600, learning_rate=5e-4, feature_weight=0.0), description="on the student's own features"
    )
    adversarial: AdversarialPhase = Field(default=AdversarialPhase(), description="against discriminators")
    features: tuple[NamedLoss, ...] = Field(
        default=(RelativeL1(),), min_length=1, description="losses between features, at every point"
    )
    points: tuple[str, ...] = Field(
        default=(), description="nodes whose values are compared (`*` and `?` as in a shell); found if left out"
    )
    frozen: tuple[str, ...] = Field(
        default=(), description="layers whose weights stay as they are, by name pattern: what is exact stays exact"
    )
    batch_size: int = Field(default=8, ge=1, description="segments per step")
    accumulate: int = Field(default=1, ge=1, description="parts in which a batch is computed, for less memory")
    segment: int = Field(default=30, ge=1, description="length of a segment along the inputs' dynamic axis")
    warmup_steps: int = Field(default=30, ge=0, description="steps in which the learning rate rises")
    betas: tuple[float, float] = Field(default=(0.8, 0.99), description="AdamW's running averages")
    weight_decay: float = Field(default=0.0, ge=0.0)
    gradient_clip: float = Field(default=5.0, gt=0.0, description="largest norm of a step's gradient")
    validate_every: int = Field(default=250, ge=1, description="steps between validations")
    keep: Literal["best", "last"] = Field(
        default="best",
        description="which weights the student has in the end: the best in validation (of an adversarial phase the "
        "last that were sound, for spectral losses cannot judge it), or the last in any case but where a training was "
        "stopped because it went wrong",
    )
    ema: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="decay of a running average of the weights, which is kept then; 0: none",
    )
    checkpoint_seconds: float = Field(default=60.0, ge=0.0, description="longest time between checkpoints")
    checkpoint_steps: int | None = Field(default=None, ge=1, description="most steps between checkpoints")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="'auto' takes bf16 on CPUs that compute it, else fp32"
    )
    # How steps are launched changes nothing of what is trained.
    cuda_graphs: bool = Field(
        default=True, exclude=True, description="on a GPU, steps are captured as CUDA graphs, which keep their memory"
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

    @model_validator(mode="after")
    def _batches_divide(self) -> Distillation:
        self.check_parts(self.accumulate)
        return self

    def check_parts(self, parts: int) -> None:
        """Refuse batches that cannot be computed in so many equal parts.

        Raises:
            ValueError: names the sizes that cannot.
        """
        sizes = {phase.batch_size or self.batch_size for phase in (self.block_wise, self.end_to_end, self.adversarial)}
        if wrong := sorted(size for size in sizes if size % parts):
            named = ", ".join(map(str, wrong))
            raise ValueError(
                f"batch_size {named} cannot be computed in {parts} equal parts (accumulate times processes)"
            )

    @property
    def longest_minutes(self) -> float | None:
        return self.max_minutes

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor_distill.lesson import Lesson
        from compressor_distill.trainer import train

        if context.data is None:
            raise DataError("distillation needs data: add 'data:' to the recipe")
        try:
            self.check_parts(self.accumulate * processes.count())
        except ValueError as error:
            raise StageError(context.stage, f"{error}; start fewer processes or change batch_size") from error
        # The losses as they are at the data's rate.
        at_rate = {"losses": tuple(loss.at_rate(context.data.sample_rate) for loss in self.losses)}
        return processes.together(train, Lesson.of(self.model_copy(update=at_rate), student, context, context.data))
