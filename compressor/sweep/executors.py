"""Where trials run: in several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

from compressor.errors import CompressorError
from compressor.sweep.definition import Sweep
from compressor.sweep.study import work

LOOK_SECONDS = 5.0
"""How often results are looked at while others work."""


def quotas(trials: int, workers: int) -> Iterator[tuple[int, int]]:
    """Yield each worker with how many of the trials are its own; those without any are left out."""
    for worker in range(workers):
        if own := trials // workers + (worker < trials % workers):
            yield worker, own


def in_processes(sweep: Sweep, trials: int, look: Callable[[], object]) -> None:
    """Run trials in several processes of this machine; `look` is called now and then meanwhile.

    Raises:
        CompressorError: a process died.
    """
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(sweep, quota, worker)) for worker, quota in quotas(trials, sweep.workers)
    ]
    for process in processes:
        process.start()
    try:
        while any(process.is_alive() for process in processes):
            next(process for process in processes if process.is_alive()).join(LOOK_SECONDS)
            look()
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
            process.join()
        raise
    if any(process.exitcode for process in processes):
        raise CompressorError(
            "a process of the sweep died; finished trials are kept, and the same command goes on with the rest"
        )


def on_ray(sweep: Sweep, trials: int, address: str | None, look: Callable[[], object]) -> None:
    """Run trials on a Ray cluster: the one at `address`, else one started here; `look` is called now and then.

    Raises:
        CompressorError: Ray is not installed, or a worker failed.
    """
    ray = _ray()
    cpus = None if address else sweep.workers
    ray.init(address=address, num_cpus=cpus, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    try:
        remote = ray.remote(num_cpus=1, max_retries=0)(work)
        left = [remote.remote(sweep, quota, worker) for worker, quota in quotas(trials, sweep.workers)]
        while left:
            done, left = ray.wait(left, timeout=LOOK_SECONDS)
            ray.get(done)
            look()
    except ray.exceptions.RayError as error:
        raise CompressorError(
            f"a worker of the sweep failed; finished trials are kept: {str(error).strip().splitlines()[-1]}"
        ) from error
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise CompressorError("--executor ray needs Ray: pip install 'onnx-student-compressor[ray]'") from error
    return ray
