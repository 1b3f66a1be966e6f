"""Where trials run: in several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from compressor.errors import CompressorError
from compressor.sweep.definition import Sweep
from compressor.sweep.working import LOOK_SECONDS, work

GOODBYE_SECONDS = 60.0
"""How long workers that are told to end may take to say how far they got."""


def in_processes(sweep: Sweep, workers: int, look: Callable[[], object]) -> None:
    """Run trials in so many processes of this machine; `look` is called now and then meanwhile.

    Raises:
        CompressorError: a process died.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_worker, args=(sweep, worker)) for worker in range(workers)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            while process.is_alive():
                process.join(LOOK_SECONDS)
                look()
    except BaseException:
        _end_all([process for process in processes if process.pid is not None])
        raise
    if any(process.exitcode for process in processes):
        raise CompressorError(
            "a process of the sweep died; finished trials are kept, and the same command goes on with the rest"
        )


def _end_all(processes: Sequence[multiprocessing.process.BaseProcess]) -> None:
    """Tell all to end before any is waited for, and end those that do not."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + GOODBYE_SECONDS
    try:
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
    finally:
        for process in processes:
            process.kill()


def _worker(sweep: Sweep, worker: int) -> None:
    """Work until nothing is left, or the process that started this one is no more, however it ended."""
    # Ctrl-C reaches all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # By this one: trials that are ended so are told to be interrupted, rather than found dead.
    signal.signal(signal.SIGTERM, _interrupt)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    try:
        work(sweep, worker)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGTERM)
    except CompressorError as error:
        sys.exit(str(error))


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Take the signal that ends processes (`kill`, a scheduler, a shutdown) for Ctrl-C while the block lasts."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    # Once: a scheduler tells a whole group, and the first process tells its workers again.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def on_ray(sweep: Sweep, workers: int, address: str | None, look: Callable[[], object]) -> None:
    """Run trials on a Ray cluster: the one at `address`, else one started here; `look` is called now and then.

    Raises:
        CompressorError: Ray is not installed, there is no cluster, it has no GPU where one is asked for, or a worker
            failed; the others run to their end.
    """
    ray, share, named = _ray(), share_of_a_node(sweep.device), next(iter(sweep.relative_paths), "")
    try:
        # Without an address it would look for a cluster that runs already.
        ray.init(
            address=address or "local",
            num_cpus=None if address else workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError) as error:
        where = f"there is no Ray cluster at {address}" if address else "a Ray cluster cannot be started here"
        raise CompressorError(f"{where}: {error}") from error
    try:
        if share["num_gpus"] and not ray.cluster_resources().get("GPU"):
            # It would wait for one for ever.
            raise CompressorError(f"--device {sweep.device}: the Ray cluster has no GPU")
        remote = ray.remote(**share, max_retries=0)(work_in)
        started = [remote.remote(str(Path.cwd()), named, sweep, worker) for worker in range(workers)]
        problems = _awaited(ray, started, look)
    finally:
        ray.shutdown()
    if problems:
        told = "; ".join(problems)
        raise CompressorError(f"{len(problems)} of {workers} workers failed; finished trials are kept: {told}")


def _awaited(ray: Any, left: list[Any], look: Callable[[], object]) -> list[str]:
    """Wait for workers to come to their end; returns what is told of those that failed."""
    problems = []
    try:
        while left:
            done, left = ray.wait(left, timeout=LOOK_SECONDS)
            for each in done:
                try:
                    ray.get(each)
                except ray.exceptions.RayError as error:
                    problems.append(str(error).strip().splitlines()[-1])
            look()
    except BaseException:
        # As Ctrl-C in each: trials are told to be interrupted, rather than found dead.
        for each in left:
            ray.cancel(each)
        if left:
            ray.wait(left, num_returns=len(left), timeout=GOODBYE_SECONDS)
        raise
    return problems


def share_of_a_node(device: str) -> dict[str, int]:
    """Return what Ray is asked for each worker; it shows a worker that has a GPU no other one.

    Raises:
        CompressorError: a GPU by its number, which is another on each node.
    """
    if device.startswith("cuda:") and device != "cuda:0":
        raise CompressorError(f"--device {device}: Ray gives each worker a GPU of its own; use --device cuda")
    return {"num_cpus": 1, "num_gpus": int(device.startswith("cuda"))}


def work_in(folder: str, named: str, sweep: Sweep, worker: int) -> None:
    """Work in the folder that the command was given in, where relative paths in a recipe begin.

    Raises:
        CompressorError: there is none on this machine, and `named` is such a path.
    """
    try:
        os.chdir(folder)
    except OSError as error:
        if named:
            raise CompressorError(
                f"{socket.gethostname()} has no folder {folder}, and the recipe names '{named}' from there on: write "
                "an absolute path that all machines of the cluster reach"
            ) from error
    work(sweep, worker)


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise CompressorError("--executor ray needs Ray: pip install 'onnx-student-compressor[ray]'") from error
    return ray
