"""Seconds against the number of nodes, and memory against the size of the weights, of loading a model.

    python -m benchmarks.loading
    python -m benchmarks.loading --nodes 5000 --megabytes 512 2400

Models are built here with random weights. Each is loaded in a process of its own, parity with onnxruntime included;
memory is the most that was held over what the process held before, as a multiple of the weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.own_process import in_own_process, peak_gigabytes
from compressor.console import print_table
from compressor.teacher_loading import load_teacher

CHANNELS = 8
"""Of the convolutions that a model of many nodes has."""

WIDTH = 4096
"""Of the square products that a large model has: 64 MB each."""

HEADER = ["model", "nodes", "weights", "seconds", "memory"]


def deep(nodes: int, path: Path) -> None:
    """Write a chain of convolutions and activations; weights keep the signal as loud as it is."""
    generator = np.random.default_rng(0)
    made, weights = [], []
    for layer in range(nodes // 2):
        values = generator.standard_normal((CHANNELS, CHANNELS, 3)) * np.sqrt(2 / (3 * CHANNELS))
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"weight {layer}"))
        made.append(helper.make_node("Conv", [f"x {layer}", f"weight {layer}"], [f"c {layer}"], pads=[1, 1]))
        made.append(helper.make_node("Relu", [f"c {layer}"], [f"x {layer + 1}"]))
    ends = [helper.make_tensor_value_info(f"x {at}", TensorProto.FLOAT, [1, CHANNELS, "t"]) for at in (0, nodes // 2)]
    _save(made, ends, weights, path, beside=False)


def large(megabytes: int, path: Path) -> None:
    """Write a chain of products; weights over 1 GB go into a file beside it."""
    generator = np.random.default_rng(0)
    count = max(1, round(megabytes * 2**20 / (4 * WIDTH * WIDTH)))
    made, weights = [], []
    for layer in range(count):
        values = generator.standard_normal((WIDTH, WIDTH), dtype=np.float32) / np.float32(np.sqrt(WIDTH))
        weights.append(numpy_helper.from_array(values, f"weight {layer}"))
        made.append(helper.make_node("MatMul", [f"x {layer}", f"weight {layer}"], [f"x {layer + 1}"]))
    ends = [helper.make_tensor_value_info(f"x {at}", TensorProto.FLOAT, [1, "t", WIDTH]) for at in (0, count)]
    _save(made, ends, weights, path, beside=megabytes > 1024)


def _save(
    nodes: list[onnx.NodeProto],
    ends: list[onnx.ValueInfoProto],
    weights: list[TensorProto],
    path: Path,
    *,
    beside: bool,
) -> None:
    graph = helper.make_graph(nodes, "model", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=beside, location="weights.bin" if beside else None)


def loaded(path: str) -> tuple[int, float, float]:
    """Load a model; returns its nodes, the seconds it took and the gigabytes it took at most."""
    before = peak_gigabytes()
    begun = time.monotonic()
    teacher = load_teacher(path)
    return sum(teacher.operators.values()), time.monotonic() - begun, peak_gigabytes() - before


def one_line(label: str, folder: Path) -> list[str]:
    """Build and load one model; returns the line's cells."""
    path = folder / "model.onnx"
    kind, size = label.split("-")
    in_own_process(deep if kind == "deep" else large, int(size), path)
    weights = sum(file.stat().st_size for file in folder.iterdir()) / 1e9
    nodes, seconds, gigabytes = in_own_process(loaded, str(path))
    memory = f"{gigabytes / weights:.2f} times" if kind == "large" else f"{gigabytes:.2f} GB"
    return [label, f"{nodes:,}", f"{weights:.2f} GB", f"{seconds:.1f} s", memory]


def main() -> None:
    """Print a line as soon as it is known, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1000, 5000, 10000, 20000])
    parser.add_argument("--megabytes", type=int, nargs="*", default=[512, 2400])
    options = parser.parse_args()
    labels = [f"deep-{count}" for count in options.nodes] + [f"large-{size}" for size in options.megabytes]
    rows = []
    for label in labels:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(one_line(label, Path(folder)))
        print(" | ".join(rows[-1]), flush=True)
    print_table(HEADER, rows)


if __name__ == "__main__":
    main()
