"""What dense layers and their low-rank factors cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.fx import GraphModule

    from compressor.unfolding import LinearLayer


@dataclass(frozen=True)
class Shape:
    """A dense layer's size, and what its factors cost."""

    inputs: int
    outputs: int
    taps: int
    transposed: bool
    strided: bool

    @staticmethod
    def of(layer: LinearLayer) -> Shape:
        """Return the shape of a layer of one group."""
        from torch import nn

        if isinstance(layer, nn.Linear):
            return Shape(layer.in_features, layer.out_features, 1, transposed=False, strided=False)
        strided = any(step > 1 for step in layer.stride)
        return Shape(layer.in_channels, layer.out_channels, layer.weight[0, 0].numel(), layer.transposed, strided)

    @property
    def channels(self) -> tuple[int, int]:
        """Channels read and put out."""
        return self.inputs, self.outputs

    @property
    def mixes_first(self) -> bool:
        """Say whether the 1x1 convolution goes before the kernel.

        It goes to the wider side, where it saves most; if both are alike, to the one at the lower rate. Where that is
        alike too it goes first: that lost less of the output of every trained vocoder layer tried.
        """
        if self.taps > 1 and self.inputs != self.outputs:
            return self.inputs > self.outputs
        return self.transposed or (self.taps > 1 and not self.strided)

    def weights(self, rank: int) -> int:
        """Return the number of weights of both factors."""
        if self.mixes_first:
            return rank * (self.inputs + self.taps * self.outputs)
        return rank * (self.taps * self.inputs + self.outputs)

    def macs(self, rank: int, sizes: Sizes) -> float:
        """Return the multiply-accumulates of both factors."""
        kernel_at = sizes.read if self.transposed else sizes.made
        if self.mixes_first:
            return rank * (self.inputs * sizes.read + self.taps * self.outputs * kernel_at)
        return rank * (self.taps * self.inputs * kernel_at + self.outputs * sizes.made)


@dataclass(frozen=True)
class Sizes:
    """How many positions a layer reads and puts out, per second of output, or for one probe where it has no rate."""

    read: float
    made: float


def layer_sizes(student: GraphModule, layers: dict[str, LinearLayer], sample_rate: int | None) -> dict[str, Sizes]:
    """Return the positions that each layer reads and puts out."""
    import torch

    from compressor.calibration import PROBE_SIZE, Hook, observe
    from compressor.graph_editing import feed, input_specs
    from compressor.tensor_spec import random_inputs
    from compressor.unfolding import channel_axis

    found: dict[str, Sizes] = {}
    probe = tuple(torch.from_numpy(array) for array in random_inputs(input_specs(student), PROBE_SIZE).values())
    rate = 1.0 if sample_rate is None else sample_rate / feed(student, probe)[0].numel()

    def measurer(name: str) -> Hook:
        def measure(module: Any, read: tuple[Tensor, ...], output: Tensor) -> None:
            axis = channel_axis(module)
            found[name] = Sizes(*(rate * value.numel() / value.shape[axis] for value in (read[0], output)))

        return measure

    observe(student, {name: measurer(name) for name in layers}, [probe])
    return found
