"""What the processor at hand computes fast."""

from __future__ import annotations

from pathlib import Path

import torch

NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


def computes_bf16(device: torch.device) -> bool:
    """Say whether a device has bf16 arithmetic of its own, rather than an emulation slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and any(flag in NATIVE_BF16 for flag in _cpu_flags())


def _cpu_flags() -> list[str]:
    """Return the processor's features as Linux lists them; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return next((line.split() for line in lines if line.startswith(("flags", "Features"))), [])
