"""A sweep of a recipe for a tiny model, quick to run."""

from __future__ import annotations

from pathlib import Path

import yaml

from compressor.sweep.definition import Sweep
from compressor.sweep.space import parse_varied
from compressor.testing import tiny_teacher


def tiny_recipe(tmp_path: Path) -> Path:
    (tmp_path / "tiny.onnx").write_bytes(tiny_teacher().content)
    content = {
        "teacher": str(tmp_path / "tiny.onnx"),
        "stages": [{"channel-importance-pruning": {"importance": "magnitude", "pruning_ratio": 0.2, "round_to": 2}}],
        "metrics": ["parameters", "macs"],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def tiny_sweep(tmp_path: Path, *varied: str, metrics: tuple[str, ...] = ("parameters",), file: str = "") -> Sweep:
    storage = f"sqlite:///{tmp_path / file}" if file else "sqlite://"
    return Sweep(tiny_recipe(tmp_path), parse_varied(varied), metrics, 3, tmp_path / "out", storage)
