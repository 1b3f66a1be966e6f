"""What a plugin may offer. Each hook returns classes; the core collects them, and nothing registers by being imported.

A plugin is any object with hook implementations, offered through the entry-point group `compressor`:

    [project.entry-points.compressor]
    my-plugin = "my_package.plugin"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from compressor.data_source import DataSource
    from compressor.loss import Loss
    from compressor.metric import Metric
    from compressor.report import StageRecord
    from compressor.strategy import Strategy

PROJECT_NAME = "compressor"

API_VERSION = 1
"""Goes up when plugins have to change; a plugin says which it is made for as `COMPRESSOR_API = 1` beside its hooks."""

Converter = Callable[[Any, Any], Any]
"""Takes onnx2torch's node and graph, returns its `OperationConverterResult`."""

Converters = Mapping[tuple[str, int], Converter]
"""Converters by ONNX operator type and the opset version that the operator's definition stems from."""

hookspec = pluggy.HookspecMarker(PROJECT_NAME)
hookimpl = pluggy.HookimplMarker(PROJECT_NAME)


@hookspec
def compressor_strategies() -> Sequence[type[Strategy]]:
    """Return the strategies that recipes may name as stages."""
    raise NotImplementedError


@hookspec
def compressor_metrics() -> Sequence[type[Metric]]:
    """Return the metrics that are measured after each stage."""
    raise NotImplementedError


@hookspec
def compressor_losses() -> Sequence[type[Loss]]:
    """Return the losses that training strategies may combine."""
    raise NotImplementedError


@hookspec
def compressor_data_sources() -> Sequence[type[DataSource]]:
    """Return the sources of training and validation samples."""
    raise NotImplementedError


@hookspec
def compressor_onnx_converters() -> Converters:
    """Return converters for ONNX operators that onnx2torch lacks, by operator type and opset version."""
    raise NotImplementedError


@hookspec
def compressor_stage_completed(record: StageRecord) -> None:
    """Hear that a stage is done: its measurements, findings and duration."""
