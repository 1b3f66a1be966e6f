"""One draw for torch and onnxruntime: an ONNX file takes what torch drew in place of its own random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from compressor.errors import VerificationError
from compressor.stored_model import StoredModel

RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
"""Operators of the standard that draw random numbers."""

Draws = dict[str, NDArray[Any]]
"""What each random operator drew, by the name of the tensor that held it in the teacher's file."""


def draws_inside(graph: nn.Module) -> list[nn.Module]:
    """Return the modules of a graph that draw random numbers: those with an attribute `drawn_as`, a tensor's name."""
    return [module for module in graph.modules() if getattr(module, "drawn_as", "")]


@contextmanager
def recorded_draws(graph: nn.Module) -> Iterator[Draws]:
    """Yield what a graph draws while the block runs, in the order in which it draws."""
    found: Draws = {}

    def keep(module: nn.Module, _: object, output: torch.Tensor) -> None:
        found[str(module.drawn_as)] = output.detach().cpu().numpy()

    handles = [module.register_forward_hook(keep) for module in draws_inside(graph)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def taking_draws(stored: StoredModel, draws: Draws, *, by_name: bool) -> tuple[StoredModel, Draws]:
    """Return an ONNX file that takes draws as inputs, and the draws by the names of those inputs.

    Args:
        stored: the file.
        draws: what torch drew.
        by_name: the file's tensors have the names that the draws are known by; else its random operators stand in the
            order in which torch drew.

    Raises:
        VerificationError: the file draws at more or fewer places than torch.
    """
    if not draws:
        return stored, {}
    model = onnx.load_model_from_string(stored.outline)
    random = [node for node in model.graph.node if node.op_type in RANDOM_OPERATORS]
    if by_name:
        named = {node.output[0]: node for node in random}
        taken = {name: array for name, array in draws.items() if name in named}
        random = [named[name] for name in taken]
    else:
        taken = {node.output[0]: array for node, array in zip(random, draws.values(), strict=False)}
    if len(taken) != len(draws) or len(random) != len(draws):
        raise VerificationError(f"torch draws random numbers at {len(draws)} places, the file at {len(random)}")
    for node in random:
        array = taken[node.output[0]]
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(array.dtype))
        shape = [f"{node.output[0]}_axis_{axis}" for axis in range(array.ndim)]
        model.graph.input.append(onnx.helper.make_tensor_value_info(node.output[0], kind, shape))
        model.graph.node.remove(node)
    return replace(stored, outline=model.SerializeToString()), taken
