"""Signals of whole samples, recorded when a segment of one is first asked for: in memory, or on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from torch import Tensor

from compressor_distill.signal_cache import SignalCache, StoredTensors
from compressor_distill.teacher_run import Signals, TeacherRun
from compressor_distill.training_inputs import Cut, TrainingInputs


class RecordedInMemory:
    """Training starts at once, and a short one pays for what it sees only."""

    def __init__(self, run: TeacherRun, inputs: TrainingInputs) -> None:
        self.run = run
        self.inputs = inputs
        self.recorded: dict[int, Signals] = {}

    def lacks(self, cut: Cut, *, features: bool) -> bool:
        """Say whether the teacher has to run for a segment."""
        known = self.recorded.get(cut.sample)
        return known is None or (features and len(known.features) < len(self.run.points))

    def pieces(self, cuts: Sequence[Cut], *, features: bool) -> list[Signals]:
        """Return the signals of segments."""
        return [self._piece(cut, features=features) for cut in cuts]

    def _piece(self, cut: Cut, *, features: bool) -> Signals:
        if self.lacks(cut, features=features):
            self.recorded[cut.sample] = recorded(self.run, self.inputs, cut.sample, features=features)
        known = self.recorded[cut.sample]
        return segment(known if features else without_features(known), cut, self.inputs)


class RecordedOnDisk:
    """Outputs and features lie in files of their own, so that a phase reads what it needs; both with a checksum.

    Files are named by the teacher, the sample's content, the points, and what computed them.
    """

    def __init__(self, run: TeacherRun, inputs: TrainingInputs, cache: SignalCache, teacher: str) -> None:
        self.run = run
        self.inputs = inputs
        self.cache = cache
        self.teacher = teacher

    def lacks(self, cut: Cut, *, features: bool) -> bool:
        """Say whether the teacher has to run for a segment."""
        names = self._names(cut.sample)
        return not all(self.cache.has(name) for name in (names if features else names[:1]))

    def pieces(self, cuts: Sequence[Cut], *, features: bool) -> list[Signals]:
        """Return the signals of segments; a sample of which a file is missing or damaged is recorded anew."""
        return [
            self._read(cut, features=features) or segment(self.record(cut.sample, features=features), cut, self.inputs)
            for cut in cuts
        ]

    def record(self, index: int, *, features: bool) -> Signals:
        """Run the teacher over a sample and keep what it has."""
        signals = recorded(self.run, self.inputs, index, features=features)
        # Only now is it certain which sample stands here.
        outputs, of_features = self._names(index)
        given = {f"input {number}": value for number, value in enumerate(signals.inputs)}
        self.cache.put(outputs, {**given, "output": signals.output})
        if features and signals.features:
            self.cache.put(of_features, signals.features)
        return signals

    def _names(self, index: int) -> tuple[str, str]:
        facts = [self.teacher, self.run.device.type, self.inputs.key(index)]
        outputs = hashlib.sha256(repr(facts).encode()).hexdigest()
        points = hashlib.sha256(repr([*facts, "time first", self.run.points]).encode()).hexdigest()
        return f"output-{outputs}", f"features-{points}"

    def _read(self, cut: Cut, *, features: bool) -> Signals | None:
        outputs, of_features = self._names(cut.sample)
        with self.cache.open(outputs) as stored:
            if stored is None:
                return None
            found = self._outputs(stored, cut)
        if found is None:
            return None
        if not features or not self.run.points:
            return found[0]
        with self.cache.open(of_features) as stored:
            if stored is None:
                return None
            piece, start, length = found
            parts = {name: _part(stored, name, 0, length, start, piece.size) for name in self.run.points}
        return Signals(piece.inputs, piece.output, parts, piece.size)

    def _outputs(self, stored: StoredTensors, cut: Cut) -> tuple[Signals, int, int] | None:
        """Return a segment without features, where it begins, and the length of its sample.

        None where that was recorded for shorter segments: another sample stands in its place.
        """
        specs, size = self.inputs.specs, self.inputs.segment
        names = [f"input {number}" for number in range(len(specs))]
        if size is None:
            return Signals(tuple(map(stored.whole, names)), stored.whole("output"), {}, 1), 0, 1
        axes = [None if spec.time_axis is None else spec.time_axis - len(spec.shape) for spec in specs]
        timed = [(name, axis) for name, axis in zip(names, axes, strict=True) if axis is not None]
        length = min(stored.shape(name)[axis] for name, axis in timed)
        if length < size:
            return None
        start = self.inputs.fitting(cut.start, length)
        inputs = tuple(
            stored.whole(name) if axis is None else _part(stored, name, axis, length, start, size)
            for name, axis in zip(names, axes, strict=True)
        )
        return Signals(inputs, _part(stored, "output", -1, length, start, size), {}, size), start, length


def recorded(run: TeacherRun, inputs: TrainingInputs, index: int, *, features: bool) -> Signals:
    """Run the teacher over one sample."""
    given = inputs[index]
    return run.whole(given, inputs.length(given), features=features)


def segment(signals: Signals, cut: Cut, inputs: TrainingInputs) -> Signals:
    """Return one segment of a sample's signals, or all of them where samples are not cut."""
    if inputs.segment is None:
        return signals
    return signals.segment(inputs.specs, inputs.fitting(cut.start, signals.size), inputs.segment)


def without_features(signals: Signals) -> Signals:
    """Return a sample's signals less its features."""
    return Signals(signals.inputs, signals.output, {}, signals.size)


def _part(stored: StoredTensors, name: str, axis: int, length: int, start: int, size: int) -> Tensor:
    rate = stored.shape(name)[axis] // length
    return stored.part(name, axis, start * rate, size * rate)
