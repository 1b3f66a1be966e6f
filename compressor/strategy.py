"""The contract of a strategy: a graph in, a changed graph and its findings out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from compressor.dataset import Dataset
from compressor.progress import Reporter
from compressor.report import CurvePoint

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor.teacher_loading import Teacher


@dataclass(frozen=True)
class Finding:
    """Something a stage did, or did not do and why; `layer` is the node's name, `values` are its figures."""

    message: str
    layer: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageOutcome:
    """The changed graph and what the stage has to tell."""

    student: GraphModule
    findings: tuple[Finding, ...] = ()
    curve: tuple[CurvePoint, ...] = ()
    """For stages that train: losses on the way."""


@dataclass(frozen=True)
class Candidate:
    """One change that a budgeted strategy offers: what it saves in each limited metric, what error it adds.

    At most one candidate of a stage's layer is chosen; a layer without a chosen candidate stays as it is.
    """

    layer: str
    setting: int | float | str
    saving: Mapping[str, float]
    """`parameters`, and `macs` per second of output where its rate is known, else for one probe input."""
    error: float
    """Predicted error energy as a share of the signal's energy: at each of `disturbs`, or of the output without."""
    disturbs: tuple[str, ...] = ()
    """Nodes or layers whose outputs get the error; the core measures how much of it reaches the model's output."""
    replacement: Callable[..., Any] | None = None
    """For a candidate that disturbs one node: that node's value after the change, from the tensors that it reads.

    With it the core tries the change out and measures the error at the output, instead of estimating it.
    """
    touches: tuple[str, ...] = ()
    """Layers whose weights change, `layer` if left out: of all stages' candidates one at most may touch a layer."""


@dataclass(frozen=True)
class StageContext:
    """All that a stage may know besides the student."""

    stage: str
    teacher: Teacher
    choices: Mapping[str, int | float | str]
    """What the budget's allocation chose, by layer; empty without a budget or for a fixed option."""
    data: Dataset | None
    device: str
    seed: int
    workdir: Path
    """A folder of the stage's own inside the run folder; made by the stage when it needs it."""
    reporter: Reporter


class Strategy(BaseModel, ABC):
    """A frozen model whose fields are the recipe's options, with one method."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    """kebab-case; what a recipe writes"""
    needs_data: ClassVar[bool] = False
    """True: checked while planning that the recipe has data."""
    preserves_output: ClassVar[bool] = False
    """True: the core proves the output equal after the stage."""
    trains: ClassVar[bool] = False
    """True: long, changes weights only; a dry run skips it, and a resumed run restores it from its weights."""

    keeps_structure: ClassVar[bool] = False
    """True: what the student costs stays as it is; left out where a budget's choice is rehearsed."""

    @property
    def longest_minutes(self) -> float | None:
        """How long the stage may take at most, where it has such a limit; told before a run starts."""
        return None

    @abstractmethod
    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        """Return the changed graph; `student` is the stage's own copy and may be changed in place."""


@dataclass(frozen=True)
class FileOutcome:
    """The changed file and what the stage has to tell."""

    content: bytes
    findings: tuple[Finding, ...] = ()


class FileStrategy(Strategy):
    """A strategy that changes the student's finished file, such as into 8-bit weights; the graph stays as it is.

    No graph comes of it, so that only strategies of its kind may follow.
    """

    keeps_structure: ClassVar[bool] = True

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        """Return the graph as it is."""
        return StageOutcome(student)

    def check(self, content: bytes) -> None:
        """Raise what can be known to be wrong from the student's file as it is before its training.

        Raises:
            CompressorError: for the user.
        """

    @abstractmethod
    def rewrite(self, content: bytes, student: GraphModule, context: StageContext) -> FileOutcome:
        """Return the changed file; `content` is the ONNX file written for the graph `student`, or what came of it."""


class BudgetedStrategy(Strategy):
    """A strategy that can spend a budget: it says what it could do, and is told what to do.

    Told nothing, it does nothing: stages without a choice are left out of rehearsals.
    """

    fixed_by: ClassVar[str]
    """The option that makes the choice beforehand; while it is None the budget decides."""

    @property
    def fixed(self) -> bool:
        """Say whether an option of the recipe makes the choice."""
        return getattr(self, self.fixed_by) is not None

    @abstractmethod
    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        """Return what could be done; asked for only where the budget decides."""
