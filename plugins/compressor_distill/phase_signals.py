"""The teacher's signals for each phase of a training, in segments of the phase's own length."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import GraphModule

from compressor.processes import Company
from compressor_distill.feature_points import Point
from compressor_distill.lesson import Lesson
from compressor_distill.phase_plan import PlannedPhase
from compressor_distill.teacher_signals import Settled, TeacherSignals


class PhaseSignals:
    """Hands out signals; those of one segment length are held at a time.

    Args:
        lesson: whose data the teacher hears.
        teacher: on its device.
        points: where features are looked at.
        company: the processes, all of which come by signals in the same way.
        multiple: number of which segments are multiples where they are as long as that.
    """

    def __init__(
        self, lesson: Lesson, teacher: GraphModule, points: Sequence[Point], company: Company, multiple: int
    ) -> None:
        self.lesson = lesson
        self.teacher = teacher
        self.points = tuple(point.name for point in points)
        self.company = company
        self.multiple = multiple
        self.settled: Settled | None = None
        self._held: TeacherSignals | None = None

    def of(self, asked: int | None) -> TeacherSignals:
        """Return signals in segments of about the length that is asked for, or of the training's own."""
        asked = asked or self.lesson.options.segment
        # Shorter ones stay as they are: what cannot fold then computes the same unfolded, in less memory.
        segment = asked // self.multiple * self.multiple or asked
        if self._held is None or self._held.segment != segment:
            lesson = self.lesson
            self._held = None
            self._held = TeacherSignals(
                self.teacher, lesson.inputs, self.points, self.company.device, lesson.data.train, segment,
                lesson.keeping, lesson.reporter,
            )  # fmt: skip
        return self._held

    def begin(self, phase: PlannedPhase, steps: int, settled: Settled | None) -> TeacherSignals:
        """Return signals for so many steps of a phase; the first process settles how they are come by."""
        signals = self.of(phase.options.segment)
        if self.company.leads:
            self._say_length(phase, signals)
        share = (phase.options.batch_size or self.lesson.options.batch_size) // self.company.of
        features = phase.compares_features
        if self.company.leads:
            settled = signals.begin(steps, share, features=features, settled=settled)
        self.settled = self.company.agreed(settled)
        if not self.company.leads:
            signals.begin(steps, share, features=features, settled=self.settled)
        return signals

    def _say_length(self, phase: PlannedPhase, signals: TeacherSignals) -> None:
        asked = phase.options.segment or self.lesson.options.segment
        if signals.segmented and signals.segment != asked:
            self.lesson.reporter.say(
                f"{phase.label}: segments of {signals.segment} instead of {asked}: a multiple of {self.multiple}, in "
                "which dilated convolutions train fastest"
            )
