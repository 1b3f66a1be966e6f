"""A sweep as it was asked for; it goes to other processes and machines as it is."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError, RecipeError, RecipeProblem
from compressor.metric import Metric
from compressor.named_options import did_you_mean
from compressor.package_files import resolve_package_path
from compressor.plan_loading import load_plan
from compressor.planning import Plan
from compressor.signal_metric import split_measured_name
from compressor.sweep.space import Varied, overrides, written

MOST_IN_A_NAME = 60


@dataclass(frozen=True)
class Objective:
    """A measured figure that trials are compared by."""

    name: str
    higher: bool
    unit: str


@dataclass(frozen=True)
class Sweep:
    """A recipe, what is varied in it, and by what its students are compared."""

    recipe: Path
    varied: tuple[Varied, ...]
    metrics: tuple[str, ...]
    trials: int
    out: Path
    storage: str
    teacher: str | None = None
    data: str | None = None
    changes: tuple[str, ...] = ()
    device: str = "cpu"
    workers: int = 1
    shared: bool = False
    """Others may be at work on the same storage: trials under way are then not taken for interrupted."""
    objectives: tuple[Objective, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", self._checked())

    def plan(self, values: Mapping[str, Any]) -> Plan:
        """Return the plan of a trial.

        Raises:
            RecipeError: the recipe does not take these values.
        """
        changes = (*self.changes, *overrides(values))
        return load_plan(self.recipe, teacher=self.teacher, data=self.data, overrides=changes)

    @cached_property
    def subject(self) -> str:
        """Name what is run: the recipe as it is read, whatever is varied in it, and the teacher's content."""
        recipe = self.plan(self._first()).recipe
        file = resolve_package_path(recipe.teacher.onnx)
        digest = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""
        facts = [recipe.model_dump(mode="json", exclude={"out"}), digest]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def identity(self) -> str:
        """Name what is asked: what is run, what is varied, and by what trials are compared; not how many."""
        facts = [self.subject, [repr(each) for each in self.varied], self.metrics]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def database(self) -> Path | None:
        """The file that the study is kept in; None where a server keeps it."""
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        try:
            url = make_url(self.storage)
        except (ArgumentError, ValueError):  # That it is no storage is told where it is opened.
            return None
        return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None

    @property
    def size(self) -> float:
        """How many trials there are to try; infinite where a number may be any between two."""
        return math.prod(each.size for each in self.varied)

    @property
    def seed(self) -> int:
        """The recipe's."""
        return self.plan(self._first()).recipe.seed

    @property
    def relative_paths(self) -> list[str]:
        """Files and folders that the recipe names from the current folder on, for its teacher and its data."""
        named = self.plan(self._first()).recipe.model_dump(mode="json", include={"teacher", "data"})
        return [text for text in _texts(named) if not Path(text).is_absolute() and _exists(text)]

    def folder(self, values: Mapping[str, Any]) -> Path:
        """Return where a trial's run is: the same values have the same folder, so that an interrupted one resumes."""
        said = ",".join(f"{path.rpartition('.')[2]}={written(value)}" for path, value in values.items())
        facts = [self.subject, list(values.items())]
        digest = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:8]
        return self.out / "trials" / f"{re.sub(r'[^A-Za-z0-9=,._-]+', '', said)[:MOST_IN_A_NAME]}-{digest}"

    def _first(self) -> dict[str, Any]:
        return {each.path: each.ends[0] for each in self.varied}

    def _checked(self) -> tuple[Objective, ...]:
        """Plan the recipe with every listed value, and both ends of every range.

        Raises:
            RecipeError: it does not take some of them; names all.
            CompressorError: a metric is not measured by the recipe.
        """
        problems: list[RecipeProblem] = []
        for each in self.varied:
            for value in each.ends:
                try:
                    self.plan({**self._first(), each.path: value})
                except RecipeError as error:
                    problems += map(self._as_asked, error.problems)
        if problems:
            # What is wrong whatever the values, or with a first value, comes up again and again.
            raise RecipeError(list(dict.fromkeys(problems)))
        return _objectives(self.metrics, self.plan(self._first()).metrics)

    def _as_asked(self, problem: RecipeProblem) -> RecipeProblem:
        """Return a problem with a trial's value as one with the option that asks for it."""
        for each in self.varied:
            if problem.file is not None and problem.file.startswith(f"--set {each.path}="):
                return replace(problem, file=problem.file.replace("--set", "--vary", 1))
        return problem


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, Mapping | list):
        for value in content.values() if isinstance(content, Mapping) else content:
            yield from _texts(value)


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except OSError:
        # Too long for a name.
        return False


def _objectives(names: Sequence[str], metrics: Sequence[Metric]) -> tuple[Objective, ...]:
    known = {metric.name: metric for metric in metrics}
    if not names:
        raise CompressorError(f"by what are trials compared? Give --metric once or more: {', '.join(sorted(known))}")
    unknown = [name for name in names if split_measured_name(name)[0] not in known]
    if unknown:
        told = "; ".join(f"the recipe does not measure '{name}'{did_you_mean(name, known)}" for name in unknown)
        raise CompressorError(told)
    found = [(name, known[split_measured_name(name)[0]]) for name in names]
    return tuple(Objective(name, metric.better == "higher", metric.unit) for name, metric in found)
