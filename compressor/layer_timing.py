"""Where a model's time goes in onnxruntime: layer by layer, from its own profile of the whole model.

Layers are timed where they stand, and not one by one: onnxruntime fuses a convolution with the sum and the activation
behind it, and keeps a blocked memory layout from one layer to the next.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from compressor.stored_model import session_options

FUSED_SUFFIX = "_nchwc"
"""What onnxruntime appends to the name of a tensor to name the node of blocked layout that makes it."""


def time_by_layer(content: bytes, inputs: Mapping[str, Any], threads: int = 1, runs: int = 5) -> dict[str, float]:
    """Return seconds by layer: the module whose weights a node has, or else that of the values it reads.

    Each node counts with its fastest run. What cannot be assigned, such as changes of layout, is under the empty name.
    """
    owners = _owners(onnx.load_model_from_string(content))
    seconds: dict[str, float] = defaultdict(float)
    for name, fastest in _fastest(content, inputs, threads, runs).items():
        seconds[owners.get(name, owners.get(name.removesuffix(FUSED_SUFFIX), ""))] += fastest
    return dict(seconds)


def _owners(model: onnx.ModelProto) -> dict[str, str]:
    """Return the layer of each node and of each tensor, by name."""
    weights = {tensor.name for tensor in model.graph.initializer}
    owner: dict[str, str] = {}
    computed: dict[str, int] = {}
    for position, node in enumerate(model.graph.node):
        own = [name.rpartition(".")[0] for name in node.input if name in weights and "." in name]
        # A sum belongs to the summand computed last: it is the one that onnxruntime fuses the sum with.
        read = sorted((name for name in node.input if name in computed), key=computed.__getitem__)
        layer = own[0] if own else owner[read[-1]] if read else ""
        for name in (*node.output, node.name):
            owner[name] = layer
        computed.update(dict.fromkeys(node.output, position))
    return owner


def _fastest(content: bytes, inputs: Mapping[str, Any], threads: int, runs: int) -> dict[str, float]:
    """Return each node's seconds in its fastest run; the first run does not count."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for _ in range(runs + 1):
            session.run(None, dict(inputs))
        events = json.loads(Path(session.end_profiling()).read_text())
    found: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            found[event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e6)
    return {name: min(seconds[1:] or seconds) for name, seconds in found.items()}
