"""`compress synth`: copy synthesis, to listen."""

from __future__ import annotations

import io
from pathlib import Path

import click
import numpy as np
import soundfile

from compressor.errors import CompressorError, DataError
from compressor.figures import duration_in_words
from compressor.planning import plan
from compressor.plugin_catalog import load_catalog
from compressor.recipe_file import read_recipe
from compressor.run_folder import write_atomically
from compressor.stored_model import onnx_session
from compressor.teacher_loading import read_model
from compressor.tensor_spec import TensorSpec


def synthesise(student: Path, recording: Path, output: Path, recipe: Path | None) -> None:
    """Analyse a recording as the recipe's data source does, run the model on it, and write what it puts out.

    Raises:
        CompressorError: a file is missing or unfit.
    """
    if output.suffix.lower() != ".wav":
        raise CompressorError(f"{output}: expected a name that ends in .wav")
    document = recipe or student.parent / "recipe.yaml"
    source = plan(read_recipe(document), load_catalog()).data
    if source is None or source.output_rate is None:
        raise DataError(f"{document}: its data is no signal to listen to; name another recipe with --recipe")
    stored, inputs = read_model(student)
    sample = source.analyse(recording, tuple(map(without_image_axis, inputs)))
    feeds = {spec.name: sample.inputs[spec.name] for spec in inputs}
    fitted = {spec.name: feeds[spec.name][:, None] if len(spec.shape) == 4 else feeds[spec.name] for spec in inputs}
    audio = np.asarray(onnx_session(stored).run(None, fitted)[0]).reshape(-1)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(audio, -1, 1), source.output_rate, "PCM_16", format="WAV")
    write_atomically(output, buffer.getvalue())
    click.echo(f"{output}: {duration_in_words(audio.size / source.output_rate)}")


def without_image_axis(spec: TensorSpec) -> TensorSpec:
    """Return a two-dimensional student's input (batch, 1, channels, time) as (batch, channels, time)."""
    if len(spec.shape) == 4 and spec.shape[1] == 1:
        return TensorSpec(spec.name, (spec.shape[0], *spec.shape[2:]), spec.dtype)
    return spec
