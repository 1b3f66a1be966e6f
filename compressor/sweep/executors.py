"""Where trials run: in this process, in several of this machine, or on a Ray cluster."""

from __future__ import annotations

import multiprocessing
from typing import Any

from compressor.errors import CompressorError
from compressor.sweep.definition import Sweep
from compressor.sweep.study import work


def in_processes(sweep: Sweep) -> None:
    """Run the trials in several processes of this machine.

    Raises:
        CompressorError: a process died.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(sweep,)) for _ in range(sweep.workers)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except KeyboardInterrupt:
        for process in processes:
            process.terminate()
        raise
    if any(process.exitcode for process in processes):
        raise CompressorError(
            "a process of the sweep died; finished trials are kept, and the same command goes on with the rest"
        )


def on_ray(sweep: Sweep, address: str | None) -> None:
    """Run the trials on a Ray cluster: the one at `address`, else one started here.

    Raises:
        CompressorError: Ray is not installed, or a worker failed.
    """
    ray = _ray()
    cpus = None if address else sweep.workers
    ray.init(address=address, num_cpus=cpus, include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
    try:
        remote = ray.remote(num_cpus=1, max_retries=0)(work)
        ray.get([remote.remote(sweep) for _ in range(sweep.workers)])
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
