"""Seconds and memory of the structural part: of a large vocoder, of a classifier, and against the number of layers.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --only resnet-50

Teachers are built here with random weights: a vocoder of 14 M parameters (NSF-HiFiGAN's widths, kernels and rates,
without its source), the ResNet-50 of the onnx package, and vocoders of growing depth. One budget of 30 % of the
parameters and of the MACs is spent by all strategies that can. What is worth reading is time, memory, and that it
works; random weights are the hardest there are to factorise, so their drift is a worst case.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.nn import functional

import compressor
from benchmarks.own_process import ProcessDiedError, in_own_process, peak_gigabytes
from compressor.console import print_table
from compressor.data_source import DataContext, DataSource
from compressor.dataset import Dataset, Sample
from compressor.errors import CompressorError
from compressor.figures import in_words
from compressor.hookspecs import hookimpl
from compressor.measuring import measure
from compressor.plugin_catalog import load_catalog
from compressor.preparing import RunSettings, prepare
from compressor.progress import SilentReporter
from compressor.recipe import Recipe
from compressor.stage_line import StageLine
from compressor.teacher_loading import load_teacher

BUDGET = {"parameters": "30%", "macs": "30%"}
METRICS = ["parameters", "macs", "speedup", "output-drift"]
VOCODER_STAGES = [
    "mrf-simplification",
    {"channel-importance-pruning": {"round_to": 8}},
    "depthwise-separable-conv",
    "least-squares-reconstruction",
    "transposed-to-standard-conv",
    "conv1d-to-conv2d",
]
CLASSIFIER_STAGES = [
    "fold",
    {"channel-importance-pruning": {"round_to": 8}},
    "depthwise-separable-conv",
    "low-rank-conv",
    "least-squares-reconstruction",
]


class SmoothNoise(DataSource):
    """Noise that is smooth along its last axes, for any model's inputs."""

    name: ClassVar[str] = "smooth-noise"
    size: int = 64
    """Of dynamic axes."""
    samples: int = 12

    def load(self, context: DataContext) -> Dataset:
        """Return the samples, two of them for validation."""
        generator = np.random.default_rng(context.seed)

        def sample(number: int) -> Sample:
            inputs = {}
            for spec in context.inputs:
                shape = spec.sized(self.size)
                smooth = gaussian_filter(generator.standard_normal(shape), [0, 0, *[2.0] * (len(shape) - 2)])
                inputs[spec.name] = (smooth / smooth.std()).astype(np.float32)
            return Sample(f"noise {number}", inputs)

        samples = tuple(sample(number) for number in range(self.samples))
        return Dataset(samples[:-2], samples[-2:], f"noise {context.seed} {self.size}", "smooth noise")


class NoisePlugin:
    """Offers the data."""

    @hookimpl
    def compressor_data_sources(self) -> Sequence[type[DataSource]]:
        """Offer noise."""
        return [SmoothNoise]


