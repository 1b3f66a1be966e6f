"""The files of a run folder that people and programs take away: student, report, recipe, environment."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import torch

from compressor.report import Report
from compressor.report_html import render_report
from compressor.run_folder import RunFolder

if TYPE_CHECKING:
    from torch.fx import GraphModule


def write_student(folder: RunFolder, student: GraphModule, content: bytes) -> None:
    """Write `student.onnx`, and `student_model.pt`: a plain state dict for `torch.load(weights_only=True)`."""
    state = {name: value.detach().cpu().clone() for name, value in student.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    folder.write("student_model.pt", buffer.getvalue())
    folder.write("student.onnx", content)


def write_report(folder: RunFolder, report: Report) -> None:
    """Write `report.json` and `report.html`, the recipe as run, and the environment."""
    folder.write("recipe.yaml", report.recipe.encode())
    folder.write("environment.json", json.dumps(report.environment, indent=2).encode())
    folder.write("report.json", report.model_dump_json(indent=1).encode())
    folder.write("report.html", render_report(report, folder.path).encode())
