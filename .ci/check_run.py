"""Check what a short run of the main job left behind: run as `python .ci/check_run.py FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from compressor_hifigan import HiFiGANStudent2D

LIMIT = 0.30 * 3_555_649


def main(folder: Path) -> None:
    """Raise SystemExit with what is wrong."""
    expected = ["student.onnx", "student_model.pt", "report.json", "report.html", "recipe.yaml", "environment.json"]
    missing = [name for name in expected if not (folder / name).is_file()]
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    if missing or not json.loads((folder / "run.json").read_text(encoding="utf-8"))["finished"]:
        raise SystemExit(f"missing: {missing}")
    counted = sum(int(np.prod(tensor.dims)) for tensor in _weights(folder / "student.onnx"))
    if not 0.9 * LIMIT <= counted <= LIMIT or not all(verdict["met"] for verdict in report["verdicts"]):
        raise SystemExit(f"{counted} parameters, limit {LIMIT:.0f}")
    _check_equal(folder)
    print(f"{counted:,} parameters of at most {LIMIT:,.0f}; student_model.pt equals student.onnx")  # noqa: T201


def _weights(path: Path) -> list[onnx.TensorProto]:
    """Return the weights of a file: not the shapes and slice positions that it also keeps as initializers."""
    return [tensor for tensor in onnx.load(path).graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]


def _check_equal(folder: Path) -> None:
    model = HiFiGANStudent2D.from_run(folder)
    model.load_state_dict(torch.load(folder / "student_model.pt", weights_only=True))
    session = onnxruntime.InferenceSession(folder / "student.onnx")
    (node,) = session.get_inputs()
    if (node.name, node.shape[:2], session.get_outputs()[0].name) != ("mel", [1, 80], "audio"):
        raise SystemExit(f"not a drop-in: input {node.name} {node.shape}")
    mel = np.random.default_rng(0).standard_normal((1, 80, 61)).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(mel)[:, None]).numpy().reshape(-1)
    difference = float(np.abs(session.run(None, {"mel": mel})[0].reshape(-1) - expected).max())
    if difference > 1e-4:
        raise SystemExit(f"student.onnx and HiFiGANStudent2D differ by {difference:.2e}")


main(Path(sys.argv[1]))
