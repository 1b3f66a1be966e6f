"""`winograd-conv`: convolutions over time with about half the multiplications, where that is faster on this machine."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pydantic import Field

from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import GraphModule, Node


class _Kind(NamedTuple):
    """Layers of one kind take the same time."""

    inputs: int
    outputs: int
    taps: int
    dilation: int
    padding: int
    length: int
    whole_tiles: bool


class WinogradConvStrategy(Strategy):
    """Compute convolutions over time by Winograd's F(4, r), layer by layer where onnxruntime gets faster by it.

    A convolution of 11 taps takes 5.25 multiplications for each output in place of 11, one of 3 takes 1.5; the sums
    before and after cost time of their own, so that wide layers gain (1.7 times at 128 channels and 11 taps) and narrow
    ones lose. Each kind of layer is timed in both forms. Exact but for rounding, two to six times that of a plain
    convolution; weights stay as they are. For convolutions of height one and odd dilation, so behind
    `conv1d-to-conv2d`; training strategies come before it.

    ```yaml
    - conv1d-to-conv2d
    - winograd-conv: {least_gain: 1.2}
    ```
    """

    name: ClassVar[str] = "winograd-conv"
    preserves_output: ClassVar[bool] = True

    targets: tuple[str, ...] = Field(default=("*",), description="layers to consider, by name pattern")
    ignore: tuple[str, ...] = Field(default=(), description="layers to leave, by name pattern")
    least_gain: float = Field(
        default=1.1, ge=0, description="how many times as fast a layer must be by itself; 0 takes all that can be"
    )
    threads: int = Field(default=1, ge=1, description="onnxruntime threads")
    runs: int = Field(default=9, ge=1, description="timed runs of each form of each kind of layer; the median counts")
    size: int = Field(default=96, ge=1, description="size of the inputs' dynamic axes; a mel of a second has about 90")

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from torch import nn

        from compressor.graph_editing import clean, layer_name, module_nodes, replace_module, select
        from compressor_conv.winograd import WinogradConv, multiplications, why_not

        found = list(module_nodes(student, nn.Conv1d, nn.Conv2d))
        chosen = set(select([layer_name(node) for node, _ in found], self.targets, self.ignore)) if found else set()
        layers = [(node, module) for node, module in found if layer_name(node) in chosen]
        findings = [
            Finding(f"left as it is: {why_not(module)}", layer_name(node)) for node, module in layers if why_not(module)
        ]
        suited = [(node, module) for node, module in layers if isinstance(module, nn.Conv2d) and not why_not(module)]
        kinds = _kinds(student, suited, self.size)
        gains = {kind: self._gain(kind) for kind in sorted(set(kinds.values()))} if self.least_gain else {}
        for node, kind in kinds.items():
            gain = gains.get(kind)
            taken = gain is None or gain >= self.least_gain
            if taken:
                conv = student.get_submodule(str(node.target))
                replace_module(student, node, WinogradConv(conv, whole_tiles=kind.whole_tiles))  # type: ignore[arg-type]
            findings.append(_finding(node, kind, gain, taken, multiplications(kind.taps)))
        if not kinds:
            findings.append(Finding("the model has no convolution of height one that this form suits"))
        return StageOutcome(clean(student), tuple(findings))

    def _gain(self, kind: _Kind) -> float:
        """Return how many times as fast as the plain convolution a layer of a kind is, each by itself."""
        import torch
        from torch import nn

        from compressor.onnx_export import export_onnx
        from compressor.timing import time_in_turn
        from compressor_conv.winograd import WinogradConv

        conv = nn.Conv2d(
            kind.inputs, kind.outputs, (1, kind.taps), padding=(0, kind.padding), dilation=(1, kind.dilation)
        )
        signal = torch.randn(1, kind.inputs, 1, kind.length, generator=torch.Generator().manual_seed(0))
        forms = [conv, WinogradConv(conv, whole_tiles=kind.whole_tiles)]
        models = [(export_onnx(_alone(form, tuple(signal.shape))), {"x": signal.numpy()}) for form in forms]
        plain, fewer = time_in_turn(models, self.threads, self.runs)
        return median(before / after for before, after in zip(plain, fewer, strict=True))


def _finding(node: Node, kind: _Kind, gain: float | None, taken: bool, multiplications: float) -> Finding:
    from compressor.graph_editing import layer_name

    message = f"{multiplications:g} multiplications for each output in place of {kind.taps}"
    if gain is not None:
        message += f", {gain:.2f} times as fast by itself"
    return Finding(
        message if taken else f"left as it is: {message}",
        layer_name(node),
        {"multiplications": multiplications, "taken": taken, **({} if gain is None else {"gain": gain})},
    )


def _kinds(student: GraphModule, layers: list[tuple[Node, nn.Conv2d]], size: int) -> dict[Node, _Kind]:
    """Return the kind of each layer at a size of the inputs."""
    import torch
    from torch.fx.passes.shape_prop import ShapeProp

    from compressor.graph_editing import input_specs
    from compressor.tensor_spec import random_inputs
    from compressor_conv.time_axis import length_divisors
    from compressor_conv.winograd import TILE

    arrays = random_inputs(input_specs(student), size)
    with torch.no_grad():
        ShapeProp(student).propagate(*(torch.from_numpy(array) for array in arrays.values()))
    divisors = length_divisors(student)
    kinds = {}
    for node, conv in layers:
        length = int(node.all_input_nodes[0].meta["tensor_meta"].shape[-1])
        whole = divisors.get(node, 1) % TILE == 0
        taps, dilation, padding = conv.kernel_size[1], conv.dilation[1], int(conv.padding[1])
        kinds[node] = _Kind(conv.in_channels, conv.out_channels, taps, dilation, padding, length, whole)
    return kinds


def _alone(module: nn.Module, shape: tuple[int, ...]) -> GraphModule:
    """Return a graph of one layer, whose input `x` has a fixed shape."""
    import torch
    from torch import fx

    from compressor.tensor_spec import TensorSpec

    graph = fx.Graph()
    source = graph.placeholder("x")
    source.meta["tensor_spec"] = TensorSpec("x", shape, "float32")
    result = graph.output(graph.call_module("layer", (source,)))
    with torch.no_grad():
        made = module(torch.zeros(shape))
    result.meta["tensor_specs"] = (TensorSpec("y", tuple(made.shape), "float32"),)
    return fx.GraphModule({"layer": module}, graph)
