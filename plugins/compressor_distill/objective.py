"""A student with all that trains beside it, and its losses on a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from compressor.errors import SelectionError
from compressor.graph_editing import fitted_inputs, layer_name, module_nodes, select
from compressor.loss import Loss
from compressor_distill.feature_points import Point, PointRunner
from compressor_distill.teacher_run import Batch


class Term(NamedTuple):
    """One summand of what a step lowers."""

    weight: float
    value: Tensor


def to_training(student: nn.Module) -> None:
    """Put a student into training mode, but for its batch norms: these keep the statistics that its teacher has."""
    student.train()
    for module in student.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def thaw(student: GraphModule, frozen: tuple[str, ...]) -> None:
    """Let all of a student learn but the layers of these names.

    Raises:
        SelectionError: a pattern matches no layer, or nothing is left to learn.
    """
    student.requires_grad_(True)
    layers = {layer_name(node): module for node, module in module_nodes(student, nn.Module)}
    for name in select(list(layers), frozen, ()):
        layers[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise SelectionError(f"frozen: {', '.join(frozen)} leave nothing to learn")


class Objective(nn.Module):
    """A student, and a 1x1 projection for each point where it is narrower or wider than its teacher.

    Projections take the student's features to the teacher's (FitNets, arXiv 1412.6550); they train with it and are
    thrown away.
    """

    def __init__(
        self, student: GraphModule, points: Sequence[Point], losses: Sequence[Loss], features: Sequence[Loss]
    ) -> None:
        super().__init__()
        self.student = student
        self.points = tuple(points)
        self.losses = tuple(losses)
        self.features = tuple(features)
        self.runner = PointRunner(student, tuple(point.name for point in points))
        device = next(student.parameters()).device
        self.projections = nn.ParameterDict(
            {
                point.name: torch.zeros(point.teacher_width, point.student_width, device=device)
                for point in points
                if not point.same_width
            }
        )

    def forward(self, batch: Batch, *, blocks_apart: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the output, in the shape of the teacher's, and the features at the points, as they are.

        With `blocks_apart` each block reads the teacher's features, where they are as wide as the student's.
        """
        shared = [point.name for point in self.points if point.same_width] if blocks_apart else []
        inputs = _channels_last(fitted_inputs(self.student, batch.inputs))
        output = self.runner.forward(inputs, {name: batch.features[name] for name in shared})
        return output.float().reshape(batch.output.shape), dict(self.runner.found)

    def weights(self, done: float, *, features: bool) -> tuple[float, ...]:
        """Return the factors of the losses where the share `done` of the phase lies behind; those of features last."""
        return tuple(loss.weight_at(done) for loss in (*self.losses, *(self.features if features else ())))

    def terms(
        self,
        output: Tensor,
        found: Mapping[str, Tensor],
        batch: Batch,
        weights: Sequence[float],
        feature_weight: float,
    ) -> dict[str, Term]:
        """Return the losses by name with their weights, which `weights` gave for the moment."""
        own, of_features = weights[: len(self.losses)], weights[len(self.losses) :]
        terms = {
            loss.name: Term(weight, loss.compute(output, batch.output))
            for loss, weight in zip(self.losses, own, strict=True)
        }
        if feature_weight and self.points:
            distances = [
                weight * loss.compute(self._as_wide(loss, point, found), batch.features[point.name])
                for point in self.points
                for loss, weight in zip(self.features, of_features, strict=True)
            ]
            terms["features"] = Term(feature_weight, torch.stack(distances).sum())
        return terms

    def _as_wide(self, loss: Loss, point: Point, found: Mapping[str, Tensor]) -> Tensor:
        """Return a student's feature, as wide as its teacher's for a loss that needs that."""
        feature = found[point.name].float()
        if point.same_width or loss.any_width:
            return feature
        return torch.einsum("tc,bc...->bt...", self.projections[point.name], feature)

    @torch.no_grad()
    def fit_projections(self, batch: Batch) -> list[Tensor]:
        """Start each projection as the least-squares map on a batch; returns them."""
        if self.projections:
            _, found = self(batch)
        for name, weight in self.projections.items():
            # The ridge is for channels that say the same.
            own, wanted = _by_channel(found[name]), _by_channel(batch.features[name])
            gram = own @ own.T
            ridge = 1e-4 * gram.diagonal().mean().clamp_min(1e-12) * torch.eye(len(gram), device=gram.device)
            weight.copy_(torch.linalg.solve(gram + ridge, own @ wanted.T).T)
        return list(self.projections.values())


def _by_channel(feature: Tensor) -> Tensor:
    """Return (batch, channels, ...) as (channels, batch times positions)."""
    return feature.float().flatten(2).transpose(0, 1).flatten(1)


def _channels_last(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value for value in inputs)
