"""HiFi-GAN: simpler multi-receptive-field fusion, and the student as a plain readable module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor_hifigan.student import HiFiGANStudent2D, ResBlockConfig, StageConfig, StudentConfig

__all__ = ["HiFiGANStudent2D", "ResBlockConfig", "StageConfig", "StudentConfig"]


def __getattr__(name: str) -> Any:
    """Import the module classes, and torch with them, when they are first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from compressor_hifigan import student

    return getattr(student, name)
