"""One-dimensional convolutions with fewer multiplications (Winograd, "Arithmetic Complexity of Computations", 1980).

`F(m, r)` computes m outputs of a filter of r taps with m + r - 1 multiplications in place of m r: inputs and taps are
evaluated at m + r - 1 points, multiplied, and interpolated. Longer filters are split into m phases, each a filter of
r = m taps over samples m apart, whose evaluated inputs are those of the neighbouring tile: seven short convolutions at
a quarter of the rate for four phases, whatever the length (Mou and Duhamel, "Short-length FIR filters and their use in
fast nonrecursive filtering", IEEE Trans. Signal Processing 39(6), 1991). What is seldom said: where the dilation has no
divisor in common with m, the outputs n, n + d, … n + (m - 1) d lie in different phases, so that a dilated convolution
takes its tiles straight from the signal as a strided, dilated depthwise convolution does, and nothing is rearranged
before it. Exact but for rounding.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 4
"""Outputs of a tile: with more, the points grow so far apart that float32 loses digits."""

POINTS = (0.0, 1.0, -1.0, 0.5, -2.0, 2.0)
"""Where polynomials are evaluated, infinity apart; the bias goes in at 1, which every output contains once.

In the order that keeps rounding smallest (Barabasz et al., arXiv 1803.10986): 2 to 6 times that of a plain convolution.
"""

BIAS_AT = POINTS.index(1.0)


def multiplications(taps: int) -> float:
    """Return the multiplications for each output of a filter, per channel pair; a plain convolution takes `taps`."""
    per_tile, blocks = _split(taps)
    return (TILE + per_tile - 1) * blocks / TILE


def why_not(conv: nn.Module) -> str:
    """Return why a layer cannot be computed like that, or nothing."""
    if not isinstance(conv, nn.Conv2d) or conv.kernel_size[0] != 1 or conv.kernel_size[1] < 2:
        return "no convolution of height one over two or more taps"
    if any(step != 1 for step in conv.stride) or conv.groups != 1:
        return "it has a stride or groups"
    if isinstance(conv.padding, str) or conv.padding[0] or conv.padding_mode != "zeros":
        return "its padding is not one of zeros in time, in numbers"
    if math.gcd(conv.dilation[1], TILE) > 1:
        return f"its dilation, {conv.dilation[1]}, is even"
    return ""


class WinogradConv(nn.Module):
    """A convolution of height one, (batch, in, 1, time) -> (batch, out, 1, time), by F(4, r).

    Its weights are those of the plain convolution, (out, in, 1, taps); what the points make of them is computed from
    constants, which engines do once, when they load the file.
    """

    def __init__(self, conv: nn.Conv2d, *, whole_tiles: bool = False) -> None:
        """Take over a convolution's weights.

        Args:
            conv: a layer for which `why_not` gives no reason.
            whole_tiles: the output's length is known to be a multiple of the tile, so that nothing need be cropped.

        Raises:
            ValueError: the layer cannot be computed like that.
        """
        super().__init__()
        reason = why_not(conv)
        if reason:
            raise ValueError(reason)
        self.weight, self.bias = conv.weight, conv.bias
        self.whole_tiles = whole_tiles
        self.taps, self.dilation, self.padding = conv.kernel_size[1], conv.dilation[1], int(conv.padding[1])
        self.per_tile, self.blocks = _split(self.taps)
        # Neither parameters nor buffers: they are part of the operation, as the points of a Fourier transform are.
        self.matrices = matrices(self.per_tile)

    def forward(self, x: Tensor) -> Tensor:
        products = torch.cat(self._products(x), 1)
        points = len(self.matrices[2])
        outputs = torch.matmul(self.matrices[0].to(products), products.reshape(x.shape[0], points, -1))
        outputs = self._in_order(outputs.reshape(x.shape[0], TILE, self.weight.shape[0], -1))
        signal = outputs.permute(0, 2, 3, 1).flatten(2).unsqueeze(2)
        return signal if self.whole_tiles else signal[..., : self._length(x)]

    def _products(self, x: Tensor) -> list[Tensor]:
        """Return for each point what its filter makes of the evaluated tiles: (batch, out, 1, tiles)."""
        _, of_taps, of_inputs = self.matrices
        channels, dilation = self.weight.shape[1], (1, self.dilation)
        padded = functional.pad(x, self._margins())
        filters = self._evaluated(of_taps.to(x))
        products = []
        for point, row in enumerate(of_inputs.to(x)):
            sampling = row.reshape(1, 1, 1, -1).expand(channels, -1, -1, -1)
            tiles = functional.conv2d(padded, sampling, None, (1, TILE), 0, dilation, channels)
            bias = self.bias if point == BIAS_AT else None
            products.append(functional.conv2d(tiles, filters[point], bias, 1, 0, dilation))
        return products

    def _evaluated(self, of_taps: Tensor) -> Tensor:
        """Return the filters at the points: (points, out, in, 1, blocks)."""
        outputs, inputs = self.weight.shape[:2]
        missing = self.blocks * self.per_tile - self.taps
        blocks = functional.pad(self.weight, (0, missing)).reshape(outputs * inputs * self.blocks, self.per_tile)
        return torch.matmul(of_taps, blocks.t()).reshape(len(of_taps), outputs, inputs, 1, self.blocks)

    @property
    def _early(self) -> int:
        """Tiles before the first: output a of tile t is at 4 t + d a, so late outputs belong to earlier tiles."""
        return self.dilation * (TILE - 1) // TILE

    def _margins(self) -> tuple[int, int]:
        """Return the zeros before and after, for tiles of all outputs whatever the length is modulo the tile."""
        points = TILE + self.per_tile - 1
        reach = TILE * (self.blocks - 1) - (self.taps - 1) + (points - 1)
        return self.padding + TILE * self._early, self.padding + self.dilation * reach

    def _in_order(self, outputs: Tensor) -> Tensor:
        """Turn outputs n, n + d, … of each tile into outputs n, n + 1, …: (batch, 4, out, tiles)."""
        early = self._early
        if not early:
            return outputs
        tiles = outputs.shape[-1] - early
        rows: dict[int, Tensor] = {}
        for position in range(TILE):
            later, phase = divmod(self.dilation * position, TILE)
            rows[phase] = outputs[:, position, :, early - later : early - later + tiles]
        return torch.stack([rows[phase] for phase in range(TILE)], 1)

    def _length(self, x: Tensor) -> int:
        return x.shape[-1] + 2 * self.padding - self.dilation * (self.taps - 1)


def _split(taps: int) -> tuple[int, int]:
    """Return the taps of a tile's filter, and how many such filters one after the other make the whole."""
    return (taps, 1) if taps < TILE else (TILE, math.ceil(taps / TILE))


@cache
def matrices(per_tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the matrices of F(4, r): y = output [(taps g) * (inputs x)].

    Those of the product of two polynomials, evaluated at the points, transposed (Winograd, 1980, chapter V).

    Returns:
        (4, points) to outputs, (points, r) of taps, (points, points) of inputs; float64.
    """
    points = TILE + per_tile - 1
    inverse = torch.linalg.inv(_powers(points, points)).t()
    # The largest weight of an input is 1: what a filter reads has about the size of the signal.
    scale = inverse.abs().amax(1, keepdim=True)
    return _powers(points, TILE).t().contiguous(), _powers(points, per_tile) * scale, inverse / scale


def _powers(points: int, degree: int) -> Tensor:
    """Return the powers 0 to `degree` - 1 of the points; at infinity the last alone counts."""
    finite = torch.tensor(POINTS[: points - 1], dtype=torch.float64)
    at_infinity = torch.zeros(1, degree, dtype=torch.float64)
    at_infinity[0, -1] = 1.0
    return torch.cat([finite.unsqueeze(1) ** torch.arange(degree), at_infinity])
