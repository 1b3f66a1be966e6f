"""Files of arrays as data: what is read is what was saved, and what cannot be is told all at once."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from compressor_arrays.array_file import fits
from compressor_arrays.array_folder import ArrayFolder
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from compressor.data_source import DataContext
from compressor.dataset import Dataset
from compressor.errors import DataError
from compressor.lazy_samples import LazySamples
from compressor.plan_loading import load_plan
from compressor.progress import SilentReporter
from compressor.teacher_loading import Teacher
from compressor.tensor_spec import TensorSpec
from compressor.testing import check_data_source

IMAGE = TensorSpec("image", ("batch", 3, 8, 8))
LABELLED = (IMAGE, TensorSpec("count", (1,), "int64"))


def images(folder: Path, count: int = 12) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [folder / f"class_{at // 4}" / f"{at:03}.npz" for at in range(count)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, image=random.standard_normal((3, 8, 8)), count=np.array([2], np.int32))
    return paths


def load(source: ArrayFolder, inputs: tuple[TensorSpec, ...] = LABELLED, folder: Path = Path()) -> Dataset:
    return source.load(DataContext(inputs, (), 0, folder, SilentReporter()))


def problems(source: ArrayFolder, inputs: tuple[TensorSpec, ...] = LABELLED) -> str:
    with pytest.raises(DataError) as refused:
        load(source, inputs)
    return str(refused.value)


@pytest.mark.parametrize("memory_mb", [512, 0])
def test_it_is_a_data_source(memory_mb: int, tmp_path: Path, tiny_teacher: Teacher) -> None:
    random = np.random.default_rng(0)
    for at in range(9):
        np.savez(tmp_path / f"{at}.npz", mel=random.standard_normal((1, 8, 40 + at)).astype(np.float32))
    data = check_data_source(ArrayFolder(path=tmp_path, memory_mb=memory_mb, workers=0), tiny_teacher)
    assert isinstance(data.train, LazySamples) == (memory_mb == 0)
    assert len(data.validation) == 4


def test_what_is_read_is_what_was_saved(tmp_path: Path) -> None:
    paths = {path.relative_to(tmp_path).with_suffix("").as_posix(): path for path in images(tmp_path)}
    data = load(ArrayFolder(path=tmp_path, validation_files=3))
    samples = [*data.train, *data.validation]
    assert {sample.name for sample in samples} == paths.keys()
    for sample in samples:
        with np.load(paths[sample.name]) as saved:
            np.testing.assert_array_equal(sample.inputs["image"], saved["image"].astype(np.float32)[None])
            assert str(sample.inputs["count"].dtype) == "int64"
            assert sample.inputs["count"].tolist() == [2]
    # Every class validates, though the names put one after the other.
    assert {sample.name.split("/")[0] for sample in data.validation} == {"class_0", "class_1", "class_2"}


def test_too_much_for_memory_is_read_as_it_is_asked_for(tmp_path: Path) -> None:
    images(tmp_path)
    eager, lazy = (load(ArrayFolder(path=tmp_path, memory_mb=size, workers=0)) for size in (512, 0))
    assert eager.identity == lazy.identity
    assert len(eager.train) == len(lazy.train)
    for at in range(len(eager.train)):
        assert eager.train[at].name == lazy.train[at].name
        np.testing.assert_array_equal(eager.train[at].inputs["image"], lazy.train[at].inputs["image"])


def test_identity_goes_by_content(tmp_path: Path) -> None:
    paths = images(tmp_path)
    source = ArrayFolder(path=tmp_path)
    before = load(source).identity
    with np.load(paths[0]) as saved:
        arrays = dict(saved)
    np.savez(paths[0], **arrays, label=np.array([7]))
    with_label = load(source)
    assert with_label.identity == before
    assert with_label.findings == ("arrays that are no input of the teacher are not used: label",)
    arrays["image"][0, 0, 0] += 1
    np.savez(paths[0], **arrays)
    assert load(source).identity != before


def test_every_file_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    paths = images(tmp_path)
    good = np.zeros((3, 8, 8), np.float32)
    two = np.array([2])
    np.savez(paths[0], picture=good, count=two)
    np.savez(paths[1], image=np.zeros((16, 3, 8, 8), np.float32), count=two)
    np.savez(paths[2], image=good, count=np.array([2.5]))
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    paths[4].write_text("no archive", encoding="utf-8")
    np.savez(paths[5], image=good, count=np.array([None]))
    told = problems(ArrayFolder(path=tmp_path))
    assert "6 problems" in told
    assert "000.npz: no array 'image'; it has 'picture', 'count'" in told
    assert "(16, 3, 8, 8), expected (1, 3, 8, 8), one example" in told
    assert "'count' is float64, expected int64" in told
    assert "003.npz: cannot be read as a .npz file" in told
    assert "004.npz: cannot be read as a .npz file" in told
    assert "Python objects, which are not loaded" in told


def test_values_that_are_not_finite_are_told(tmp_path: Path) -> None:
    paths = images(tmp_path)
    for path in paths[:2]:
        np.savez(path, image=np.full((3, 8, 8), np.nan), count=np.array([2]))
    assert problems(ArrayFolder(path=tmp_path)).count("'image' has values that are not finite") == 2


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("trapped"),)


def test_a_file_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = images(tmp_path / "samples")
    assert pickle.dumps(_Trap())
    np.savez(paths[0], image=np.array([_Trap()], dtype=object), count=np.array([2]))
    assert "Python objects" in problems(ArrayFolder(path=tmp_path / "samples"))
    assert not (tmp_path / "trapped").exists()


def test_many_problems_are_counted(tmp_path: Path) -> None:
    images(tmp_path, 24)
    told = problems(ArrayFolder(path=tmp_path), (TensorSpec("photo", (1, 3, 8, 8)),))
    assert told.count("no array 'photo'") == 10
    assert "and 14 more" in told


@pytest.mark.parametrize(("count", "said"), [(0, "0 .npz files"), (1, "1 .npz files")])
def test_too_few_files(count: int, said: str, tmp_path: Path) -> None:
    images(tmp_path, count)
    assert said in problems(ArrayFolder(path=tmp_path))


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert "no such folder" in problems(ArrayFolder(path=tmp_path / "nowhere"))


def test_references_and_a_file_by_itself(tmp_path: Path) -> None:
    for at in range(4):
        np.savez(tmp_path / f"{at}.npz", x=np.full((1, 4), at, np.float32), y=np.full((1, 2, 3), at))
    inputs = (TensorSpec("x", (1, "time")),)
    with pytest.raises(ValidationError, match="sample_rate"):
        ArrayFolder(path=tmp_path, reference="y")
    source = ArrayFolder(path=tmp_path, reference="y", sample_rate=8000)
    data = load(source, inputs)
    assert data.sample_rate == source.output_rate == 8000
    assert all(sample.reference is not None and sample.reference.shape == (6,) for sample in data.train)
    assert "no array 'z', which `reference` names" in problems(
        ArrayFolder(path=tmp_path, reference="z", sample_rate=8000), inputs
    )
    alone = source.analyse(tmp_path / "2.npz", inputs)
    assert alone.inputs["x"].tolist() == [[2, 2, 2, 2]]


@given(
    st.lists(st.one_of(st.integers(1, 4), st.just("n")), min_size=1, max_size=4),
    st.data(),
)
def test_an_example_of_every_shape_fits(sizes: list[int | str], drawn: st.DataObject) -> None:
    own = tuple(
        size if isinstance(size, int) else 1 if axis == 0 else drawn.draw(st.integers(1, 5))
        for axis, size in enumerate(sizes)
    )
    assert fits(own, tuple(sizes))
    assert not fits((*own, 1), tuple(sizes))
    axis = drawn.draw(st.integers(0, len(sizes) - 1))
    if axis == 0 or isinstance(sizes[axis], int):
        assert not fits((*own[:axis], own[axis] + 1, *own[axis + 1 :]), tuple(sizes))


def test_lengths_are_those_of_the_slowest_input(tmp_path: Path) -> None:
    for at in range(6):
        np.savez(tmp_path / f"{at}.npz", mel=np.zeros((2, 5 + at), np.float32), f0=np.zeros((10 + 2 * at), np.float32))
    inputs = (TensorSpec("mel", (1, 2, "frames")), TensorSpec("f0", (1, "2*frames")))
    data = load(ArrayFolder(path=tmp_path, memory_mb=0, validation_files=1), inputs)
    assert isinstance(data.train, LazySamples)
    held = [torch.from_numpy(sample.inputs["mel"]).shape[-1] for sample in data.train]
    assert data.train.lengths.tolist() == held


@pytest.mark.parametrize(
    ("own", "chosen"),
    [
        ({"piper-speech": {"max_seconds": 3.0}}, {"max_seconds": 3.0, "path": "mine"}),
        ({"speech-folder": {"path": "x", "validation_files": 2}}, {"path": "mine", "validation_files": 2}),
        ({"array-folder": {"path": "x", "validation_files": 2}}, {"path": "mine", "validation_files": 2}),
    ],
    ids=lambda value: next(iter(value)),
)
def test_another_folder_is_read_as_the_recipe_s_own_is(
    own: dict[str, Any], chosen: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump({"teacher": "x.onnx", "data": own, "stages": ["fold"]}), encoding="utf-8"
    )
    data = load_plan(tmp_path / "recipe.yaml", data="mine").recipe.data
    assert data is not None
    assert data.name == ("array-folder" if "array-folder" in own else "speech-folder")
    assert data.options == chosen


def test_without_data_in_the_recipe_a_folder_may_be_either(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("teacher: x.onnx\nstages: [fold]\n", encoding="utf-8")
    with pytest.raises(DataError, match="array-folder and speech-folder read folders") as refused:
        load_plan(tmp_path / "recipe.yaml", data="mine")
    remedy = str(refused.value).partition("--set '")[2].removesuffix("'")
    assert load_plan(tmp_path / "recipe.yaml", overrides=[remedy]).recipe.data is not None


def test_axes_of_one_name_are_equally_long(tmp_path: Path) -> None:
    inputs = (TensorSpec("mel", (1, 2, "frames")), TensorSpec("f0", (1, "2*frames")))
    for at, (frames, steps) in enumerate([(5, 10), (5, 9), (0, 0)]):
        np.savez(tmp_path / f"{at}.npz", mel=np.zeros((2, frames), np.float32), f0=np.zeros(steps, np.float32))
    told = problems(ArrayFolder(path=tmp_path), inputs)
    assert "1.npz: 'f0' has 9 on axis 1, where the other inputs' 'frames' is 5" in told
    assert "2.npz: 'mel' is empty" in told
    assert "0.npz" not in told


def test_memory_is_counted_in_the_model_s_types(tmp_path: Path) -> None:
    for at in range(4):
        np.savez(tmp_path / f"{at}.npz", image=np.zeros((3, 8, 8), np.uint8), count=[1], unused=np.zeros(10**6))
    data = load(ArrayFolder(path=tmp_path, memory_mb=1, validation_files=1))
    assert not isinstance(data.train, LazySamples)
