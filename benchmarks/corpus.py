"""Seconds and memory of a corpus of many recordings: its first start, the next, and the first batches.

    python -m benchmarks.corpus
    python -m benchmarks.corpus --files 1000000 --workers 8

The recordings are wav files of about a second of noise, made here in a temporary folder. Each start is in a process of
its own. Batches are mel segments alone, without a teacher: what is timed is the data.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from compressor_audio.speech_folder import SpeechFolder
from compressor_distill.training_inputs import TrainingInputs

from benchmarks.own_process import in_own_process, peak_gigabytes
from compressor.console import print_table
from compressor.data_source import DataContext
from compressor.lazy_samples import LazySamples
from compressor.progress import SilentReporter
from compressor.segments import cut
from compressor.tensor_spec import TensorSpec

RATE = 22050
BATCH, SEGMENT = 16, 30
MEL = TensorSpec("mel", (1, 80, "frames"))
A_FOLDER = 1000


def make_corpus(folder: Path, files: int) -> None:
    """Write recordings of 0.6 to 1.4 seconds, a thousand to a folder."""
    generator = np.random.default_rng(0)
    noise = (0.1 * generator.standard_normal(4 * RATE)).astype(np.float32)
    for number in range(files):
        if number % A_FOLDER == 0:
            (folder / f"{number // A_FOLDER:05d}").mkdir()
        start = int(generator.integers(0, 2 * RATE))
        length = int(generator.integers(round(0.6 * RATE), round(1.4 * RATE)))
        path = folder / f"{number // A_FOLDER:05d}" / f"{number:07d}.wav"
        soundfile.write(path, noise[start : start + length], RATE)


def start(folder: Path, cache: Path, workers: int | None, batches: int) -> list[str]:
    """Load the corpus and take batches; returns the line's cells."""
    torch.set_num_threads(1)
    source = SpeechFolder(path=folder, workers=workers, memory_mb=0)
    before, begun = peak_gigabytes(), time.monotonic()
    data = source.load(DataContext((MEL,), (), 0, cache, SilentReporter()))
    loaded, held = time.monotonic() - begun, peak_gigabytes()
    inputs = TrainingInputs(data.train, (MEL,), SEGMENT)
    begun = time.monotonic()
    for step in range(batches):
        for piece in inputs.planned((0, 0, step), BATCH, (0, 1), lambda _: True):
            cut(inputs[piece.sample], (MEL,), piece.start, SEGMENT)
    taken = time.monotonic() - begun
    made_by = str(data.train.workers) if isinstance(data.train, LazySamples) else ""
    return [
        f"{loaded:.1f} s",
        f"{before:.2f} GB",
        f"{held:.2f} GB",
        f"{peak_gigabytes():.2f} GB",
        f"{taken:.1f} s",
        made_by,
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--batches", type=int, default=100, help=f"of {BATCH} segments")
    parser.add_argument("--workers", type=int, help="as speech-folder takes it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        make_corpus(corpus, options.files)
        rows = []
        for name in ("first", "next"):
            cells = in_own_process(start, corpus, Path(folder) / "cache", options.workers, options.batches)
            rows.append([name, *cells])
        batches = f"{options.batches} batches"
        # Before the files are deleted, which takes minutes.
        print_table(
            ["start", "loading", "memory before", "after loading", f"after {batches}", batches, "workers"], rows
        )


if __name__ == "__main__":
    main()
