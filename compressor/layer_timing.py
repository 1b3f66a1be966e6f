"""Where a model's time goes in onnxruntime: node by node, from its own profile of the whole model.

Layers are timed where they stand, and not one by one: onnxruntime fuses a convolution with the sum and the activation
behind it, and keeps a blocked memory layout from one layer to the next. Of several runs each node's fastest counts:
what else the machine does meets a few nodes of a run, and hardly ever one node in every run.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from compressor.stored_model import StoredModel, onnx_session

FUSED_SUFFIX = "_nchwc"
"""What onnxruntime appends to the name of a tensor to name the node of blocked layout that makes it."""


def by_layer(content: bytes, nodes: Mapping[str, float]) -> dict[str, float]:
    """Return seconds by layer: the module whose weights a node has, or else that of the values it reads.

    What cannot be assigned, such as changes of layout, is under the empty name.

    Args:
        content: the model.
        nodes: seconds by node, as onnxruntime names them.
    """
    owners = _owners(onnx.load_model_from_string(content))
    seconds: dict[str, float] = defaultdict(float)
    for name, fastest in nodes.items():
        seconds[owners.get(name, owners.get(name.removesuffix(FUSED_SUFFIX), ""))] += fastest
    return dict(seconds)


def _owners(model: onnx.ModelProto) -> dict[str, str]:
    """Return the layer of each node and of each tensor, by name."""
    weights = {tensor.name for tensor in model.graph.initializer}
    owner: dict[str, str] = {}
    computed: dict[str, int] = {}
    for position, node in enumerate(model.graph.node):
        own = [name.rpartition(".")[0] for name in node.input if name in weights and "." in name]
        # A sum belongs to the summand computed last: it is the one that onnxruntime fuses the sum with. Constants may
        # be nodes too, and belong to nothing.
        read = sorted((name for name in node.input if name in computed), key=computed.__getitem__)
        layer = next(iter(own), "") or next((owner[name] for name in reversed(read) if owner[name]), "")
        for name in (*node.output, node.name):
            owner[name] = layer
        computed.update(dict.fromkeys(node.output, position))
    return owner


def nodes_in_turn(
    models: Sequence[tuple[bytes | StoredModel, Mapping[str, Any]]], threads: int, runs: int
) -> list[dict[str, float]]:
    """Return each node's seconds in its fastest run, by model; models run in turn, the first run does not count.

    Their sum is a clock that repeats itself: to about 1 % where the median of five whole runs moves by 3 %, on a shared
    machine.
    """
    with tempfile.TemporaryDirectory() as folder:
        sessions = [onnx_session(content, threads, Path(folder) / f"{at}") for at, (content, _) in enumerate(models)]
        for _ in range(runs + 1):
            for session, (_, inputs) in zip(sessions, models, strict=True):
                session.run(None, dict(inputs))
        return [_of_nodes(session) for session in sessions]


def _of_nodes(session: onnxruntime.InferenceSession) -> dict[str, float]:
    """Return each node's seconds in its fastest run, from a session that is not needed any more.

    A node that runs others, such as a `Loop`, has their time in its own: they are left out.
    """
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = [event for event in events if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")]
    found: dict[str, list[float]] = defaultdict(list)
    over = 0
    for event in sorted(ran, key=lambda event: (event["ts"], -event["dur"])):
        if event["ts"] >= over:
            over = event["ts"] + event["dur"]
            # Whole microseconds: what takes less than one takes something.
            found[event["name"].removesuffix("_kernel_time")].append(max(event["dur"], 1) / 1e6)
    return {name: min(seconds[1:] or seconds) for name, seconds in found.items()}
