"""Finished run folders as others read them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from compressor.errors import RunFolderError
from compressor.report import Report
from compressor.run_folder import STATE

REPORT = "report.json"


@dataclass(frozen=True)
class FinishedRun:
    """A run that is done, and where it lies."""

    folder: Path
    report: Report


def read_runs(folders: Iterable[Path]) -> tuple[FinishedRun, ...]:
    """Read finished runs.

    Raises:
        RunFolderError: what is wrong with each folder that holds none, and what to do about it.
    """
    runs, problems = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except RunFolderError as error:
            problems.append(str(error))
    if problems:
        raise RunFolderError("\n  ".join(problems))
    return tuple(runs)


def read_run(folder: Path) -> FinishedRun:
    """Read a finished run.

    Raises:
        RunFolderError: there is none, it is not finished, or its report is damaged or of another version.
    """
    path = folder / REPORT
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise RunFolderError(f"{folder} {found}; expected a run folder, such as runs/hifigan_student")
    if not _finished(folder):
        raise RunFolderError(
            f"{folder} holds a run that is not finished; wait for it, or give its `compress run` again: it resumes"
        )
    try:
        return FinishedRun(folder, Report.model_validate_json(path.read_bytes()))
    except FileNotFoundError:
        raise RunFolderError(
            f"{folder} holds no {REPORT}, so it is no finished run; name the folder that `compress run` wrote to"
        ) from None
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        raise RunFolderError(
            f"{path} is damaged or of another version: {_first_problem(error)}. Its `compress run` with --resume "
            "writes it anew, and trains again only where another version had trained."
        ) from error


def _finished(folder: Path) -> bool:
    """Say whether the run's own note, where it can be read, has it finished; a report alone is as good as that."""
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    return bool(state.get("finished")) if isinstance(state, dict) else True


def _first_problem(error: ValidationError) -> str:
    details = error.errors(include_url=False, include_input=False)
    place = ".".join(map(str, details[0]["loc"]))
    more = f", and {len(details) - 1} more" if len(details) > 1 else ""
    return f"{place + ': ' if place else ''}{details[0]['msg']}{more}"
