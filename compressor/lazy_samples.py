"""Training samples that are made when they are asked for: together they do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
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
        """Return what names a sample's content, known without making it."""


class LazySamples(Sequence[Sample]):
    """Samples that are made anew at every access; a slice of them is made at once.

    In the place of one that cannot be made stands the next longer one, or failing that the next shorter. That is told
    once, and depends on the store alone: whatever is asked for, in whatever order, a position holds the same sample.
    """

    def __init__(self, store: SampleStore, reporter: Reporter, workers: int = 0) -> None:
        self._store = store
        self._reporter = reporter
        self._ahead = WorkingAhead[Sample](workers, reporter)
        self._unusable: dict[int, str] = {}
        self._change: Callable[[Sample], Sample] | None = None
        self.lengths = store.lengths

    def changed(self, change: Callable[[Sample], Sample], lengths: NDArray[np.int64]) -> LazySamples:
        """Return these samples as `change` makes them, in this process, with their new lengths."""
        samples = LazySamples(self._store, self._reporter)
        samples._ahead, samples._unusable = self._ahead, self._unusable
        samples._change, samples.lengths = change, lengths
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
            self._ahead.expect({at: _WithoutReference(self._store.maker(at)) for at in map(self._standing, indices)})

    @property
    def workers(self) -> int:
        """Processes that make samples ahead."""
        return self._ahead.workers

    def key(self, index: int) -> str:
        """Return what names a sample's content, known without making it."""
        return self._store.key(index)

    def _usable(self, index: int, make: Callable[[int], Sample]) -> Sample:
        reasons: list[str] = []
        while len(reasons) < MOST_UNUSABLE:
            at = self._standing(index)
            try:
                sample = make(at)
            except DataError as error:
                reasons.append(str(error))
                self._unusable[at] = str(error)
                self._reporter.say(f"not trained on, another takes its place: {error}")
            else:
                return sample if self._change is None else self._change(sample)
        shown = "".join(f"\n  {reason}" for reason in reasons[:REASONS_SHOWN])
        raise DataError(f"{len(reasons)} samples one after the other cannot be used, such as{shown}")

    def _standing(self, index: int) -> int:
        """Return the position whose sample stands at a position: its own, as far as is known."""
        if index not in self._unusable:
            return index
        by_length = np.argsort(self._store.lengths, kind="stable")
        rank = int(np.flatnonzero(by_length == index)[0])
        for other in (*by_length[rank + 1 :], *by_length[:rank][::-1]):
            if other not in self._unusable:
                return int(other)
        raise DataError(f"none of the {len(self)} samples can be used; the last: {self._unusable[index]}")


class _WithoutReference:
    """Makes a sample and leaves its reference out: the larger part of what a worker would send."""

    def __init__(self, make: Callable[[], Sample]) -> None:
        self.make = make

    def __call__(self) -> Sample:
        return replace(self.make(), reference=None)
