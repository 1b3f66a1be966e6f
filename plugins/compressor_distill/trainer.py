"""The training loop: seeded step by step, so that a resumed run goes on exactly as it would have gone."""

from __future__ import annotations

import hashlib
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from compressor.report import CurvePoint
from compressor.strategy import Finding, StageContext, StageOutcome
from compressor_distill.checkpoint import load_checkpoint, save_checkpoint
from compressor_distill.feature_points import PointRunner, find_points, student_inputs
from compressor_distill.folded_convolution import training_form
from compressor_distill.teacher_signals import Batch, TeacherSignals
from compressor_distill.validation import Validation

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor_distill.distillation import Distillation, Phase


@dataclass
class Progress:
    """Where a training stands; goes into checkpoints."""

    phase: int = 0
    step: int = 0
    seconds: float = 0.0
    best_score: float = math.inf
    best_step: str = ""


class Trainer:
    """Trains one student in phases; made anew for each training."""

    def __init__(self, options: Distillation, student: GraphModule, context: StageContext) -> None:
        if context.data is None:
            raise ValueError("distillation needs data")
        self.options = options
        self.context = context
        self.device = torch.device(context.device)
        self.student = student.to(self.device).train()
        for parameter in student.parameters():
            parameter.requires_grad_(True)
        self.points = find_points(context.teacher.graph, student)
        self.runner = PointRunner(student, self.points)
        self.teacher = context.teacher.graph.to(self.device)
        self.signals = TeacherSignals(self.teacher, context.teacher.inputs, self.points, str(self.device))
        self.validation = Validation(context.data.validation, context.teacher, options.losses, self.device)
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.curve: list[CurvePoint] = []
        self.notes: list[Finding] = []
        self.bf16 = options.precision == "bf16" or (options.precision == "auto" and _computes_bf16(self.device))

    def train(self) -> StageOutcome:
        """Run both phases, keep the best weights by validation, and return the student."""
        data = self.context.data
        if data is None:
            raise ValueError("distillation needs data")
        with ExitStack() as stack:
            multiple = stack.enter_context(training_form(self.student))
            segment = max(multiple, self.options.segment // multiple * multiple)
            self.signals.record(data.train, segment, self.context.reporter)
            self._say_what_comes(segment)
            writer = stack.enter_context(SummaryWriter(str(self.context.workdir / "tensorboard")))
            self._run_phases(segment, writer)
        self.student.load_state_dict(self.best)
        self.teacher.cpu()
        self.student.cpu().eval().to(memory_format=torch.contiguous_format)
        self.notes.append(Finding(f"the weights of {self.progress.best_step} were best in validation and are kept"))
        return StageOutcome(self.student, tuple(self.notes), tuple(self.curve))

    def _say_what_comes(self, segment: int) -> None:
        points = ", ".join(self.points) or "none: only outputs are compared"
        message = (
            f"features are compared at {points}; {len(self.signals.signals)} samples, segments of {segment}, "
            f"{'bf16' if self.bf16 else 'fp32'}, {self.signals.megabytes:,.0f} MB of teacher features"
        )
        self.notes.append(Finding(message))
        self.context.reporter.say(message)

    def _run_phases(self, segment: int, writer: SummaryWriter) -> None:
        phases = [("block-wise", self.options.block_wise), ("end-to-end", self.options.end_to_end)]
        saved = load_checkpoint(self._checkpoint, self._identity())
        for index, (label, phase) in enumerate(phases):
            optimiser = torch.optim.AdamW(
                self.student.parameters(),
                lr=phase.learning_rate,
                betas=self.options.betas,
                weight_decay=self.options.weight_decay,
            )
            if saved is not None:
                if saved["progress"]["phase"] > index:
                    continue
                self._restore(saved, optimiser)
                saved = None
            if not self.best:
                self._validate("start", 0, writer)
            if phase.steps:
                self._run_phase(index, label, phase, segment, optimiser, writer)
            self.progress.step = 0

    def _run_phase(
        self,
        index: int,
        label: str,
        phase: Phase,
        segment: int,
        optimiser: torch.optim.Optimizer,
        writer: SummaryWriter,
    ) -> None:
        self.progress.phase = index
        begun, spent, last_saved = time.monotonic(), self.progress.seconds, time.monotonic()
        share = phase.steps / (self.options.block_wise.steps + self.options.end_to_end.steps)
        running = _RunningMean()
        with self.context.reporter.task(label, phase.steps) as task:
            task.advance(self.progress.step)
            while self.progress.step < phase.steps:
                done = self._done(phase, share)
                if done >= 1.0:
                    self._note_shortened(label, phase)
                    break
                losses = self._step(index, label, phase, segment, optimiser, done)
                self.progress.step += 1
                self.progress.seconds = spent + time.monotonic() - begun
                running.add(losses)
                task.advance(1, running.text())
                if self.progress.step % self.options.validate_every == 0 or self.progress.step == phase.steps:
                    self._validate(label, self.progress.step, writer, running.take())
                if time.monotonic() - last_saved >= self.options.checkpoint_seconds:
                    self._save(optimiser)
                    last_saved = time.monotonic()

    def _done(self, phase: Phase, share: float) -> float:
        """Return how much of a phase is done: by steps, or by time where that runs out first."""
        by_steps = self.progress.step / phase.steps
        if self.options.max_minutes is None:
            return by_steps
        allowed = self.options.max_minutes * 60
        before = 0.0 if self.progress.phase == 0 else allowed * (1 - share)
        return max(by_steps, (self.progress.seconds - before) / (allowed * share))

    def _note_shortened(self, label: str, phase: Phase) -> None:
        self.notes.append(
            Finding(
                f"{label} ended after {self.progress.step} of {phase.steps} steps: max_minutes "
                f"{self.options.max_minutes} was reached on this machine"
            )
        )

    def _step(
        self,
        index: int,
        label: str,
        phase: Phase,
        segment: int,
        optimiser: torch.optim.Optimizer,
        done: float,
    ) -> dict[str, float]:
        # A generator of the step's own makes the data position part of the step: nothing to save, nothing to lose.
        generator = np.random.default_rng([self.context.seed, index, self.progress.step])
        batch = self.signals.batch(generator, self.options.batch_size, segment)
        warmup = min(1.0, (self.progress.step + 1) / max(1, self.options.warmup_steps))
        for group in optimiser.param_groups:
            group["lr"] = phase.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * done))
        losses = self._losses(batch, given=label == "block-wise", feature_weight=phase.feature_weight)
        optimiser.zero_grad(set_to_none=True)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), self.options.gradient_clip)
        optimiser.step()
        return {name: float(value.detach()) for name, value in losses.items()}

    def _losses(self, batch: Batch, *, given: bool, feature_weight: float) -> dict[str, Tensor]:
        inputs = student_inputs(self.student, batch.inputs)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            output = self.runner.forward(_channels_last(inputs), batch.features if given else None)
        output = output.float().reshape(batch.output.shape)
        losses = {loss.name: loss.weight * loss.compute(output, batch.output) for loss in self.options.losses}
        if feature_weight and self.points:
            distances = [
                _relative_l1(self.runner.found[point].float(), batch.features[point]) for point in self.points
            ]
            losses["features"] = feature_weight * torch.stack(distances).sum()
        return losses

    def _validate(
        self, label: str, step: int, writer: SummaryWriter, training: dict[str, float] | None = None
    ) -> None:
        found = self.validation.losses(self.student)
        score = sum(found.values())
        where = label if label == "start" else f"{label} step {step}"
        if score < self.progress.best_score:
            self.progress.best_score, self.progress.best_step = score, where
            self.best = {name: value.detach().cpu().clone() for name, value in self.student.state_dict().items()}
        self.curve.append(
            CurvePoint(
                phase=label, step=step, seconds=self.progress.seconds, losses=training or {}, validation=found
            )
        )
        for name, value in found.items():
            writer.add_scalar(f"validation/{name}", value, len(self.curve))
        for name, value in (training or {}).items():
            writer.add_scalar(f"training/{name}", value, len(self.curve))
        figures = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        self.context.reporter.say(f"validation, {where}: {figures}")

    @property
    def _checkpoint(self) -> Any:
        return self.context.workdir / "checkpoint.pt"

    def _identity(self) -> str:
        """Name this training: the same options, student, teacher, data and seed."""
        shapes = {name: tuple(value.shape) for name, value in self.student.state_dict().items()}
        data = self.context.data.identity if self.context.data else ""
        facts = [self.options.model_dump_json(), shapes, self.context.teacher.sha256, data, self.context.seed]
        return hashlib.sha256(repr(facts).encode()).hexdigest()

    def _save(self, optimiser: torch.optim.Optimizer) -> None:
        state = {
            "identity": self._identity(),
            "progress": vars(self.progress).copy(),
            "student": {name: value.cpu() for name, value in self.student.state_dict().items()},
            "optimiser": optimiser.state_dict(),
            "best": self.best,
            "curve": [point.model_dump() for point in self.curve],
        }
        save_checkpoint(self._checkpoint, state)

    def _restore(self, state: dict[str, Any], optimiser: torch.optim.Optimizer) -> None:
        self.progress = Progress(**state["progress"])
        self.student.load_state_dict(state["student"])
        optimiser.load_state_dict(state["optimiser"])
        self.best = state["best"]
        self.curve = [CurvePoint(**point) for point in state["curve"]]
        self.context.reporter.say(f"resuming at step {self.progress.step} after {self.progress.seconds:.0f} s")


class _RunningMean:
    """Mean losses since the last validation."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, losses: dict[str, float]) -> None:
        self.count += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def text(self) -> str:
        return ", ".join(f"{name} {value / self.count:.3f}" for name, value in self.sums.items())

    def take(self) -> dict[str, float]:
        means = {name: value / max(1, self.count) for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


def _relative_l1(student: Tensor, teacher: Tensor) -> Tensor:
    flat = student.flatten(1, -2) if student.dim() > 2 else student
    wanted = teacher.flatten(1, -2) if teacher.dim() > 2 else teacher
    return (flat - wanted).abs().mean() / wanted.abs().mean().clamp_min(1e-8)


def _channels_last(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(
        value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value for value in inputs
    )


def _computes_bf16(device: torch.device) -> bool:
    """Say whether a device has bf16 arithmetic of its own, rather than an emulation slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and "avx512_bf16" in _processor_flags()


def _processor_flags() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return ""

