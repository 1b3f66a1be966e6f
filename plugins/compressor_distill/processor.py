"""What the processor at hand computes fast."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp16"]
NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def chosen_precision(asked: Literal["auto", "fp32", "bf16", "fp16"], device: torch.device) -> Precision:
    """Return the precision that is asked for; 'auto' is bf16 on a CPU that computes it, else fp32.

    On a GPU bf16 gains a tenth of the steps, and fp32, whose convolutions are computed in TF32, comes nearer to the
    teacher: see docs/explanation/training.md.
    """
    if asked == "auto":
        return "bf16" if computes_bf16(device) else "fp32"
    return asked


def computes_bf16(device: torch.device) -> bool:
    """Say whether a CPU has bf16 arithmetic of its own, rather than an emulation slower than float32."""
    return device.type == "cpu" and any(flag in NATIVE_BF16 for flag in _cpu_flags())


def _cpu_flags() -> list[str]:
    """Return the processor's features as Linux lists them; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
