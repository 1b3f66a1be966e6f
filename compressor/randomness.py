"""Random numbers that a model draws inside: a stream for each operator, the same for teacher and student.

An operator's draws depend on its name and on a seed that callers set, and on nothing that was drawn before: so a
student whose other layers changed draws what its teacher draws, as long as the shapes are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_SEED: ContextVar[int] = ContextVar("seed", default=0)


@contextmanager
def draws(seed: int) -> Iterator[None]:
    """Let all models inside the block draw by a seed; outside it is 0."""
    token = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(token)


def stream(name: str) -> torch.Generator:
    """Return the generator of an operator of a name, at its start."""
    digest = hashlib.sha256(f"{_SEED.get()}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
