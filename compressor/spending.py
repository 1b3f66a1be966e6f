"""What a budget was spent on, kept in the run folder: a clock would have it spent otherwise when the run is resumed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from compressor.report import AllocationRecord
from compressor.run_folder import RunFolder

FILE = "stages/budget-choices.json"


class Spending(BaseModel):
    """The choices of all stages, and what they are worth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: dict[str, dict[str, int | float | str]]
    """Settings by stage and layer."""
    allocation: tuple[AllocationRecord, ...]


def keep(spending: Spending, folder: RunFolder) -> None:
    """Write it into the folder of the run.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    folder.write(FILE, spending.model_dump_json(indent=1).encode())


def kept(folder: RunFolder) -> Spending | None:
    """Return what an earlier part of the same run has kept; None where there is none, or it is damaged."""
    content = folder.read(FILE) if folder.resuming else None
    if content is None:
        return None
    try:
        return Spending.model_validate_json(content)
    except ValidationError:
        return None
