"""Cost metrics. Time is measured in onnxruntime on the CPU, because that is where students run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from compressor.metric import Metric, Subject

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Parameters(Metric):
    """Weights of the model, a shared one counted once."""

    name: ClassVar[str] = "parameters"

    def measure(self, subject: Subject) -> float:
        return float(subject.parameters)


class Macs(Metric):
    """Multiply-accumulates, per second of output where its rate is known, else for one probe input."""

    name: ClassVar[str] = "macs"
    unit: ClassVar[str] = "MAC"

    def measure(self, subject: Subject) -> float:
        return subject.macs / (subject.probe_seconds or 1.0)


class FileBytes(Metric):
    """Size of the ONNX file."""

    name: ClassVar[str] = "bytes"
    unit: ClassVar[str] = "B"

    def measure(self, subject: Subject) -> float:
        return float(len(subject.onnx_bytes))


class _Timed(Metric):
    threads: int = Field(default=1, ge=1, description="onnxruntime threads")
    runs: int = Field(default=7, ge=1, description="timed runs after one warm-up; the median counts")


class Latency(_Timed):
    """Milliseconds for one probe input: about a second of output where its rate is known."""

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"

    def measure(self, subject: Subject) -> float:
        return 1000 * _seconds(subject, self.threads, self.runs)


class RealTimeFactor(_Timed):
    """Seconds of computing per second of output: below one is faster than real time."""

    name: ClassVar[str] = "rtf"
    needs_signal: ClassVar[bool] = True

    def measure(self, subject: Subject) -> float:
        return _seconds(subject, self.threads, self.runs) / (subject.probe_seconds or 1.0)


class Speedup(_Timed):
    """How many times faster than the teacher's file; both run in turn, so that the machine's drift cancels."""

    name: ClassVar[str] = "speedup"
    unit: ClassVar[str] = "x"
    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def measure(self, subject: Subject) -> float:
        student, teacher = (
            _session(content, self.threads) for content in (subject.onnx_bytes, subject.teacher_onnx_bytes)
        )
        probe = subject.probe
        teacher_probe = {
            node.name: array.reshape([-1 if isinstance(size, str) else size for size in node.shape])
            for node, array in zip(teacher.get_inputs(), probe.values(), strict=True)
        }
        ratios = [_once(teacher, teacher_probe) / _once(student, probe) for _ in range(self.runs + 1)]
        return median(ratios[1:])


def _session(content: bytes, threads: int) -> InferenceSession:
    from compressor.teacher_loading import onnx_session

    return onnx_session(content, threads)


def _once(session: InferenceSession, inputs: Mapping[str, Any]) -> float:
    start = time.perf_counter()
    session.run(None, inputs)
    return time.perf_counter() - start


def _seconds(subject: Subject, threads: int, runs: int) -> float:
    session = _session(subject.onnx_bytes, threads)
    return median([_once(session, subject.probe) for _ in range(runs + 1)][1:])
