"""One training step: batch in, losses out, weights moved; over accumulated parts and over processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from compressor.processes import Company
from compressor.progress import Reporter
from compressor_distill.captured import Captured, Constants
from compressor_distill.health import Health
from compressor_distill.objective import Objective, Term
from compressor_distill.phases import Phase
from compressor_distill.processor import Precision
from compressor_distill.teacher_run import Batch

if TYPE_CHECKING:
    from compressor_distill.distillation import Distillation


R = TypeVar("R")
MOST_SKIPPED = 40
"""Steps in a row that fp16 may skip, each at half the scale of the one before; none is left after so many."""


@dataclass(frozen=True)
class Passed:
    """What one batch gave, besides gradients: the losses without gradients, and the output (batch, …)."""

    terms: Mapping[str, Term]
    output: Tensor


class Unhealthy(Exception):  # noqa: N818 - not an error: the trainer steps back and goes on
    """A step that must not be taken; the text says why."""


@dataclass
class Optimised:
    """Modules with their optimiser, their gradients averaged over processes and clipped; scaled for fp16."""

    parameters: list[nn.Parameter]
    rate: float
    options: Distillation
    company: Company
    precision: Precision
    optimiser: torch.optim.AdamW = field(init=False)
    scaler: torch.amp.GradScaler = field(init=False)
    skipped: int = 0
    """Steps in a row whose gradient was no finite number."""

    def __post_init__(self) -> None:
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=self.rate,
            betas=self.options.betas,
            weight_decay=self.options.weight_decay,
            fused=self.company.device.type == "cuda",
        )
        self.scaler = torch.amp.GradScaler(self.company.device.type, enabled=self.precision == "fp16")

    def forget_gradients(self) -> None:
        """Start gradients anew; on a GPU where they are, since what is captured adds to them there."""
        self.optimiser.zero_grad(set_to_none=self.company.device.type != "cuda")

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def gather(self, losses: Sequence[Tensor]) -> list[float]:
        """Average gradients and losses over the processes, and clip the gradients; returns the losses.

        Raises:
            Unhealthy: a gradient is no finite number.
        """
        values = torch.stack([loss.detach().float() for loss in losses])
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self.company.average([*gradients, values])
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.options.gradient_clip)
        # One look at the device: each waits until all before it is computed.
        *found, length = torch.cat([values, norm.reshape(1)]).tolist()
        self.skipped = 0 if math.isfinite(length) else self.skipped + 1
        # A scaler skips steps of infinite gradients by itself: that is how it finds its scale.
        allowed = MOST_SKIPPED if self.precision == "fp16" else 0
        # A loss that is no finite number says more than its gradient.
        if self.skipped > allowed and all(map(math.isfinite, found)):
            raise Unhealthy("the gradient is no finite number")
        return found

    def step(self) -> None:
        """Move the weights."""
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"optimiser": self.optimiser.state_dict(), "scaler": self.scaler.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept, perhaps on another device."""
        for group in state["optimiser"]["param_groups"]:
            group["fused"] = self.optimiser.defaults["fused"]
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])


class Learner:
    """Trains a student in one phase."""

    def __init__(
        self,
        options: Distillation,
        phase: Phase,
        objective: Objective,
        company: Company,
        precision: Precision,
        *,
        reporter: Reporter,
        blocks_apart: bool = False,
    ) -> None:
        self.phase = phase
        self.objective = objective
        self.company = company
        self.precision = precision
        self.blocks_apart = blocks_apart
        self.options = options
        self.reporter = reporter
        self.forget()

    def forget(self) -> None:
        """Start with an optimiser that remembers no step; what was captured of the one before is dropped."""
        self.optimised = self._optimised()
        self.health = Health()
        self.passing = self._captured(self._pass)

    @property
    def has_moved(self) -> bool:
        """Say whether the student has learnt in this phase, or does from the first step on."""
        return True

    def _captured(self, work: Callable[[Batch, Constants], R]) -> Captured[R]:
        return Captured(work, self.company.device, self.reporter, wanted=self.options.cuda_graphs)

    def end(self) -> None:
        """Give back what only a learner that goes on has need of."""
        self.passing.drop()

    def _optimised(self) -> Optimised:
        parameters = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        return Optimised(parameters, self.phase.learning_rate, self.options, self.company, self.precision)

    def step(self, parts: Sequence[Batch], done: float, rate: float) -> dict[str, float]:
        """Take one step on a batch, given in parts, and return its losses by name.

        Raises:
            Unhealthy: the step would do harm, and was not taken.
        """
        self.optimised.forget_gradients()
        summed: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        constants = Constants(len(parts), self.objective.weights(done, features=bool(self.phase.feature_weight)))
        for batch in parts:
            passed = self.passing(batch, constants)
            self._hear(passed, batch)
            weights = {name: term.weight for name, term in passed.terms.items()}
            summed = {name: summed.get(name, 0.0) + term.value / len(parts) for name, term in passed.terms.items()}
        losses = dict(zip(summed, self.optimised.gather(list(summed.values())), strict=True))
        # Without their weights: a loss that comes in late is no explosion.
        if wrong := self.health.of_step(losses):
            raise Unhealthy(wrong)
        set_rate(self.optimised, rate)
        self.optimised.step()
        return {name: weights[name] * value for name, value in losses.items()}

    def _pass(self, batch: Batch, constants: Constants) -> Passed:
        """Add a part's gradients; returns what it gave."""
        output, found = self._forward(batch)
        terms = self._terms(output, found, batch, constants.weights)
        total = torch.stack([term.weight * term.value for term in terms.values()]).sum()
        self.optimised.backward(total / constants.parts)
        return Passed({name: Term(term.weight, term.value.detach()) for name, term in terms.items()}, output.detach())

    def _hear(self, passed: Passed, batch: Batch) -> None:
        """Take note of a part's output."""

    def _forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with self._autocast():
            output, found = self.objective(batch, blocks_apart=self.blocks_apart)
        return output, found

    def _terms(
        self, output: Tensor, found: dict[str, Tensor], batch: Batch, weights: Sequence[float]
    ) -> dict[str, Term]:
        return self.objective.terms(output, found, batch, weights, self.phase.feature_weight)

    def fit_projections(self, batch: Batch) -> None:
        """Start projections where least squares on a batch puts them."""
        self.company.average(self.objective.fit_projections(batch))

    def _autocast(self) -> torch.autocast:
        kind = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.company.device.type, kind, enabled=self.precision != "fp32")

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, besides the student's weights."""
        return {
            "own": self.optimised.state(),
            "projections": {name: value.detach().cpu() for name, value in self.objective.projections.items()},
            "recent": list(self.health.recent),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        self.optimised.restore(state["own"])
        self.health.recent = list(state["recent"])
        with torch.no_grad():
            for name, value in state["projections"].items():
                self.objective.projections[name].copy_(value)


def set_rate(optimised: Optimised, rate: float) -> None:
    """Set an optimiser's learning rate."""
    for group in optimised.optimiser.param_groups:
        group["lr"] = rate
