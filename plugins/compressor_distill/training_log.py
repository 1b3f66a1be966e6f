"""What a training tells while it runs: mean losses, a curve for the report, and TensorBoard."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from compressor.report import CurvePoint
from compressor.spectrogram import spectrogram_png


class TrainingLog:
    """Collects losses between validations; a context manager, since TensorBoard's file wants closing.

    Args:
        folder: where TensorBoard's files go; None writes none.
        sample_rate: of the output, where it is a signal: then TensorBoard gets sound and spectrograms.
    """

    def __init__(self, folder: Path | None, sample_rate: int | None) -> None:
        self.curve: list[CurvePoint] = []
        # Sum and count by name: not every step has every loss.
        self._sums: dict[str, tuple[float, int]] = {}
        self._folder = folder
        self._rate = sample_rate
        self._writer: SummaryWriter | None = None
        self._heard: tuple[Tensor, Tensor] | None = None

    def __enter__(self) -> TrainingLog:
        if self._folder is not None:
            self._writer = SummaryWriter(str(self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, losses: Mapping[str, float]) -> None:
        """Count one step's losses in."""
        for name, value in losses.items():
            total, count = self._sums.get(name, (0.0, 0))
            self._sums[name] = total + value, count + 1

    def means(self) -> dict[str, float]:
        """Return the mean losses since the last validation."""
        return {name: total / count for name, (total, count) in self._sums.items()}

    def text(self) -> str:
        """Return the mean losses, and the last validation, for a progress bar."""
        means = ", ".join(f"{name} {value:.3f}" for name, value in self.means().items())
        if not self.curve:
            return means
        return f"{means} (validation {', '.join(f'{value:.3f}' for value in self.curve[-1].validation.values())})"

    def hear(self, pair: tuple[Tensor, Tensor] | None) -> None:
        """Take what the student and its teacher sound like for a validation sample, each (samples,).

        TensorBoard gets it with the figures of the validation, which come next.
        """
        self._heard = pair

    def validated(self, phase: str, step: int, seconds: float, found: dict[str, float]) -> None:
        """Close the stretch since the last validation with what this one found."""
        point = CurvePoint(phase=phase, step=step, seconds=seconds, losses=self.means(), validation=found)
        self.curve.append(point)
        self._sums = {}
        heard, self._heard = self._heard, None
        if self._writer is None:
            return
        at = self._steps()
        for kind, values in (("training", point.losses), ("validation", found)):
            for name, value in values.items():
                self._writer.add_scalar(f"{kind}/{name}", value, at)
        if heard is not None and self._rate is not None:
            self._write_sound(self._writer, heard, self._rate, at)

    def _steps(self) -> int:
        """Return the steps of training up to the last validation, over all phases: each ends with one."""
        return sum({point.phase: point.step for point in self.curve}.values())

    def _write_sound(self, writer: SummaryWriter, pair: tuple[Tensor, Tensor], rate: int, at: int) -> None:
        student, teacher = (value.float().nan_to_num() for value in pair)
        for name, signal in (("student", student), *([("teacher", teacher)] if len(self.curve) == 1 else [])):
            writer.add_audio(f"sound/{name}", signal.clamp(-1, 1)[None], at, rate)
            picture = spectrogram_png(signal.numpy(), rate, teacher.numpy())
            pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
            writer.add_image(f"spectrogram/{name}", pixels, at, dataformats="HWC")

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps besides the curve."""
        return {"sums": dict(self._sums)}

    def restore(self, curve: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.curve = [CurvePoint(**point) for point in curve]
        self._sums = dict(state["sums"])
