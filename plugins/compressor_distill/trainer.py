"""The training loop: seeded step by step, so that a resumed run goes on exactly as it would have gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from compressor.errors import DataError
from compressor.processes import Company, company
from compressor.strategy import StageOutcome
from compressor_distill.adversary import check_judged
from compressor_distill.best_weights import BestWeights
from compressor_distill.checkpoint import Due, load_checkpoint, save_checkpoint
from compressor_distill.feature_points import find_points
from compressor_distill.folded_convolution import training_form
from compressor_distill.health import Health, overfitting_in
from compressor_distill.interruptions import Interruptions
from compressor_distill.learner import Learner, Unhealthy
from compressor_distill.lesson import Lesson
from compressor_distill.notes import Notes
from compressor_distill.objective import thaw, to_training
from compressor_distill.phase_plan import PlannedPhase, learner_for, planned_phases
from compressor_distill.phase_signals import PhaseSignals
from compressor_distill.processor import chosen_precision
from compressor_distill.running_average import RunningAverage, weights_on_cpu
from compressor_distill.teacher_signals import TeacherSignals
from compressor_distill.training_log import TrainingLog
from compressor_distill.training_progress import Progress
from compressor_distill.validation import Validated, Validation

MOST_SETBACKS = 4


class Stopped(Exception):  # noqa: N818 - not an error: what was best is kept
    """A training that keeps going wrong."""


def train(lesson: Lesson) -> StageOutcome:
    """Train a student in phases, keep the best weights by validation, and return it; in every process alike."""
    return Trainer(lesson, company(lesson.device)).train()


class Trainer:
    """Trains one student; made anew for each training."""

    def __init__(self, lesson: Lesson, company: Company) -> None:
        self.lesson = lesson
        self.options = lesson.options
        self.company = company
        self.device = company.device
        self.student, self.teacher = lesson.student.graph, lesson.teacher.graph
        # Points are found with probes from the CPU, before the models leave it.
        self.points = find_points(self.teacher, self.student, self.options.points)
        to_training(self.student.to(self.device))
        thaw(self.student, self.options.frozen)
        self.phases = planned_phases(self.options)
        # One for all: machines of a company may differ.
        self.precision = company.agreed(chosen_precision(self.options.precision, self.device))
        self.log = TrainingLog(lesson.workdir / "tensorboard" if company.leads else None, lesson.data.sample_rate)
        self.average = RunningAverage(self.student, self.options.ema)
        self.progress = Progress()
        self.best = BestWeights()
        self.notes = Notes(lesson.reporter)
        self.interruptions = Interruptions()
        self.halfway = False
        self.signals: PhaseSignals
        self.heard: TeacherSignals
        self.validation: Validation
        self.learner: Learner

    def train(self) -> StageOutcome:
        """Run the phases, keep the best weights by validation, or the last, and return the student."""
        with ExitStack() as stack:
            # However this ends: the teacher is others' too.
            stack.callback(self.teacher.cpu)
            self.teacher.to(self.device)
            self.validation = Validation(
                self.lesson.data.validation, self.teacher, self.lesson.inputs, self.options.losses, self.company
            )
            multiple = stack.enter_context(training_form(self.student, self.device))
            self.signals = PhaseSignals(self.lesson, self.teacher, self.points, self.company, multiple)
            self._say_what_comes(self.signals.of(None))
            stack.enter_context(self.log)
            stack.enter_context(self.interruptions)
            ended_well = self._run_phases()
        last = self.options.keep == "last" and ended_well
        with self.average.shown(self.student) as shown:
            self.student.load_state_dict(weights_on_cpu(shown) if last else self.best.weights)
        self.notes.messages.append(self.best.told(self.progress, last=last))
        self.student.cpu().eval().to(memory_format=torch.contiguous_format)
        return StageOutcome(self.student, self.notes.findings, tuple(self.log.curve))

    def _say_what_comes(self, signals: TeacherSignals) -> None:
        points = ", ".join(map(str, self.points)) or "none: only outputs are compared"
        helped = f", {self.company.of} processes" if self.company.of > 1 else ""
        cut = f"segments of {signals.segment}" if signals.segmented else "whole"
        self.notes.tell(
            f"features are compared at {points}; {len(signals.inputs)} samples, {cut}, {self.precision}{helped}"
        )

    def _run_phases(self) -> bool:
        """Run the phases; False where one was stopped because it went wrong."""
        own = load_checkpoint(self.lesson.checkpoint, self.lesson.identity) if self.company.leads else None
        saved: dict[str, Any] | None = self.company.agreed(own)
        if self.options.adversarial.steps:
            judged = self.signals.of(self.options.adversarial.segment)
            check_judged(self.options.adversarial, judged.samples_of_segment())
        if saved is None:
            self._validate("start")
        else:
            # What 'auto' means may be another here; checkpoints of earlier versions do not tell.
            self.precision = saved.get("precision", self.precision)
        first = saved["progress"]["phase"] if saved else 0
        for index, phase in enumerate(self.phases):
            if index < first or not phase.options.steps:
                continue
            self._start_phase(index, phase, saved if index == first else None)
            try:
                self._run_phase(phase)
            except Stopped as reason:
                self.notes.tell(f"training stopped: {reason}; the last good weights are kept")
                return False
        return True

    def _start_phase(self, index: int, phase: PlannedPhase, saved: dict[str, Any] | None) -> None:
        left = phase.options.steps - (saved["progress"]["step"] if saved else 0)
        self.heard = self.signals.begin(phase, left, saved["settled"] if saved else None)
        self.learner = learner_for(
            self.options, phase, self.student, self.points, self.company, self.precision, self.lesson.reporter
        )
        if saved is not None:
            self._restore(saved)
            return
        self.progress.phase, self.progress.step = index, 0
        self._fit_projections()
        # What was settled by the clock holds from here on.
        self._save()

    def _fit_projections(self) -> None:
        if self.learner.objective.projections:
            phase, seed = self.phases[self.progress.phase], (self.lesson.seed, self.progress.phase, self.progress.step)
            self.learner.fit_projections(self.heard.batch(seed, self._batch_size(phase)))

    def _batch_size(self, phase: PlannedPhase) -> int:
        return phase.options.batch_size or self.options.batch_size

    def _run_phase(self, phase: PlannedPhase) -> None:
        progress, begun, spent = self.progress, time.monotonic(), self.progress.seconds
        due = Due(self.options.checkpoint_seconds, self.options.checkpoint_steps, progress.step)
        allowed = phase.schedule.ends_at_seconds - spent
        with self.lesson.reporter.task(phase.label, phase.options.steps, done=progress.step, at_most=allowed) as task:
            try:
                while (done := phase.schedule.done(progress.step, progress.seconds)) < 1.0:
                    with self._together():
                        self._validate_if_due(phase.label)
                        self._step(phase, done)
                    progress.seconds = self._agreed_time(spent + time.monotonic() - begun)
                    task.advance(1, self.log.text())
                    self.interruptions.let_through()
                    if due.now(progress.step):
                        self._save()
            except KeyboardInterrupt:
                if not self.halfway:
                    self._save()
                raise
        self.learner.end()
        self._validate(phase.label)
        if progress.step < phase.options.steps:
            self.notes.tell(
                f"max_minutes ended {phase.label} after {progress.step} of {phase.options.steps} steps on this machine"
            )
        if not self.learner.has_moved:
            self.notes.tell(f"{phase.label} ended while discriminators still learnt alone: the student is as before")
        # Without a checkpoint: it goes on from the last one.
        self.interruptions.let_through()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Mark what belongs together: a state in the middle of it is not kept."""
        self.halfway = True
        yield
        self.halfway = False

    def _agreed_time(self, seconds: float) -> float:
        """Return the seconds by which a schedule is shortened: the same in all processes."""
        return self.company.agreed(seconds) if self.options.max_minutes else seconds

    def _step(self, phase: PlannedPhase, done: float) -> None:
        # The seed makes the data position part of the step: nothing to save, nothing to lose.
        seed = (self.lesson.seed, self.progress.phase, self.progress.step)
        pieces = self.options.accumulate
        parts = [
            self.heard.batch(
                seed, self._batch_size(phase), (self.company.index * pieces + piece, self.company.of * pieces)
            )
            for piece in range(pieces)
        ]
        rate = phase.schedule.rate(self.progress.step, done) / 2**self.progress.setbacks
        try:
            self.log.add(self.learner.step(parts, done, rate))
        except Unhealthy as reason:
            self._step_back(str(reason))
            # The same batch again would do the same again.
            self.progress.step += 1
            return
        self.average.follow(self.student)
        self.progress.step += 1

    def _step_back(self, reason: str) -> None:
        """Go back to the best weights, with an optimiser that remembers nothing, at half the learning rate."""
        progress = self.progress
        progress.setbacks += 1
        where = f"{self.phases[progress.phase].label} step {progress.step}"
        if progress.setbacks > MOST_SETBACKS:
            raise Stopped(f"{where}: {reason}; it has gone wrong {progress.setbacks} times")
        self.notes.tell(
            f"{where}: {reason}; going back to the weights of {progress.best_step} at half the learning rate"
        )
        self.student.load_state_dict(self.best.weights)
        self.average.restart(self.student)
        self.learner.forget()
        # Those that learnt beside weights that went wrong fit these no longer.
        self._fit_projections()

    def _validate_if_due(self, label: str) -> None:
        """Validate before the next step, and not after the last, so that an interruption between them loses nothing."""
        step, last = self.progress.step, self.log.curve[-1]
        if step and step % self.options.validate_every == 0 and (last.phase, last.step) != (label, step):
            self._validate(label)

    def _validate(self, label: str) -> None:
        with self.average.shown(self.student) as shown:
            found = self.validation.of(shown)
            if self.company.leads:
                self.log.hear(self.validation.first(shown))
            progress = self.progress
            if label == "start":
                progress.level_at_start = found.level_db
            where = label if label == "start" else f"{label} step {progress.step}"
            wrong = Health.of_validation(found.score, progress.lowest_score, found.level_db, progress.level_at_start)
            if not wrong:
                moved = label == "start" or self.learner.has_moved
                self.best.consider(shown, found.score, where, progress, moved=moved)
        self._keep(label, where, found)
        if wrong and label == "start":
            raise DataError(f"before training: {wrong}")
        if wrong:
            self._step_back(wrong)

    def _keep(self, label: str, where: str, found: Validated) -> None:
        self.log.validated(label, self.progress.step, self.progress.seconds, dict(found.losses))
        figures = ", ".join(f"{name} {value:.4g}" for name, value in found.losses.items())
        self.lesson.reporter.say(f"validation, {where}: {figures}")
        if warning := overfitting_in([point for point in self.log.curve if point.phase == label]):
            self.notes.tell_once(f"{label}: {warning}")

    def _save(self) -> None:
        if not self.company.leads:
            return
        state = {
            "identity": self.lesson.identity,
            "progress": dict(vars(self.progress)),
            "student": {name: value.cpu() for name, value in self.student.state_dict().items()},
            "learner": self.learner.state(),
            "average": self.average.state(),
            "best": self.best.weights,
            "settled": self.signals.settled,
            "curve": [point.model_dump() for point in self.log.curve],
            "log": self.log.state(),
            "notes": self.notes.messages,
            "precision": self.precision,
        }
        save_checkpoint(self.lesson.checkpoint, state)

    def _restore(self, state: dict[str, Any]) -> None:
        self.progress = Progress(**state["progress"])
        self.student.load_state_dict(state["student"])
        self.learner.restore(state["learner"])
        self.average.restore(state["average"])
        self.best.weights = state["best"]
        self.log.restore(state["curve"], state["log"])
        self.notes.restore(state["notes"])
        label = self.phases[self.progress.phase].label
        self.lesson.reporter.say(f"resuming {label} at step {self.progress.step}")
