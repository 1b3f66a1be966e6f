"""Samples for a region of a model, made when they are asked for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compressor.dataset import Dataset, Sample
from compressor.errors import DataError
from compressor.lazy_samples import LazySamples
from compressor.progress import SilentReporter
from compressor.region import Region
from compressor.tensor_spec import TensorSpec
from compressor.whole_model import WholeModel

UPSAMPLED = TensorSpec("up", (1, 2, "long"))


def whole_model(*, draws: str = "", scale: float = -1.0, after: str = "Relu", maker: str = "") -> WholeModel:
    """Return a model whose region, one `after`, reads its input at twice the rate.

    The input times `scale`, or with noise drawn in the model itself or in a branch.
    """
    noise = [helper.make_node("RandomNormalLike", ["x"], ["noise"]), helper.make_node("Add", ["x", "noise"], ["noisy"])]
    branch = helper.make_graph(noise, "branch", [], [helper.make_tensor_value_info("noisy", TensorProto.FLOAT, None)])
    before = {
        "": [helper.make_node("Mul", ["x", "scale"], ["noisy"], doc_string=maker)],
        "itself": noise,
        "branch": [helper.make_node("If", ["always"], ["noisy"], then_branch=branch, else_branch=branch)],
    }
    nodes = [
        *before[draws],
        helper.make_node("Concat", ["noisy", "noisy"], ["up"], axis=2),
        helper.make_node(after, ["up"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, None]) for name in ("x", "y")]
    constants = [
        numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        numpy_helper.from_array(np.array(True), "always"),
    ]
    graph = helper.make_graph(nodes, "model", ends[:1], ends[1:], constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=maker, doc_string=maker
    )
    onnx.checker.check_model(model)
    spec = TensorSpec("x", (1, 2, "t"))
    return WholeModel(model.SerializeToString(), Region(("up",), ("y",)), (spec,), (TensorSpec("y", (1, 2, "u")),))


@dataclass
class Store:
    sizes: tuple[int, ...]
    silent: tuple[int, ...] = ()

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array(self.sizes)

    def maker(self, index: int) -> Callable[[], Sample]:
        return partial(refused if index in self.silent else ramp, self.sizes[index])

    def key(self, index: int) -> str:
        return str(index)


def ramp(size: int) -> Sample:
    return Sample(str(size), {"x": np.arange(2 * size, dtype=np.float32).reshape(1, 2, size)})


def refused(size: int) -> Sample:
    raise DataError(f"{size} is silent")


def recorded(whole: WholeModel, sizes: tuple[int, ...], silent: tuple[int, ...] = (), seed: int = 7) -> LazySamples:
    data = Dataset(LazySamples(Store(sizes, silent), SilentReporter()), (ramp(3),), "ramps")
    train = whole.recorded(data, seed, (UPSAMPLED,)).train
    assert isinstance(train, LazySamples)
    return train


def test_many_samples_are_run_when_they_are_asked_for() -> None:
    sizes = (4, 6, 5)
    whole = whole_model()
    train = recorded(whole, sizes)
    eager = whole.recorded(Dataset(tuple(map(ramp, sizes)), (), "ramps"), 7, (UPSAMPLED,)).train
    assert list(train.lengths) == [8, 12, 10]
    for found, wanted in zip(train, eager, strict=True):
        np.testing.assert_array_equal(found.inputs["up"], wanted.inputs["up"])
    there = pickle.loads(pickle.dumps(train))  # noqa: S301 - its own
    np.testing.assert_array_equal(there[1].inputs["up"], train[1].inputs["up"])


@pytest.mark.parametrize("draws", ["itself", "branch"])
def test_what_is_drawn_does_not_depend_on_the_order(draws: str) -> None:
    train = recorded(whole_model(draws=draws), (4, 6))
    first = [train[index].inputs["up"] for index in (0, 1)]
    again = [train[index].inputs["up"] for index in (1, 0, 1)]
    np.testing.assert_array_equal(again[0], first[1])
    np.testing.assert_array_equal(again[1], first[0])
    np.testing.assert_array_equal(again[2], first[1])
    assert np.std(first[1] - np.tile(ramp(6).inputs["x"], 2)) > 0.1


def test_lengths_are_judged_by_the_sample_that_was_run() -> None:
    train = recorded(whole_model(), (4, 6, 5), silent=(0,))
    assert list(train.lengths) == [8, 12, 10]
    assert train[0].inputs["up"].shape == (1, 2, 10)


def told(whole: WholeModel, seed: int = 7) -> tuple[str, str]:
    """Return what tells what a region's samples are: all, and one that is made when it is asked for."""
    data = Dataset((ramp(4),), (ramp(3),), "ramps")
    return whole.recorded(data, seed, (UPSAMPLED,)).identity, recorded(whole, (4,), seed=seed).key(0)


def test_samples_tell_what_made_them() -> None:
    """Weights were once taken up, and signals found again, that another part before the region had led to."""
    known = told(whole_model())
    assert told(whole_model()) == known
    for other in (whole_model(scale=2.0), whole_model(draws="itself")):
        assert not set(told(other)) & {*known, "ramps", "0"}
    # What lies behind the region, or who wrote the file, makes no other samples.
    assert told(whole_model(after="Abs")) == known
    assert told(whole_model(maker="somebody")) == known
    border = whole_model()
    assert not set(told(replace(border, region=Region(("up",), ("other",))))) & set(known)


@pytest.mark.parametrize("draws", ["", "itself", "branch"])
def test_samples_tell_the_seed_where_it_matters(draws: str) -> None:
    whole = whole_model(draws=draws)
    first, second = told(whole, 7), told(whole, 8)
    assert (first == second) is not bool(draws)
    assert bool(set(first) & set(second)) is not bool(draws)
