"""What can go wrong, in the user's words.

CompressorError            for the user: printed without a traceback
├── RecipeError            every problem of a recipe at once, each with file, line and what to do
├── PluginError            names plugin and distribution
├── TeacherError           unreadable file, mismatch, every unsupported operator
├── SelectionError         a target pattern matched nothing
├── DataError              file, what was found, what was expected
├── BudgetError            no choice meets a limit; says how near it gets
├── RunFolderError         the folder holds something else, or cannot be written
│   └── RunFolderBusyError another process is writing it
├── StageError             a stage failed: which one, and the cause
├── VerificationError      where, how far off, what was allowed
└── ExportError            the student could not be written as ONNX
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CompressorError(Exception):
    """An error that the user can act on; `exit_code` is what the command returns."""

    exit_code = 2


@dataclass(frozen=True)
class RecipeProblem:
    """One mistake in a recipe: where it stands and what to do about it."""

    message: str
    path: str = ""
    """Dotted path inside the recipe, such as `stages.2.depthwise-separable-conv.rank`."""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line) if part is not None)
        return ": ".join(part for part in (place, self.path, self.message) if part)


class RecipeError(CompressorError):
    """A recipe that cannot be run; `problems` lists every mistake found."""

    def __init__(self, problems: Sequence[RecipeProblem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        heading = f"{count} problem{'s' if count != 1 else ''} in the recipe"
        super().__init__("\n  ".join([f"{heading}:", *map(str, self.problems)]))


class PluginError(CompressorError):
    """A plugin that cannot be loaded or breaks a rule; the message names it and its distribution."""


class TeacherError(CompressorError):
    """A teacher that cannot be loaded, or that torch does not compute as onnxruntime does."""


class SelectionError(CompressorError):
    """A target pattern that matched nothing; the message shows near names."""


class DataError(CompressorError):
    """Data that cannot be used: file, what was found, what was expected."""


class BudgetError(CompressorError):
    """A budget that no choice meets; the message says how near it gets."""


class RunFolderError(CompressorError):
    """A run folder that belongs to another run, or that cannot be written."""


class RunFolderBusyError(RunFolderError):
    """A run folder that another process is writing at this moment."""


class StageError(CompressorError):
    """A stage that failed; `stage` names it."""

    def __init__(self, stage: str, message: str) -> None:
        self.stage = stage
        super().__init__(f"stage '{stage}': {message}")


class VerificationError(CompressorError):
    """Two models that should be equal and are not: where, how far off, what was allowed."""

    exit_code = 4


class ExportError(CompressorError):
    """A student that could not be written as ONNX."""


class MetricUnavailable(CompressorError):  # noqa: N818 - a state of the machine rather than a mistake
    """A metric that cannot be measured here; the message says what to install."""
