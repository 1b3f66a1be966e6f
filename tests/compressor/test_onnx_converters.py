"""Converters that plugins offer reach onnx2torch while a model loads, and leave no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from compressor.errors import TeacherError
from compressor.hookspecs import Converters, hookimpl
from compressor.plugin_catalog import load_catalog
from compressor.teacher_loading import load_teacher


def convert_mish(node: Any, _: Any) -> Any:
    from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

    return OperationConverterResult(torch_module=nn.Mish(), onnx_mapping=onnx_mapping_from_node(node))


class MishPlugin:
    @hookimpl
    def compressor_onnx_converters(self) -> Converters:
        return {("Mish", 18): convert_mish}


@pytest.fixture
def mish(tmp_path: Path) -> Path:
    shape: list[str | int | None] = [1, 2, "time"]
    graph = helper.make_graph(
        [helper.make_node("Mish", ["x"], ["y"])],
        "mish",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "mish.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_a_plugin_s_converter_loads_what_onnx2torch_cannot(mish: Path) -> None:
    with pytest.raises(TeacherError, match="Mish"):
        load_teacher(mish)
    teacher = load_teacher(mish, load_catalog(extra_plugins=[MishPlugin()]).converters)
    x = torch.linspace(-3, 3, 24).reshape(1, 2, 12)
    expected = x.numpy() * np.tanh(np.log1p(np.exp(x.numpy())))
    np.testing.assert_allclose(teacher.graph(x).numpy(), expected, atol=1e-6)


def test_the_converter_is_gone_afterwards(mish: Path) -> None:
    load_teacher(mish, {("Mish", 18): convert_mish})
    with pytest.raises(TeacherError, match="Mish"):
        load_teacher(mish)
