"""Samples for a region of a model, made when they are asked for."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from compressor.dataset import Dataset, Sample
from compressor.lazy_samples import LazySamples
from compressor.progress import SilentReporter
from compressor.region import Region
from compressor.tensor_spec import TensorSpec
from compressor.whole_model import WholeModel

UPSAMPLED = TensorSpec("up", (1, 2, "long"))


def whole_model(*, draws: bool) -> WholeModel:
    """Return a model whose region reads its input at twice the rate, with noise or without."""
    noise = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["noisy"]),
    ]
    nodes = [
        *(noise if draws else [helper.make_node("Neg", ["x"], ["noisy"])]),
        helper.make_node("Concat", ["noisy", "noisy"], ["up"], axis=2),
        helper.make_node("Relu", ["up"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, None]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "model", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    spec = TensorSpec("x", (1, 2, "t"))
    return WholeModel(model.SerializeToString(), Region(("up",), ("y",)), (spec,), (TensorSpec("y", (1, 2, "u")),))


@dataclass
class Store:
    sizes: tuple[int, ...]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.array(self.sizes)

    def maker(self, index: int) -> Callable[[], Sample]:
        return partial(ramp, self.sizes[index])

    def key(self, index: int) -> str:
        return str(index)


def ramp(size: int) -> Sample:
    return Sample(str(size), {"x": np.arange(2 * size, dtype=np.float32).reshape(1, 2, size)})


def recorded(whole: WholeModel, sizes: tuple[int, ...]) -> LazySamples:
    data = Dataset(LazySamples(Store(sizes), SilentReporter()), (ramp(3),), "ramps")
    train = whole.recorded(data, 7, (UPSAMPLED,)).train
    assert isinstance(train, LazySamples)
    return train


def test_many_samples_are_run_when_they_are_asked_for() -> None:
    sizes = (4, 6, 5)
    whole = whole_model(draws=False)
    train = recorded(whole, sizes)
    eager = whole.recorded(Dataset(tuple(map(ramp, sizes)), (), "ramps"), 7, (UPSAMPLED,)).train
    assert list(train.lengths) == [8, 12, 10]
    for found, wanted in zip(train, eager, strict=True):
        np.testing.assert_array_equal(found.inputs["up"], wanted.inputs["up"])
    there = pickle.loads(pickle.dumps(train))  # noqa: S301 - its own
    np.testing.assert_array_equal(there[1].inputs["up"], train[1].inputs["up"])


def test_what_is_drawn_does_not_depend_on_the_order() -> None:
    train = recorded(whole_model(draws=True), (4, 6))
    first = [train[index].inputs["up"] for index in (0, 1)]
    again = [train[index].inputs["up"] for index in (1, 0, 1)]
    np.testing.assert_array_equal(again[0], first[1])
    np.testing.assert_array_equal(again[1], first[0])
    np.testing.assert_array_equal(again[2], first[1])
    assert np.std(first[1] - np.tile(ramp(6).inputs["x"], 2)) > 0.1