class Vocoder(nn.Module):
    """HiFi-GAN (arXiv 2010.05646): mel (1, n_mels, frames) -> audio (1, 1, samples)."""

    def __init__(
        self,
        n_mels: int,
        width: int,
        rates: Sequence[tuple[int, int]],
        dilations: Sequence[int] = (1, 3, 5),
    ) -> None:
        super().__init__()
        widths = [width >> stage for stage in range(len(rates) + 1)]
        self.conv_pre = nn.Conv1d(n_mels, width, 7, padding=3)
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(before, after, kernel, rate, (kernel - rate) // 2)
            for before, after, (rate, kernel) in zip(widths[:-1], widths[1:], rates, strict=True)
        )
        self.branches = nn.ModuleList(
            nn.ModuleList(nn.ModuleList(_unit(channels, kernel, step) for step in dilations) for kernel in (3, 7, 11))
            for channels in widths[1:]
        )
        self.conv_post = nn.Conv1d(widths[-1], 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        """Return audio."""
        x = self.conv_pre(mel)
        for stage, up in enumerate(self.ups):
            x = self._fused(up(functional.leaky_relu(x, 0.1)), stage)
        return torch.tanh(self.conv_post(functional.leaky_relu(x)))

    def _fused(self, x: Tensor, stage: int) -> Tensor:
        summed: list[Tensor] = []
        for branch in self.branches[stage]:  # type: ignore[attr-defined]
            y = x
            for first, second in branch:
                y = second(functional.leaky_relu(first(functional.leaky_relu(y, 0.1)), 0.1)) + y
            summed.append(y if not summed else summed[-1] + y)
        return summed[-1] / len(summed)


def _unit(channels: int, kernel: int, step: int) -> nn.ModuleList:
    return nn.ModuleList(
        nn.Conv1d(channels, channels, kernel, padding=each * (kernel // 2), dilation=each) for each in (step, 1)
    )


def vocoder(path: Path, model: Vocoder) -> str:
    """Write a vocoder with weights of even loudness and return its path."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.6 / float(parameter[0].numel()) ** 0.5)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.zeros(1, model.conv_pre.in_channels, 24),),
            buffer,  # type: ignore[arg-type]  # the tracing exporter takes files too
            dynamo=False,
            opset_version=17,
            input_names=["mel"],
            output_names=["audio"],
            dynamic_axes={"mel": {2: "frames"}, "audio": {2: "samples"}},
        )
    path.write_bytes(buffer.getvalue())
    return str(path)


def resnet50(path: Path) -> str:
    """Write the onnx package's ResNet-50 with He-normal weights in place of its constant ones, and return its path."""
    import onnx
    from onnx.backend import test

    model = onnx.load(Path(test.__file__).parent / "data" / "light" / "light_resnet50.onnx")
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    generator = np.random.default_rng(0)
    kept = []
    for node in model.graph.node:
        shape = known[node.input[0]] if node.op_type == "ConstantOfShape" else ()
        if len(shape) > 1:
            values: NDArray[Any] = generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
            model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    # Older ones want every initializer among the inputs too.
    model.ir_version = 8
    onnx.save(model, path)
    return str(path)


def teacher(name: str, folder: Path) -> tuple[str, list[Any], int]:
    """Build a teacher; returns its path, the stages for it, and the size of its data's dynamic axis."""
    path = folder / f"{name}.onnx"
    if name == "resnet-50":
        return resnet50(path), CLASSIFIER_STAGES, 1
    if name == "hifigan-14m":
        rates = ((8, 16), (8, 16), (2, 4), (2, 4), (2, 4))
        return vocoder(path, Vocoder(128, 512, rates)), VOCODER_STAGES, 48
    units = int(name.removeprefix("depth-"))
    dilations = [(1, 3, 5)[unit % 3] for unit in range(units)]
    return vocoder(path, Vocoder(16, 32, ((4, 8), (4, 8)), dilations)), VOCODER_STAGES, 64


def one_line(name: str) -> list[str]:
    """Spend the budget on one teacher; returns the line's cells."""
    with tempfile.TemporaryDirectory() as folder:
        path, stages, size = teacher(name, Path(folder))
        recipe = {
            "teacher": path,
            "budget": BUDGET,
            "data": {"smooth-noise": {"size": size}},
            "stages": stages,
            "metrics": METRICS,
        }
        plan = compressor.plan(Recipe.model_validate(recipe), load_catalog([NoisePlugin()]))
        try:
            loaded = load_teacher(path)
            bench, _ = prepare(plan, loaded, RunSettings(Path(folder) / "run"), SilentReporter())
            begun = time.monotonic()
            line = StageLine(plan, bench, lambda _: None)
            line.run_to(len(plan.stages), None)
        except CompressorError as error:
            return [name, str(error).splitlines()[0]]
        seconds = time.monotonic() - begun
        measured = measure(bench.measured(line.student), bench.metrics)
        figures = ["" if entry.value is None else in_words(entry.value, entry.unit) for entry in measured]
        nodes, size_in_words = str(len(loaded.graph.graph.nodes)), in_words(bench.baseline.parameters)
        return [name, nodes, size_in_words, f"{seconds:.0f} s", f"{peak_gigabytes():.1f} GB", *figures]


def main() -> None:
    """Print a line as soon as it is known, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["depth-2", "depth-8", "depth-32", "depth-64", "resnet-50", "hifigan-14m"]
    parser.add_argument("--only", nargs="*", help=f"of {', '.join(names)}, or depth-N")
    rows: list[list[str]] = []
    for name in parser.parse_args().only or names:
        try:
            rows.append(in_own_process(one_line, name))
        except ProcessDiedError as reason:
            rows.append([name, f"the process died: {reason}"])
        print(" | ".join(rows[-1]), flush=True)
    header = ["teacher", "nodes", "its parameters", "structure", "peak memory", *METRICS]
    print_table(header, [[*row, *[""] * (len(header) - len(row))] for row in rows])


if __name__ == "__main__":
    main()
