"""Cost metrics. Time is measured in onnxruntime on the CPU, because that is where students run."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from compressor.metric import Metric, Subject


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
    follows: ClassVar[str] = "parameters"

    def measure(self, subject: Subject) -> float:
        return float(subject.file_size)


class _Timed(Metric):
    follows: ClassVar[str] = "macs"
    clocked: ClassVar[bool] = True

    threads: int = Field(default=1, ge=1, description="onnxruntime threads")
    runs: int = Field(default=5, ge=1, description="timed runs after one warm-up; the median counts")


class Latency(_Timed):
    """Milliseconds for one probe input: about a second of output where its rate is known."""

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ms"

    def measure(self, subject: Subject) -> float:
        return 1000 * subject.timed(self.threads, self.runs).seconds


class RealTimeFactor(_Timed):
    """Seconds of computing per second of output: below one is faster than real time."""

    name: ClassVar[str] = "rtf"
    needs_signal: ClassVar[bool] = True

    def measure(self, subject: Subject) -> float:
        return subject.timed(self.threads, self.runs).seconds / (subject.probe_seconds or 1.0)


class Speedup(_Timed):
    """How many times faster than the teacher's file; both run in turn, so that the machine's drift cancels."""

    name: ClassVar[str] = "speedup"
    unit: ClassVar[str] = "x"
    better: ClassVar[Literal["lower", "higher"]] = "higher"

    def measure(self, subject: Subject) -> float:
        return subject.timed(self.threads, self.runs).speedup
