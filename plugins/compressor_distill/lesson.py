"""All that a training needs, in a form that goes to other processes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.dataset import Dataset
from compressor.portable_graph import PortableGraph
from compressor.progress import Reporter
from compressor.strategy import StageContext
from compressor.tensor_spec import TensorSpec
from compressor_distill.teacher_signals import Keeping

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from compressor_distill.distillation import Distillation


@dataclass(frozen=True)
class Lesson:
    """Who learns what from whom, and where notes are kept."""

    options: Distillation
    student: PortableGraph
    teacher: PortableGraph
    teacher_sha256: str
    inputs: tuple[TensorSpec, ...]
    """The teacher's."""
    data: Dataset
    seed: int
    device: str
    workdir: Path
    reporter: Reporter

    @classmethod
    def of(cls, options: Distillation, student: GraphModule, context: StageContext, data: Dataset) -> Lesson:
        """Gather what a stage's context holds."""
        return cls(
            options=options,
            student=PortableGraph(student),
            teacher=PortableGraph(context.teacher.graph),
            teacher_sha256=context.teacher.sha256,
            inputs=context.teacher.inputs,
            data=data,
            seed=context.seed,
            device=context.device,
            workdir=context.workdir,
            reporter=context.reporter,
        )

    @property
    def keeping(self) -> Keeping:
        """How the teacher's signals are kept."""
        options = self.options
        kept = Keeping(self.teacher_sha256, options.teacher_signals, options.memory_gb, options.cache_gb)
        return kept if options.cache_dir is None else replace(kept, folder=options.cache_dir)

    @property
    def checkpoint(self) -> Path:
        """Where the state of the training is kept."""
        return self.workdir / "checkpoint.pt"

    @property
    def identity(self) -> str:
        """Name this training: the same options, student, teacher, data and seed."""
        shapes = {name: tuple(value.shape) for name, value in self.student.graph.state_dict().items()}
        facts = [self.options.model_dump_json(), shapes, self.teacher_sha256, self.data.identity, self.seed]
        return hashlib.sha256(repr(facts).encode()).hexdigest()
