"""`conv1d-to-conv2d`: one-dimensional convolutions as two-dimensional ones of height one. Exact.

Inference engines keep their fast, blocked kernels for four-dimensional tensors (onnxruntime: NCHWc), and many NPUs
know only those. Tensors stay four-dimensional from one convolution to the next: what lies between is carried along
where it works element by element.
"""

from __future__ import annotations

import operator
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import nn
from torch.fx import GraphModule, Node

from compressor.graph_editing import clean, module_of, output_nodes, placeholders, replace_module
from compressor.strategy import Finding, StageContext, StageOutcome, Strategy
from compressor.tensor_spec import TensorSpec
from compressor_conv.transposed import Interleave
from compressor_conv.upsampled import NearestUpsampling

ELEMENTWISE_MODULES = (nn.LeakyReLU, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid)
RANK_AGNOSTIC_MODULES = (Interleave, NearestUpsampling)
"""Modules over time that take an axis of height one before it too."""
ELEMENTWISE_FUNCTIONS = (operator.add, operator.sub, operator.mul, operator.truediv)


class Conv1dToConv2d(Strategy):
    """Rewrite convolutions over (batch, channels, time) as convolutions over (batch, channels, 1, time)."""

    name: ClassVar[str] = "conv1d-to-conv2d"
    preserves_output: ClassVar[bool] = True

    input_shape: Literal["teacher", "image"] = Field(
        default="teacher",
        description="'teacher' keeps the teacher's input and output shapes, so that the file drops in; 'image' takes "
        "(batch, 1, channels, time) and gives (batch, 1, channels, time)",
    )

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        widened = _Widening(student)
        for node in list(student.graph.nodes):
            widened.visit(node)
        if self.input_shape == "image":
            _take_images(student)
        clean(student)
        message = f"{widened.converted} convolutions are two-dimensional now"
        if not widened.converted:
            message = "the model has no one-dimensional convolutions"
        return StageOutcome(student, (Finding(message),))


class _Widening:
    """Carries four-dimensional tensors through a graph; three-dimensional ones are made where others need them."""

    def __init__(self, student: GraphModule) -> None:
        self.student = student
        self.wide: set[Node] = set()
        self.narrow_of: dict[Node, Node] = {}
        self.converted = 0

    def visit(self, node: Node) -> None:
        module = module_of(self.student, node)
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            replace_module(self.student, node, as_conv2d(module))
            node.replace_input_with(node.all_input_nodes[0], self._widened(node, node.all_input_nodes[0]))
            self.wide.add(node)
            self.converted += 1
        elif self._carries(node, module) and all(source in self.wide for source in node.all_input_nodes):
            self.wide.add(node)
        else:
            for source in node.all_input_nodes:
                if source in self.wide:
                    node.replace_input_with(source, self._narrowed(source))

    def _carries(self, node: Node, module: nn.Module | None) -> bool:
        if module is not None:
            return isinstance(module, ELEMENTWISE_MODULES + RANK_AGNOSTIC_MODULES)
        return node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS and bool(node.all_input_nodes)

    def _widened(self, user: Node, source: Node) -> Node:
        if source in self.wide:
            return source
        with self.student.graph.inserting_before(user):
            return self.student.graph.call_function(torch.unsqueeze, (source, 2))

    def _narrowed(self, source: Node) -> Node:
        if source not in self.narrow_of:
            with self.student.graph.inserting_after(source):
                self.narrow_of[source] = self.student.graph.call_function(torch.squeeze, (source, 2))
        return self.narrow_of[source]


def as_conv2d(module: nn.Conv1d | nn.ConvTranspose1d) -> nn.Conv2d | nn.ConvTranspose2d:
    """Return the two-dimensional convolution of height one with the same weights."""
    (kernel,), (stride,), (dilation,) = module.kernel_size, module.stride, module.dilation
    if isinstance(module.padding, str):
        raise ValueError(f"padding '{module.padding}' has no two-dimensional form here; export it as numbers")
    (padding,) = module.padding
    bias = module.bias is not None
    wide: nn.Conv2d | nn.ConvTranspose2d
    if isinstance(module, nn.ConvTranspose1d):
        wide = nn.ConvTranspose2d(
            module.in_channels,
            module.out_channels,
            (1, kernel),
            (1, stride),
            (0, int(padding)),
            (0, module.output_padding[0]),
            module.groups,
            bias,
            (1, dilation),
        )
    else:
        wide = nn.Conv2d(
            module.in_channels,
            module.out_channels,
            (1, kernel),
            (1, stride),
            (0, int(padding)),
            (1, dilation),
            module.groups,
            bias,
        )
    with torch.no_grad():
        wide.weight.copy_(module.weight.unsqueeze(2))
        if module.bias is not None and wide.bias is not None:
            wide.bias.copy_(module.bias)
    return wide.to(module.weight.dtype)


def _take_images(student: GraphModule) -> None:
    """Let inputs and outputs of three axes be images of one channel: (batch, 1, channels, time)."""
    for node in placeholders(student):
        spec: TensorSpec = node.meta["tensor_spec"]
        if len(spec.shape) != 3:
            continue
        with student.graph.inserting_after(node):
            plain = student.graph.call_function(torch.squeeze, (node, 1))
        for user in [user for user in node.users if user is not plain]:
            user.replace_input_with(node, plain)
        node.meta["tensor_spec"] = _image(spec)
    output = next(node for node in student.graph.nodes if node.op == "output")
    specs: tuple[TensorSpec, ...] = output.meta["tensor_specs"]
    for node, spec in zip(output_nodes(student), specs, strict=True):
        if len(spec.shape) == 3:
            with student.graph.inserting_before(output):
                output.replace_input_with(node, student.graph.call_function(torch.unsqueeze, (node, 1)))
    output.meta["tensor_specs"] = tuple(_image(spec) if len(spec.shape) == 3 else spec for spec in specs)


def _image(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, (spec.shape[0], 1, *spec.shape[1:]), spec.dtype)
