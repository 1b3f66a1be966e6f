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


class Asinh(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.asinh(x)


def convert_asinh(node: Any, _: Any) -> Any:
    from onnx2torch.utils.common import OperationConverterResult, onnx_mapping_from_node

    return OperationConverterResult(torch_module=Asinh(), onnx_mapping=onnx_mapping_from_node(node))


class AsinhPlugin:
    @hookimpl
    def compressor_onnx_converters(self) -> Converters:
        return {("Asinh", 9): convert_asinh}


@pytest.fixture
def asinh(tmp_path: Path) -> Path:
    shape: list[str | int | None] = [1, 2, "time"]
    graph = helper.make_graph(
        [helper.make_node("Asinh", ["x"], ["y"])],
        "asinh",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    path = tmp_path / "asinh.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def test_a_plugin_s_converter_loads_what_onnx2torch_cannot(asinh: Path) -> None:
    with pytest.raises(TeacherError, match="Asinh"):
        load_teacher(asinh)
    teacher = load_teacher(asinh, load_catalog(extra_plugins=[AsinhPlugin()]).converters)
    assert any(isinstance(module, Asinh) for module in teacher.graph.modules())
    x = torch.linspace(-3, 3, 24).reshape(1, 2, 12)
    np.testing.assert_allclose(teacher.graph(x).numpy(), np.arcsinh(x.numpy()), atol=1e-6)


def test_the_converter_is_gone_afterwards(asinh: Path) -> None:
    load_teacher(asinh, {("Asinh", 9): convert_asinh})
    with pytest.raises(TeacherError, match="Asinh"):
        load_teacher(asinh)
