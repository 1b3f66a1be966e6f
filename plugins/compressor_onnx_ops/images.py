"""Sampling of images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compressor_onnx_ops.operators import numbers, operator


@operator("GridSample")
def grid_sample(
    x: Tensor, grid: Tensor, /, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Tensor:
    torchs = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    return functional.grid_sample(x, grid, torchs, padding_mode, bool(align_corners))


@operator("AffineGrid")
def affine_grid(theta: Tensor, size: Tensor, /, *, align_corners: int = 0) -> Tensor:
    return functional.affine_grid(theta, numbers(size), bool(align_corners))


@operator("Resize", "Upsample")
def resize(
    x: Tensor,
    second: Tensor | None = None,
    third: Tensor | None = None,
    fourth: Tensor | None = None,
    /,
    *,
    antialias: int = 0,
    axes: list[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
    scales: list[float] | None = None,
) -> Tensor:
    # Upsample has (x, scales), Resize (x, roi, scales, sizes).
    given = second if third is None and fourth is None else third
    along = [axis % x.dim() for axis in (axes or range(x.dim()))]
    factors = scales or (given.flatten().tolist() if given is not None and given.numel() else [])
    wanted = numbers(fourth)
    if wanted:
        factors = [size / x.shape[axis] for size, axis in zip(wanted, along, strict=True)]
        if keep_aspect_ratio_policy != "stretch":
            same = min(factors) if keep_aspect_ratio_policy == "not_larger" else max(factors)
            factors = [same] * len(factors)
            wanted = [int(same * x.shape[axis] + 0.5) for axis in along]
    else:
        wanted = [int(x.shape[axis] * factor) for axis, factor in zip(along, factors, strict=True)]
    roi = (
        second.flatten().tolist()
        if coordinate_transformation_mode == "tf_crop_and_resize" and second is not None
        else []
    )
    sampling = _Sampling(
        mode,
        coordinate_transformation_mode,
        nearest_mode,
        cubic_coeff_a,
        bool(exclude_outside),
        bool(antialias),
        extrapolation_value,
    )
    for at, (axis, size, factor) in enumerate(zip(along, wanted, factors, strict=True)):
        if size != x.shape[axis] or factor != 1 or roi:
            region = (roi[at], roi[at + len(along)]) if roi else (0.0, 1.0)
            x = sampling.along(x, axis, size, factor, region)
    return x


class _Sampling:
    """Resampling of one axis by a matrix of weights, as the standard's reference does."""

    def __init__(
        self, mode: str, places: str, nearest: str, cubic: float, exclude: bool, antialias: bool, beyond: float
    ) -> None:
        self.mode, self.places, self.nearest = mode, places, nearest
        self.cubic, self.exclude, self.antialias, self.beyond = cubic, exclude, antialias, beyond

    def along(self, x: Tensor, axis: int, size: int, factor: float, region: tuple[float, float]) -> Tensor:
        """Return the tensor with `size` samples along an axis."""
        length = x.shape[axis]
        places = self._places(size, length, factor, region)
        weights = self._weights(places, length, min(1.0, factor) if self.antialias else 1.0)
        made: Tensor = torch.tensordot(x.to(torch.float64), weights, dims=([axis], [1])).movedim(-1, axis)
        if self.places == "tf_crop_and_resize":
            shape = [1] * x.dim()
            shape[axis] = size
            outside = ((places < 0) | (places > length - 1)).reshape(shape)
            made = torch.where(outside, torch.full_like(made, self.beyond), made)
        if not x.is_floating_point():
            made = made.round()
        return made.to(x.dtype)

    def _places(self, size: int, length: int, factor: float, region: tuple[float, float]) -> Tensor:
        at = torch.arange(size, dtype=torch.float64)
        if self.places == "align_corners":
            # The standard takes the size before it is rounded to whole samples.
            exact = factor * length
            return at * (length - 1) / (exact - 1) if exact != 1 else torch.zeros(size, dtype=torch.float64)
        if self.places == "asymmetric":
            return at / factor
        if self.places == "tf_crop_and_resize":
            start, end = region
            if size == 1:
                return torch.tensor([(start + end) * (length - 1) / 2], dtype=torch.float64)
            return start * (length - 1) + at * (end - start) * (length - 1) / (size - 1)
        if self.places == "pytorch_half_pixel" and factor * length == 1:
            return torch.full((size,), -0.5, dtype=torch.float64)
        made = (at + 0.5) / factor - 0.5
        if self.places == "half_pixel_symmetric":
            made = made + length / 2 * (1 - size / (factor * length))
        return made

    def _weights(self, places: Tensor, length: int, scale: float) -> Tensor:
        """Return (places, length): how much each sample counts at each place."""
        if self.mode == "nearest":
            return functional.one_hot(self._nearest(places).clamp(0, length - 1).to(torch.int64), length).double()
        reach = int(torch.tensor((1 if self.mode == "linear" else 2) / scale).ceil())
        first = places.floor().to(torch.int64)
        offsets = torch.arange(1 - reach, reach + 1)
        samples = first.unsqueeze(1) + offsets
        kernel = self._kernel((places.unsqueeze(1) - samples).abs() * scale)
        inside = (samples >= 0) & (samples < length)
        if self.exclude:
            kernel = torch.where(inside, kernel, torch.zeros_like(kernel))
        if self.exclude or self.antialias:
            kernel = kernel / kernel.sum(1, keepdim=True)
        made = torch.zeros(len(places), length, dtype=torch.float64)
        return made.scatter_add(1, samples.clamp(0, length - 1), kernel)

    def _nearest(self, places: Tensor) -> Tensor:
        if self.nearest == "round_prefer_floor":
            return (places - 0.5).ceil()
        if self.nearest == "round_prefer_ceil":
            return (places + 0.5).floor()
        return places.floor() if self.nearest == "floor" else places.ceil()

    def _kernel(self, distance: Tensor) -> Tensor:
        if self.mode == "linear":
            return (1 - distance).clamp(min=0)
        a = self.cubic
        near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
