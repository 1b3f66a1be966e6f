"""Packages installed into folders of their own, and commands that find them there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COMPRESS = "from compressor.cli import main; main(prog_name='compress')"


def install_into(target: Path, package: Path) -> dict[str, str]:
    """Install a package into a folder; returns the environment in which it is found."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    run("-m", "pip", "install", *options, package)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])}


def run(*command: str | Path, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_small_model(path: Path) -> None:
    """Write a convolution over (1, 2, time): a model that is no vocoder."""
    weight = np.random.default_rng(0).standard_normal((3, 2, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "weight"], ["y"], kernel_shape=[3], pads=[1, 1])
    graph = helper.make_graph(
        [node],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, "time"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, "time"])],
        [numpy_helper.from_array(weight, "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
