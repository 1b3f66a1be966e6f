"""Converters that plugins add to onnx2torch's, for as long as one model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

from onnx2torch.node_converters import registry

from compressor.hookspecs import Converter, Converters

ORIGINAL: Converters = MappingProxyType(
    {
        (description.operation_type, description.version): converter
        for description, converter in registry._CONVERTER_REGISTRY.items()
        if not description.domain
    }
)
"""onnx2torch's own, whatever plugins offer; a converter may hand a node on to one of these."""


@contextmanager
def additional_converters(converters: Converters) -> Iterator[None]:
    """Offer converters to onnx2torch inside the block; a plugin's goes before onnx2torch's own.

    onnx2torch keeps one registry for the process, so what was there is put back afterwards.
    """
    known: dict[registry.OperationDescription, Converter] = registry._CONVERTER_REGISTRY
    before = dict(known)
    for (operator, version), converter in converters.items():
        known[registry.OperationDescription("", operator, version)] = converter
    try:
        yield
    finally:
        known.clear()
        known.update(before)
