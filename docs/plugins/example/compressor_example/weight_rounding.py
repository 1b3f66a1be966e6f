"""`weight-rounding`: weights as a device with a shorter mantissa would hold them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule


class WeightRounding(Strategy):
    """Round weights to a number of mantissa bits: 7 as bfloat16 has, 10 as float16 and TensorFloat-32 have.

    ```yaml
    - weight-rounding: {mantissa_bits: 7, ignore: ["conv_post.*"]}
    ```
    """

    name: ClassVar[str] = "weight-rounding"

    mantissa_bits: int = Field(default=7, ge=1, le=22, description="bits kept after the leading one; float32 has 23")
    targets: tuple[str, ...] = Field(default=("*",), description="weights to round, by name pattern")
    ignore: tuple[str, ...] = Field(default=(), description="weights to leave, by name pattern")

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.graph_editing import named_weights, select

        weights = named_weights(student)
        chosen = select(list(weights), self.targets, self.ignore) if weights else []
        return StageOutcome(student, tuple(self._round(name, weights[name]) for name in chosen))

    def _round(self, name: str, weight: Tensor) -> Finding:
        import torch

        with torch.no_grad():
            rounded = round_mantissa(weight, self.mantissa_bits)
            drift = float((rounded - weight).norm() / weight.norm().clamp_min(1e-30))
            weight.copy_(rounded)
        return Finding(f"moved by {drift:.2%} of its norm", name, {"drift": drift})


def round_mantissa(values: Tensor, bits: int) -> Tensor:
    """Return values of any shape rounded to `bits` after the leading one, ties to even (IEEE 754)."""
    import torch

    mantissa, exponent = torch.frexp(values)  # 0.5 <= |mantissa| < 1, so the leading one is a bit of its own
    steps = 2.0 ** (bits + 1)
    return torch.ldexp(torch.round(mantissa * steps) / steps, exponent)
