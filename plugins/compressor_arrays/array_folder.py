"""Samples from a folder of `.npz` files, for any model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, model_validator

from compressor.data_source import DataContext
from compressor.dataset import Dataset, Sample
from compressor.errors import DataError
from compressor.lazy_samples import LazySamples
from compressor.lazy_source import LazySource
from compressor_arrays.array_file import ArrayFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from compressor.tensor_spec import TensorSpec

PROBLEMS_SHOWN = 10


class ArrayFolder(LazySource):
    """All `.npz` files below a folder; each is an example, with an array for every input of the teacher by its name.

    `numpy.savez("0001.npz", **{"image": image})` writes one. Arrays have the input's shape, with or without a batch
    axis of one; whole numbers become floats where the input is one. Labels are not needed: the student learns from the
    teacher. Which files validate is spread evenly over their sorted names, so that of folders by class each has some.

    ```yaml
    data:
      array-folder: {path: samples, validation_files: 64}
    ```
    """

    name: ClassVar[str] = "array-folder"

    path: Path = Field(description="folder of .npz files, searched with its subfolders")
    validation_files: int = Field(default=6, ge=1, description="how many files validate, evenly spread over the names")
    reference: str | None = Field(
        default=None,
        description="array that holds what a perfect model would put out, as audio; metrics compare with it too",
    )
    sample_rate: int | None = Field(
        default=None, gt=0, description="output samples per second, where the output is audio: makes it heard"
    )

    @model_validator(mode="after")
    def _reference_is_heard(self) -> ArrayFolder:
        if self.reference is not None and self.sample_rate is None:
            raise ValueError("`reference` is compared as audio: give the output's `sample_rate` too")
        return self

    @property
    def output_rate(self) -> int | None:
        return self.sample_rate

    def analyse(self, path: Path, inputs: tuple[TensorSpec, ...]) -> Sample:
        file = ArrayFile.read(path)
        _refuse(self.path, file.problems(inputs, None))
        return file.sample(path.stem, inputs, None)

    def load(self, context: DataContext) -> Dataset:
        """Return the files as samples.

        Raises:
            DataError: with every file that cannot be one, and why; or fewer than two files.
        """
        files = self._files(context)
        chosen = self._validating(len(files))
        parts = [[file for at, file in enumerate(files) if (at in chosen) is held_out] for held_out in (False, True)]
        train, validation = (Corpus(self.path, part, context.inputs, self.reference) for part in parts)
        in_memory = self.holds(train.bytes)
        held_out, *rest = _read([validation, train] if in_memory else [validation])
        return Dataset(
            train=rest[0] if in_memory else LazySamples(train, context.reporter, self.helpers),
            validation=held_out,
            identity=hashlib.sha256(f"{train.identity} {validation.identity}".encode()).hexdigest(),
            description=f"arrays of {self.path.name}: {len(train)} examples to train on"
            f"{'' if in_memory else ', read as they are needed'}, {len(validation)} to validate on",
            sample_rate=self.sample_rate,
            findings=tuple(self._findings(files, context.inputs)),
        )

    def _files(self, context: DataContext) -> list[ArrayFile]:
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder")
        paths = sorted(self.path.rglob("*.npz"))
        if len(paths) < 2:
            raise DataError(
                f"{self.path}: {len(paths)} .npz files; at least two are needed, to train on and to validate on"
            )
        files, problems = [], []
        with context.reporter.task("looking at files", len(paths)) as task:
            for path in paths:
                try:
                    files.append(ArrayFile.read(path))
                    problems += files[-1].problems(context.inputs, self.reference)
                except DataError as error:
                    problems.append(str(error))
                task.advance()
        _refuse(self.path, problems)
        return files

    def _validating(self, count: int) -> frozenset[int]:
        """Return the positions that validate: the middles of as many equal parts."""
        kept = min(self.validation_files, count // 2)
        return frozenset(((2 * np.arange(kept) + 1) * count // (2 * kept)).tolist())

    def _findings(self, files: Sequence[ArrayFile], inputs: Sequence[TensorSpec]) -> Iterator[str]:
        kept = len(self._validating(len(files)))
        if kept < self.validation_files:
            yield f"validation_files is {self.validation_files}, and there are {len(files)} files: {kept} validate"
        used = {spec.name for spec in inputs} | {self.reference}
        unused = sorted({name for file in files for name in file.arrays} - used)
        if unused:
            yield f"arrays that are no input of the teacher are not used: {', '.join(unused)}"


@dataclass(frozen=True)
class Corpus:
    """Files that train, or that validate; a `SampleStore` of what they hold."""

    folder: Path
    files: Sequence[ArrayFile]
    inputs: tuple[TensorSpec, ...]
    reference: str | None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def bytes(self) -> int:
        """Memory that all samples take, in the types that the model has."""
        return sum(file.bytes(self.inputs, self.reference) for file in self.files)

    @property
    def identity(self) -> str:
        """Return what tells the samples' content."""
        return hashlib.sha256(" ".join(map(self.key, range(len(self)))).encode()).hexdigest()

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of the input of the lowest rate; 1 where there is no time axis."""
        return np.array([self._length(file) for file in self.files], np.int64)

    def _length(self, file: ArrayFile) -> int:
        import torch

        from compressor.segments import can_be_cut, length_of

        if not can_be_cut(self.inputs):
            return 1
        return length_of(
            [torch.empty(file.arrays[spec.name].shape, device="meta") for spec in self.inputs], self.inputs
        )

    def maker(self, index: int) -> Callable[[], Sample]:
        """Return what reads a sample."""
        file = self.files[index]
        return partial(file.sample, self._name(file), self.inputs, self.reference)

    def key(self, index: int) -> str:
        """Return what names a sample's content: checksums of its arrays."""
        arrays = self.files[index].arrays
        kept = [name for name in arrays if name == self.reference or any(name == spec.name for spec in self.inputs)]
        told = [f"{name} {arrays[name].dtype} {arrays[name].shape} {arrays[name].checksum}" for name in sorted(kept)]
        return hashlib.sha256("\n".join([*told, str(self.reference)]).encode()).hexdigest()

    def _name(self, file: ArrayFile) -> str:
        return file.path.relative_to(self.folder).with_suffix("").as_posix()


def _read(parts: Sequence[Corpus]) -> list[tuple[Sample, ...]]:
    """Read all samples of some parts; what cannot be used is told at once."""
    read: list[tuple[Sample, ...]] = []
    problems: list[str] = []
    for part in parts:
        samples = []
        for at in range(len(part)):
            try:
                samples.append(part.maker(at)())
            except DataError as error:
                problems.append(str(error))
        read.append(tuple(samples))
    _refuse(parts[0].folder, problems)
    return read


def _refuse(folder: Path, problems: Sequence[str]) -> None:
    if problems:
        more = [f"and {len(problems) - PROBLEMS_SHOWN} more"] if len(problems) > PROBLEMS_SHOWN else []
        told = "".join(f"\n  {problem}" for problem in [*problems[:PROBLEMS_SHOWN], *more])
        raise DataError(f"{folder}: {len(problems)} problems with what is to be trained on{told}")
