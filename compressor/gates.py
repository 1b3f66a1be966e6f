"""Quality gates: what the finished student has to reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressor.metric import Metric
from compressor.report import GateVerdict, Measurement
from compressor.signal_metric import split_measured_name


def judge_gates(
    gates: Mapping[str, float], metrics: Sequence[Metric], student: Sequence[Measurement]
) -> tuple[GateVerdict, ...]:
    """Hold the finished student against every gate; one whose metric has no figure is missed, and says why."""
    known = {entry.metric: entry for entry in student}
    by_name = {metric.name: metric for metric in metrics}
    return tuple(
        _judged(gate, threshold, by_name[split_measured_name(gate)[0]], known.get(gate))
        for gate, threshold in gates.items()
    )


def missed_beforehand(gates: Mapping[str, float], teacher: Sequence[Measurement]) -> tuple[str, ...]:
    """Return in words which gates will be missed because their metrics have no figure for the teacher either."""
    return tuple(
        f"the gate '{entry.metric}' will be missed, for it cannot be measured here: {entry.note}"
        for entry in teacher
        if entry.metric in gates and entry.value is None
    )


def _judged(gate: str, threshold: float, metric: Metric, found: Measurement | None) -> GateVerdict:
    value = found.value if found else None
    return GateVerdict(
        metric=gate,
        threshold=threshold,
        better=metric.better,
        student=value,
        met=value is not None and _reaches(value, threshold, metric),
        unit=metric.unit,
        note=found.note if found else _why_unmeasured(gate),
    )


def _reaches(value: float, threshold: float, metric: Metric) -> bool:
    return value >= threshold if metric.better == "higher" else value <= threshold


def _why_unmeasured(gate: str) -> str:
    _, against = split_measured_name(gate)
    signal = "outputs that are a signal of known sample rate"
    return "the data holds no recordings" if against == "recording" else f"it needs data, with {signal}"
