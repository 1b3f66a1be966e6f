"""Shapes of a model's inputs and outputs, with names for the axes that vary."""

from __future__ import annotations

from dataclasses import dataclass

Dimension = int | str


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of one input or output; a string in `shape` names a dynamic axis."""

    name: str
    shape: tuple[Dimension, ...]
    dtype: str = "float32"

    @property
    def dynamic_axes(self) -> dict[int, str]:
        """Positions and names of the axes whose size varies."""
        return {axis: size for axis, size in enumerate(self.shape) if isinstance(size, str)}

    def sized(self, size: int) -> tuple[int, ...]:
        """Return the shape with `size` in place of every dynamic axis but a leading batch axis, which is one."""
        return tuple(
            dimension if isinstance(dimension, int) else (1 if axis == 0 else size)
            for axis, dimension in enumerate(self.shape)
        )
