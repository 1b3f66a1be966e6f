"""Compress ONNX models into small, fast students.

>>> import compressor
>>> plan = compressor.load_plan("recipes/hifigan_student.yaml")
>>> result = compressor.run(plan, compressor.RunSettings(out=Path("runs/mine")))
>>> result.report.verdicts
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.errors import CompressorError
    from compressor.pipeline import RunResult, run
    from compressor.plan_loading import load_plan
    from compressor.planning import Plan, plan
    from compressor.plugin_catalog import Catalog, load_catalog
    from compressor.preparing import RunSettings
    from compressor.recipe import Recipe
    from compressor.recipe_file import read_recipe, write_recipe
    from compressor.report import Report
    from compressor.teacher_loading import Teacher, load_teacher

_HOMES = {
    "Catalog": "plugin_catalog",
    "CompressorError": "errors",
    "Plan": "planning",
    "Recipe": "recipe",
    "Report": "report",
    "RunResult": "pipeline",
    "RunSettings": "preparing",
    "Teacher": "teacher_loading",
    "load_catalog": "plugin_catalog",
    "load_plan": "plan_loading",
    "load_teacher": "teacher_loading",
    "plan": "planning",
    "read_recipe": "recipe_file",
    "run": "pipeline",
    "write_recipe": "recipe_file",
}

__all__ = [
    "Catalog",
    "CompressorError",
    "Plan",
    "Recipe",
    "Report",
    "RunResult",
    "RunSettings",
    "Teacher",
    "load_catalog",
    "load_plan",
    "load_teacher",
    "plan",
    "read_recipe",
    "run",
    "write_recipe",
]


def __getattr__(name: str) -> Any:
    """Import what is public when it is first asked for, so that `import compressor` does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
