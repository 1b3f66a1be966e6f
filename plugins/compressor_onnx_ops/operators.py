"""From a function over tensors to a converter for onnx2torch.

An operator is a function whose positional arguments are the operator's inputs, None where an optional one is missing,
and whose keyword arguments are its attributes, with the standard's defaults. One function serves all versions of the
definition: what was an attribute in one and an input in another is an argument of both kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import onnx
import torch
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import Tensor, nn

from compressor.randomness import stream
from compressor.shared_draws import RANDOM_OPERATORS

Made = Tensor | tuple[Tensor | None, ...]
Compute = Callable[..., Made]
Definition = TypeVar("Definition", bound=Compute)

OPERATORS: dict[str, Compute] = {}
"""Functions by operator type."""

WRITERS: dict[str, Callable[..., Any]] = {}
"""How an operator is written, by its type, where torch's exporter misreads the node that it was."""

FALLBACKS: set[str] = set()
"""Operators whose converter in onnx2torch goes first, where there is one and it takes the node."""


def operator(*names: str, fallback: bool = False) -> Callable[[Definition], Definition]:
    """Register a function as what operators compute; `fallback` leaves to onnx2torch what it can convert."""

    def register(function: Definition) -> Definition:
        for name in names:
            OPERATORS[name] = function
            if fallback:
                FALLBACKS.add(name)
        return function

    return register


class OnnxOperator(nn.Module):
    """One node: a function with its attributes. In a file that is exported it is the node that it was."""

    def __init__(
        self, kind: str, attributes: dict[str, Any], given: Iterable[bool], outputs: int, drawn_as: str = ""
    ) -> None:
        super().__init__()
        self.kind = kind
        self.drawn_as = drawn_as
        """Where the operator draws random numbers: the name of the tensor that holds them, and of their stream."""
        self.attributes = attributes
        self.given = tuple(given)
        self.outputs = outputs

    def forward(self, *present: Tensor) -> Any:
        if torch.onnx.is_in_onnx_export():
            return _AsItWas.apply(self, *present)
        return self.compute(*present)

    def compute(self, *present: Tensor) -> Any:
        """Return the output, or a tuple of as many as the node has."""
        values = iter(present)
        inputs = (next(values) if given else None for given in self.given)
        made = OPERATORS[self.kind](*inputs, **self._options())
        outputs = made if isinstance(made, tuple) else (made,)
        return outputs[0] if self.outputs == 1 else outputs[: self.outputs]

    def _options(self) -> dict[str, Any]:
        if not self.drawn_as:
            return self.attributes
        seed = self.attributes.get("seed")
        generator = stream(self.drawn_as) if seed is None else torch.Generator().manual_seed(int(seed))
        return {**{name: value for name, value in self.attributes.items() if name != "seed"}, "generator": generator}

    def extra_repr(self) -> str:
        return ", ".join([self.kind, *(f"{name}={value}" for name, value in self.attributes.items())])


class _AsItWas(torch.autograd.Function):
    """Writes an operator as the node that it was."""

    @staticmethod
    def forward(_: Any, module: OnnxOperator, *present: Tensor) -> Any:
        # The node stands for all that happens here; arithmetic with shapes would leak into the trace.
        state = torch._C._get_tracing_state()
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
        try:
            return module.compute(*present)
        finally:
            torch._C._set_tracing_state(state)  # type: ignore[attr-defined]

    @staticmethod
    def symbolic(graph: Any, module: OnnxOperator, *present: Any) -> Any:
        from torch.onnx.symbolic_helper import _optional_input_placeholder_tensor

        values = iter(present)
        missing = _optional_input_placeholder_tensor(graph)  # type: ignore[no-untyped-call]
        inputs = [next(values) if given else missing for given in module.given]
        attributes = {f"{name}_{_suffix(value)}": value for name, value in module.attributes.items()}
        if module.kind in WRITERS:
            return WRITERS[module.kind](graph, *inputs, **module.attributes)
        return graph.op(module.kind, *inputs, outputs=module.outputs, **attributes)


def _suffix(value: Any) -> str:
    """Return how torch's exporter wants the kind of an attribute spelt."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, Tensor):
        return "t"
    return {int: "i", float: "f", str: "s"}[type(first)]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as numbers, text, lists of them, tensors or graphs."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = torch.from_numpy(onnx.numpy_helper.to_array(value).copy())
        elif isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            value = [entry.decode() for entry in value]
        found[attribute.name] = list(value) if isinstance(value, tuple) else value
    return found


def convert_operator(node: OnnxNode, _: OnnxGraph) -> OperationConverterResult:
    """Convert a node by the function of its operator type."""
    names = list(node.input_values)
    while names and not names[-1]:
        names.pop()
    given = (bool(name) for name in names)
    outputs = len(node.output_values)
    drawn_as = node.output_values[0] if node.operation_type in RANDOM_OPERATORS else ""
    module = OnnxOperator(node.operation_type, attributes_of(node.proto), given, outputs, drawn_as)
    mapping = OnnxMapping(inputs=tuple(name for name in names if name), outputs=node.output_values)
    return OperationConverterResult(module, mapping)


def numbers(value: Tensor | list[int] | None) -> list[int]:
    """Return an input or attribute of whole numbers as a list; none for None."""
    if value is None:
        return []
    return [int(entry) for entry in (value.flatten().tolist() if isinstance(value, Tensor) else value)]
