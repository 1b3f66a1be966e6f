"""Training against discriminators, which learn to tell the student's sound from its teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressor.errors import DataError
from compressor.processes import Company
from compressor.progress import Reporter
from compressor_distill.adversarial_losses import discriminator_loss, feature_matching_loss, generator_loss
from compressor_distill.captured import Constants
from compressor_distill.discriminators import make_discriminators
from compressor_distill.learner import Learner, Optimised, Passed, Unhealthy, set_rate
from compressor_distill.objective import Objective, Term
from compressor_distill.phases import AdversarialPhase
from compressor_distill.processor import Precision
from compressor_distill.teacher_run import Batch

if TYPE_CHECKING:
    from compressor_distill.distillation import Distillation


class AdversarialLearner(Learner):
    """Moves the student, then the discriminators, on the same outputs."""

    def __init__(
        self,
        options: Distillation,
        phase: AdversarialPhase,
        objective: Objective,
        company: Company,
        precision: Precision,
        *,
        reporter: Reporter,
    ) -> None:
        # All that `forget` needs comes first: the base class calls it.
        self.adversarial = phase
        with torch.random.fork_rng():
            # All processes start with the same discriminators.
            torch.manual_seed(0)
            self.discriminators = make_discriminators(phase.discriminators, phase.width).to(company.device)
        self.steps = 0
        self.seen: list[Batch] = []
        super().__init__(options, phase, objective, company, precision, reporter=reporter)

    def forget(self) -> None:
        """Start with optimisers that remember no step."""
        super().forget()
        self.judging = self._judging()
        self.judged = self._captured(self._judge_one)

    def end(self) -> None:
        """Give back what only a learner that goes on has need of."""
        super().end()
        self.judged.drop()

    def _judging(self) -> Optimised:
        weights, rate = list(self.discriminators.parameters()), self.adversarial.discriminator_learning_rate
        return Optimised(weights, rate, self.options, self.company, self.precision)

    def step(self, parts: Sequence[Batch], done: float, rate: float) -> dict[str, float]:
        """Take one step of the student, unless the discriminators still learn alone, and one of theirs."""
        self.seen = []
        losses = self._listen(parts) if self._alone else super().step(parts, done, self._own(rate))
        found = self._judge(self.adversarial.discriminator_learning_rate * rate / self.phase.learning_rate)
        self.steps += 1
        return {**losses, "discriminator": found}

    def _own(self, rate: float) -> float:
        """Return the student's learning rate: it warms up from its own first step on, not from the discriminators'."""
        steps, alone, over = self.steps, self.adversarial.discriminators_alone, max(1, self.options.warmup_steps)
        return rate * min(1.0, (steps - alone + 1) / over) / min(1.0, (steps + 1) / over)

    @property
    def has_moved(self) -> bool:
        return self.steps > self.adversarial.discriminators_alone

    def _listen(self, parts: Sequence[Batch]) -> dict[str, float]:
        """Run the student for its discriminators alone."""
        with torch.no_grad():
            self.seen = [_heard(self._forward(batch)[0], batch) for batch in parts]
        return {}

    def _terms(
        self, output: Tensor, found: dict[str, Tensor], batch: Batch, weights: Sequence[float]
    ) -> dict[str, Term]:
        terms = super()._terms(output, found, batch, weights)
        own, wanted = _as_sound(output), _as_sound(batch.output)
        self.discriminators.requires_grad_(False)
        with self._autocast():
            of_student = self.discriminators(own)
            with torch.no_grad():
                of_teacher = self.discriminators(wanted)
        self.discriminators.requires_grad_(True)
        matching = feature_matching_loss(of_teacher, of_student)
        terms["adversarial"] = Term(self.adversarial.adversarial_weight, generator_loss(of_student))
        terms["feature-matching"] = Term(self.adversarial.matching_weight, matching)
        return terms

    def _hear(self, passed: Passed, batch: Batch) -> None:
        # The next part may write over it.
        self.seen.append(_heard(passed.output.clone(), batch))

    @property
    def _alone(self) -> bool:
        return self.steps < self.adversarial.discriminators_alone

    def _judge(self, rate: float) -> float:
        """Take one step of the discriminators; returns their loss."""
        self.judging.forget_gradients()
        total = torch.zeros((), device=self.company.device)
        for heard in self.seen:
            total += self.judged(heard, Constants(len(self.seen)))
        (value,) = self.judging.gather([total])
        if not math.isfinite(value):
            raise Unhealthy("the discriminators' loss is no finite number")
        set_rate(self.judging, rate)
        self.judging.step()
        return value

    def _judge_one(self, heard: Batch, constants: Constants) -> Tensor:
        """Add the gradients of the discriminators on one part; returns its share of their loss."""
        with self._autocast():
            of_teacher, of_student = self.discriminators(heard.output), self.discriminators(heard.inputs[0])
        loss = discriminator_loss(of_teacher, of_student) / constants.parts
        self.judging.backward(loss)
        return loss.detach()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, the discriminators with it."""
        weights = {name: value.cpu() for name, value in self.discriminators.state_dict().items()}
        return {**super().state(), "discriminators": weights, "judging": self.judging.state(), "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what a checkpoint kept."""
        super().restore(state)
        self.discriminators.load_state_dict(state["discriminators"])
        self.judging.restore(state["judging"])
        self.steps = int(state["steps"])


def check_judged(phase: AdversarialPhase, samples: int) -> None:
    """Refuse segments that are too short to be judged.

    Raises:
        DataError: says how long they have to be.
    """
    least = make_discriminators(phase.discriminators, phase.width).least_samples
    if samples < least:
        raise DataError(
            f"adversarial: {', '.join(phase.discriminators)} judge at least {least} samples, and a segment's output "
            f"has {samples}: use a longer segment or others of the discriminators"
        )


def _heard(output: Tensor, batch: Batch) -> Batch:
    """Return a student's output, as what is judged, with its teacher's."""
    return Batch((_as_sound(output),), _as_sound(batch.output), {})


def _as_sound(output: Tensor) -> Tensor:
    """Return an output as (batch, 1, samples)."""
    return output.flatten(1).unsqueeze(1)
