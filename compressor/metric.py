"""The contract of a metric: one number about a student."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict

from compressor.dataset import FloatArray
from compressor.tensor_spec import TensorSpec

if TYPE_CHECKING:
    from compressor.signal_metric import Against, Signal

    # Timing needs onnxruntime and torch, which defining a metric does not.
    from compressor.timing import Timings


class Subject(Protocol):
    """A model under measurement, its file and its outputs; each is made when first asked for.

    Arrays are flat per validation sample and ordered as the validation samples are.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The model's inputs."""

    @property
    def parameters(self) -> int:
        """Trainable and constant weights, a shared one counted once."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates for `probe_seconds` of output, or for one probe input where no rate is known."""

    @property
    def onnx_bytes(self) -> bytes:
        """The model as ONNX."""

    @property
    def file_size(self) -> int:
        """Bytes of the model's file, and of those beside it that hold its weights."""

    @property
    def probe(self) -> dict[str, FloatArray]:
        """One input of the model, about a second long where a rate is known."""

    @property
    def probe_seconds(self) -> float | None:
        """Seconds of output that the probe makes; None where the output is no signal of known rate."""

    def timed(self, threads: int, runs: int) -> Timings:
        """How long the probe takes in onnxruntime, this model's file and the teacher's in turn; measured once."""

    @property
    def outputs(self) -> Sequence[FloatArray]:
        """What this model puts out for each validation sample."""

    @property
    def teacher_outputs(self) -> Sequence[FloatArray]:
        """What the teacher puts out for each validation sample."""

    @property
    def sample_rate(self) -> int | None:
        """Output samples per second, where the output is a signal."""

    @property
    def signals(self) -> Sequence[Signal]:
        """The outputs as signals; only where the sample rate is known."""

    def wanted(self, against: Against) -> Sequence[Signal | None]:
        """What the outputs should be, by the teacher or by the recording; None for a sample without a recording."""


class Metric(BaseModel, ABC):
    """A frozen model whose fields are options, with one method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    better: ClassVar[Literal["lower", "higher"]] = "lower"
    needs_data: ClassVar[bool] = False
    """True: measured on validation samples, against the teacher's outputs."""
    needs_signal: ClassVar[bool] = False
    """True: only for models whose output is a signal of known sample rate, such as audio."""
    finished_only: ClassVar[bool] = False
    """True: slow; measured once, on the finished student, and not after each stage."""

    follows: ClassVar[str] = ""
    """The cost by whose savings this one's are predicted while a budget is spent; empty: strategies know it."""
    clocked: ClassVar[bool] = False
    """True: time in onnxruntime; what a change saves of it is measured, layer by layer, before a budget is spent."""

    @abstractmethod
    def measure(self, subject: Subject) -> float:
        """Return the number; raise `MetricUnavailable` where something must be installed first."""
