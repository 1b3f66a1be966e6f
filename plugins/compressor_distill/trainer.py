"""The training loop: seeded step by step, so that a resumed run goes on exactly as it would have gone."""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from compressor.dataset import Dataset
from compressor.report import CurvePoint
from compressor.strategy import Finding, StageContext, StageOutcome
from compressor_distill.checkpoint import load_checkpoint, save_checkpoint
from compressor_distill.feature_points import PointRunner, find_points, student_inputs
from compressor_distill.folded_convolution import training_form
from compressor_distill.processor import computes_bf16
from compressor_distill.schedule import Schedule
from compressor_distill.teacher_run import Batch
from compressor_distill.teacher_signals import Keeping, TeacherSignals
from compressor_distill.training_log import TrainingLog
from compressor_distill.validation import Validation

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor_distill.distillation import Distillation, Phase

BLOCK_WISE, END_TO_END = "block-wise", "end-to-end"


@dataclass
class Progress:
    """Where a training stands; goes into checkpoints."""

    phase: int = 0
    step: int = 0
    """Steps done in the phase."""
    seconds: float = 0.0
    """Time spent in all phases, over all interruptions."""
    best_score: float = math.inf
    best_step: str = ""


class Trainer:
    """Trains one student in phases; made anew for each training."""

    def __init__(self, options: Distillation, student: GraphModule, context: StageContext, data: Dataset) -> None:
        self.options = options
        self.context = context
        self.data = data
        self.device = torch.device(context.device)
        # Points are found with probes from the CPU, before the models leave it.
        self.points = find_points(context.teacher.graph, student)
        self.student = student.to(self.device).train()
        for parameter in student.parameters():
            parameter.requires_grad_(True)
        self.runner = PointRunner(student, self.points)
        self.teacher = context.teacher.graph
        self.validation: Validation
        self.log = TrainingLog(context.workdir / "tensorboard")
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.notes: list[Finding] = []
        self.between_steps = True
        self.bf16 = options.precision == "bf16" or (options.precision == "auto" and computes_bf16(self.device))

    def train(self) -> StageOutcome:
        """Run both phases, keep the best weights by validation, and return the student."""
        with ExitStack() as stack:
            # However this ends: the teacher is others' too.
            stack.callback(self.teacher.cpu)
            self.teacher.to(self.device)
            self.validation = Validation(self.data.validation, self.context.teacher, self.options.losses, self.device)
            multiple = stack.enter_context(training_form(self.student))
            signals = self._signals(max(multiple, self.options.segment // multiple * multiple))
            self._say_what_comes(signals)
            stack.enter_context(self.log)
            self._run_phases(signals)
        self.student.load_state_dict(self.best)
        self.student.cpu().eval().to(memory_format=torch.contiguous_format)
        self.notes.append(Finding(f"the weights of {self.progress.best_step} were best in validation and are kept"))
        return StageOutcome(self.student, tuple(self.notes), tuple(self.log.curve))

    def _signals(self, segment: int) -> TeacherSignals:
        options = self.options
        keeping = Keeping(options.teacher_signals, options.memory_gb, options.cache_gb)
        if options.cache_dir is not None:
            keeping = replace(keeping, folder=options.cache_dir)
        teacher, reporter = self.context.teacher, self.context.reporter
        return TeacherSignals(teacher, self.points, self.device, self.data.train, segment, keeping, reporter)

    def _say_what_comes(self, signals: TeacherSignals) -> None:
        points = ", ".join(self.points) or "none: only outputs are compared"
        message = (
            f"features are compared at {points}; {len(signals.inputs)} samples, segments of {signals.segment}, "
            f"{'bf16' if self.bf16 else 'fp32'}"
        )
        self.notes.append(Finding(message))
        self.context.reporter.say(message)

    def _run_phases(self, signals: TeacherSignals) -> None:
        saved = load_checkpoint(self._checkpoint, self._identity())
        for index, (label, phase) in enumerate(self._phases()):
            optimiser = torch.optim.AdamW(
                self.student.parameters(),
                lr=phase.learning_rate,
                betas=self.options.betas,
                weight_decay=self.options.weight_decay,
            )
            if saved is not None and saved["progress"]["phase"] > index:
                continue
            if saved is not None:
                self._restore(saved, optimiser)
                saved = None
            else:
                self.progress.phase, self.progress.step = index, 0
            if not self.best:
                self._validate("start")
            if phase.steps:
                self._run_phase(label, phase, self._schedule(index, phase), optimiser, signals)

    def _phases(self) -> list[tuple[str, Phase]]:
        return [(BLOCK_WISE, self.options.block_wise), (END_TO_END, self.options.end_to_end)]

    def _schedule(self, index: int, phase: Phase) -> Schedule:
        """Give each phase its share, by steps, of the time that is allowed."""
        allowed = 60 * self.options.max_minutes if self.options.max_minutes else math.inf
        total = sum(each.steps for _, each in self._phases())
        before = sum(each.steps for _, each in self._phases()[:index])
        return Schedule(
            steps=phase.steps,
            learning_rate=phase.learning_rate,
            warmup_steps=self.options.warmup_steps,
            starts_at_seconds=allowed * before / total if before else 0.0,
            ends_at_seconds=allowed * (before + phase.steps) / total,
        )

    def _run_phase(
        self,
        label: str,
        phase: Phase,
        schedule: Schedule,
        optimiser: torch.optim.Optimizer,
        signals: TeacherSignals,
    ) -> None:
        progress, begun, spent = self.progress, time.monotonic(), self.progress.seconds
        saved_at = begun
        features = label == BLOCK_WISE or phase.feature_weight > 0
        signals.begin(phase.steps - progress.step, self.options.batch_size, features=features)
        with self.context.reporter.task(label, phase.steps) as task:
            task.advance(progress.step)
            try:
                while (done := schedule.done(progress.step, progress.seconds)) < 1.0:
                    for group in optimiser.param_groups:
                        group["lr"] = schedule.rate(progress.step, done)
                    self._validate_if_due(label)
                    self.log.add(self._step(label, phase, optimiser, signals))
                    progress.seconds = spent + time.monotonic() - begun
                    task.advance(1, self.log.text())
                    if time.monotonic() - saved_at >= self.options.checkpoint_seconds:
                        self._save(optimiser)
                        saved_at = time.monotonic()
            except KeyboardInterrupt:
                if self.between_steps:
                    self._save(optimiser)
                raise
        self._validate(label)
        if progress.step < phase.steps:
            self._note_shortened(label, phase)

    def _note_shortened(self, label: str, phase: Phase) -> None:
        message = f"max_minutes ended {label} after {self.progress.step} of {phase.steps} steps on this machine"
        self.notes.append(Finding(message))
        self.context.reporter.say(message)

    def _step(
        self, label: str, phase: Phase, optimiser: torch.optim.Optimizer, signals: TeacherSignals
    ) -> dict[str, float]:
        # A seed of the step's own makes the data position part of the step: nothing to save, nothing to lose.
        seed = (self.context.seed, self.progress.phase, self.progress.step)
        batch = signals.batch(seed, self.options.batch_size)
        losses = self._losses(batch, given=label == BLOCK_WISE, feature_weight=phase.feature_weight)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.options.gradient_clip)
        self.between_steps = False
        optimiser.step()
        self.progress.step += 1
        self.between_steps = True
        return {name: float(value.detach()) for name, value in losses.items()}

    def _losses(self, batch: Batch, *, given: bool, feature_weight: float) -> dict[str, Tensor]:
        inputs = student_inputs(self.student, batch.inputs)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = self.runner.forward(_channels_last(inputs), batch.features if given else None)
        output = output.float().reshape(batch.output.shape)
        losses = {loss.name: loss.weight * loss.compute(output, batch.output) for loss in self.options.losses}
        if feature_weight and self.points:
            distances = [_relative_l1(self.runner.found[point].float(), batch.features[point]) for point in self.points]
            losses["features"] = feature_weight * torch.stack(distances).sum()
        return losses

    def _validate_if_due(self, label: str) -> None:
        """Validate before the next step, and not after the last, so that an interruption between them loses nothing."""
        step, last = self.progress.step, self.log.curve[-1]
        if step and step % self.options.validate_every == 0 and (last.phase, last.step) != (label, step):
            self._validate(label)

    def _validate(self, label: str) -> None:
        found = self.validation.losses(self.student)
        where = label if label == "start" else f"{label} step {self.progress.step}"
        if sum(found.values()) < self.progress.best_score:
            self.progress.best_score, self.progress.best_step = sum(found.values()), where
            self.best = {name: value.detach().cpu().clone() for name, value in self.student.state_dict().items()}
        self.log.validated(label, self.progress.step, self.progress.seconds, found)
        figures = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        self.context.reporter.say(f"validation, {where}: {figures}")

    @property
    def _checkpoint(self) -> Path:
        return self.context.workdir / "checkpoint.pt"

    def _identity(self) -> str:
        """Name this training: the same options, student, teacher, data and seed."""
        shapes = {name: tuple(value.shape) for name, value in self.student.state_dict().items()}
        facts = [
            self.options.model_dump_json(),
            shapes,
            self.context.teacher.sha256,
            self.data.identity,
            self.context.seed,
        ]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _save(self, optimiser: torch.optim.Optimizer) -> None:
        state = {
            "identity": self._identity(),
            "progress": dict(vars(self.progress)),
            "student": {name: value.cpu() for name, value in self.student.state_dict().items()},
            "optimiser": optimiser.state_dict(),
            "best": self.best,
            "curve": [point.model_dump() for point in self.log.curve],
        }
        save_checkpoint(self._checkpoint, state)

    def _restore(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        self.progress = Progress(**state["progress"])
        self.student.load_state_dict(state["student"])
        optimiser.load_state_dict(state["optimiser"])
        self.best = state["best"]
        self.log.curve = [CurvePoint(**point) for point in state["curve"]]
        label = self._phases()[self.progress.phase][0]
        self.context.reporter.say(f"resuming {label} at step {self.progress.step}")


def _relative_l1(student: Tensor, teacher: Tensor) -> Tensor:
    flat = student.flatten(1, -2) if student.dim() > 2 else student
    wanted = teacher.flatten(1, -2) if teacher.dim() > 2 else teacher
    return (flat - wanted).abs().mean() / wanted.abs().mean().clamp_min(1e-8)


def _channels_last(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value for value in inputs)
