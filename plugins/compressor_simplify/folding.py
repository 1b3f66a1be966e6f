"""`fold`: fewer operations that compute the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch.fx import GraphModule

TOLERANCE = 1e-5
"""Largest share of the output's magnitude by which rounding may move it: folded weights are rounded once more."""

IDLE_MODULES = ("Identity", "Dropout", "Dropout1d", "Dropout2d", "OnnxCopyIdentity", "OnnxDropoutDynamic")


class Fold(Strategy):
    """Fold constants into the weights next to them: batch normalisation, scales, shifts, weight normalisation.

    Batch normalisation with its evaluation statistics (arXiv 1712.05877, section 3.2), and sums, products and quotients
    with a number or with one constant per channel, go into the convolution or linear layer before or behind them where
    nothing else reads the value between. A product with a constant matrix becomes a linear layer, so that training and
    pruning know its weights. Constants that are computed of others, as in weight normalisation (arXiv 1602.07868), are
    computed once. What does nothing is left out. Equal up to the rounding of the new weights, which is checked.

    ```yaml
    - fold
    ```
    """

    name: ClassVar[str] = "fold"

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.graph_editing import clean, copy_graph
        from compressor_simplify.constants import drop_unread, fold_constants
        from compressor_simplify.linear_folding import constant_products_as_layers, fold_into_layers, left_out

        before = copy_graph(student)
        findings = _leave_out_idle(student)
        findings += fold_constants(student)
        findings += constant_products_as_layers(student)
        findings += fold_into_layers(clean(student))
        drop_unread(clean(student))
        if not findings:
            return StageOutcome(student, (Finding("there is nothing to fold"),))
        return StageOutcome(student, (*findings, *left_out(student), _proof(context.stage, before, student)))


def _leave_out_idle(student: GraphModule) -> list[Finding]:
    from compressor.graph_editing import clean, layer_name, module_of

    findings = []
    for node in list(student.graph.nodes):
        if type(module_of(student, node)).__name__ in IDLE_MODULES:
            node.replace_all_uses_with(node.args[0])
            findings.append(Finding("left out: it does nothing", layer_name(node)))
    clean(student)
    return findings


def _proof(stage: str, before: GraphModule, after: GraphModule) -> Finding:
    """Compare both graphs in float64.

    Raises:
        VerificationError: they differ by more than rounding.
    """
    import torch

    from compressor.errors import VerificationError
    from compressor.graph_editing import copy_graph, feed, input_specs
    from compressor.tensor_spec import random_inputs
    from compressor.verification import PROOF_SIZES

    graphs = [copy_graph(graph).double().eval() for graph in (before, after)]
    worst = 0.0
    for size in PROOF_SIZES:
        arrays = random_inputs(input_specs(before), size, seed=size).values()
        values = tuple(torch.from_numpy(array) for array in arrays)
        values = tuple(value.double() if value.is_floating_point() else value for value in values)
        for wanted, found in zip(*(feed(graph, values) for graph in graphs), strict=True):
            worst = max(worst, float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12)))
    if not worst <= TOLERANCE:
        raise VerificationError(
            f"stage '{stage}' moved the output by {worst:.1e} of its scale, allowed {TOLERANCE:.0e}"
        )
    return Finding(
        f"equal but for the rounding of weights: {worst:.1e} of the output's scale in float64",
        values={"largest_difference": worst},
    )
