"""`readable-hifigan`: the student's graph as `HiFiGANStudent2D`, with the same weights. Exact.

After it the student's weights have readable names, `student_model.pt` loads into the module, and anyone can read and
change the architecture as plain torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from compressor.strategy import Finding, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor_hifigan.architecture import Architecture
    from compressor_hifigan.student import HiFiGANStudent2D

CONFIG = "student_config"
"""Key of the finding that holds the `StudentConfig`, for `HiFiGANStudent2D.from_run`."""


class ReadableHiFiGAN(Strategy):
    """Rewrite a two-dimensional, polyphase HiFi-GAN as the plain module; anything else is left as it is, and why."""

    name: ClassVar[str] = "readable-hifigan"
    preserves_output: ClassVar[bool] = True
    keeps_structure: ClassVar[bool] = True

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        from compressor.errors import VerificationError
        from compressor.graph_editing import input_specs
        from compressor.verification import check_stage
        from compressor_hifigan.architecture import read_architecture
        from compressor_hifigan.convolution_reading import NotHiFiGAN

        try:
            architecture = read_architecture(student)
            readable = _as_graph(_with_weights(architecture), student)
            check_stage(context.stage, student, readable, input_specs(student))
        except NotHiFiGAN as reason:
            return StageOutcome(student, (Finding(f"left as it is: {reason}"),))
        except (VerificationError, RuntimeError, ValueError) as error:
            # A relative of HiFi-GAN, such as one without tanh: a finding here, and not the end of a trained run.
            return StageOutcome(student, (Finding(f"left as it is: HiFiGANStudent2D cannot say it ({error})"),))
        config = architecture.config
        findings = (
            Finding(
                f"now a HiFiGANStudent2D of {len(config.stages)} stages, hop length {config.hop_length}",
                values={CONFIG: config.model_dump(mode="json")},
            ),
        )
        return StageOutcome(readable, findings)


def _with_weights(architecture: Architecture) -> HiFiGANStudent2D:
    """Copy the convolutions' weights one by one, in the module's execution order; the core proves the result."""
    import torch
    from torch import nn
    from torch.fx import symbolic_trace

    from compressor.graph_editing import module_nodes
    from compressor_hifigan.student import HiFiGANStudent2D

    module = HiFiGANStudent2D(architecture.config)
    targets = [target for _, target in module_nodes(symbolic_trace(module), nn.Conv2d)]
    with torch.no_grad():
        for target, source in zip(targets, architecture.layers, strict=True):
            target.load_state_dict(source.state_dict())
    return module.eval()


def _as_graph(module: HiFiGANStudent2D, student: GraphModule) -> GraphModule:
    """Trace the module and give it the student's own input and output shapes."""
    import torch
    from torch.fx import symbolic_trace

    from compressor.graph_editing import clean, output_nodes, placeholders
    from compressor.tensor_spec import TensorSpec

    traced = symbolic_trace(module)
    (before,), (after,) = placeholders(student), placeholders(traced)
    outputs: tuple[TensorSpec, ...] = _output(student).meta["tensor_specs"]
    spec: TensorSpec = before.meta["tensor_spec"]
    after.meta["tensor_spec"] = spec
    after.target = after.name = spec.name
    if len(spec.shape) == 3:
        with traced.graph.inserting_after(after):
            image = traced.graph.call_function(torch.unsqueeze, (after, 1))
        for user in [user for user in after.users if user is not image]:
            user.replace_input_with(after, image)
        (audio,) = output_nodes(traced)
        with traced.graph.inserting_before(_output(traced)):
            plain = traced.graph.call_function(torch.squeeze, (audio, 2))
        _output(traced).replace_input_with(audio, plain)
    _output(traced).meta["tensor_specs"] = outputs
    return clean(traced).eval()


def _output(graph: GraphModule) -> Any:
    return next(node for node in graph.graph.nodes if node.op == "output")
