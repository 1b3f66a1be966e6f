"""A small plugin of every kind, for tests of the core; the classes do no work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from compressor.data_source import DataContext, DataSource
from compressor.dataset import Dataset
from compressor.hookspecs import hookimpl
from compressor.loss import Loss, NamedLoss
from compressor.metric import Metric, Subject
from compressor.plugin_catalog import Catalog, load_catalog
from compressor.signal_metric import Signal, SignalMetric
from compressor.strategy import BudgetedStrategy, Candidate, StageContext, StageOutcome, Strategy

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule


class Prune(Strategy):
    """Removes channels."""

    name: ClassVar[str] = "prune"
    pruning_ratio: float = Field(default=0.5, gt=0, lt=1, description="share of channels removed")
    round_to: int = Field(default=8, ge=1)
    importance: Literal["l1", "l2"] = "l2"

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        raise NotImplementedError


class LowRank(BudgetedStrategy):
    """Factorises layers."""

    name: ClassVar[str] = "low-rank"
    fixed_by: ClassVar[str] = "rank"
    rank: int | Literal["auto"] | None = Field(default=None, description="terms kept per layer")
    smallest: int = 1
    largest: int = 8

    @model_validator(mode="after")
    def _ordered(self) -> LowRank:
        if self.smallest > self.largest:
            raise ValueError(f"smallest ({self.smallest}) is above largest ({self.largest})")
        return self

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        raise NotImplementedError

    def candidates(self, student: GraphModule, context: StageContext) -> Sequence[Candidate]:
        raise NotImplementedError


class Schedule(BaseModel):
    """How long, and how fast."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(ge=1)


class Distill(Strategy):
    """Trains towards the teacher."""

    name: ClassVar[str] = "distill"
    needs_data: ClassVar[bool] = True
    schedule: Schedule
    losses: tuple[NamedLoss, ...] = ()

    def apply(self, student: GraphModule, context: StageContext) -> StageOutcome:
        raise NotImplementedError


class MelL1(Loss):
    """Mean absolute difference of mel spectrograms."""

    name: ClassVar[str] = "mel-l1"
    n_mels: int = Field(default=80, ge=1)

    def compute(self, student: Tensor, teacher: Tensor) -> Tensor:
        raise NotImplementedError


class Parameters(Metric):
    """Number of weights."""

    name: ClassVar[str] = "parameters"

    def measure(self, subject: Subject) -> float:
        raise NotImplementedError


class Stoi(Metric):
    """Intelligibility."""

    name: ClassVar[str] = "stoi"
    needs_data: ClassVar[bool] = True
    extended: bool = False

    def measure(self, subject: Subject) -> float:
        raise NotImplementedError


class Energy(Metric):
    """Joules, on a device that must be named."""

    name: ClassVar[str] = "energy"
    device: str

    def measure(self, subject: Subject) -> float:
        raise NotImplementedError


class Nearness(SignalMetric):
    """Compares signals, to a number that must be named."""

    name: ClassVar[str] = "nearness"
    within: float

    def score(self, output: Signal, wanted: Signal) -> float:
        raise NotImplementedError


class Folder(DataSource):
    """Recordings in a folder."""

    name: ClassVar[str] = "folder"
    path: Path

    def load(self, context: DataContext) -> Dataset:
        raise NotImplementedError


class FakePlugin:
    """Offers all of the above."""

    @hookimpl
    def compressor_strategies(self) -> Sequence[type[Strategy]]:
        return [Prune, LowRank, Distill]

    @hookimpl
    def compressor_losses(self) -> Sequence[type[Loss]]:
        return [MelL1]

    @hookimpl
    def compressor_metrics(self) -> Sequence[type[Metric]]:
        return [Parameters, Stoi, Energy, Nearness]

    @hookimpl
    def compressor_data_sources(self) -> Sequence[type[DataSource]]:
        return [Folder]


def fake_catalog() -> Catalog:
    """Return a catalog of the fake plugin alone; the test must see to it that no entry point is found."""
    return load_catalog([FakePlugin()])
