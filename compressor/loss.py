"""The contract of a loss: how far a student's output is from its teacher's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    ValidationInfo,
)

from compressor.named_options import resolve

if TYPE_CHECKING:
    from torch import Tensor

_SHARE_KEY = r"^(0?\.[0-9]+|0\.?|1(\.0*)?|[0-9](\.[0-9]*)?[eE]-0*[1-9][0-9]*)$"
"""Numbers from 0 to 1 as YAML and JSON write them as keys, for JSON Schema, in which keys are text."""


def _share(value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(
            f"expected the share of a phase that lies behind, from 0 (its start) to 1 (its end); found {value:g}"
        )
    return value


def _form(value: object) -> str | None:
    if isinstance(value, dict):
        return "schedule"
    return "number" if isinstance(value, int | float | str) else None


_Factor = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
_Schedule = Annotated[
    dict[Annotated[float, AfterValidator(_share)], _Factor],
    Field(min_length=1, json_schema_extra={"propertyNames": {"pattern": _SHARE_KEY}}),
]

Weight = Annotated[
    Annotated[_Factor, Tag("number")] | Annotated[_Schedule, Tag("schedule")],
    Discriminator(
        _form,
        custom_error_type="weight_form",
        custom_error_message="expected a number, or numbers by share of a phase such as {0: 0.0, 0.5: 1.0}",
    ),
]
"""A factor, or factors by the share of a training phase that lies behind: `45`, or `{0: 0.0, 0.5: 1.0}`."""


class Loss(BaseModel, ABC):
    """A frozen model whose fields are options, with one method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    needs_signal: ClassVar[bool] = False
    """True: only for models whose output is a signal of known sample rate, such as audio."""
    any_width: ClassVar[bool] = False
    """True: compares tensors of different channel counts (axis 1), such as features of a narrower student."""

    weight: Weight = Field(
        default=1.0,
        description="factor of this loss in the sum; or factors by the share of a phase that lies behind, with "
        "straight lines between them: {0: 0.0, 0.5: 1.0}",
    )

    def weight_at(self, done: float) -> float:
        """Return the factor where the share `done` of a training phase lies behind.

        Between two points of a schedule it lies on a straight line, before the first and after the last it is theirs.
        """
        if not isinstance(self.weight, dict):
            return self.weight
        shares = sorted(self.weight)
        return float(np.interp(done, shares, [self.weight[share] for share in shares]))

    def at_rate(self, sample_rate: int | None) -> Self:
        """Return this loss for signals of so many samples per second; None where nobody knows how many.

        Called before a training, once: for losses whose options leave open what follows from the rate.
        """
        return self

    @abstractmethod
    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar for two outputs of the teacher's shape, (batch, …); the weight is applied by the caller.

        It depends on these tensors and the options alone: on a GPU what it does once is replayed for later batches.
        """


def _resolve_loss(value: object, info: ValidationInfo) -> object:
    return resolve(value, info, "losses", Loss)


def _as_written(loss: Loss) -> dict[str, object]:
    # Without its name a fingerprint would take one loss for another, and a report would not say which it was.
    return {loss.name: loss.model_dump(mode="json")}


NamedLoss = Annotated[Loss, BeforeValidator(_resolve_loss), PlainSerializer(_as_written)]
"""The type of a strategy's option that takes a loss by name: `mel-l1`, or `mel-l1: {weight: 45}`."""
