"""`fastest-exact-form`: whichever of the exact forms of a model is the fastest on this machine."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from compressor.errors import CompressorError
from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch.fx import GraphModule

AS_IT_IS = "as it is"


class FastestExactForm(Strategy):
    """Write a model in several forms that compute the same, time each in onnxruntime, and keep the fastest.

    The forms: as it is; with two-dimensional convolutions; with polyphase convolutions in place of transposed ones as
    well; that with what keeps tensors in onnxruntime's blocked layout; and, without it, with fewer multiplications, by
    Winograd, in the layers that get faster so. Inputs and outputs keep their shapes.

    ```yaml
    - fastest-exact-form: {threads: 1}
    ```
    """

    name: ClassVar[str] = "fastest-exact-form"
    preserves_output: ClassVar[bool] = True

    threads: int = Field(default=1, ge=1, description="onnxruntime threads")
    runs: int = Field(default=7, ge=1, description="timed runs of each form; the median counts")
    size: int = Field(default=96, ge=1, description="size of the inputs' dynamic axes; a mel of a second has about 90")

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.graph_editing import input_specs
        from compressor.onnx_export import export_onnx
        from compressor.tensor_spec import random_inputs
        from compressor.timing import time_in_turn

        probe = random_inputs(input_specs(student), self.size)
        forms: dict[str, GraphModule] = {}
        files: dict[str, bytes] = {}
        findings: list[Finding] = []
        for name, make in self._forms(context).items():
            try:
                forms[name] = make(student)
                files[name] = export_onnx(forms[name], context.teacher.opset)
            except CompressorError as error:
                findings.append(Finding(f"{name}: left out: {error}"))
        timed = time_in_turn([(content, probe) for content in files.values()], self.threads, self.runs)
        seconds = dict(zip(files, map(median, timed), strict=True))
        fastest = min(seconds, key=seconds.__getitem__)
        findings += [
            Finding(
                f"{name}: {1000 * taken:.1f} ms, {seconds[AS_IT_IS] / taken:.2f} times as fast as it is"
                f"{', kept' if name == fastest else ''}",
                values={"form": name, "latency_ms": 1000 * taken, "kept": name == fastest},
            )
            for name, taken in seconds.items()
        ]
        return StageOutcome(forms[fastest], tuple(findings))

    def _forms(self, context: StageContext) -> dict[str, Callable[[GraphModule], GraphModule]]:
        """Return how each form is made; each works on a copy."""
        from compressor.graph_editing import copy_graph
        from compressor_conv.blocked_layout import block
        from compressor_conv.fewer_multiplications import WinogradConvStrategy
        from compressor_conv.transposed import TransposedToStandardConv
        from compressor_conv.two_dimensional import Conv1dToConv2d

        def wide(student: GraphModule) -> GraphModule:
            return Conv1dToConv2d().apply(copy_graph(student), context).student

        def polyphase(student: GraphModule) -> GraphModule:
            return wide(TransposedToStandardConv().apply(copy_graph(student), context).student)

        def blocked(student: GraphModule) -> GraphModule:
            changed = polyphase(student)
            block(changed)
            return changed

        def winograd(student: GraphModule) -> GraphModule:
            strategy = WinogradConvStrategy(threads=self.threads, size=self.size)
            return strategy.apply(polyphase(student), context).student

        return {
            AS_IT_IS: copy_graph,
            "two-dimensional": wide,
            "two-dimensional, polyphase": polyphase,
            "two-dimensional, polyphase, blocked": blocked,
            "two-dimensional, polyphase, Winograd": winograd,
        }
