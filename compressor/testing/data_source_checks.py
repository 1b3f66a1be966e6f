"""`check_data_source`: what the core relies on in every data source."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compressor.data_source import DataContext, DataSource
from compressor.dataset import Dataset, Sample
from compressor.progress import SilentReporter
from compressor.teacher_loading import Teacher
from compressor.testing.failures import CheckFailedError, check, check_options
from compressor.testing.tiny_runs import tiny_teacher

LOOKED_AT = 8
"""Samples of each part that are looked at."""


def check_data_source(source: DataSource, teacher: Teacher | None = None) -> Dataset:
    """Load the samples twice, with the same seed, and hold them against the teacher's inputs; returns them.

    Every sample must have an array for each input, of its type, with a batch of one and its fixed sizes; training and
    validation must share none (the first eight of each are looked at). Both loads must come to the same, `identity`
    included, and what was loaded must survive pickling, for several processes may train on it.

    Args:
        source: with the options to try.
        teacher: whose inputs the samples are for; a tiny HiFi-GAN if left out.

    Raises:
        CheckFailedError: says what does not hold, and what to do.
    """
    name = check_options(source, DataSource)
    teacher = teacher or tiny_teacher()
    with tempfile.TemporaryDirectory() as folder:
        first, again = (
            source.load(DataContext(teacher.inputs, teacher.outputs, 0, Path(folder), SilentReporter(), teacher.source))
            for _ in range(2)
        )
        _check_part(name, "training", first.train, again.train, teacher)
        _check_part(name, "validation", first.validation, again.validation, teacher)
        check(bool(first.identity), f"{name}: `identity` is empty; it tells by content which data a training saw")
        check(first.identity == again.identity, f"{name}: loaded again, `identity` is another one")
        held_out = list(first.validation)
        shared = [sample.name for sample in _some(first) if any(_same(sample, other) for other in held_out)]
        check(not shared, f"{name}: training has samples of validation: {', '.join(shared)}")
        check(
            source.output_rate in (None, first.sample_rate),
            f"{name}: output_rate is {source.output_rate}, the samples' {first.sample_rate}",
        )
        _check_travels(name, first)
    return first


def _check_part(name: str, part: str, samples: Sequence[Sample], again: Sequence[Sample], teacher: Teacher) -> None:
    """Check training's samples or validation's, and that they were the same when loaded again."""
    check(len(samples) > 0, f"{name}: there is no {part} sample; raise DataError where there are none to use")
    check(
        len(samples) == len(again),
        f"{name}: loaded again, there are {len(again)} {part} samples, before {len(samples)}; hold nothing that a "
        "first load uses up, and draw random numbers from context.seed alone",
    )
    for at in range(min(len(samples), LOOKED_AT)):
        _check_sample(name, samples[at], teacher)
        check(_same(samples[at], again[at]), f"{name}: loaded again, {part} sample {at} is another; use context.seed")


def _check_travels(name: str, data: Dataset) -> None:
    """Check that what was loaded reaches another process whole."""
    try:
        travelled = pickle.loads(pickle.dumps(data))  # noqa: S301 - made here
    # Pickling raises what the objects' own methods raise.
    except Exception as error:
        raise CheckFailedError(
            f"{name}: what was loaded cannot be pickled, as processes that train together do: {error}. Hold paths "
            "rather than open files, and functions of a module rather than lambdas"
        ) from error
    check(_same(travelled.train[0], data.train[0]), f"{name}: samples do not survive pickling")


def _some(data: Dataset) -> list[Sample]:
    return [data.train[at] for at in range(min(len(data.train), LOOKED_AT))]


def _check_sample(name: str, sample: Sample, teacher: Teacher) -> None:
    what = f"{name}: sample '{sample.name}'"
    wanted = {spec.name: spec for spec in teacher.inputs}
    check(sample.inputs.keys() == wanted.keys(), f"{what} has {sorted(sample.inputs)}, the inputs are {sorted(wanted)}")
    for key, spec in wanted.items():
        array = sample.inputs[key]
        check(str(array.dtype) == spec.dtype, f"{what}: '{key}' is {array.dtype}, expected {spec.dtype}")
        fits = array.ndim == len(spec.shape) and all(
            not isinstance(size, int) or size == found for size, found in zip(spec.shape, array.shape, strict=True)
        )
        check(fits, f"{what}: '{key}' has the shape {array.shape}, expected {spec.shape}")
        check(bool(np.isfinite(array).all()), f"{what}: '{key}' has values that are not finite")
    if sample.reference is not None:
        check(
            sample.reference.ndim == 1,
            f"{what}: its reference has the shape {sample.reference.shape}, expected it flat",
        )


def _same(a: Sample, b: Sample) -> bool:
    return a.inputs.keys() == b.inputs.keys() and all(np.array_equal(a.inputs[key], b.inputs[key]) for key in a.inputs)
