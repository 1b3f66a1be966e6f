"""What a finished run folder says of its HiFi-GAN student."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from compressor.errors import RunFolderError
from compressor.run_reading import read_run as read_report
from compressor_hifigan.readable_student import CONFIG
from compressor_hifigan.student import StudentConfig


def read_run(folder: Path) -> tuple[StudentConfig, dict[str, Tensor]]:
    """Return the student's configuration and weights.

    Raises:
        RunFolderError: no finished run, or one whose recipe has no `readable-hifigan` stage.
    """
    report = read_report(folder).report
    try:
        weights = torch.load(folder / "student_model.pt", map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise RunFolderError(f"{folder} holds no finished run: {error}") from error
    for stage in report.stages:
        for finding in stage.findings:
            if CONFIG in finding.values:
                return StudentConfig.model_validate(finding.values[CONFIG]), weights
    raise RunFolderError(f"{folder}: the run's recipe has no stage 'readable-hifigan' that found a HiFi-GAN")
