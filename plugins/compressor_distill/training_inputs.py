"""The teacher's inputs of all training samples, and which segments of them a batch takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from compressor.dataset import FloatArray, Sample
from compressor.errors import DataError
from compressor.lazy_samples import LazySamples
from compressor.segments import can_be_cut, length_of
from compressor.tensor_spec import TensorSpec

AHEAD = 3
"""Batches after the present one whose samples are made beforehand."""

Seed = tuple[int, ...]


class Cut(NamedTuple):
    """Which sample, of those that are used, a segment is cut from, and where it begins."""

    sample: int
    start: int


class TrainingInputs:
    """Inputs by a sample's position among those that are long enough for a segment.

    Where samples are made when they are asked for, one may turn out shorter than was foreseen, as where a model decides
    how long to speak: if it is too short for a segment, another takes its place.

    Raises:
        DataError: none is long enough.
    """

    def __init__(self, samples: Sequence[Sample], specs: tuple[TensorSpec, ...], segment: int | None) -> None:
        """Take samples to cut segments of so many steps from; None: to use as they are."""
        self.specs = specs
        self.segment = segment
        self.lazy = samples.refusing(self._refuse_short) if isinstance(samples, LazySamples) else None
        self._held = [] if self.lazy is not None else [self._tensors(sample.inputs) for sample in samples]
        lengths = np.array([self.length(each) for each in self._held]) if self.lazy is None else self.lazy.lengths
        self._positions = np.flatnonzero(lengths >= (segment or 1))
        if not len(self._positions):
            raise DataError(
                f"all {len(samples)} training samples are shorter than one segment of {segment}; "
                "use longer recordings or a smaller segment"
            )
        self.sizes = lengths[self._positions] if can_be_cut(specs) else np.ones(len(self._positions), np.int64)
        self._chances = self.sizes / float(self.sizes.sum())
        self._keys: dict[int, str] = {}
        self._planned: dict[Seed, list[Cut]] = {}
        self._expected: dict[tuple[int, int], list[int]] = {}

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        at = int(self._positions[index])
        return self._held[at] if self.lazy is None else self._tensors(self.lazy.inputs(at))

    def _tensors(self, inputs: Mapping[str, FloatArray]) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(inputs[spec.name]) for spec in self.specs)

    def _refuse_short(self, sample: Sample) -> None:
        length = self.length(self._tensors(sample.inputs))
        if length < (self.segment or 1):
            raise DataError(f"{sample.name}: its {length} steps are fewer than one segment of {self.segment} has")

    def length(self, inputs: tuple[Tensor, ...]) -> int:
        """Return the length of a sample: that of the input of the lowest rate."""
        return length_of(inputs, self.specs) if can_be_cut(self.specs) else 1

    def key(self, index: int) -> str:
        """Return what names a sample's content; of one that was not made yet, as far as is known."""
        if self.lazy is not None:
            return self.lazy.key(int(self._positions[index]))
        if index not in self._keys:
            digest = hashlib.sha256()
            for value in self[index]:
                digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.contiguous().numpy().tobytes())
            self._keys[index] = digest.hexdigest()
        return self._keys[index]

    def cuts(self, seed: Seed, count: int) -> list[Cut]:
        """Return `count` random segments; long samples are taken more often, so that every moment is as likely."""
        generator = np.random.default_rng(list(seed))
        chosen = generator.choice(len(self), count, p=self._chances)
        return [Cut(int(index), self._start(int(index), generator)) for index in chosen]

    def _start(self, index: int, generator: np.random.Generator) -> int:
        return 0 if self.segment is None else int(generator.integers(0, self.sizes[index] - self.segment + 1))

    def fitting(self, start: int, length: int) -> int:
        """Return where a segment begins in a sample that came out of another length than was foreseen.

        The length is that of a segment at least.
        """
        return start if self.segment is None else min(start, length - self.segment)

    def planned(self, seed: Seed, count: int, part: tuple[int, int], needed: Callable[[Cut], bool]) -> list[Cut]:
        """Return one process' share of a batch, and have the samples that it and the next ones need made ahead.

        The next batches are taken to have the same seed but for its last number, which goes up by one.
        """
        if self.lazy is None:
            return self.cuts(seed, count)[part[0] :: part[1]]
        seeds = [(*seed[:-1], seed[-1] + ahead) for ahead in range(AHEAD + 1)]
        known = {each: self._planned.get(each) for each in seeds}
        self._planned = {
            each: self.cuts(each, count) if cuts is None or len(cuts) != count else cuts for each, cuts in known.items()
        }
        shares = [cuts[part[0] :: part[1]] for cuts in self._planned.values()]
        # One process may take several parts in turn.
        self._expected = {each: known for each, known in self._expected.items() if each[1] == part[1]}
        self._expected[part] = [int(self._positions[cut.sample]) for share in shares for cut in share if needed(cut)]
        self.lazy.expect(position for positions in self._expected.values() for position in positions)
        return shares[0]
