"""What trials of a sweep are given on the machines of a Ray cluster: a share of one, and a folder to start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from compressor.errors import CompressorError
from compressor.sweep import executors
from compressor.sweep.definition import Sweep
from compressor.sweep.executors import on_ray, share_of_a_node, work_in
from compressor.sweep.space import parse_varied
from tests.compressor.tiny_sweep import tiny_recipe, tiny_sweep

RATIO = "channel-importance-pruning.pruning_ratio"


class Cluster:
    """What of Ray a sweep uses; tasks are done where they are asked for."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, **resources: float) -> None:
        self.resources = resources
        self.asked: list[dict[str, Any]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.running = False

    def init(self, **_: Any) -> None:
        self.running = True

    def shutdown(self) -> None:
        self.running = False

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, **asked: Any) -> Any:
        self.asked.append(asked)
        return lambda action: SimpleNamespace(remote=lambda *told: self.calls.append((action, *told)))

    def wait(self, left: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return left, []

    def get(self, _: Any) -> None:
        pass


def cluster(monkeypatch: pytest.MonkeyPatch, **resources: float) -> Cluster:
    made = Cluster(**resources)
    monkeypatch.setattr(executors, "_ray", lambda: made)
    return made


def test_each_worker_on_gpus_has_one_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, sweep = cluster(monkeypatch, CPU=4.0, GPU=2.0), tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2")
    on_ray(replace(sweep, device="cuda"), 2, None, lambda: None)
    on_ray(sweep, 2, None, lambda: None)
    assert [(asked["num_cpus"], asked["num_gpus"]) for asked in made.asked] == [(1, 1), (1, 0)]
    assert len(made.calls) == 4


def test_a_cluster_without_gpus_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, sweep = cluster(monkeypatch, CPU=4.0), tiny_sweep(tmp_path, f"{RATIO}=0.1,0.2")
    with pytest.raises(CompressorError, match="--device cuda: the Ray cluster has no GPU"):
        on_ray(replace(sweep, device="cuda"), 2, None, lambda: None)
    assert not made.calls
    assert not made.running


def test_a_gpu_by_its_number_is_refused_on_a_cluster() -> None:
    assert share_of_a_node("cuda:0")["num_gpus"] == 1
    with pytest.raises(CompressorError, match="use --device cuda"):
        share_of_a_node("cuda:1")


@pytest.fixture
def relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """Return a sweep whose recipe names its teacher from the current folder on."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    recipe = tiny_recipe(here)
    (here / "sounds").mkdir()
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content |= {"teacher": "tiny.onnx", "data": {"speech-folder": {"path": "sounds"}}}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    return Sweep(recipe, parse_varied([f"{RATIO}=0.1,0.2"]), ("parameters",), 3, tmp_path / "out", "sqlite://")


def test_a_worker_starts_where_the_command_was_given(
    relative: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, found = cluster(monkeypatch, CPU=1.0), []
    on_ray(relative, 1, "10.0.0.1:6379", lambda: None)
    ((action, *told),) = made.calls
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(executors, "work", lambda *_: found.append(Path("tiny.onnx").is_file()))
    action(*told)
    assert found == [True]


def test_a_worker_without_that_folder_says_which_path_begins_there(
    relative: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert relative.relative_paths == ["tiny.onnx", "sounds"]
    worked: list[Sweep] = []
    monkeypatch.setattr(executors, "work", lambda sweep, _: worked.append(sweep))
    with pytest.raises(CompressorError, match=r"has no folder .*nowhere, and the recipe names 'tiny\.onnx' from there"):
        work_in(str(tmp_path / "nowhere"), "tiny.onnx", relative, 0)
    assert not worked
    # What names nothing from there on needs no such folder.
    work_in(str(tmp_path / "nowhere"), "", relative, 0)
    assert worked == [relative]
