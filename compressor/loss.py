"""The contract of a loss: how far a student's output is from its teacher's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationInfo

from compressor.named_options import resolve

if TYPE_CHECKING:
    from torch import Tensor


class Loss(BaseModel, ABC):
    """A frozen model whose fields are options, with one method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    needs_signal: ClassVar[bool] = False
    """True: only for models whose output is a signal of known sample rate, such as audio."""

    weight: float = Field(default=1.0, ge=0.0, description="factor of this loss in the sum")

    @abstractmethod
    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar for two outputs of the teacher's shape, (batch, …); `weight` is applied by the caller."""


def _resolve_loss(value: object, info: ValidationInfo) -> object:
    return resolve(value, info, "losses", Loss)


NamedLoss = Annotated[SerializeAsAny[Loss], BeforeValidator(_resolve_loss)]
"""The type of a strategy's option that takes a loss by name: `mel-l1`, or `mel-l1: {weight: 45}`."""
