"""Several processes on one run, started by `torchrun` or `accelerate launch`, on one machine or many.

The first process does the whole run. The others wait, and come in where it asks for company: `together` runs one
function in all of them at the same time, with the first one's arguments. So only what gains by many processes, which
is training, has to know of them; what the structural stages chose by the clock is chosen once.

Accelerate's `PartialState` sets the processes up: it knows the launchers, the backends and which device is whose, has
few dependencies of its own, and leaves the training loop to us.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from torch import Tensor, device

P = ParamSpec("P")
R = TypeVar("R")

PATIENCE = timedelta(days=7)
"""How long helpers wait for the first process, which may train alone or measure for hours."""


def count() -> int:
    """Return how many processes a launcher started for this run; one without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def index() -> int:
    """Return which of them this is; the first is 0."""
    return int(os.environ.get("RANK", "0"))


@dataclass(frozen=True)
class Company:
    """The processes that work together on something, as one of them sees it; alone it does nothing."""

    device: device
    index: int = 0
    of: int = 1

    @property
    def leads(self) -> bool:
        """Say whether this is the process that writes and speaks."""
        return self.index == 0

    def average(self, tensors: list[Tensor]) -> None:
        """Replace float32 tensors by their means over the processes, in one message."""
        if self.of == 1 or not tensors:
            return
        import torch
        from torch import distributed

        with torch.no_grad():
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            distributed.all_reduce(flat)
            flat /= self.of
            for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.reshape(tensor.shape))

    def agreed(self, value: R) -> R:
        """Return the first process's value."""
        return value if self.of == 1 else _told(value)


def company(device_name: str) -> Company:
    """Return all processes of the run; each on its own device of the kind that is asked for."""
    import torch

    if count() == 1:
        return Company(torch.device(device_name))
    state = _state(device_name)
    return Company(state.device, state.process_index, state.num_processes)


def together(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function in all processes with the first one's arguments; returns what it returned here.

    Called by the first process only; arguments must survive pickling.
    """
    if count() > 1:
        _told((function, args, kwargs))
    return function(*args, **kwargs)


def led_by_the_first(device_name: str, function: Callable[P, int], *args: P.args, **kwargs: P.kwargs) -> int:
    """Run a function in the first process and return its exit code; the others do what it asks for, and return 0.

    Where it fails they are left to the launcher, which ends them as soon as one process ends with an error.
    """
    if count() == 1:
        return function(*args, **kwargs)
    _state(device_name)
    if index() > 0:
        while (call := _told(None)) is not None:
            asked, its_args, its_kwargs = call
            asked(*its_args, **its_kwargs)
        _part()
        return 0
    code = function(*args, **kwargs)
    _told(None)
    _part()
    return code


@cache
def _state(device_name: str) -> Any:
    from accelerate import PartialState

    return PartialState(cpu=device_name == "cpu", timeout=PATIENCE)


@cache
def _messages() -> Any:
    """Return a group of all processes for objects: on the CPU, where no watchdog ends long waits."""
    from torch import distributed

    return distributed.new_group(backend="gloo", timeout=PATIENCE)


def _part() -> None:
    """End the threads by which processes speak: some that are left at the end of a process abort it now and then."""
    from torch import distributed

    distributed.destroy_process_group()
    _messages.cache_clear()
    _state.cache_clear()


def _told(value: Any) -> Any:
    """Return the first process's value in all of them. Pickled: it goes between processes of one run only."""
    from torch import distributed

    held = [value]
    distributed.broadcast_object_list(held, src=0, group=_messages())
    return held[0]
