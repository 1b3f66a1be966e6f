"""One `.npz` file: what its headers say, whether a model could read it, and its arrays as a sample."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from compressor.dataset import Sample
from compressor.errors import DataError
from compressor.tensor_spec import Dimension, TensorSpec

UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile and numpy raise for damaged, encrypted and other files; NotImplementedError is a RuntimeError."""
SUFFIX = ".npy"


class Header(NamedTuple):
    """What is known of an array without reading it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    checksum: int
    """CRC-32 of the array as it is stored."""

    @property
    def size(self) -> int:
        """How many values the array has."""
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True)
class ArrayFile:
    """A file and the headers of its arrays, by name."""

    path: Path
    arrays: Mapping[str, Header]

    @classmethod
    def read(cls, path: Path) -> ArrayFile:
        """Read the headers alone.

        Raises:
            DataError: it is no `.npz` file.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                members = [info for info in archive.infolist() if info.filename.endswith(SUFFIX)]
                return cls(path, {info.filename.removesuffix(SUFFIX): _header(archive, info) for info in members})
        except UNREADABLE as error:
            raise DataError(f"{path}: cannot be read as a .npz file, which numpy.savez writes: {error}") from error

    def problems(self, inputs: Sequence[TensorSpec], reference: str | None) -> list[str]:
        """Return all that keeps the file from being a sample for a model with these inputs."""
        found = [problem for spec in inputs if (problem := self._problem(spec))]
        if not found:
            found = self._lengths_apart(inputs)
        if reference is not None and reference not in self.arrays:
            found.append(f"{self.path}: no array '{reference}', which `reference` names; {self._holds()}")
        elif reference is not None and not _becomes(self.arrays[reference].dtype, "float32"):
            found.append(f"{self.path}: '{reference}' is {self.arrays[reference].dtype}, expected float32")
        return found

    def _problem(self, spec: TensorSpec) -> str:
        header = self.arrays.get(spec.name)
        if header is None:
            return f"{self.path}: no array '{spec.name}'; {self._holds()}. Save one for each input: " + (
                f"numpy.savez(file, **{{'{spec.name}': array}})"
            )
        if header.dtype.hasobject:
            return f"{self.path}: '{spec.name}' holds Python objects, which are not loaded, for they can run code"
        if not _becomes(header.dtype, spec.dtype):
            return f"{self.path}: '{spec.name}' is {header.dtype}, expected {spec.dtype}"
        if not fits(header.shape, spec.shape) and not fits((1, *header.shape), spec.shape):
            return f"{self.path}: '{spec.name}' has the shape {header.shape}, expected {in_words(spec.shape)}"
        return ""

    def _lengths_apart(self, inputs: Sequence[TensorSpec]) -> list[str]:
        """Return what is empty, and which axes of one name are not equally long; `2*frames` is twice `frames`."""
        found: list[str] = []
        known: dict[str, float] = {}
        for spec in inputs:
            header = self.arrays[spec.name]
            shape = header.shape if fits(header.shape, spec.shape) else (1, *header.shape)
            if not header.size:
                found.append(f"{self.path}: '{spec.name}' is empty: its shape is {header.shape}")
            for axis, dimension in spec.dynamic_axes.items():
                times, _, name = dimension.rpartition("*")
                length = shape[axis] / int(times) if times.strip().isdigit() else shape[axis]
                if known.setdefault(name.strip(), length) != length:
                    found.append(
                        f"{self.path}: '{spec.name}' has {shape[axis]} on axis {axis}, where the other inputs' "
                        f"'{name.strip()}' is {known[name.strip()]:g}: they belong to the same stretch of time"
                    )
        return found

    def bytes(self, inputs: Sequence[TensorSpec], reference: str | None) -> int:
        """Return the memory of the file as a sample."""
        own = sum(self.arrays[spec.name].size * np.dtype(spec.dtype).itemsize for spec in inputs)
        return own + (self.arrays[reference].size * 4 if reference is not None else 0)

    def _holds(self) -> str:
        return f"it has {', '.join(repr(name) for name in self.arrays) or 'none'}"

    def sample(self, name: str, inputs: Sequence[TensorSpec], reference: str | None) -> Sample:
        """Return the arrays in the model's types and shapes.

        Raises:
            DataError: the file is damaged, or holds values that are not finite.
        """
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                found = {spec.name: _fitted(stored[spec.name], spec) for spec in inputs}
                perfect = None if reference is None else stored[reference].astype(np.float32).reshape(-1)
        except (*UNREADABLE, KeyError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from error
        for key, array in [*found.items(), *([(str(reference), perfect)] if perfect is not None else [])]:
            if not np.isfinite(array).all():
                raise DataError(f"{self.path}: '{key}' has values that are not finite (NaN or infinite)")
        return Sample(name, found, perfect)


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    with archive.open(info) as member:
        shape, dtype = _array_header(member)
    return Header(shape, dtype, info.CRC)


def _array_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = npy_format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the .npy format")
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, _, dtype = read(member)
    return tuple(shape), dtype


def _becomes(found: np.dtype[Any], wanted: str) -> bool:
    """Say whether values keep their kind: whole numbers become floats, floats do not become whole numbers."""
    return np.can_cast(found, np.dtype(wanted), casting="same_kind")


def fits(shape: tuple[int, ...], wanted: tuple[Dimension, ...]) -> bool:
    """Say whether an array of this shape is one example: fixed sizes as they are, a varying batch of one."""
    if len(shape) != len(wanted):
        return False
    sizes = (1, *wanted[1:]) if wanted and isinstance(wanted[0], str) else wanted
    return all(not isinstance(size, int) or size == own for size, own in zip(sizes, shape, strict=True))


def in_words(wanted: tuple[Dimension, ...]) -> str:
    """Return what shape one example has."""
    sizes = (1, *wanted[1:]) if wanted and isinstance(wanted[0], str) else wanted
    return f"({', '.join(map(str, sizes))}), one example, with or without the batch axis"


def _fitted(array: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    whole = array if fits(array.shape, spec.shape) else array[None]
    return np.ascontiguousarray(whole.astype(spec.dtype))
