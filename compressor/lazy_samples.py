"""Training samples that are made when they are asked for: together they do not fit into memory."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import Protocol, overload

import numpy as np
from numpy.typing import NDArray

from compressor.dataset import FloatArray, Sample
from compressor.errors import DataError
from compressor.progress import Reporter
from compressor.working_ahead import WorkingAhead

MOST_UNUSABLE = 100
"""Samples one after the other that cannot be made, before the data are given up."""

REASONS_SHOWN = 5


class SampleStore(Protocol):
    """Where lazy samples come from."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of every sample's slowest input, known without making the sample; those made may be off by a few."""

    def maker(self, index: int) -> Callable[[], Sample]:
        """Return what makes a sample: small and picklable, for it may run in another process.

        It raises `DataError` for a sample that turns out to be of no use.
        """

    def key(self, index: int) -> str:
        """Return what names a sample's content and all that decides whether it is of use, known without making it."""


class LazySamples(Sequence[Sample]):
    """Samples that are made anew at every access; a slice of them is made at once.

    In the place of one that cannot be used stands the next longer one, or failing that the next shorter. That is told
    once, and depends on the store and on what is done to its samples alone: whatever is asked for, in whatever order, a
    position holds the same sample.
    """

    def __init__(self, store: SampleStore, reporter: Reporter, workers: int = 0) -> None:
        self._store = store
        self._reporter = reporter
        self._ahead = WorkingAhead[Sample](workers, reporter)
        self._unusable: dict[int, str] = {}
        self._told: set[str] = set()
        self._changes: tuple[Callable[[Sample], Sample], ...] = ()
        self._named: tuple[str, ...] = ()
        self.lengths = store.lengths

    def changed(self, change: Callable[[Sample], Sample], lengths: NDArray[np.int64], named: str) -> LazySamples:
        """Return these samples as `change` makes them, in this process, with their new lengths.

        Args:
            change: raises `DataError` for a sample that it makes nothing of; then another takes its place.
            lengths: by position, those made may be off.
            named: tells all that the change depends on, and becomes a part of every key.
        """
        samples = self._with(change)
        samples._named = (*self._named, named)
        samples.lengths = lengths
        return samples

    def refusing(self, check: Callable[[Sample], None]) -> LazySamples:
        """Return these samples without those for which `check` raises `DataError`: others take their places."""
        return self._with(_Checked(check))

    def _with(self, change: Callable[[Sample], Sample]) -> LazySamples:
        samples = copy.copy(self)
        samples._changes = (*self._changes, change)
        # What is of no use here may be of use there.
        samples._unusable = dict(self._unusable)
        return samples

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Sample, ...]: ...

    def __getitem__(self, index: int | slice) -> Sample | tuple[Sample, ...]:
        if isinstance(index, slice):
            return tuple(self[at] for at in range(*index.indices(len(self))))
        return self._usable(range(len(self))[index], lambda at: self._store.maker(at)())

    def inputs(self, index: int) -> Mapping[str, FloatArray]:
        """Return the inputs alone of one sample, at once if it was expected."""
        return self._usable(index, lambda at: self._ahead.take(at) or self._store.maker(at)()).inputs

    def expect(self, indices: Iterable[int]) -> None:
        """Let workers make the inputs of samples that are asked for next; a wrong guess only costs time.

        What was expected before and is not named again is forgotten, so that memory is bounded.
        """
        if self._ahead.workers:
            self._ahead.expect({at: _WithoutReference(self._store.maker(at)) for at in map(self.standing, indices)})

    @property
    def workers(self) -> int:
        """Processes that make samples ahead."""
        return self._ahead.workers

    def key(self, index: int) -> str:
        """Return what names the content of the sample that stands at a position, as far as is known without making it.

        Once it was made that is certain: a sample that proves to be of no use gives its place to another.
        """
        key = self._store.key(self.standing(index))
        return hashlib.sha256(repr((key, *self._named)).encode()).hexdigest() if self._named else key

    def standing(self, index: int) -> int:
        """Return the position whose sample stands at a position: its own, as far as is known."""
        if index not in self._unusable:
            return index
        ordered, ranks = self._by_length
        rank = int(ranks[index])
        for other in chain(ordered[rank + 1 :], ordered[:rank][::-1]):
            if other not in self._unusable:
                return int(other)
        raise DataError(f"none of the {len(self)} samples can be used; the last: {self._unusable[index]}")

    def _usable(self, index: int, make: Callable[[int], Sample]) -> Sample:
        reasons: list[str] = []
        while len(reasons) < MOST_UNUSABLE:
            at = self.standing(index)
            try:
                sample = make(at)
                for change in self._changes:
                    sample = change(sample)
            except DataError as error:
                reasons.append(str(error))
                self._leave_out(at, str(error))
            else:
                return sample
        shown = "".join(f"\n  {reason}" for reason in reasons[:REASONS_SHOWN])
        raise DataError(f"{len(reasons)} samples one after the other cannot be used, such as{shown}")

    def _leave_out(self, index: int, reason: str) -> None:
        self._unusable[index] = reason
        if reason not in self._told:
            self._told.add(reason)
            self._reporter.say(f"not trained on, another takes its place: {reason}")

    @cached_property
    def _by_length(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions from the shortest sample to the longest, and the rank of each position among them."""
        ordered = np.argsort(self._store.lengths, kind="stable")
        ranks = np.empty_like(ordered)
        ranks[ordered] = np.arange(len(ordered))
        return ordered, ranks


class _Checked:
    """Returns the samples that a check lets pass."""

    def __init__(self, check: Callable[[Sample], None]) -> None:
        self.check = check

    def __call__(self, sample: Sample) -> Sample:
        self.check(sample)
        return sample


class _WithoutReference:
    """Makes a sample and leaves its reference out: the larger part of what a worker would send."""

    def __init__(self, make: Callable[[], Sample]) -> None:
        self.make = make

    def __call__(self) -> Sample:
        return replace(self.make(), reference=None)
