"""What a training tells while it runs: mean losses, a curve for the report, and the same for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from compressor.report import CurvePoint


class TrainingLog:
    """Collects losses between validations; a context manager, since TensorBoard's file wants closing."""

    def __init__(self, folder: Path) -> None:
        self.curve: list[CurvePoint] = []
        self._sums: dict[str, float] = {}
        self._count = 0
        self._folder = folder

    def __enter__(self) -> TrainingLog:
        self._writer = SummaryWriter(str(self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, losses: Mapping[str, float]) -> None:
        """Count one step's losses in."""
        self._count += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Return the mean losses since the last validation."""
        return {name: value / max(1, self._count) for name, value in self._sums.items()}

    def text(self) -> str:
        """Return the mean losses for a progress bar."""
        return ", ".join(f"{name} {value:.3f}" for name, value in self.means().items())

    def validated(self, phase: str, step: int, seconds: float, found: dict[str, float]) -> None:
        """Close the stretch since the last validation with what this one found."""
        point = CurvePoint(phase=phase, step=step, seconds=seconds, losses=self.means(), validation=found)
        self.curve.append(point)
        for kind, values in (("training", point.losses), ("validation", found)):
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, len(self.curve))
        self._sums, self._count = {}, 0
